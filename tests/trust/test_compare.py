"""Methods side by side: the spread helps where it tells hard cases from easy ones, and not where it does not."""

import pytest
import torch
from worlds import phenotypes, world

from firstread.core.errors import SettingError
from firstread.trust.compare import compare_intervals, comparison_markdown
from firstread.trust.intervals import ConformalIntervals, PlainIntervals, calibrate


def uneven(seed, n, *, known):
    """Members that scatter by each case's own error (0.5 … 8 %), or, where that is not known, all alike."""
    draw = torch.Generator().manual_seed(seed)
    truth = 30 + 40 * torch.rand(n, generator=draw).double()
    sd = torch.where(torch.rand(n, generator=draw) < 0.3, 8.0, 0.5).double()
    value = truth + sd * torch.randn(n, generator=draw)
    spread = sd if known else torch.full_like(sd, 2.0)
    return (*phenotypes(value, value[:, None] + spread[:, None] * torch.randn(n, 5, generator=draw)), {"LVEF": truth})


def both(seed, *, known):
    point, members, truth = uneven(seed, 150, known=known)
    ensemble = ConformalIntervals(calibration=calibrate(point, members, truth, level=0.9, calibrated_on="a world"))
    plain = PlainIntervals(calibration=calibrate(point, None, truth, level=0.9, calibrated_on="a world"))
    point, members, truth = uneven(1000, 200, known=known)  # the same test cases for all seeds
    return ensemble(point, members), plain(point), truth["LVEF"]


@pytest.mark.parametrize("known", [True, False])
def test_the_paired_score_tells_whether_the_spread_is_worth_anything(known):
    runs = [both(seed, known=known) for seed in range(3)]
    methods = {"ensemble": [run[0] for run in runs], "plain": [run[1] for run in runs]}
    ensemble, plain = compare_intervals(methods, runs[0][2], "LVEF", baseline="plain")
    assert plain.better.lower == plain.better.upper == plain.narrower.value == 0
    assert (ensemble.better.upper < 0) is known
    assert ensemble.cases == ensemble.of == 200 and ensemble.seeds == 3
    assert ensemble.better.value == pytest.approx(ensemble.score - plain.score)
    assert comparison_markdown([ensemble, plain], baseline="plain").count("\n") == 4


def test_cases_without_an_interval_are_left_out_of_all():
    ensemble, plain, truth = both(0, known=True)
    truth = truth.clone()
    truth[:7] = float("nan")
    rows = compare_intervals({"ensemble": [ensemble], "plain": [plain]}, truth, "LVEF", baseline="plain")
    assert {(row.cases, row.of) for row in rows} == {(193, 200)}


def test_what_cannot_be_compared_is_refused():
    ensemble, plain, truth = both(0, known=True)
    with pytest.raises(SettingError, match="baseline 'none'"):
        compare_intervals({"plain": [plain]}, truth, "LVEF", baseline="none")
    with pytest.raises(SettingError, match="runs"):
        compare_intervals({"plain": [plain], "ensemble": [ensemble] * 2}, truth, "LVEF", baseline="plain")
    with pytest.raises(SettingError, match="no intervals of LVEF"):
        compare_intervals({"plain": [world(0, 3)[0]]}, truth[:3], "LVEF", baseline="plain")
    with pytest.raises(SettingError, match="three or more"):
        compare_intervals({"plain": [plain]}, torch.full_like(truth, float("nan")), "LVEF", baseline="plain")
