"""Intervals of phenotypes: calibration, draws of one subject, clipping, what is not calibrated."""

from dataclasses import replace

import pytest
import torch

from firstread.core.case import Case
from firstread.core.errors import ChainError, FormatError, InputError, SettingError
from firstread.core.records import Phenotype, Phenotypes, Rows
from firstread.core.stage import Chain
from firstread.trust.coverage import coverage_table
from firstread.trust.intervals import Calibration, ConformalIntervals, Quantity, calibrate

CALIBRATION = Calibration(0.9, 3, "simulation", {"LVEF": Quantity(-2.0, 2.0, 1.5, 100, "%"),
                                                 "LVEDV": Quantity(-1.5, 1.5, 3.0, 100, "mL")})


def measured(values, unit="%", name="LVEF"):
    return Phenotypes(Rows.subjects(len(values)), {name: Phenotype(torch.tensor(values), unit)})


def ensemble(point, table):
    members = point.draws(3)
    return replace(members, values={name: replace(p, value=torch.tensor(table).flatten())
                                    for name, p in point.values.items()})


def world(seed, n):
    """Subjects whose error is twice the spread of three members; truth uniform in 30 … 70."""
    generator = torch.Generator().manual_seed(seed)
    truth = 30 + 40 * torch.rand(n, generator=generator)
    sd = 0.5 + 3 * torch.rand(n, generator=generator)
    members = truth[:, None] + sd[:, None] * torch.randn(n, 3, generator=generator)
    point = Phenotypes(Rows.subjects(n), {"LVEF": Phenotype(members.mean(1), "%")})
    return point, ensemble(point, members.tolist()), {"LVEF": truth}


def test_interval_is_value_plus_minus_quantile_times_spread_and_floor():
    point = measured([60.0, 40.0])
    members = ensemble(point, [[59.0, 60.0, 61.0], [38.0, 40.0, 42.0]])
    found = ConformalIntervals(calibration=CALIBRATION)(point, members)
    assert found["LVEF"].lower.tolist() == pytest.approx([60 - 2 * 2.5, 40 - 2 * 3.5])
    assert found["LVEF"].upper.tolist() == pytest.approx([60 + 2 * 2.5, 40 + 2 * 3.5])
    assert found["LVEF"].value is point["LVEF"].value
    assert found["LVEF"].level == 0.9 and found["LVEF"].calibrated_on == "simulation"
    assert "ensemble of 3" in found["LVEF"].method and "marginal" in found["LVEF"].method


def test_an_interval_reaches_further_to_the_side_of_the_errors_and_keeps_the_value():
    point = measured([60.0])
    members = ensemble(point, [[59.0, 60.0, 61.0]])
    for lower, upper, wanted in ((-1.0, 3.0, (57.5, 67.5)), (1.0, 3.0, (60.0, 67.5)), (-3.0, -1.0, (52.5, 60.0))):
        calibration = replace(CALIBRATION, quantities={"LVEF": Quantity(lower, upper, 1.5, 100, "%")})
        found = ConformalIntervals(calibration=calibration)(point, members)["LVEF"]
        assert (found.lower.item(), found.upper.item()) == pytest.approx(wanted)


def test_members_are_found_by_subject_not_by_order():
    point = measured([60.0, 40.0])
    members = ensemble(point, [[59.0, 60.0, 61.0], [38.0, 40.0, 42.0]])
    shuffled = members.select(torch.tensor([5, 0, 3, 1, 4, 2]))
    stage = ConformalIntervals(calibration=CALIBRATION)
    assert torch.equal(stage(point, members)["LVEF"].lower, stage(point, shuffled)["LVEF"].lower)


def test_intervals_stay_within_what_is_possible():
    point = measured([99.0, 1.0])
    found = ConformalIntervals(calibration=CALIBRATION)(point, ensemble(point, [[90.0, 99.0, 99.0], [0.0, 5.0, 9.0]]))
    assert found["LVEF"].upper[0] == 100 and found["LVEF"].lower[1] == 0
    volume = measured([2.0], "mL", "LVEDV")
    found = ConformalIntervals(calibration=CALIBRATION)(volume, ensemble(volume, [[0.0, 2.0, 400.0]]))
    assert found["LVEDV"].lower[0] == 0 and found["LVEDV"].upper[0] > 100


def test_what_was_not_calibrated_has_no_interval_and_a_note():
    point = measured([70.0], "g", "LVM")
    found = ConformalIntervals(calibration=CALIBRATION)(point, ensemble(point, [[70.0, 70.0, 70.0]]))
    assert found["LVM"].lower is None and "LVM" in found.notes[0].text
    rate = measured([70.0], "1/min", "HR")
    found = ConformalIntervals(calibration=CALIBRATION)(rate, ensemble(rate, [[70.0, 70.0, 70.0]]))
    assert found["HR"].lower is None and not found.notes, "the file's heart rate is no estimate"
    absent = Phenotypes(Rows.subjects(), {"LVEF": Phenotype(None, "%", reason="a single frame")})
    assert ConformalIntervals(calibration=CALIBRATION)(absent, absent.draws(3))["LVEF"].reason == "a single frame"


def test_a_member_that_could_not_measure_leaves_no_interval():
    point = measured([60.0])
    found = ConformalIntervals(calibration=CALIBRATION)(point, ensemble(point, [[59.0, float("nan"), 61.0]]))
    assert found["LVEF"].lower is None and found.notes


def test_another_number_of_members_is_refused():
    point = measured([60.0, 50.0])
    for members in (point, point.draws(2)):
        with pytest.raises(ChainError, match="members per subject"):
            ConformalIntervals(calibration=CALIBRATION)(point, members)


def test_coverage_is_nominal_on_a_world_with_known_truth():
    shares = []
    for seed in range(30):
        calibration = calibrate(*world(seed, 99), level=0.9, calibrated_on="a world")
        point, members, truth = world(1000 + seed, 300)
        [row] = coverage_table(ConformalIntervals(calibration=calibration)(point, members), truth, calibration)
        shares.append(row.share)
        assert row.cases == 300 and row.band[0] < 0.9 < row.band[1]
    assert sum(shares) / len(shares) == pytest.approx(0.9, abs=0.02)


def test_calibration_leaves_out_and_counts_what_was_not_measured():
    point, members, truth = world(0, 50)
    truth["LVEF"][:4] = float("nan")
    calibration = calibrate(point, members, truth, level=0.9, calibrated_on="a world")
    assert calibration.quantities["LVEF"].count == 46 and calibration.excluded == {"LVEF": 4}


def test_too_small_a_calibration_set_says_how_many_are_needed():
    with pytest.raises(SettingError, match=r"18 usable cases.*19 or more"):
        calibrate(*world(0, 18), level=0.9, calibrated_on="a world")
    with pytest.raises(SettingError, match="two or more members"):
        point, _, truth = world(0, 20)
        calibrate(point, point, truth, level=0.9, calibrated_on="a world")


def test_calibration_survives_its_file(tmp_path):
    calibration = calibrate(*world(0, 30), level=0.8, calibrated_on="a world", weights={"heart": "0123"})
    calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == calibration


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"level": 0.9, "members": 3, "calibrated_on": "x", '
                                                  '"quantities": {"a": 1}}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(FormatError):
        Calibration.load(tmp_path / "c.json")
    with pytest.raises(InputError):
        Calibration.load(tmp_path / "absent.json")


def test_as_a_stage_of_a_chain():
    point = measured([60.0])
    case = Case({"phenotypes.point": point, "phenotypes.members": ensemble(point, [[59.0, 60.0, 61.0]])})
    stage = ConformalIntervals(calibration=CALIBRATION).using(
        reads={"point": "phenotypes.point", "members": "phenotypes.members"}, writes="phenotypes")
    done = Chain(stage)(case)
    assert done["phenotypes"]["LVEF"].lower.item() == pytest.approx(55.0)
    assert "level=0.9" in done.trail[0].settings
