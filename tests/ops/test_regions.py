"""Regions: components, overlap, volumes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from firstread.core.errors import SettingError
from firstread.ops import regions

masks = arrays(bool, (2, 5, 6)).map(torch.from_numpy)


@settings(max_examples=50, deadline=None)
@given(masks, st.booleans())
def test_largest_component_is_a_connected_subset_that_stays(mask, full):
    kept = regions.largest_component(mask, full=full)
    assert not (kept & ~mask).any()
    assert kept.any() == mask.any()
    assert torch.equal(regions.largest_component(kept, full=full), kept)
    rest = regions.largest_component(mask & ~kept, full=full)
    assert kept.sum() >= rest.sum()


def test_largest_component_works_on_each_leading_index_alone():
    mask = torch.zeros(2, 1, 1, 4, 4, dtype=torch.bool)
    mask[0, ..., 0, 0] = mask[0, ..., 2:, 2:] = True
    mask[1, ..., 3, :2] = mask[1, ..., 0, 3] = True
    kept = regions.largest_component(mask)
    assert kept[0].sum() == 4 and kept[1].sum() == 2


def test_corner_neighbours_count_only_when_asked():
    mask = torch.eye(3, dtype=torch.bool)[None]
    assert regions.largest_component(mask).sum() == 1
    assert regions.largest_component(mask, full=True).sum() == 3


@settings(max_examples=50, deadline=None)
@given(masks, masks)
def test_dice_is_symmetric_and_bounded(a, b):
    value = regions.dice(a, b)
    assert value == regions.dice(b, a)
    assert 0 <= value <= 1
    assert regions.dice(a, a) == 1
    if a.any() or b.any():
        assert value.item() == pytest.approx(regions.soft_dice(a.double(), b.double(), smooth=0.0).item())


def test_dice_of_empty_masks_follows_the_stated_convention():
    empty, full = torch.zeros(1, 2, 2).bool(), torch.ones(1, 2, 2).bool()
    assert regions.dice(empty, empty) == 1
    assert regions.dice(empty, full) == 0
    assert regions.soft_dice(empty.double(), empty.double()) == 1


def test_volume_of_a_sphere_and_its_gradient():
    z, y, x = torch.meshgrid(*[torch.arange(-20, 21)] * 3, indexing="ij")
    sphere = ((z**2 + y**2 + x**2) <= 15**2)[None, None]
    volume = regions.volume_ml(sphere, torch.tensor([0.001]))
    assert volume.item() == pytest.approx(4 / 3 * math.pi * 15**3 / 1000, rel=0.01)
    soft = sphere.double().requires_grad_()
    regions.volume_ml(soft, torch.tensor([0.001])).sum().backward()
    assert soft.grad.unique().tolist() == pytest.approx([0.001])


def test_settings_out_of_range_are_refused():
    with pytest.raises(SettingError, match="axes"):
        regions.largest_component(torch.ones(2, 2).bool(), axes=3)
