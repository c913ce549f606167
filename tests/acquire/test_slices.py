"""Random short-axis slices: a function of the key, with labels that an anatomist would accept."""

import pytest
import torch
from scipy import ndimage

from firstread.acquire.slices import random_stacks
from firstread.acquire.slices_anatomy import draw_size
from firstread.acquire.slices_draws import Draws
from firstread.core.errors import SettingError
from firstread.core.keys import Key


@pytest.fixture(scope="module")
def stacks():
    parts = [random_stacks(Key(7, "test"), number, subjects=6, slices=3, size=96) for number in range(6)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def test_same_key_same_slices_and_another_key_others():
    first, labels = random_stacks(Key(1, "a"), 4, subjects=1, slices=2, size=48)
    again, same = random_stacks(Key(1, "a"), 4, subjects=1, slices=2, size=48)
    assert torch.equal(first, again) and torch.equal(labels, same)
    assert not torch.equal(first, random_stacks(Key(1, "a"), 5, subjects=1, slices=2, size=48)[0])
    assert not torch.equal(first, random_stacks(Key(2, "a"), 4, subjects=1, slices=2, size=48)[0])


def test_images_are_finite_and_scaled(stacks):
    images, labels = stacks
    assert torch.isfinite(images).all() and labels.max() <= 3
    spread = images.flatten(1).quantile(0.99, dim=1) - images.flatten(1).quantile(0.01, dim=1)
    assert (spread > 0.5).all() and (spread < 2).all()


def test_the_cavity_lies_within_muscle(stacks):
    _, labels = stacks
    checked = 0
    for label in labels.flatten(0, 1):
        cavity = (label == 1).numpy()
        if not cavity.any() or cavity[[0, -1]].any() or cavity[:, [0, -1]].any():
            continue
        rim = ndimage.binary_dilation(cavity) & ~cavity
        assert ((label.numpy() == 2) & rim).sum() > 0.97 * rim.sum()
        checked += 1
    assert checked > 60


def test_every_class_is_common_and_areas_are_those_of_hearts(stacks):
    _, labels = stacks
    for index, (low, high) in {1: (300, 3500), 2: (500, 3000), 3: (400, 4500)}.items():
        area = (labels == index).sum(dim=(2, 3)) * 1.5**2
        assert (area > 0).float().mean() > 0.5
        assert low < area[area > 0].float().median() < high, index


def test_blood_is_brighter_than_muscle(stacks):
    images, labels = stacks
    enough = [(i[m == 1].mean() > i[m == 2].mean()).item() for i, m in zip(images, labels)
              if (m == 1).sum() > 300 and (m == 2).sum() > 300]
    assert sum(enough) > 0.9 * len(enough) > 10


def test_contraction_keeps_the_muscle():
    size = draw_size(Draws(torch.Generator().manual_seed(0), subjects=400, slices=1, size=16))
    assert (size.outer > size.cavity + 2).all()
    still, late = size.contraction.flatten() == 0, size.contraction.flatten() == 1
    wall = (size.outer - size.cavity).flatten()
    assert wall[late].mean() > wall[still].mean() + 1
    area = (size.outer**2 - size.cavity**2).flatten()
    assert 1.0 < area[late].median() / area[still].median() < 1.4


def test_too_small_is_refused():
    with pytest.raises(SettingError):
        random_stacks(Key(0, "a"), 0, size=8)
    with pytest.raises(SettingError):
        random_stacks(Key(0, "a"), 0, subjects=0)
