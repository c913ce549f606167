"""The study of joint training in miniature: exported masks are scanned with, it resumes, its tables are paired."""

import json
from dataclasses import replace

import pytest
import torch

from firstread.acquire.sampling import StoredMask
from firstread.core.errors import SettingError
from firstread.io import pattern
from firstread.recipes import study_endpoint
from firstread.recipes.endpoint import Setting
from firstread.recipes.endpoint_pool import Stack, store_all
from firstread.recipes.study_endpoint import (
    Study,
    by_the_others,
    joint_rows,
    main,
    report,
    run,
    tabulate,
    width_difference,
)
from firstread.trust.conformal import equal_tails

STACK = Stack(lines=48, columns=24, frames=4, slices=2, spacing_mm=5.0)
TINY = Study(Setting(stack=STACK, subjects=1, coils=3, iterations=3, patch=64, centre_lines=2), (4.0,),
             ("fine-tuned", "joint"), seeds=1, steps=1, test=40)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return store_all(tmp_path_factory.mktemp("pool"), STACK, "train", 1)


def test_arms_are_trained_once_and_read_with_the_mask_that_was_exported(pool, tmp_path, monkeypatch):
    scanned = []

    def numbers(parts, setting, case, *, coils, sampling):
        scanned.append(sampling)
        return {"NRMSE": 0.1, "LVEF": 50.0 + len(scanned), "LVEF true": 52.0, "LVEF whole heart": 51.0,
                **{f"Dice {name}": 0.9 for name in ("LV cavity", "LV myocardium", "RV cavity")}}

    monkeypatch.setattr(study_endpoint, "store_all", lambda folder, stack, family, count: pool[:1] * min(count, 2))
    monkeypatch.setattr(study_endpoint, "numbers_of", numbers)
    made = run(TINY, 4.0, tmp_path / "work", tmp_path, device="cpu")
    assert [len(seed) for seed in made["joint"]] == [2] and len(scanned) == 4
    stored = pattern.read(tmp_path / "joint-4-seed0.json").mask
    assert isinstance(scanned[-1], StoredMask) and torch.equal(scanned[-1].mask.bool(), stored)
    assert (stored.sum(dim=1) == TINY.lines(4.0)).all()
    monkeypatch.setattr(study_endpoint, "numbers_of", lambda *args, **named: pytest.fail("read again"))
    assert run(TINY, 4.0, tmp_path / "work", tmp_path, device="cpu") == made


def test_subjects_looked_at_before_are_left_out_and_seeds_begin_where_asked(pool, tmp_path, monkeypatch):
    places = []
    monkeypatch.setattr(study_endpoint, "store_all", lambda folder, stack, family, count: pool[:1] * min(count, 5))
    monkeypatch.setattr(study_endpoint, "_stored", lambda place, *rest: places.append(place.name) or {"LVEF": 50.0})
    fresh = replace(TINY, arms=("separate",), baseline="separate", seeds=1, skip=3, first_seed=4)
    made = run(fresh, 4.0, tmp_path / "work", tmp_path, device="cpu")
    assert places == ["0003.json", "0004.json"] and [len(seed) for seed in made["separate"]] == [2]
    assert (tmp_path / "separate-4-seed4.json").is_file()
    rows = tabulate(replace(TINY, arms=("fine-tuned",)), 4.0, {"fine-tuned": made_up(1.0)})
    page = report(replace(TINY, skip=3, first_seed=4), rows, "the command")
    assert "after 3 that were looked at before" in page and f"seeds 4 to {3 + TINY.seeds}" in page
    with pytest.raises(SettingError, match="none negative"):
        replace(TINY, skip=-1)


def made_up(gain: float, missing: int | None = None) -> list[list[dict]]:
    noise = torch.randn(40, generator=torch.Generator().manual_seed(0)).tolist()
    return [[{"NRMSE": 0.2, "LVEF": float("nan") if number == missing else 55.0 + gain * error, "LVEF true": 55.0,
              "Dice LV cavity": 0.9, "Dice LV myocardium": 0.8, "Dice RV cavity": 0.7}
             for number, error in enumerate(noise)]]


def test_differences_are_paired_and_whoever_lacks_a_number_leaves_all_arms():
    rows = {row.arm: row for row in tabulate(TINY, 4.0, {"fine-tuned": made_up(4.0), "joint": made_up(2.0)})}
    assert rows["joint"].error.value == pytest.approx(rows["fine-tuned"].error.value / 2)
    assert rows["joint"].error_difference.upper < 0 < -rows["joint"].width_difference.value
    assert rows["joint"].overlap == pytest.approx(80) and rows["joint"].dropped == 0
    fewer = tabulate(replace(TINY, test=40), 4.0, {"fine-tuned": made_up(4.0, missing=3), "joint": made_up(2.0)})
    assert {row.dropped for row in fewer} == {1}
    page = report(TINY, fewer, "the command")
    assert "1 subjects" in page and "| 4 | 12 | joint |" in page and json.dumps(rows["joint"].lines) == "12"


def test_joint_training_stands_beside_separate_training_whatever_the_baseline():
    three = replace(TINY, arms=("separate", "fine-tuned", "joint"))
    made = {"separate": made_up(8.0), "fine-tuned": made_up(4.0), "joint": made_up(2.0)}
    found = joint_rows(three, 4.0, made)
    [row] = found["separate"]
    assert row.arm == "joint" and row.error_difference.value == pytest.approx(-3 * row.error.value)
    page = report(three, tabulate(three, 4.0, made), "the command", joint=found)
    assert f"| 4 | {row.nrmse_difference.text(3)} | 0.0 [0.0, 0.0] | {row.error_difference.text()} |" in page
    assert joint_rows(replace(three, baseline="separate"), 4.0, made) == {}
    assert joint_rows(TINY, 4.0, made) == {} and "joint* to *separate" not in report(TINY, [], "the command")


def test_each_subject_is_calibrated_by_all_others():
    error = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = by_the_others(error)
    for number in (0, 7, 39):
        others = torch.cat((error[:, :number], error[:, number + 1:]), dim=1)
        ends = torch.tensor([equal_tails(row, 0.9) for row in others], dtype=torch.float64)
        torch.testing.assert_close(torch.stack((low[:, number], high[:, number]), dim=1), ends)


def test_the_interval_of_a_difference_of_widths_holds_zero_where_there_is_none():
    draw = torch.Generator().manual_seed(1)
    first, second = (torch.randn(40, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    found = width_difference(first, second, resamples=500)
    assert found.lower < 0 < found.upper
    wide = width_difference(4 * first, second, resamples=500)
    assert wide.lower > 0 and wide.value == pytest.approx(found.value + 3 * width_difference(first, 0 * first).value)


def test_a_network_of_other_classes_and_a_budget_below_the_centre_are_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "net.py").write_text("import torch\ndef bad():\n    return torch.nn.Conv2d(3, 2, 1)\n")
    asked = ["-o", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--patch", "64", "--network"]
    assert main([*asked, f"{tmp_path / 'net.py'}:bad"]) == 2 and "makes (2, 2, 64, 64)" in capsys.readouterr().err
    assert not (tmp_path / "work").exists() and not (tmp_path / "out").exists()
    with pytest.raises(SettingError, match="centre"):
        replace(TINY, accelerations=(4.0, 64.0))


def test_too_few_subjects_are_refused_with_the_smallest_number():
    with pytest.raises(SettingError, match="20 subjects or more"):
        replace(TINY, test=19)
