"""Overlap of label maps, components in pairs, skeletons."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from firstread.core.errors import SettingError
from firstread.ops import regions
from firstread.ops.components import match_components
from firstread.ops.overlap import bounding_box, confusion_matrix, dice_of_counts, volume_similarity
from firstread.ops.skeleton import centreline_dice, skeleton

maps = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3)).map(torch.from_numpy)


@settings(max_examples=40, deadline=None)
@given(maps, maps)
def test_confusion_matrix_counts_every_pair(truth, predicted):
    found = confusion_matrix(truth, predicted, classes=4)
    plain = torch.bincount(truth.long().ravel() * 4 + predicted.long().ravel(), minlength=16).reshape(4, 4)
    assert torch.equal(found, plain)
    for index, value in enumerate(dice_of_counts(found)):
        if (truth == index).any() or (predicted == index).any():
            assert value == pytest.approx(regions.dice(truth == index, predicted == index).item())
        else:
            assert torch.isnan(value)


def test_confusion_matrix_refuses_what_it_cannot_count():
    with pytest.raises(SettingError, match="0 to 2"):
        confusion_matrix(torch.tensor([3]), torch.tensor([0]), classes=3)
    with pytest.raises(SettingError, match="shape"):
        confusion_matrix(torch.tensor([1]), torch.tensor([0, 1]), classes=3)


@settings(max_examples=30, deadline=None)
@given(arrays(bool, (3, 4, 5)))
def test_bounding_box_is_the_smallest(mask):
    box = bounding_box(mask)
    if not mask.any():
        assert box is None
        return
    places = np.argwhere(mask)
    assert [(s.start, s.stop) for s in box] == list(zip(places.min(0), places.max(0) + 1, strict=True))


def test_volume_similarity_knows_sizes_only():
    assert volume_similarity(torch.tensor(5), torch.tensor(5)) == 1
    assert volume_similarity(torch.tensor(0), torch.tensor(5)) == 0
    assert torch.isnan(volume_similarity(torch.tensor(0), torch.tensor(0)))


def lesions(*boxes):
    mask = torch.zeros(1, 10, 30, dtype=torch.bool)
    for y, x, size in boxes:
        mask[0, y:y + size, x:x + size] = True
    return mask


def test_lesions_are_matched_one_to_one():
    truth = lesions((1, 1, 3), (1, 10, 3), (6, 20, 3))
    found = match_components(truth, lesions((1, 2, 3), (6, 26, 2)))
    assert (found.truth, found.predicted, found.matched) == (3, 2, 1)
    assert found.recall == pytest.approx(1 / 3) and found.precision == 0.5 and found.f1 == pytest.approx(0.4)
    over = torch.ones_like(truth)
    assert match_components(truth, over).matched == 1
    assert match_components(truth, over, minimum_iou=0.1).matched == 0
    assert match_components(truth, truth, minimum_iou=0.9).f1 == 1


def test_the_better_of_two_candidates_is_the_match():
    truth = lesions((0, 0, 8))
    found = match_components(truth, lesions((0, 0, 5), (6, 6, 4)), minimum_iou=0.2)
    assert (found.predicted, found.matched) == (2, 1)


def test_corners_join_lesions_where_asked():
    diagonal = lesions((0, 0, 2), (2, 2, 2))
    assert match_components(diagonal, diagonal).truth == 1
    assert match_components(diagonal, diagonal, full=False).truth == 2


def test_lesions_that_are_not_there():
    some, none = lesions((0, 0, 2)), lesions()
    assert math.isnan(match_components(none, some).recall) and match_components(none, some).precision == 0
    assert math.isnan(match_components(some, none).precision) and match_components(some, none).recall == 0
    assert math.isnan(match_components(none, none).f1)
    with pytest.raises(SettingError, match="minimum 1"):
        match_components(some, some, minimum_iou=1.0)


def euler(mask):
    """Pieces minus tunnels plus holes of voxels that touch by a corner, from the cells of the doubled grid."""
    padded = np.pad(mask, 1)
    corners = [padded[tuple(slice(c, padded.shape[a] - 1 + c) for a, c in enumerate(place))]
               for place in np.ndindex(*(2,) * mask.ndim)]
    total = 0
    for size in range(mask.ndim + 1):
        for axes in np.ndindex(*(2,) * mask.ndim):  # along which axes a cell is open
            if sum(axes) == size:
                cells = np.zeros([n + 2 for n in mask.shape], dtype=bool)
                for shift in np.ndindex(*(2 - a for a in axes)):
                    cells |= np.roll(padded, shift, axis=range(mask.ndim))
                total += (-1)**size * int(cells.sum())
    assert len(corners) == 2**mask.ndim
    return total


def blob(shape, seed, sigma=1.5, above=0.02):
    return ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma) > above


@pytest.mark.parametrize("shape", [(40, 44), (14, 16, 18)])
@pytest.mark.parametrize("seed", [0, 1])
def test_skeleton_keeps_the_topology(shape, seed):
    mask = blob(shape, seed)
    thin = skeleton(torch.from_numpy(mask)).numpy()
    full = np.ones((3,) * mask.ndim)
    assert not (thin & ~mask).any() and thin.sum() < 0.6 * mask.sum()
    assert euler(thin) == euler(mask)
    assert ndimage.label(thin, full)[1] == ndimage.label(mask, full)[1]
    around = [ndimage.label(np.pad(~m, 1, constant_values=True))[1] for m in (thin, mask)]
    assert around[0] == around[1]
    assert torch.equal(skeleton(torch.from_numpy(thin)), torch.from_numpy(thin))


def test_skeleton_of_a_tube_is_its_centre():
    z, y, x = np.ogrid[:15, :15, :30]
    tube = torch.from_numpy(((z - 7)**2 + (y - 7)**2 <= 16) & (x >= 3) & (x < 27))
    places = skeleton(tube).nonzero()
    assert (places[:, 2].max() - places[:, 2].min()) >= 18
    assert (places[:, :2].double().mean(dim=0) - 7).abs().max() < 0.6
    flat = torch.zeros(1, 9, 20, dtype=torch.bool)
    flat[0, 3:6, 2:18] = True
    assert skeleton(flat)[0, 4, 3:17].all() and skeleton(flat).sum() <= 16


def test_centreline_dice_sees_a_broken_vessel_where_dice_hardly_does():
    vessel = torch.zeros(1, 15, 60, dtype=torch.bool)
    vessel[0, 5:10] = True
    thinner = vessel.clone()
    thinner[0, 5] = thinner[0, 9] = False
    assert centreline_dice(vessel, thinner) == 1.0 and regions.dice(vessel, thinner).item() == 0.75
    short = vessel & (torch.arange(60) < 30)
    assert centreline_dice(vessel, short) == pytest.approx(2 / 3, abs=0.02)
    assert centreline_dice(vessel, short) == centreline_dice(short, vessel)
    assert math.isnan(centreline_dice(vessel, torch.zeros_like(vessel)))


def test_centreline_dice_is_close_to_that_of_another_skeleton():
    morphology = pytest.importorskip("skimage.morphology")
    one, two = blob((60, 60), 4), blob((60, 60), 4) & ~blob((60, 60), 5, above=0.05)
    lines = [morphology.skeletonize(mask) for mask in (one, two)]
    shares = [(line & mask).sum() / line.sum() for line, mask in zip(lines, (two, one), strict=True)]
    theirs = 2 * shares[0] * shares[1] / sum(shares)
    assert centreline_dice(torch.from_numpy(one), torch.from_numpy(two)) == pytest.approx(theirs, abs=0.05)
