"""The evidence of prompts: simulated users click where it is wrong, scores by definition, a page of them."""

import json

import pytest
import torch

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


def test_scores_are_dice_and_kept(subject, tmp_path):
    image, truth = subject
    found = recipe.score("one", image, truth)
    assert found.ellipse > 0.9 and set(found.slice) == set(found.volume) == set(recipe.KINDS)
    assert min(*found.slice.values(), *found.volume.values()) > 0.93
    labels = torch.where(truth, 1, 0)
    first = recipe.heart_scores([("one", lambda: (image, labels))], tmp_path, lambda text: None)
    assert list(json.loads((tmp_path / "one.json").read_text())) == ["LV cavity"]

    def never():
        raise AssertionError("read again")

    assert recipe.heart_scores([("one", never)], tmp_path, lambda text: None) == first
    text = recipe.page(first, {}, {"a lesion": [found]})
    assert text.count("| 1 |") == 2 and "simulated" in text


def test_patients_have_intervals_and_single_cases_none():
    assert recipe.cell([0.5, 0.7, 0.9], ["a", "b", "c"]).startswith("0.700 [")
    assert recipe.cell([0.5], ["a"]) == "0.500"
    assert recipe.main(["nowhere"]) == 2
