"""Slice profiles against quadrature, interpolation against scipy, sections against a rendering by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import GeometryError, SettingError
from firstread.core.geometry import Grid
from firstread.ops.slice_profile import SectionProfile, SliceProfile, cumulative, profile_weights, spread
from firstread.ops.spline import finer_places, interpolation_matrix


@pytest.mark.parametrize("profile", ["box", "trapezoid", "gaussian"])
def test_profiles_have_area_one_and_are_one_thickness_wide_at_half_maximum(profile):
    u = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    density = cumulative(u, profile).diff() / u.diff()
    middle = (u[1:] + u[:-1]) / 2
    assert cumulative(u, profile)[[0, -1]].tolist() == pytest.approx([0, 1], abs=1e-5)
    wide = middle[density > 0.5 * density.max()]
    assert float(wide.max() - wide.min()) == pytest.approx(1.0, abs=3e-3)
    torch.testing.assert_close(density, density.flip(0), atol=1e-9, rtol=0)


def test_gaussian_weights_are_the_integral_of_the_density():
    from scipy import integrate, stats

    sd = 8.0 / (2 * math.sqrt(2 * math.log(2)))
    weights = profile_weights(torch.tensor([20.0]).double(), 8.0, torch.arange(0.0, 41.0, 2.0).double(), 2.0,
                              profile="gaussian")[0]
    direct = [integrate.quad(lambda z: stats.norm.pdf(z, 20, sd), m - 1, m + 1)[0] for m in range(0, 41, 2)]
    np.testing.assert_allclose(weights, np.array(direct) / sum(direct), atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(st.floats(1, 12), st.sampled_from(["box", "trapezoid", "gaussian"]), st.integers(2, 6))
def test_a_constant_volume_is_seen_as_it_is_and_a_ramp_in_the_middle_too(thickness, profile, factor):
    stack = Grid.from_spacing((9, 2, 2), (12.0, 2.0, 2.0))
    volume = stack.resize((9 * factor, 2, 2))
    op = SliceProfile.between(stack, volume, thickness_mm=torch.tensor([thickness]).double(), profile=profile)
    constant = torch.full((1, 1, 1, 9 * factor, 2, 2), 3.0, dtype=torch.float64)
    torch.testing.assert_close(op(constant), torch.full((1, 1, 1, 9, 2, 2), 3.0, dtype=torch.float64))
    height = volume.points_mm()[..., 2][None, None]
    torch.testing.assert_close(op(height)[:, :, :, 4], stack.points_mm()[..., 2][None, None][:, :, :, 4], atol=1e-6,
                               rtol=0)


def test_a_stack_turned_about_in_the_patient_is_the_same_problem():
    stack = Grid.from_spacing((5, 3, 3), (9.0, 2.0, 2.0))
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = torch.linalg.qr(torch.tensor([[2.0, 1, 0], [0, 1, -1], [1, 0, 3]], dtype=torch.float64))[0]
    turned = Grid(turn @ stack.affine, stack.shape, stack.thickness_mm)
    one, other = (SliceProfile.between(g, g.resize((20, 3, 3))).weights for g in (stack, turned))
    torch.testing.assert_close(one, other)


def test_bound_is_the_largest_eigenvalue():
    op = SliceProfile(weights=torch.rand(2, 3, 12, dtype=torch.float64))
    largest = max(torch.linalg.eigvalsh(w.mT @ w).max().item() for w in op.weights)
    assert op.bound() == pytest.approx(largest)


@pytest.mark.parametrize("order", [1, 3])
def test_interpolation_is_scipys(order):
    from scipy import ndimage

    values = np.random.default_rng(0).standard_normal(7)
    places = finer_places(7, 4).clamp(0, 6)
    ours = interpolation_matrix(7, places, order=order) @ torch.from_numpy(values)
    np.testing.assert_allclose(ours, ndimage.map_coordinates(values, [places.numpy()], order=order, mode="mirror"),
                               atol=1e-12)


def test_a_thin_section_through_a_linear_volume_is_exact():
    volume = Grid.from_spacing((9, 9, 9), (1.0, 1.0, 1.0))
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :2] = torch.tensor([[0.8, 0.0], [0.6, 0.0], [0.0, 1.0]])
    affine[:3, 2] = torch.tensor([0.6, -0.8, 0.0])
    affine[:3, 3] = torch.tensor([-1.0, -0.5, -2.0])
    section = Grid(affine[None], (1, 4, 4))
    slope = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for thickness in (0.0, 2.0):  # a ramp's average over a symmetric profile is its middle
        op = SectionProfile(section=section, volume=volume, thickness_mm=thickness)
        seen = op((volume.points_mm() @ slope)[None, None])
        torch.testing.assert_close(seen, (section.points_mm() @ slope)[None, None])


def test_pixels_that_reach_outside_the_volume_are_left_out():
    volume, section = Grid.from_spacing((4, 4, 4), (1.0, 1.0, 1.0)), Grid.from_spacing((1, 10, 10), (1.0, 1.0, 1.0))
    op = SectionProfile(section=section, volume=volume, thickness_mm=0.0)
    seen = op(torch.ones(1, 1, 1, 4, 4, 4, dtype=torch.float64))
    assert seen.sum() == 16 and set(seen.flatten().tolist()) == {0.0, 1.0}


def test_spread_values_come_back_where_the_section_lies():
    volume = Grid.from_spacing((5, 5, 5), (1.0, 1.0, 1.0))
    section = volume.crop((2, 0, 0), (1, 5, 5))
    data = torch.rand(1, 2, 1, 1, 5, 5, dtype=torch.float64)
    made = spread([data], [SectionProfile(section=section, volume=volume, thickness_mm=0.0)])
    torch.testing.assert_close(made[:, :, :1, 2], data[:, :, :, 0])
    assert made[:, :, 1, 2].eq(1).all() and made[:, :, :, [0, 1, 3, 4]].eq(0).all()


def test_bad_input():
    stack = Grid.from_spacing((4, 3, 3), (8.0, 2.0, 2.0))
    with pytest.raises(SettingError, match="slice profile 'sinc'"):
        cumulative(torch.zeros(1), "sinc")
    with pytest.raises(SettingError, match=r"slices of -1\.0 mm"):
        profile_weights(torch.zeros(1), -1.0, torch.zeros(1), 1.0)
    with pytest.raises(GeometryError, match="more than half outside"):
        profile_weights(torch.tensor([50.0]), 8.0, torch.arange(4.0), 1.0)
    with pytest.raises(GeometryError, match="unknown slice thickness"):
        SliceProfile.between(Grid(stack.affine, stack.shape), stack.resize((8, 3, 3)))
    with pytest.raises(GeometryError, match="other pixels"):
        SliceProfile.between(stack, stack.resize((8, 6, 6)))
    with pytest.raises(GeometryError, match="beside the volume"):
        far = stack.affine.clone()
        far[:, 0, 3] += 500
        SectionProfile(section=Grid(far, stack.shape), volume=stack, thickness_mm=1.0)
    with pytest.raises(SettingError, match="order 2"):
        interpolation_matrix(4, torch.zeros(1), order=2)


def test_gradients_in_volume_slices_and_weights():
    section = Grid.from_spacing((2, 2, 2), (1.3, 1.1, 0.9))
    volume = Grid.from_spacing((3, 4, 3), (1.0, 1.0, 1.0))
    x = torch.rand(1, 1, 1, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    y = torch.rand(1, 1, 1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    oblique = SectionProfile(section=section, volume=volume, thickness_mm=0.6)
    assert torch.autograd.gradcheck(oblique.forward, (x,)) and torch.autograd.gradcheck(oblique.adjoint, (y,))
    weights = torch.rand(1, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, v: SliceProfile(weights=w)(v), (weights, x))
    assert torch.autograd.gradcheck(lambda w, v: SliceProfile(weights=w).gram(v), (weights, x))
