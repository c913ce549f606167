"""Slices cut out of stored cines: equal by number, labels that move with the image, contours as readers draw them."""

import numpy as np
import pytest
import torch

from firstread.acquire.slices_paint import CAVITY_MM, OUTER_MM, contoured
from firstread.recipes.heart_cines import STEP_MM, PhantomSlices, signed_distance


@pytest.fixture
def folder(tmp_path):
    """One made-up subject: a bright cavity in dark muscle, two frames of three slices."""
    y, x = np.mgrid[:80, :80] - 39.5
    r = np.hypot(y, x)
    shown = np.broadcast_to(np.where(r < 12, 1.0, np.where(r < 17, 0.2, 0.5)), (2, 3, 80, 80))
    masks = np.broadcast_to(np.stack((r < 17, r < 12, r < 0)), (2, 3, 3, 80, 80)).transpose(2, 0, 1, 3, 4)
    np.savez(tmp_path / "0000.npz", seen=shown.astype(np.float16), clean=shown.astype(np.float16),
             distance=signed_distance(masks, 1.5), spacing=np.float32(1.5))
    return tmp_path


def test_a_batch_is_a_function_of_its_number(folder):
    slices = PhantomSlices(folder, seed=3, size=64)
    first, again, other = slices(5), slices(5), slices(6)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (8, 3, 64, 64) and first[1].shape == (8, 64, 64) and first[1].dtype == torch.uint8


def test_labels_move_with_the_image(folder):
    images, labels = PhantomSlices(folder, seed=0, size=64)(0)
    for image, label in zip(images[:, 1], labels, strict=True):
        assert image[label == 1].mean() > image[label == 0].mean() > image[label == 2].mean()


def test_distances_are_those_to_a_circle():
    y, x = np.mgrid[:60, :60] - 29.5
    radius = np.hypot(y, x)
    found = signed_distance((radius < 15)[None], 2.0)[0] * STEP_MM
    near = abs(found) < 20
    assert abs(found - 2.0 * (radius - 15))[near].max() < 1.1, "within about half a pixel"
    assert signed_distance(np.zeros((1, 4, 4), dtype=bool), 1.0).min() == 127, "no border is far away"


def test_contours_are_those_of_the_random_slices():
    mm = torch.arange(-10, 10, 0.1)
    labels = contoured(mm, mm + 6, torch.full_like(mm, 9))
    assert mm[labels == 2].max() == pytest.approx(-OUTER_MM, abs=0.11)
    assert (mm + 6)[labels == 1].max() == pytest.approx(CAVITY_MM, abs=0.11)
