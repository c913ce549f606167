"""Reference ranges: they agree with what else the paper is known to say, and are absent where nothing was checked."""

import pytest

from firstread.report.ranges import LIMITS, LIMITS_PER_M2, prediction_interval, reference_range

MEAN_SD = {"M": {"LVEDV": (166, 32), "LVESV": (69, 16), "LVSV": (96, 20)},
           "F": {"LVEDV": (124, 21), "LVESV": (49, 11), "LVSV": (75, 14)}}
WOMEN_NORMAL_ZONE = {"LVEDV": (88, 161), "LVESV": (31, 68), "LVSV": (49, 100),
                     "RVEDV": (85, 166), "RVESV": (27, 77), "RVSV": (48, 99)}


@pytest.mark.parametrize("sex", ["F", "M"])
def test_limits_lie_near_the_published_means_and_deviations(sex):
    for name, (mean, sd) in MEAN_SD[sex].items():
        lower, upper = LIMITS[sex][name]
        assert abs(lower - (mean - 1.96 * sd)) <= 11 and abs(upper - (mean + 1.96 * sd)) <= 11, name


def test_the_womens_normal_zone_lies_inside_their_limits():
    for name, (lower, upper) in WOMEN_NORMAL_ZONE.items():
        assert LIMITS["F"][name][0] <= lower and upper <= LIMITS["F"][name][1], name


def test_limits_are_ordered_and_men_have_larger_hearts():
    for table in (LIMITS, LIMITS_PER_M2):
        assert table["M"].keys() == table["F"].keys()
        for name in table["M"]:
            assert all(0 < table[sex][name][0] < table[sex][name][1] for sex in "FM")
            assert table["M"][name][1] > table["F"][name][1]


def test_strokes_fit_the_volumes():
    """The middle of the stroke volumes is close to that of the end-diastolic minus that of the end-systolic ones."""
    for table in (LIMITS, LIMITS_PER_M2):
        for sex in "FM":
            for side in ("LV", "RV"):
                middle = {m: sum(table[sex][side + m]) / 2 for m in ("EDV", "ESV", "SV")}
                assert abs(middle["EDV"] - middle["ESV"] - middle["SV"]) <= 0.06 * middle["EDV"]


@pytest.mark.parametrize("name", ["LVM", "RVEF", "LVCO", "HR", "WT_AHA_1", "anything"])
def test_what_was_not_checked_is_absent(name):
    assert reference_range(name, "F") is None


def test_prediction_interval_is_wider_for_fewer_people():
    few, many = prediction_interval(50.0, 10.0, 3), prediction_interval(50.0, 10.0, 3000)
    assert few.lower < many.lower < 50 < many.upper < few.upper
    assert (many.lower, many.upper) == (30.0, 70.0)


def test_place():
    span = reference_range("LVEF", "M")
    assert span is not None
    assert [span.place(v) for v in (30.0, 58.0, 90.0)] == ["below", "within", "above"]
