"""The evidence of adaptation in miniature: shifted scanners, tables paired over subjects and seeds."""

import torch

from firstread.recipes.evidence_adaptation import SHIFTS, Shift, report, simulate, table
from firstread.recipes.heart_subjects import Scanner

SMALL = Scanner(matrix=48, spacing_mm=4.0, gap_mm=32.0, frames=2, coils=3)


def test_contrast_changes_magnitudes_and_nothing_else():
    plain, flat = simulate(Shift(SMALL), 1), simulate(Shift(SMALL, contrast=0.5), 1)
    assert torch.equal(plain.labels.data, flat.labels.data) and plain.truth == flat.truth
    bright = plain.magnitude > 0.05 * plain.magnitude.max()
    expected = (plain.magnitude / plain.magnitude.max()).sqrt() * plain.magnitude.max()
    torch.testing.assert_close(flat.magnitude[bright], expected[bright], rtol=1e-4, atol=1e-6)


def test_shifts_differ_from_the_calibration_s_scanner_in_what_they_say():
    first = next(iter(SHIFTS.values()))
    assert [shift == first for shift in SHIFTS.values()] == [True] + [False] * (len(SHIFTS) - 1)


def subject(before: float, after: float, ef: float | None) -> dict:
    def run(value: float, kept: bool) -> dict:
        return {"NRMSE": value, "LVEF": ef, "seconds": 2.0 if kept else 1.0, "kept": kept}
    return {"truth": 60.0, "before": run(before, False), "after": [run(after, True)]}


def test_the_table_pairs_subjects_and_says_how_often_the_adaptation_was_kept():
    row = table({"one": [subject(0.3, 0.2, 55.0), subject(0.4, 0.3, 50.0), subject(0.5, 0.4, 60.0)]})[0]
    assert "| 3 of 3 | 0.400 | -0.100 [-0.100, -0.100] | 5.0 | 0.0 [0.0, 0.0] | 2 × |" in row
    absent = table({"one": [subject(0.3, 0.2, None)] * 3})[0]
    assert "measured in 0 subjects" in absent
    page = report({"one": [subject(0.3, 0.2, 55.0)] * 3}, steps=5, command="the command")
    assert "**Simulated**" in page and "the command" in page


def test_too_few_subjects_are_one_sentence(tmp_path, capsys):
    from firstread.recipes.evidence_adaptation import main

    assert main(["-o", str(tmp_path), "--work", str(tmp_path / "w"), "--subjects", "2"]) == 2
    assert "three subjects" in capsys.readouterr().err and not (tmp_path / "adaptation.md").exists()


