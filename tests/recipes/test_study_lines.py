"""The study of lines in miniature: it learns, scans what it exported, reads, resumes, and pairs subjects and seeds."""

from dataclasses import replace

import pytest
import torch

from firstread.acquire.active import lines_of
from firstread.io import pattern
from firstread.recipes import study_lines
from firstread.recipes.endpoint import Setting
from firstread.recipes.endpoint_pool import Stack
from firstread.recipes.lines_scans import FIXED, POLICIES, Study, draw, learn, pattern_file, scans
from firstread.recipes.study_lines import Readers

SMALL = Study(stack=Stack(lines=24, columns=16, frames=3, slices=1, spacing_mm=8.0), coils=2, budgets=(6, 8),
              training=1, steps=1)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / f"lines-{SMALL.label()}").mkdir()
    learn(SMALL, folder, folder / f"lines-{SMALL.label()}", folder)
    return folder


def test_exported_patterns_have_the_budget_in_every_frame(work):
    for name in FIXED:
        for count in SMALL.budgets:
            mask = pattern.read(pattern_file(SMALL, work, name, count)).mask
            assert mask.shape == (3, 24) and (mask.sum(dim=1) == count).all()


def test_every_policy_measures_its_budget_and_the_fixed_ones_what_was_exported(work):
    subject, network = draw(SMALL, work, "test", 0), study_lines.scorer(work / f"lines-{SMALL.label()}")
    for name in POLICIES:
        for kspace, count in zip(scans(SMALL, name, subject, network, work), SMALL.budgets, strict=True):
            assert (lines_of(kspace).sum(dim=-1) == count).all()
            if name in FIXED:
                stored = pattern.read(pattern_file(SMALL, work, name, count)).mask
                assert torch.equal(lines_of(kspace)[0, :, 0].bool(), stored)


def test_a_seed_changes_coils_and_noise_but_not_the_subject(work):
    one, other = draw(SMALL, work, "test", 0), draw(replace(SMALL, seed=1), work, "test", 0)
    assert torch.equal(one.magnitude, other.magnitude) and one.fraction == other.fraction
    assert not torch.allclose(one.full.data, other.full.data)


def test_the_study_resumes_and_its_tables_are_paired(work, tmp_path, monkeypatch):
    readers = Readers(Setting(stack=SMALL.stack, subjects=1, coils=2, iterations=1, patch=32), 1)
    first = study_lines.run(SMALL, readers, work, work, 1)
    assert all(len(rows) == 1 and 0 < rows[0][0]["NRMSE"] < 2 for rows in first.values())
    monkeypatch.setattr(Readers, "trained", lambda *args: None)
    monkeypatch.setattr(study_lines, "numbers_of", lambda kspace, subject, parts, patch: {
        "NRMSE": float(kspace.data.abs().sum() / subject.full.data.abs().sum()), "LVEF": float(subject.seed)})
    found = {name: [rows] for name, rows in study_lines.run(SMALL, readers, work, work, 3).items()}
    assert all(repr(rows[0][:1]) == repr(first[name]) for name, rows in found.items()), "what was stored is kept"
    monkeypatch.setattr(study_lines, "scans", lambda *args: pytest.fail("measured again"))
    again = study_lines.run(SMALL, readers, work, work, 3)
    assert repr({name: [rows] for name, rows in again.items()}) == repr(found)
    for rows in found.values():  # so coarse a heart may have no ejection fraction
        for number, row in enumerate(rows[0]):
            row[0]["LVEF"] = row[1]["LVEF"] = float(number)
    paired = study_lines.table(SMALL, found, "NRMSE", 3, "random")
    assert "| random |" not in paired and paired.count("|\n") == len(POLICIES)
    difference = [a[0]["NRMSE"] - b[0]["NRMSE"]
                  for a, b in zip(found["oracle greedy"][0], found["random"][0], strict=True)]
    assert f"{sum(difference) / 3:.3f}" in paired
    assert "Left out" not in study_lines.page(SMALL, readers, found, "again")
    monkeypatch.undo()
    study_lines.picture(SMALL, work, work, tmp_path / "lines.png")
    assert (tmp_path / "lines.png").stat().st_size > 5000


def test_subjects_without_an_ejection_fraction_are_left_out_of_all():
    rows = [[{"NRMSE": 0.1, "LVEF": 2.0 + i}, {"NRMSE": 0.1, "LVEF": 1.0}] for i in range(4)]
    found = {name: [[dict(row) for row in rows[k]] for k in range(4)] for name in POLICIES}
    found = {name: [subjects] for name, subjects in found.items()}
    found["random"][0][3][0]["LVEF"] = float("nan")
    assert study_lines.dropped(SMALL, found) == [1, 0]
    assert "| oracle greedy | 3.0" in study_lines.table(SMALL, found, "LVEF", 1)


def test_too_few_subjects_are_refused_in_one_sentence(tmp_path, capsys):
    assert study_lines.main(["-o", str(tmp_path / "out"), "--work", str(tmp_path), "--test", "2"]) == 2
    assert "three test subjects" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_another_setting_has_another_cache():
    assert SMALL.label() != replace(SMALL, spread=2.0).label()
