"""One map of space: what it must keep, and what it must equal."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.learn.augment import (
    SpatialMap,
    change_brightness,
    draw_map,
    sample_patch,
    smoothing_matrix,
    spline,
)
from firstread.learn.losses import UNKNOWN
from firstread.nets.plan import AugmentationPlan
from firstread.ops.resample import sample_unit

STILL = AugmentationPlan(spatial_chance=0.0)


def middle(shape):
    return tuple((n - 1) / 2 for n in shape)


@given(shape=st.lists(st.integers(3, 12), min_size=2, max_size=3), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_without_change_the_patch_is_the_image(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    image, label = torch.randn(2, *shape, generator=generator), torch.randint(0, 5, shape, generator=generator)
    where = draw_map(middle(shape), tuple(shape), (1.0,) * len(shape), STILL, generator)
    made, target = sample_patch(image, label.to(torch.uint8), where)
    torch.testing.assert_close(made, image, rtol=0, atol=1e-4)
    assert torch.equal(target, label.to(torch.uint8))


@pytest.mark.parametrize("shape", [(9, 14), (6, 9, 5)])
def test_splines_reproduce_linear_maps(shape):
    cells = (2, 3, 4)[: len(shape)]
    lines = [torch.arange(-1, c + 2) * n / c for n, c in zip(shape, cells, strict=True)]
    control = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1)
    made = spline(control, shape)
    places = torch.stack(torch.meshgrid(*(torch.arange(n) + 0.5 for n in shape), indexing="ij"), dim=-1)
    torch.testing.assert_close(made, places, rtol=0, atol=1e-5)


def test_a_flip_is_a_flip_and_a_quarter_turn_a_quarter_turn():
    image = torch.arange(30.0).reshape(1, 5, 6)
    label = torch.zeros(5, 6, dtype=torch.uint8)
    plan = AugmentationPlan(spatial_chance=0.0, flip=("x",))
    found = set()
    for seed in range(12):
        where = draw_map((2.0, 2.5), (5, 6), (1.0, 1.0), plan, torch.Generator().manual_seed(seed))
        made = sample_patch(image, label, where)[0].round()
        assert torch.equal(made, image) or torch.equal(made, image.flip(2))
        found.add(torch.equal(made, image))
    assert found == {True, False}
    square = torch.arange(25.0).reshape(1, 5, 5)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    lines = torch.arange(-1, 3) * 5 - 2.5
    control = torch.stack(torch.meshgrid(lines, lines, indexing="ij")[::-1], dim=-1)
    where = SpatialMap(control @ turn.mT + 2.0, (5, 5))
    made = sample_patch(square, torch.zeros(5, 5, dtype=torch.uint8), where)[0].round()
    assert torch.equal(made, torch.rot90(square, 1, (1, 2))) or torch.equal(made, torch.rot90(square, -1, (1, 2)))


def test_rotation_is_one_in_millimetres():
    """On voxels of 1 x 3 mm every point keeps its distance from the centre in mm."""
    plan = AugmentationPlan(spatial_chance=1.0, rotation_deg=(60.0, 0.0, 0.0), scale=(1.0, 1.0), elastic_sd=0.0)
    where = draw_map((10.0, 10.0), (9, 9), (1.0, 3.0), plan, torch.Generator().manual_seed(3))
    unit = where.unit((21, 21))[0]
    index = ((unit + 1) * 21 - 1) / 2
    away = (index - 10.0) * torch.tensor([3.0, 1.0])
    line = torch.arange(9) - 4.0
    expected = ((3 * line[None, :]) ** 2 + line[:, None] ** 2).sqrt()
    torch.testing.assert_close(away.norm(dim=-1), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(away[..., 1], line[:, None].expand(9, 9), atol=0.1)


def test_beyond_the_image_labels_are_unknown():
    where = draw_map((0.0, 0.0), (4, 4), (1.0, 1.0), STILL, torch.Generator())
    _, target = sample_patch(torch.ones(1, 8, 8), torch.ones(8, 8, dtype=torch.uint8), where)
    assert target[0, 0] == UNKNOWN and target[-1, -1] == 1


@pytest.mark.parametrize("seed", range(4))
def test_only_the_part_that_is_needed_is_read_and_nothing_changes(seed):
    """The block around a patch gives what the whole image gives, beyond its border too."""
    generator = torch.Generator().manual_seed(seed)
    image, label = torch.randn(1, 30, 34, generator=generator), torch.ones(30, 34, dtype=torch.uint8)
    where = draw_map((3.0 + 8 * seed, 20.0), (8, 8), (1.0, 1.0), AugmentationPlan(spatial_chance=1.0), generator)
    unit = where.unit((30, 34))
    made, target = sample_patch(image, label, where)
    torch.testing.assert_close(made, sample_unit(image[None], unit, outside="border")[0], rtol=1e-3, atol=1e-3)
    inside = sample_unit(torch.ones(1, 1, 30, 34), unit, mode="nearest")[0, 0] > 0
    assert float(((target == 1) != inside).float().mean()) < 0.02


def test_the_same_generator_gives_the_same_patch():
    image, label = torch.randn(1, 12, 12, 12), torch.zeros(12, 12, 12, dtype=torch.uint8)
    plan = AugmentationPlan()
    made = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(7)
        part, _ = sample_patch(image, label, draw_map((5.0,) * 3, (8, 8, 8), (1.0,) * 3, plan, generator))
        made.append(change_brightness(part, plan, generator))
    assert torch.equal(made[0], made[1])


@given(size=st.integers(3, 20), sd=st.sampled_from([0.0, 0.3, 1.7]), lower=st.floats(1, 3))
@settings(max_examples=20, deadline=None)
def test_smoothing_keeps_what_is_constant(size, sd, lower):
    matrix = smoothing_matrix(size, sd, lower)
    torch.testing.assert_close(matrix @ torch.ones(size), torch.ones(size))
    assert bool((matrix >= 0).all())


def test_smoothing_is_the_same_along_every_axis():
    plan = AugmentationPlan(blur_chance=1.0, low_resolution_chance=0.0, gamma_chance=0.0, bias_chance=0.0,
                            noise_chance=0.0)
    image = torch.randn(1, 6, 6, 6)
    made = change_brightness(image, plan, torch.Generator().manual_seed(1))
    turned = change_brightness(image.permute(0, 3, 1, 2), plan, torch.Generator().manual_seed(1)).permute(0, 2, 3, 1)
    torch.testing.assert_close(made, turned)
    assert made.std() < image.std()


def test_neighbouring_slices_change_together_and_noise_is_their_own():
    image = torch.rand(1, 16, 16).expand(3, -1, -1)
    quiet = AugmentationPlan(blur_chance=1.0, gamma_chance=1.0, bias_chance=1.0, noise_chance=0.0)
    made = change_brightness(image, quiet, torch.Generator().manual_seed(2), together=3)
    torch.testing.assert_close(made[0], made[2])
    noisy = AugmentationPlan(blur_chance=0.0, low_resolution_chance=0.0, gamma_chance=0.0, bias_chance=0.0,
                             noise_chance=1.0, noise_sd=0.5)
    made = change_brightness(image, noisy, torch.Generator().manual_seed(2), together=3)
    assert not torch.allclose(made[0], made[2])
    assert math.isclose((made - image)[0].std().item(), (made - image)[2].std().item(), rel_tol=0.3)
