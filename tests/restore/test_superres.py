"""Super-resolution: geometry, data consistency, equivariance, gradients, views, bad input."""

from dataclasses import replace

import pytest
import torch

from firstread.core.errors import GeometryError, SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.nets.superres import SuperResolution, consistent_volume, fold, smooth_prior, unfold
from firstread.ops.slice_profile import SectionProfile, SliceProfile
from firstread.restore.superres import (
    LearnedSuperResolution,
    ModelSuperResolution,
    Upsample,
    bending,
    finer,
    least_squares,
)
from firstread.restore.views import smoothness


def tilted_cone(shape=(30, 20, 20), spacing=(2.0, 2.0, 2.0)) -> Image:
    """A bright cone about the volume's z, with a soft edge, on a dark ground."""
    grid = Grid.from_spacing(shape, spacing)
    x, y, z = grid.points_mm().unbind(-1)
    edge = 4 + 0.25 * (z - z.min())
    return Image(Rows.subjects(1), (0.2 + torch.sigmoid(edge - torch.hypot(x, y)))[:, None, None].float(), grid)


def thick(volume: Image, factor: int = 5, profile: str = "trapezoid") -> Image:
    """The stack that sees it, without noise."""
    grid = replace(volume.grid.resize((volume.grid.shape[0] // factor, *volume.grid.shape[1:])),
                   thickness_mm=torch.full((1,), 8.0, dtype=torch.float64))
    op = SliceProfile.between(grid, volume.grid, profile=profile).to(volume.data)
    return Image(volume.rows, op(volume.data), grid)


def long_axis(volume: Image) -> Image:
    """A view in the plane y = 0, columns along x and rows along z."""
    affine = torch.tensor([[2.0, 0, 0, -17], [0, 0, -6, 0], [0, 2, 0, -27], [0, 0, 0, 1]], dtype=torch.float64)[None]
    grid = Grid(affine, (1, 28, 18), torch.tensor([6.0], dtype=torch.float64))
    op = SectionProfile(section=grid, volume=volume.grid, thickness_mm=6.0).to(volume.data)
    return Image(volume.rows, 1.3 * op(volume.data), grid)


def network() -> SuperResolution:
    torch.manual_seed(0)
    net = SuperResolution(factor=5, width=4, depth=2, blocks=2).eval()
    for parameter in net.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return net


STAGES = {"linear": lambda: Upsample(order=1), "cubic": lambda: Upsample(order=3), "bending": ModelSuperResolution,
          "tv": lambda: ModelSuperResolution(regularizer="tv", regularization=2e-3, iterations=40),
          "learned": lambda: LearnedSuperResolution(network=network())}


@pytest.fixture(params=STAGES)
def stage(request):
    return STAGES[request.param]()


def test_the_field_of_view_stays_and_voxels_are_finer(stage):
    image = thick(tilted_cone())
    made = stage(image)
    assert made.grid.same_as(tilted_cone().grid) and made.grid.thickness_mm.item() == pytest.approx(2.0)
    assert made.data.shape == (1, 1, 1, 30, 20, 20)


def test_units_of_intensity_do_not_matter(stage):
    image = thick(tilted_cone())
    small, large = stage(image).data, stage(replace(image, data=700 * image.data)).data / 700
    torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["linear", "cubic", "bending"])
def test_a_flipped_stack_gives_the_flipped_volume(name):
    image = thick(tilted_cone())
    flipped = replace(image, data=image.data.flip(3), grid=image.grid.flip("z"))
    torch.testing.assert_close(STAGES[name]()(flipped).data.flip(3), STAGES[name]()(image).data, atol=1e-3, rtol=0)


def test_little_regularization_explains_the_slices():
    image = thick(tilted_cone())
    made = ModelSuperResolution(regularization=1e-5)(image)
    seen = SliceProfile.between(image.grid, made.grid).to(made.data)(made.data)
    assert (seen - image.data).norm() < 0.01 * image.data.norm()
    cubic = Upsample()(image).data
    assert (SliceProfile.between(image.grid, made.grid).to(cubic)(cubic) - image.data).norm() > (
        2 * (seen - image.data).norm())


def test_bending_is_the_dense_solution():
    weights = torch.rand(1, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slices = torch.rand(1, 1, 1, 3, 1, 1, dtype=torch.float64)
    unit = torch.eye(6, dtype=torch.float64).reshape(6, 1, 1, 6, 1, 1)
    penalty = bending(unit).reshape(6, 6)
    torch.testing.assert_close(penalty, penalty.mT)
    made = least_squares(slices, SliceProfile(weights=weights), 2, regularization=0.3, regularizer="bending",
                         iterations=400)
    w = weights[0]
    dense = torch.linalg.solve(w.mT @ w + 0.3 * penalty, w.mT @ slices.flatten())
    torch.testing.assert_close(made.flatten(), dense, atol=1e-5, rtol=0)


def test_total_variation_keeps_a_step_that_bending_smears():
    data = torch.zeros(1, 1, 1, 30, 8, 8)
    data[:, :, :, 15:] = 1.0
    truth = replace(tilted_cone((30, 8, 8)), data=data)
    image = thick(truth, profile="box")
    smooth, sharp = (ModelSuperResolution(regularizer=r, regularization=w, profile="box", iterations=600)(image).data
                     for r, w in (("bending", 1.0), ("tv", 1e-3)))
    inner = slice(5, 25)
    assert (sharp - data)[:, :, :, inner].abs().mean() < 0.5 * (smooth - data)[:, :, :, inner].abs().mean()


def test_consistency_is_the_minimum_it_says():
    torch.manual_seed(0)
    weights, start = torch.rand(1, 2, 6, dtype=torch.float64), torch.rand(1, 1, 6, 1, 1, dtype=torch.float64)
    slices, prior = torch.rand(1, 1, 2, 1, 1, dtype=torch.float64), smooth_prior(6, 1.0).double()
    noise = torch.tensor(0.3, dtype=torch.float64)
    made = consistent_volume(start, slices, weights, noise, prior).flatten().requires_grad_()
    away, miss = made - start.flatten(), weights[0] @ made - slices.flatten()
    cost = miss.square().sum() + noise * away @ torch.linalg.solve(prior, away)
    assert torch.autograd.grad(cost, made)[0].abs().max() < 1e-8


def test_fold_and_unfold_are_inverse():
    volume = torch.rand(2, 1, 15, 3, 3)
    assert torch.equal(unfold(fold(volume, 5)), volume)


def test_a_view_brings_back_what_slices_do_not_see():
    truth = tilted_cone()
    z = truth.grid.points_mm()[..., 2][:, None, None]
    truth = replace(truth, data=truth.data + 0.3 * torch.sin(2 * torch.pi * z / 10).float())  # one period per slice
    image, view = thick(truth, profile="box"), long_axis(truth)
    for make in (ModelSuperResolution, lambda: LearnedSuperResolution(network=network())):
        alone, both = make()(image).data, make()(image, view).data
        plane = (slice(None), slice(None), slice(None), slice(3, 27), slice(9, 11), slice(2, 18))
        assert (both - truth.data)[plane].abs().mean() < 0.6 * (alone - truth.data)[plane].abs().mean()


def test_smoothness_is_symmetric_and_leaves_constants():
    x, y = torch.rand(2, 1, 1, 1, 4, 3, 5, dtype=torch.float64)
    assert float((smoothness(x, 2.0) * y).sum()) == pytest.approx(float((x * smoothness(y, 2.0)).sum()))


def test_gradients_reach_slices_views_and_weights():
    truth = tilted_cone((10, 12, 12))
    image = thick(truth)
    affine = torch.tensor([[2.0, 0, 0, -9], [0, 0, -6, 0], [0, 2, 0, -7], [0, 0, 0, 1]], dtype=torch.float64)[None]
    view = Image(truth.rows, torch.rand(1, 1, 1, 1, 8, 9), Grid(affine, (1, 8, 9), torch.tensor([6.0]).double()))
    stage = LearnedSuperResolution(network=network())
    leaves = image.data.clone().requires_grad_(), view.data.clone().requires_grad_()
    stage(replace(image, data=leaves[0]), replace(view, data=leaves[1])).data.square().sum().backward()
    grads = [leaf.grad for leaf in leaves] + [p.grad for p in stage.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) and float(g.abs().sum()) > 0 for g in grads)


def test_each_subject_has_its_own_views():
    image, view = thick(tilted_cone()), long_axis(tilted_cone())
    two = replace(image, rows=Rows.subjects(2), data=torch.cat((image.data, 2 * image.data)),
                  grid=image.grid.select(torch.tensor([0, 0])))
    rows = Rows(torch.tensor([1, 0, 0]), torch.tensor([0, 0, 1]), torch.zeros(3, dtype=torch.int64))
    views = replace(view.repeat_rows(3), rows=rows)
    both, alone = ModelSuperResolution()(two, views), ModelSuperResolution()(image, view)
    torch.testing.assert_close(both.data[1] / 2, alone.data[0], rtol=1e-3, atol=1e-3)


def test_bad_input(stage):
    image = thick(tilted_cone())
    with pytest.raises(SettingError, match="one slice"):
        stage(replace(image, data=image.data[:, :, :, :1], grid=image.grid.crop((0, 0, 0), (1, 20, 20))))
    with pytest.raises(SignalError, match="no numbers"):
        stage(replace(image, data=image.data.index_fill(5, torch.tensor([3]), torch.nan)))
    with pytest.raises(GeometryError, match="without spacing"):
        stage(replace(image, grid=Grid.pixels(image.grid.shape)))


def test_bad_settings_and_views():
    image, view = thick(tilted_cone()), long_axis(tilted_cone())
    for wrong in ({"factor": 1}, {"regularization": 0.0}, {"iterations": 0}):
        with pytest.raises(SettingError):
            ModelSuperResolution(**wrong)
    with pytest.raises(SettingError, match="order 2"):
        Upsample(order=2)
    with pytest.raises(SignalError, match="without signal"):
        ModelSuperResolution()(replace(image, data=0 * image.data))
    with pytest.raises(GeometryError, match="unknown slice thickness"):
        ModelSuperResolution()(replace(image, grid=replace(image.grid, thickness_mm=None)))
    with pytest.raises(SettingError, match="no view of subject 0"):
        ModelSuperResolution()(image, replace(view, rows=replace(view.rows, subject=view.rows.subject + 7)))
    with pytest.raises(SettingError, match="views of"):
        ModelSuperResolution()(image, replace(view, data=view.data.repeat(1, 2, 1, 1, 1, 1)))
    with pytest.raises(GeometryError, match="views of unknown thickness"):
        ModelSuperResolution()(image, replace(view, grid=replace(view.grid, thickness_mm=None)))
    assert finer(image.grid, 5).shape == (30, 20, 20)
