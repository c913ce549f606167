"""Mondrian intervals: coverage in each group, where the marginal ones fail; groups too small; unknown groups."""

from dataclasses import replace

import pytest
import torch
from worlds import coverage, world

from firstread.core.errors import FormatError, InputError, MissingRecordError, SettingError
from firstread.core.records import Features
from firstread.trust.intervals import ConformalIntervals, split_calibration
from firstread.trust.mondrian import GroupCalibration, GroupIntervals, Groups, group_calibration
from firstread.trust.scores import Scores, collect_scores

BY_X = Groups("x", (0.0,), ("left", "right"))


def louder_right(x):
    """Errors of the right group are six times those of the left, and the members do not know it."""
    return torch.where(x >= 0, 6.0, 1.0).double()


def scores_of(seed, n, noise=louder_right):
    point, members, truth, features = world(seed, n, noise=noise)
    return collect_scores(point, members, truth, calibrated_on="a world", features=features)


def test_coverage_holds_in_each_group_where_marginal_intervals_miss_both():
    marginal, grouped = {-1: [], 1: []}, {-1: [], 1: []}
    for seed in range(20):
        scores = scores_of(seed, 120)
        plain = ConformalIntervals(calibration=split_calibration(scores, level=0.9))
        by_group = GroupIntervals(calibration=group_calibration(scores, BY_X, level=0.9))
        point, members, truth, features = world(1000 + seed, 400, noise=louder_right)
        for stage, found in ((plain(point, members), marginal), (by_group(point, members, features), grouped)):
            hits = coverage(stage, truth)
            for sign in (-1, 1):
                found[sign].append(hits[torch.sign(features["x"]) == sign].double().mean().item())
    mean = {sign: sum(shares) / 20 for sign, shares in grouped.items()}
    assert all(0.89 < mean[sign] < 0.95 for sign in (-1, 1))  # 90 % and up to 2 / (n + 1) of about 60
    assert sum(marginal[-1]) / 20 > 0.97 and sum(marginal[1]) / 20 < 0.86


def test_groups_by_a_measured_number_need_no_features():
    point, members, truth, _ = world(0, 90)
    scores = collect_scores(point, members, truth, calibrated_on="a world")
    thirds = Groups.terciles("LVEF", scores.number("LVEF"))
    assert torch.bincount(thirds.index(scores.number("LVEF"))).tolist() == [30, 30, 30]
    calibration = group_calibration(scores, thirds, level=0.9)
    found = GroupIntervals(calibration=calibration)(point, members, None)
    assert bool(torch.isfinite(found["LVEF"].lower).all()) and "Mondrian" in found["LVEF"].method
    assert [calibration.count("LVEF", name) for name in thirds.names] == [30, 30, 30]


def test_one_group_is_split_conformal():
    scores = scores_of(3, 60)
    point, members, _, features = world(4, 20)
    alone = GroupIntervals(calibration=group_calibration(scores, Groups("x", (), ("all",)), level=0.9))
    plain = ConformalIntervals(calibration=split_calibration(scores, level=0.9))(point, members)
    assert torch.equal(alone(point, members, features)["LVEF"].lower, plain["LVEF"].lower)


def test_a_group_too_small_is_named_with_the_smallest_size():
    with pytest.raises(SettingError, match=r"usable cases in group '(left|right)' .* expected 19 or more"):
        group_calibration(scores_of(1, 36), BY_X, level=0.9)


def test_a_case_of_no_known_group_has_no_interval_and_a_note():
    stage = GroupIntervals(calibration=group_calibration(scores_of(0, 120), BY_X, level=0.9))
    point, members, _, features = world(5, 4)
    data = features.data.clone()
    data[2] = float("nan")
    found = stage(point, members, replace(features, data=data))
    assert torch.isnan(found["LVEF"].lower).tolist() == [False, False, True, False]
    assert found.notes[0].code == "unknown_group" and "subject 2" in found.notes[0].text
    with pytest.raises(MissingRecordError, match="no number 'x'"):
        stage(point, members, None)


def test_calibration_and_scores_survive_their_files(tmp_path):
    scores = scores_of(0, 120)
    scores.errors["LVEF"][3] = float("nan")
    scores.save(tmp_path / "scores.json")
    again = Scores.load(tmp_path / "scores.json")
    made = group_calibration(again, BY_X, level=0.9)
    assert made == group_calibration(scores, BY_X, level=0.9)
    assert sum(c.excluded.get("LVEF", 0) for c in made.calibrations.values()) == 1
    made.save(tmp_path / "groups.json")
    assert GroupCalibration.load(tmp_path / "groups.json") == made
    for kind in (Scores, GroupCalibration):
        (tmp_path / "bad.json").write_text('{"groups": 3}')
        with pytest.raises(FormatError):
            kind.load(tmp_path / "bad.json")
        with pytest.raises(InputError):
            kind.load(tmp_path / "absent.json")


def test_bad_groups():
    with pytest.raises(SettingError, match="ascending"):
        Groups("x", (1.0, 0.0), ("a", "b", "c"))
    with pytest.raises(SettingError, match="one name of its own"):
        Features(world(0, 3)[0].rows, torch.zeros(3, 2), ("x", "x"))
    with pytest.raises(SettingError, match="no feature 'y'"):
        world(0, 3)[3]["y"]
