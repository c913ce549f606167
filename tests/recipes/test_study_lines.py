"""The study of lines in miniature: it learns, scans what it exported, resumes, and pairs subjects."""

from dataclasses import replace

import pytest
import torch

from firstread.acquire.active import lines_of
from firstread.io import pattern
from firstread.recipes import study_lines
from firstread.recipes.lines_scans import FIXED, POLICIES, Study, draw, learn, pattern_file, scans

SMALL = Study(lines=24, spacing_mm=8.0, slices=1, frames=3, coils=2, budgets=(6, 8), training=1, steps=1)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    learn(SMALL, folder, folder)
    return folder


def test_exported_patterns_have_the_budget_in_every_frame(learned):
    for name in FIXED:
        for count in SMALL.budgets:
            mask = pattern.read(pattern_file(learned, name, count)).mask
            assert mask.shape == (3, 24) and (mask.sum(dim=1) == count).all()


def test_every_policy_measures_its_budget_and_the_fixed_ones_what_was_exported(learned):
    subject = draw(SMALL, "test", 0)
    for name in POLICIES:
        made = scans(SMALL, name, subject, torch.nn.Flatten(0, 0), learned) if name != "active: network" else []
        for kspace, count in zip(made, SMALL.budgets, strict=False):
            assert (lines_of(kspace).sum(dim=-1) == count).all()
            if name in FIXED:
                stored = pattern.read(pattern_file(learned, name, count)).mask
                assert torch.equal(lines_of(kspace)[0, :, 0].bool(), stored)


def test_the_study_resumes_and_its_tables_are_paired(learned, tmp_path, monkeypatch):
    monkeypatch.setattr(study_lines, "ejection_fraction", lambda image: float(image.data.abs().mean()))
    found = study_lines.measure_all(SMALL, learned, learned, subjects=2, minutes=10)
    assert all(len(rows) == 2 for rows in found.values())
    monkeypatch.setattr(study_lines, "scans", lambda *args: pytest.fail("measured again"))
    assert study_lines.measure_all(SMALL, learned, learned, subjects=2, minutes=10) == found
    paired = study_lines.table(SMALL, found, "NRMSE", 3, "random")
    assert "| random |" not in paired and paired.count("|\n") == len(POLICIES)
    difference = [a[0]["NRMSE"] - b[0]["NRMSE"] for a, b in zip(found["oracle greedy"], found["random"], strict=True)]
    assert f"{sum(difference) / 2:.3f}" in paired
    assert "Small and simulated" in study_lines.page(SMALL, found, 2)
    monkeypatch.undo()
    study_lines.picture(SMALL, study_lines.scorer(learned), learned, tmp_path / "lines.png")
    assert (tmp_path / "lines.png").stat().st_size > 5000


def test_another_setting_has_another_cache():
    assert SMALL.label() != replace(SMALL, spread=2.0).label()
