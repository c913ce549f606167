"""Hearts without learning: found in a moving phantom, and scored; nnU-Net's results taken from where they are kept."""

import json

import numpy as np
import pytest
import torch

from firstread.core.errors import InputError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image, Rows
from firstread.io.nifti import write_image, write_labels
from firstread.jobs.segment_data import find_data
from firstread.nets.plan import ClassPlan, Plan
from firstread.ops.regions import dice
from firstread.recipes.segment_classical import automatic, classical_rows, followed, heart_centre, pieces, roundness
from firstread.recipes.segment_nnunet import nnunet_rows

NAMES = ("background", "LV cavity", "LV myocardium", "RV cavity")


def phase(radius_mm: float, *, size: int = 80, slices: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A bright cavity in a dark wall of 8 mm, a bright disc beside it, on a grey ground with a bright bar; 2 mm."""
    y, x = np.mgrid[:size, :size] * 2.0
    far, other = np.hypot(y - 80, x - 90), np.hypot(y - 76, x - 90 + radius_mm + 26)
    label = np.where(other < 16, 3, 0)
    label[far < radius_mm + 8] = 2
    label[far < radius_mm] = 1
    image = np.array([0.35, 1.0, 0.15, 0.95])[label]
    image[:, :6] = 1.0
    noise = np.random.default_rng(0).normal(0, 0.03, (slices, size, size))
    return image + noise, np.broadcast_to(label, (slices, size, size))


def test_a_moving_heart_is_found():
    (wide, truth), (small, _) = phase(24.0), phase(17.0)
    centre = heart_centre(wide, small, 2.0)
    assert np.hypot(centre[0] - 40, centre[1] - 40) < 15
    found = torch.from_numpy(automatic(wide, centre, 2.0).astype(np.int64))
    scores = [dice(found == k, torch.from_numpy(truth.copy()) == k).item() for k in (1, 2, 3)]
    assert min(scores) > 0.85
    assert automatic(np.zeros_like(wide), (40.0, 40.0), 2.0).max() == 0


def test_pieces_are_followed_until_they_end():
    disc = np.hypot(*np.mgrid[-10:11, -10:11]) < 5
    assert roundness(disc) > 0.8 > roundness(disc & (np.mgrid[-10:11, -10:11][0] > 1))
    blood = np.stack([disc, disc, np.zeros_like(disc), disc])
    assert followed(blood, disc, 1, 5.0).any((1, 2)).tolist() == [True, True, False, False]
    leaking = np.stack([disc, np.ones_like(disc)])
    assert followed(leaking, disc, 0, 5.0)[1].sum() < 2.2 * disc.sum()
    assert len(pieces(disc, 5.0)) == 1 and pieces(disc, 500.0) == []


@pytest.fixture
def data(tmp_path):
    grid = Grid.from_spacing((4, 80, 80), (9.0, 2.0, 2.0))
    for part in ("images", "labels"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for name, radius in (("p1_ED", 24.0), ("p1_ES", 17.0)):
        image, label = (torch.from_numpy(v.copy())[None, None, None] for v in phase(radius))
        write_image(tmp_path / "data" / "images" / f"{name}.nii.gz", Image(Rows.subjects(1), image.float(), grid))
        write_labels(tmp_path / "data" / "labels" / f"{name}.nii.gz",
                     HardLabels(Rows.subjects(1), label.to(torch.uint8), grid, NAMES))
    return find_data(tmp_path / "data")


def test_every_scan_is_scored_with_and_without_clicks(data):
    names = dict(enumerate(NAMES[1:], start=1))
    for method in ("automatic", "click"):
        rows = classical_rows(data, method, names)
        assert [(row["case"], row["patient"]) for row in rows] == [("p1_ED", "p1"), ("p1_ES", "p1")]
        assert all(row["dice"]["LV cavity"] > 0.85 for row in rows)


def test_results_of_nnunet_are_kept_and_a_python_without_it_is_said(data, tmp_path):
    plan = Plan(classes=tuple(ClassPlan(n, k) for k, n in enumerate(NAMES)), mode="2.5d", spacing_mm=(None, 2.0, 2.0),
                patch=(80, 80))
    said = {"arm": "nnunet", "iterations": 1, "say": lambda text: None}
    assert nnunet_rows(data, plan, [[0], [1]], tmp_path, None, **said) == []
    for number in range(2):
        (tmp_path / f"nnunet-{number}.json").write_text(json.dumps({"rows": [{"case": number}]}))
    assert nnunet_rows(data, plan, [[0], [1]], tmp_path, None, **said) == [{"case": 0}, {"case": 1}]
    (tmp_path / "nnunet-1.json").unlink()
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no module named nnunetv2 >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(InputError, match=r"did not prepare \(no module named nnunetv2\)"):
        nnunet_rows(data, plan, [[0], [1]], tmp_path, broken, **said)
