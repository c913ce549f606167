"""Random long-axis planes: what is where, and that a plane depends on its key and number alone."""

import pytest
import torch

from firstread.acquire.long_axis import NAMES, random_long_axis
from firstread.core.errors import SettingError
from firstread.core.keys import Key

SIZE = 80


@pytest.fixture(scope="module")
def views():
    return {view: random_long_axis(Key(3, "t"), 0, view=view, subjects=12, size=SIZE, spacing_mm=2.4)
            for view in ("2-chamber", "4-chamber")}


def test_a_plane_depends_on_its_number_alone(views):
    again = random_long_axis(Key(3, "t"), 0, view="4-chamber", subjects=12, size=SIZE, spacing_mm=2.4)
    assert torch.equal(again[0], views["4-chamber"][0]) and torch.equal(again[1], views["4-chamber"][1])
    assert not torch.equal(views["2-chamber"][0], views["4-chamber"][0])
    assert all(bool(torch.isfinite(images).all()) for images, _ in views.values())


def test_chambers_of_each_view(views):
    """Both ventricles and atria in four chambers; never a right atrium in two."""
    present = {view: (torch.stack([(labels == v).flatten(1).sum(1) for v in range(len(NAMES))], 1) > 20).float().mean(0)
               for view, (_, labels) in views.items()}
    assert present["4-chamber"][[1, 2]].min() > 0.9 and present["4-chamber"][[3, 4, 5]].min() > 0.5
    assert present["2-chamber"][5] == 0 and present["2-chamber"][[1, 2, 4]].min() > 0.6


def test_muscle_lies_around_the_cavity_but_for_its_base(views):
    for _, labels in views.values():
        cavity = labels == 1
        grown = torch.nn.functional.max_pool2d(cavity.float()[:, None], 3, stride=1, padding=1)[:, 0] > 0
        rim = labels[grown & ~cavity]
        assert float((rim == 2).float().mean()) > 0.6
        assert float((rim == 3).float().mean()) < 0.05


def test_blood_is_brighter_than_muscle(views):
    for images, labels in views.values():
        brighter = [float(image[label == 1].median()) > float(image[label == 2].median())
                    for image, label in zip(images, labels, strict=True) if (label == 1).sum() > 50]
        assert sum(brighter) >= 0.8 * len(brighter)


def test_sizes_out_of_range():
    with pytest.raises(SettingError, match="16 pixels"):
        random_long_axis(Key(0, "t"), 0, view="4-chamber", size=16)
