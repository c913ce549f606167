"""Trainings by several plans on the same folds: what is kept, what is measured, what the pages say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from firstread.core.geometry import Grid
from firstread.recipes import evidence_plan_options, evidence_vessels
from firstread.recipes.plan_trials import difference_text, mean_text


@pytest.fixture
def drive(tmp_path):
    """Four made-up pictures of a bright line in a round field of view."""
    from PIL import Image as Pillow

    folder = tmp_path / "drive"
    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48]
    inside = (y - 24) ** 2 + (x - 24) ** 2 < 22**2
    for number in range(21, 25):
        line = np.abs(y - 24 + (x - 24) * rng.uniform(-0.5, 0.5)) < 2
        colour = np.stack([120 - 60 * line + rng.normal(0, 4, line.shape)] * 3, axis=-1).clip(0, 255)
        for kind, plane in (("image", colour), ("vessels_observer1", 255 * line), ("field_of_view", 255 * inside)):
            Pillow.fromarray(plane.astype(np.uint8)).save(folder / f"{number}_{kind}.png")
    return folder


def test_vessels_go_on_where_they_were_stopped(drive, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence_vessels, "PATCH", (16, 16))
    monkeypatch.setattr(evidence_vessels, "ARMS", {k: v for k, v in evidence_vessels.ARMS.items() if k != "monai"})
    command = [str(drive), "-o", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--steps", "3"]
    assert evidence_vessels.main(command) == 0
    page = (tmp_path / "out" / "vessels.md").read_text()
    assert "3 steps of 8 patches of 16×16 pixels" in page and "Frangi, not learned" in page
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*-0-*.json")}
    assert len(before) == 8 and "trained with another seed" in page  # two plans, four folds
    next(iter(before)).unlink()
    assert evidence_vessels.main(command) == 0
    assert (tmp_path / "out" / "vessels.md").read_text().split("|")[:8] == page.split("|")[:8]
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*-0-*.json")}
    assert sum(before[path] != after[path] for path in before) == 1


def test_too_few_pictures_are_refused(tmp_path, capsys):
    assert evidence_vessels.main([str(tmp_path), "-o", str(tmp_path), "--work", str(tmp_path / "work")]) == 2
    assert "4 or more" in capsys.readouterr().err


def test_outside_of_the_field_of_view_counts_nowhere():
    truth = torch.zeros(1, 16, 16, dtype=torch.uint8)
    truth[0, 6:9], truth[0, :, 12:] = 1, 255
    vessel = (truth == 1).float()
    vessel[0, :, 12:] = 1.0  # found where nobody looked
    found = evidence_vessels.measured(torch.stack((1 - vessel, vessel)), truth, Grid.pixels((1, 16, 16)))
    assert found == {"Dice": 1.0, "clDice": 1.0, "AUC": 1.0}


def test_pieces_beyond_the_truth_are_counted():
    truth = torch.zeros(2, 12, 12, dtype=torch.uint8)
    truth[:, 2:5, 2:5] = 1
    found = truth.clone()
    found[0, 9:11, 9:11] = 1
    probability = torch.nn.functional.one_hot(found.long(), 2).movedim(-1, 0).float()
    made = evidence_plan_options.measured(probability, truth, Grid.from_spacing((2, 12, 12), (9.0, 1.5, 1.5)))
    assert made["pieces too many"] == 0.5 and 0.8 < made["Dice"] < 0.95


def test_one_change_each():
    from firstread.nets.plan import ClassPlan, Plan

    classes = (ClassPlan("background", 0), ClassPlan("a", 1))
    base = Plan(classes=classes, mode="2d", spacing_mm=(None,) * 3, patch=(16, 16))
    made = evidence_plan_options.plans(base)
    assert list(made) == list(evidence_plan_options.TITLES) and made["base"] == base
    assert replace(made["boundary"], loss=base.loss) == base and replace(made["fcn"], network=base.network) == base


def test_means_count_a_patient_once():
    rows = [{"patient": p, "seed": s, "m": v} for p, s, v in
            (("a", 0, 0.0), ("a", 1, 1.0), ("b", 0, 0.5), ("c", 0, 0.5), ("c", 0, float("nan")))]
    assert mean_text(rows, "m").startswith("0.500 [0.500")
    assert difference_text(rows, rows, "m", 1).startswith("0.0 [0.0")
