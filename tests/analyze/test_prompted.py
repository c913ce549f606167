"""Promptable segmentation: known shapes found from clicks and boxes, carried on, ended where they end; bad input."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.analyze.prompt_handover import Handover
from firstread.analyze.prompted import SegmentPrompted
from firstread.analyze.prompting import Promptable, box_of, deepest
from firstread.analyze.random_walk import RandomWalker
from firstread.core.errors import GeometryError, SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.prompts import Prompts
from firstread.core.records import Image, Rows
from firstread.ops.random_walker import random_walker
from firstread.ops.regions import dice

GRID = Grid.from_spacing((7, 48, 48), (4.0, 1.0, 1.0))


def ball(centre=(12.0, 24.0, 22.0), radius=10.0, noise=0.1, frames=1):
    """A bright ball that moves along x with time, and a second one that it does not touch; image and truth."""
    z, y, x = torch.meshgrid(*(torch.arange(n) * s for n, s in zip(GRID.shape, (4.0, 1.0, 1.0), strict=True)),
                             indexing="ij")
    inside = torch.stack([(z - centre[0])**2 + (y - centre[1])**2 + (x - centre[2] - 1.5 * t)**2 <= radius**2
                          for t in range(frames)])
    other = ((y - 8)**2 + (x - 42)**2 <= 16).expand(frames, *GRID.shape)
    data = 0.2 + 0.8 * (inside | other) + noise * torch.randn(inside.shape, generator=torch.Generator().manual_seed(0))
    return Image(Rows.subjects(1), data[None, :, None], GRID), inside


def found(image, propagate="both", **said):
    stage = SegmentPrompted(method=RandomWalker(reach_mm=25.0), propagate=propagate)
    return stage(image, Prompts.on_grid(image.grid, **said)).data[0, :, 1] > 0.5


@pytest.mark.parametrize("said", [{"points": [(22, 24, 3)]}, {"boxes": [(12, 14, 3, 32, 34, 3)]},
                                  {"boxes": [(11, 13, 0, 33, 35, 6)]}])
def test_a_ball_is_found_in_all_its_slices_and_nowhere_else(said):
    image, inside = ball()
    made = found(image, **said)
    assert dice(made[0], inside[0]).item() > 0.93
    assert made[0].any(-1).any(-1).tolist() == inside[0].any(-1).any(-1).tolist()
    assert not made[:, :, :, 38:].any()


def test_a_cine_is_followed_both_ways_from_the_prompted_frame():
    image, inside = ball(frames=4)
    made = found(image, points=[(25, 24, 3)], frame=2)
    assert min(dice(made, inside).tolist()) > 0.93
    alone = found(image, propagate="space", points=[(25, 24, 3)], frame=2)
    assert torch.equal(alone[2], made[2]) and not alone[[0, 1, 3]].any()
    assert found(image, propagate="none", points=[(25, 24, 3)]).any(-1).any(-1).sum() == 1


def test_a_click_off_the_object_parts_what_hangs_together():
    image, inside = ball(noise=0.05)
    bridge = image.data.clone()
    bridge[..., 23:26, 30:44] = 1.0
    joined = replace(image, data=bridge)
    free = found(joined, propagate="none", points=[(22, 24, 3)])[0, 3]
    held = found(joined, propagate="none", points=[(22, 24, 3), (38, 24, 3)], positive=[True, False])[0, 3]
    assert free[24, 38] and not held[24, 38]
    assert dice(held[None], inside[0, 3][None]) > dice(free[None], inside[0, 3][None])


def test_a_box_over_slices_bounds_the_object():
    image, inside = ball()
    made = found(image, boxes=[(12, 14, 2, 32, 34, 4)])
    assert made[0].any(-1).any(-1).tolist() == [False, False, True, True, True, False, False]
    assert dice(made[0, 2:5], inside[0, 2:5]).item() > 0.9


class Bright(Promptable):
    """What is bright, and the order in which planes were asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, image, prompt):
        self.asked.append((int(image[0, 0, 0]), prompt.before is not None, len(prompt.points)))
        return (image[0] % 1 > 0.5).to(image.dtype)


def numbered(holes=()):
    """A bright square in every slice but ``holes``; the whole part of each slice is its number."""
    data = torch.zeros(GRID.shape)
    data[:, 10:20, 10:20] = 0.75
    data[list(holes)] = 0
    return Image(Rows.subjects(1), (data + torch.arange(7.0)[:, None, None])[None, None, None], GRID)


def test_what_is_pointed_at_and_what_carries_on_may_be_two_methods():
    pointed, carried = Bright(), Bright()
    stage = SegmentPrompted(method=Handover(pointed=pointed, carried=carried))
    stage(numbered(), Prompts.on_grid(GRID, points=[(15, 15, 3), (12, 12, 1)]))
    assert [number for number, *_ in pointed.asked] == [3, 1]
    assert sorted(number for number, *_ in carried.asked) == [0, 2, 4, 5, 6]


def test_it_begins_at_the_first_click_and_obeys_the_others_on_its_way():
    method = Bright()
    stage = SegmentPrompted(method=method)
    said = Prompts.on_grid(GRID, points=[(15, 15, 3), (12, 12, 1), (30, 30, 4)], positive=[True, True, False])
    stage(numbered(), said)
    assert method.asked == [(3, False, 1), (4, True, 1), (5, True, 0), (6, True, 0), (2, True, 0), (1, True, 1),
                            (0, True, 0)]


def test_it_ends_where_the_object_does_and_begins_again_at_a_click():
    image, method = numbered(holes=(4,)), Bright()
    stage = SegmentPrompted(method=method)
    once = stage(image, Prompts.on_grid(GRID, points=[(15, 15, 2)])).data[0, 0, 1].flatten(1).any(1).tolist()
    assert once == [True, True, True, True, False, False, False]
    again = stage(image, Prompts.on_grid(GRID, points=[(15, 15, 2), (15, 15, 6)])).data[0, 0, 1].flatten(1).any(1)
    assert again.tolist() == [True, True, True, True, False, False, True]
    boxed = stage(image, Prompts.on_grid(GRID, points=[(15, 15, 6)], boxes=[(10, 10, 1, 19, 19, 3)])).data[0, 0, 1]
    assert boxed.flatten(1).sum(1).tolist() == [0, 100, 100, 100, 0, 0, 0]


def test_flipped_and_moved_grids_give_the_same_millimetres():
    image, _ = ball()
    prompts = Prompts.on_grid(GRID, points=[(22, 24, 3)], boxes=[(12, 14, 3, 32, 34, 3)])
    stage = SegmentPrompted(method=RandomWalker())
    turned = replace(image, data=image.data.flip(-1).flip(3), grid=GRID.flip("x").flip("z"))
    one, other = stage(image, prompts).data, stage(turned, prompts).data.flip(-1).flip(3)
    torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.02, 0.5), st.floats(0.05, 1.0))
def test_the_random_walker_solves_its_equation(seed, weight, edge):
    generator = torch.Generator().manual_seed(seed)
    image, prior = (torch.rand(6, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    inside, outside = (torch.zeros(6, 7, dtype=torch.bool) for _ in range(2))
    inside[4, 5], outside[0, 0] = True, True
    p = random_walker(image, prior, inside=inside, outside=outside, weight=weight, edge=edge, spacing_mm=(1.0, 2.0),
                      iterations=200, tolerance=1e-10)
    down = torch.exp(-image.diff(dim=0)**2 / (2 * edge**2)).clamp_min(1e-4)
    right = torch.exp(-image.diff(dim=1)**2 / (2 * edge**2)).clamp_min(1e-4) / 4
    rest = weight * (p - prior)
    for flow, axis in ((down * p.diff(dim=0), 0), (right * p.diff(dim=1), 1)):
        rest = rest - torch.cat((flow, 0 * p.narrow(axis, 0, 1)), axis) + torch.cat((0 * p.narrow(axis, 0, 1), flow),
                                                                                    axis)
    assert rest[~(inside | outside)].abs().max() < 1e-7
    assert p[4, 5] == 1 and p[0, 0] == 0 and p.min() > -1e-6 and p.max() < 1 + 1e-6


def test_the_random_walker_agrees_with_scikit_image():
    walker = pytest.importorskip("skimage.segmentation").random_walker
    image = torch.rand(10, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    inside, outside = (torch.zeros(10, 12, dtype=torch.bool) for _ in range(2))
    inside[5, 6], outside[0], outside[-1], outside[:, 0], outside[:, -1] = True, True, True, True, True
    ours = random_walker(image, torch.zeros_like(image), inside=inside, outside=outside, weight=0.0, edge=0.5,
                         iterations=2000, tolerance=1e-11)
    beta = 10 * image.numpy().std() / (2 * 0.5**2)  # theirs: exp(-beta (difference)² / (10 standard deviation))
    theirs = walker(image.numpy(), (inside.int() + 2 * outside.int()).numpy(), beta=beta, mode="bf",
                    return_full_prob=True)
    torch.testing.assert_close(ours, torch.from_numpy(theirs[0]), atol=1e-3, rtol=0)


def test_gradients_are_those_of_finite_differences():
    image, prior = (torch.rand(3, 4, generator=torch.Generator().manual_seed(k), dtype=torch.float64
                               ).requires_grad_() for k in range(2))
    inside, outside = (torch.zeros(3, 4, dtype=torch.bool) for _ in range(2))
    inside[1, 1] = outside[0, 3] = True
    assert torch.autograd.gradcheck(lambda i, q: random_walker(i, q, inside=inside, outside=outside, edge=0.3,
                                                               tolerance=1e-12, iterations=500), (image, prior))


def test_the_deepest_pixel_and_the_box_of_a_mask():
    mask = torch.zeros(9, 12, dtype=torch.bool)
    mask[2:7, 3:10] = True
    assert box_of(mask).tolist() == [2, 3, 6, 9]
    assert deepest(mask, (1.0, 1.0)).tolist()[0] == 4
    assert deepest(torch.ones(5, 5, dtype=torch.bool), (1.0, 1.0)).tolist() == [2, 2]


@pytest.mark.parametrize(("said", "kind", "text"), [
    ({"points": [(60, 4, 1)]}, GeometryError, "outside"), ({"points": [(4, 4, 7)]}, GeometryError, "outside"),
    ({"boxes": [(5, 5, 1, 60, 9, 1)]}, GeometryError, "outside"),
    ({"boxes": [(9, 5, 1, 5, 9, 1)]}, GeometryError, "reversed"),
    ({"boxes": [(5, 5, 1, 5, 5, 1)]}, GeometryError, "empty"),
    ({"boxes": [(5, 5, 1, 5, 5, 4)]}, GeometryError, "empty"),
    ({"boxes": [(5, 5, 1, 5, 9, 4)]}, GeometryError, "less than a pixel"),
    ({"points": [(4, 4, 1)], "positive": [False]}, SettingError, "no prompt"), ({}, SettingError, "no prompt"),
    ({"boxes": [(5, 5, 1, 9, 9, 1), (15, 5, 1, 19, 9, 1)]}, SettingError, "two boxes"),
    ({"points": [(4, 4, 1)], "frame": 1}, GeometryError, "frame 1")])
def test_bad_prompts_are_said(said, kind, text):
    with pytest.raises(kind, match=text):
        found(ball()[0], **said)


def test_bad_images_are_said():
    image, _ = ball()
    with pytest.raises(SettingError, match="3 channels"):
        found(replace(image, data=image.data.expand(-1, -1, 3, -1, -1, -1)), points=[(4, 4, 1)])
    hurt = image.data.clone()
    hurt[..., 0, 0, 0] = torch.nan
    with pytest.raises(SignalError, match="no numbers"):
        found(replace(image, data=hurt), points=[(4, 4, 1)])
