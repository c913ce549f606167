"""The evidence of prompts: simulated users click where it is wrong, scores by definition, a page of them."""

import json

import numpy as np
import pytest
import torch

from firstread.analyze.random_walk import RandomWalker
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.recipes import evidence_prompted as recipe


def disc(radius, centre=(14, 16), size=32, slices=3):
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((y - centre[0])**2 + (x - centre[1])**2 <= radius**2).expand(slices, size, size).clone()


def test_the_next_click_is_in_the_middle_of_the_largest_mistake():
    truth, found = disc(8), disc(8)
    assert recipe.error_click(found, truth, (1.0, 1.0)) is None
    found[2, 10:13, 12:15] = False
    assert recipe.error_click(found, truth, (1.0, 1.0)) == ((13.0, 11.0, 2.0), True)
    found[0, 25:30, 2:7] = True
    assert recipe.error_click(found, truth, (1.0, 1.0)) == ((4.0, 27.0, 0.0), False)


@pytest.fixture
def subject():
    truth = disc(8)
    data = truth.float() + 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    return Image(Rows.subjects(1), data[None, None, None], Grid.from_spacing((3, 32, 32), (5.0, 1.0, 1.0))), truth


METHODS = {"random walker": RandomWalker, "network": RandomWalker}


def test_scores_are_dice_and_kept(subject, tmp_path):
    image, truth = subject
    found = recipe.score("one", image, truth, RandomWalker())
    assert found.ellipse > 0.9 and set(found.slice) == set(found.volume) == set(recipe.KINDS)
    assert min(*found.slice.values(), *found.volume.values()) > 0.93
    labels = torch.where(truth, 1, 0)
    cases, names = [(name, lambda: (image, labels)) for name in ("a", "b", "c")], {1: "LV cavity"}
    first = recipe.all_scores(cases, METHODS, tmp_path, lambda text: None, names=names)
    assert list(json.loads((tmp_path / "a network.json").read_text())) == ["LV cavity"]

    def never():
        raise AssertionError("read again")

    kept = [(name, never) for name, _ in cases]
    assert recipe.all_scores(kept, METHODS, tmp_path, lambda text: None, names=names) == first
    one = {"a lesion": {method: rows[:1] for method, rows in first["LV cavity"].items()}}
    text = recipe.page(first, first, first, one, one, {"network": dict.fromkeys(recipe.BRAIN.values(), 0.5)})
    assert text.count("| LV cavity | 3 | network |") == 3 and text.count("| a lesion | 1 | network |") == 2
    assert text.count("| LV cavity | 0.000 [0.000, 0.000]") == 3 and "simulated" in text


def test_a_box_over_the_slices_bounds_the_object(subject, tmp_path, monkeypatch):
    image, truth = subject
    truth[0] = False  # the disc goes on there, and is none of it
    assert recipe.bounded(image, truth, RandomWalker()) > 0.93
    monkeypatch.setattr(recipe, "BRAIN", {1: "a part"})
    monkeypatch.setattr(recipe, "THIN", METHODS)
    found = recipe.brain_bounded(lambda: (image, truth.int()), tmp_path)
    assert set(found) == set(METHODS) and recipe.brain_bounded(lambda: None, tmp_path) == found


def test_the_largest_contour_of_a_patient():
    small, large = (recipe.Slice("p", torch.rand(32, 32), disc(r)[0]) for r in (4, 7))
    image, labels = recipe.read_largest([small, large])
    assert torch.equal(labels[0] == 1, large.cavity) and torch.equal(image.data[0, 0, 0, 0], large.image)
    assert image.grid.shape == (1, 32, 32)


def test_patients_have_intervals_and_single_cases_none():
    assert recipe.cell([0.5, 0.7, 0.9], ["a", "b", "c"]).startswith("0.700 [")
    assert recipe.cell([0.5], ["a"]) == "0.500"
    assert recipe.main(["nowhere"]) == 2


def test_a_brain_is_seen_in_transverse_slices(tmp_path):
    values = torch.arange(2 * 3 * 4).reshape(2, 3, 4).numpy()
    np.savez(tmp_path / "scan.npz", vol=values.astype(float), seg=values)
    image, labels = recipe.read_brain(tmp_path / "scan.npz")
    assert image.grid.shape == (3, 2, 4) and labels[2, 1, 3] == values[1, 2, 3]
    assert image.data[0, 0, 0, 2, 1, 3] == values[1, 2, 3]
