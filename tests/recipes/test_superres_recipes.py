"""Training of the super-resolution networks and the simulated scans of the evidence, at toy size."""

from pathlib import Path

import numpy as np
import pytest
import torch

from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image, Rows
from firstread.nets.shape_codes import ShapeCodes, shape_losses
from firstread.nets.superres import SuperResolution
from firstread.recipes import evidence_superres as evidence
from firstread.recipes import heart_superres as recipe
from firstread.recipes import heart_superres_shape as shape
from firstread.recipes.superres_hearts import FineHeart, average, moved, section_grid, stack_grid, target


@pytest.fixture
def hearts(tmp_path) -> Path:
    """A made-up pool: a bright cone in a ring of muscle."""
    z, y, x = torch.meshgrid(torch.arange(70.0), torch.arange(48) - 24.0, torch.arange(48) - 24.0, indexing="ij")
    far = torch.hypot(y, x) - 6 - 0.1 * z
    labels = (far < 0) * 1 + ((far >= 0) & (far < 4)) * 2
    magnitude = torch.where(labels == 1, 1.0, torch.where(labels == 2, 0.3, 0.6))
    np.savez(tmp_path / "0000.npz", magnitude=magnitude.half()[None].numpy(),
             labels=labels.to(torch.uint8)[None].numpy(), spacing=1.8)
    return tmp_path


def fine_cone() -> FineHeart:
    grid = Grid.from_spacing((60, 36, 36), (1.0, 2.0, 2.0))
    x, y, z = grid.points_mm().unbind(-1)
    inside = torch.hypot(x, y) < 15 + 0.1 * z
    data = torch.where(inside, 1.0, 0.3)[:, None, None].to(torch.complex64).repeat(1, 2, 1, 1, 1, 1)
    labels = inside[:, None, None].to(torch.uint8).repeat(1, 2, 1, 1, 1, 1)
    names = ("background", "LV cavity", "LV myocardium", "RV cavity")
    return FineHeart(Image(Rows.subjects(1), data, grid), HardLabels(Rows.subjects(1), labels, grid, names),
                     torch.tensor([0.0, 0.0, -29.5], dtype=torch.float64), {})


def test_a_batch_depends_on_its_number_alone_and_obeys_its_profile(hearts):
    batches = recipe.ThickStacks(hearts, seed=1, labelled=True)
    first, again, other = batches(3), recipe.ThickStacks(hearts, seed=1, labelled=True)(3), batches(4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    slices, weights, views, truth, shares = first
    seen = torch.einsum("bkj,bcjyx->bckyx", weights.float(), truth)
    assert (seen - slices).abs().mean() < 0.12 and shares.amax() <= 1 + 1e-5
    hit = views[:, 1:] > 0.5
    if bool(hit.any()):
        assert (views[:, :1] - truth)[hit].abs().mean() < 0.3


def test_a_few_steps_fit_a_batch(hearts):
    torch.manual_seed(0)
    batch, net = recipe.ThickStacks(hearts, seed=1)(2), SuperResolution(factor=5, width=6, depth=2, blocks=1)
    batch = tuple(part[:1] for part in batch)
    optimizer, losses = torch.optim.Adam(net.parameters(), 2e-3), []
    for _ in range(10):
        optimizer.zero_grad()
        value = recipe.loss(net, batch)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0]


def test_the_shape_prior_pulls_towards_the_shape(hearts):
    torch.manual_seed(0)
    codes = ShapeCodes(size=(8, 8, 8), code=6, widths=(4, 8))
    batch = recipe.ThickStacks(hearts, seed=1, labelled=True)(0)
    optimizer = torch.optim.Adam(codes.parameters(), 3e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        value = shape_losses(codes, batch[4], batch[3])
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0]
    net = SuperResolution(factor=5, width=4, depth=2, blocks=1)
    plain, bound = (shape.constrained(codes, prior)(net, batch).item() for prior in (0.0, 1.0))
    assert bound > plain


def test_grey_scales_start_at_zero_and_flips_come_back():
    curve = recipe.grey_scale(torch.linspace(0, 1.3, 50), torch.Generator().manual_seed(0))
    assert curve[0] == 0 and curve.diff().min() > 0
    block = torch.rand(3, 4, 4)
    assert len({tuple(recipe.turned(block, way).flatten().tolist()) for way in range(16)}) == 16


def test_real_data_is_refused(tmp_path):
    for module in (recipe, shape):
        with pytest.raises(SettingError, match="simulation alone"):
            module.train(tmp_path, "cpu", 1, tmp_path)


def test_the_truth_and_the_thick_slices_come_from_the_fine_rendering():
    heart = fine_cone()
    grid = stack_grid(heart.image.grid, first_mm=9.5, step_mm=10.0, count=5, thickness_mm=8.0)
    seen = average(heart.image.data, heart.image.grid, grid, profile="box", thickness_mm=8.0)
    torch.testing.assert_close(seen[:, :, :, 0], heart.image.data[:, :, :, 6:14].mean(dim=3))
    volume = grid.resize((25, 36, 36))
    torch.testing.assert_close(target(heart, volume)[:, :, :, 0], heart.image.data[:, :, :, 5:7].mean(dim=3).abs())


def test_offsets_move_slices_by_pixels():
    slices = torch.zeros(1, 1, 1, 2, 16, 16)
    slices[..., 8, 8] = 1.0
    made = moved(slices, torch.tensor([[2.0, 0.0], [0.0, -3.0]]))
    assert made[0, 0, 0, 0].flatten().argmax() == 8 * 16 + 10 and made[0, 0, 0, 1].flatten().argmax() == 5 * 16 + 8


def test_a_view_contains_the_stacks_axis():
    grid = fine_cone().image.grid
    section = section_grid(grid, angle_rad=0.7, through_mm=torch.zeros(3).double(), half_mm=20.0, pixel_mm=2.0,
                           low_mm=5.0, high_mm=50.0, thickness_mm=8.0)
    up = section.affine[0, :3, 1] / 2
    torch.testing.assert_close(up, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    assert section.points_mm()[..., 2].min() == pytest.approx(-24.5)


def test_methods_are_scored_and_the_truth_has_no_image_error():
    heart = fine_cone()
    stack, views = evidence.scans(heart, 0)
    assert stack.data.shape[3] == 5 and views.batch == 3

    class Threshold(torch.nn.Module):
        def forward(self, image: Image):
            classes = torch.stack((image.data[:, :, 0] < 0.6, image.data[:, :, 0] >= 0.6), dim=2).float()
            from firstread.core.records import SoftLabels

            return SoftLabels(image.rows, classes, image.grid, ("background", "LV cavity"))

    chosen = {"cubic": lambda stack, _: evidence.Upsample()(stack)}
    found = evidence.measured(heart, 0, chosen, Threshold())
    assert found["true volume"]["PSNR"] == float("inf") and found["true volume"]["SSIM"] == pytest.approx(1.0)
    assert found["true volume"]["LV cavity"] > found["cubic"]["LV cavity"] > 0.8
    text = evidence.table([found, found, found])
    assert text.count("\n") == 4 and "thick slices' labels" in text
