"""Slices of a moving volume: the operator's two ways agree, its profile is the Gaussian it says, gradients hold."""

import math

import pytest
import torch

from firstread.core.errors import SettingError
from firstread.ops.rigid import exponential
from firstread.ops.slice_sampling import SliceSampling, profile_nodes, profile_sigma_mm

SHAPE = (6, 7, 8)


def _sampling(twist: torch.Tensor, mask: torch.Tensor | None = None, shape: tuple[int, int, int] = SHAPE
              ) -> SliceSampling:
    affine = torch.diag(torch.tensor([0.9, 0.9, 2.5, 1.0], dtype=torch.float64)).repeat(3, 1, 1)
    affine[:, :2, 3] = -1.8
    affine[:, 2, 3] = torch.tensor([-1.5, 0.1, 1.7])
    sigma = profile_sigma_mm(torch.full((3,), 0.9), torch.tensor([2.5, 2.5, 0.9]))
    return SliceSampling(shape=shape, spacing_mm=0.8, to_mm=exponential(twist) @ affine, plane=(4, 3), sigma_mm=sigma,
                         mask=mask)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("posed", [False, True], ids=["matrix", "sampled"])
def test_adjoint_under_a_mask(posed):
    mask = _random(3, 4, 3, seed=4) > 0
    sampling = _sampling((0.3 * _random(3, 6)).requires_grad_(posed), mask)
    x, y = _random(2, *SHAPE), _random(2, 3, 4, 3, seed=1)
    assert torch.allclose((sampling(x) * y).sum(), (x * sampling.adjoint(y)).sum(), rtol=1e-12)
    assert bool((sampling(x)[:, ~mask] == 0).all())


def test_matrix_and_sampling_are_the_same():
    twist, x, y = 0.3 * _random(3, 6), _random(*SHAPE), _random(3, 4, 3)
    fixed, posed = _sampling(twist), _sampling(twist.clone().requires_grad_())
    assert torch.allclose(fixed(x), posed(x), atol=1e-12)
    assert torch.allclose(fixed.adjoint(y), posed.adjoint(y), atol=1e-12)


def test_gradients_in_volume_slices_and_pose():
    twist = (0.3 * _random(3, 6, seed=2)).requires_grad_()
    shape, mask = (4, 3, 4), _random(3, 4, 3, seed=4) > 0.3
    x, y = _random(*shape).requires_grad_(), (_random(3, 4, 3) * mask).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, t: _sampling(t, mask, shape)(v), (x, twist))
    assert torch.autograd.gradcheck(lambda v, t: _sampling(t, mask, shape).adjoint(v), (y, twist))
    assert torch.autograd.gradcheck(_sampling(twist.detach(), mask, shape), (x,))
    assert torch.autograd.gradcheck(_sampling(twist.detach(), mask, shape).adjoint, (y,))


def test_a_point_is_seen_through_the_gaussian_profile():
    """A Gaussian blob in the volume gives the analytic convolution of blob and rotated profile."""
    spacing, blob = 0.5, 1.5
    sigma = profile_sigma_mm(torch.tensor([1.0]), torch.tensor([4.0])).double()
    pose = exponential(torch.tensor([0.4, -0.3, 0.2, 0.3, -0.2, 0.1], dtype=torch.float64))[None]
    affine = torch.eye(4, dtype=torch.float64)[None].clone()
    affine[0, :2, 3] = -6.0
    line = (torch.arange(61) - 30).double() * spacing
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    volume = torch.exp(-(x**2 + y**2 + z**2) / (2 * blob**2))
    made = SliceSampling(shape=(61, 61, 61), spacing_mm=spacing, to_mm=pose @ affine, plane=(13, 13), sigma_mm=sigma)(
        volume)[0]
    turn = pose[0, :3, :3]
    spread = turn @ torch.diag(torch.cat((sigma[0, :1], sigma[0])) ** 2) @ turn.T + blob**2 * torch.eye(3).double()
    v, u = torch.meshgrid(torch.arange(13) - 6.0, torch.arange(13) - 6.0, indexing="ij")
    points = torch.stack((u, v, torch.zeros_like(u)), dim=-1).double() @ turn.T + pose[0, :3, 3]
    height = blob**3 / math.sqrt(torch.linalg.det(spread))
    wanted = height * torch.exp(-0.5 * torch.einsum("vui,ij,vuj->vu", points, torch.linalg.inv(spread), points))
    assert (made - wanted).abs().max() < 0.01 * wanted.max()


@pytest.mark.parametrize("thickness", [0.8, 1.2, 3.0, 8.0])
def test_nodes_keep_weight_and_variance(thickness):
    rest = torch.tensor([[0.0, thickness / 2.3548]])
    nodes, weights = profile_nodes(rest, 0.8)
    assert weights.sum().item() == pytest.approx(1.0)
    assert (weights * nodes[0, :, 2] ** 2).sum().item() == pytest.approx(float(rest[0, 1]) ** 2, rel=0.1)


def test_turning_volume_and_slices_together_changes_nothing():
    """A volume turned by 90 degrees about z, seen by slices turned likewise."""
    x = _random(7, 7, 7)
    affine = torch.eye(4, dtype=torch.float64)[None]
    turn = exponential(torch.tensor([0, 0, math.pi / 2, 0, 0, 0], dtype=torch.float64))
    given = {"shape": (7, 7, 7), "spacing_mm": 1.0, "plane": (3, 3), "sigma_mm": torch.tensor([[0.6, 1.2]])}
    one = SliceSampling(to_mm=affine, **given)(x)
    other = SliceSampling(to_mm=turn @ affine, **given)(torch.rot90(x, 1, (2, 1)))
    assert torch.allclose(one, other, atol=1e-10)


def test_negative_widths_are_refused():
    with pytest.raises(SettingError, match="no negative widths"):
        SliceSampling(shape=SHAPE, spacing_mm=1.0, to_mm=torch.eye(4).double()[None], plane=(2, 2),
                      sigma_mm=torch.tensor([[-1.0, 1.0]]))
