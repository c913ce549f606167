"""Coverage in many cells: exact p-values, Holm, tables; paired bootstrap; fingerprints."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from worlds import world

from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.trust.bootstrap import paired_difference, paired_t
from firstread.trust.cells import coverage_cells, coverage_markdown, coverage_p_value, holm, jointly
from firstread.trust.conformal import coverage_band, coverage_law
from firstread.trust.fingerprints import fingerprints
from firstread.trust.intervals import ConformalIntervals, PlainIntervals, calibrate


def test_holm_against_published_numbers():
    """R's p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm"): 0.05 0.08 0.09 0.09 0.09."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.05, 0.01, 0.04, 0.02, 0.03]) == pytest.approx([0.09, 0.05, 0.09, 0.08, 0.09])
    assert holm([]) == []
    with pytest.raises(SettingError, match="p-values"):
        holm([1.2])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_plain_and_bonferroni(p):
    adjusted = holm(p)
    assert all(a <= b <= min(1.0, len(p) * a) + 1e-12 for a, b in zip(p, adjusted, strict=True))
    in_order = [adjusted[i] for i in sorted(range(len(p)), key=lambda i: p[i])]
    assert in_order == sorted(in_order)


@pytest.mark.parametrize("calibration, cases", [(40, 60), (200, 120)])
def test_p_values_reject_no_more_often_than_they_say(calibration, cases):
    law = coverage_law(calibration, cases, 0.9)
    p, mass = [coverage_p_value(h, cases, calibration, 0.9) for h in range(cases + 1)], law.pmf(range(cases + 1))
    for alpha in (0.01, 0.05, 0.2):
        assert sum(m for m, value in zip(mass, p, strict=True) if value <= alpha) <= alpha + 1e-9
    low, high = coverage_band(calibration, cases, 0.9)
    inside = [h for h, value in enumerate(p) if value > 0.05]
    assert min(inside) >= round(low * cases) and max(inside) <= round(high * cases)


def test_the_law_is_scipy_s_beta_binomial():
    law, exact = coverage_law(99, 100, 0.9), stats.betabinom(100, 90, 10)
    assert [law.pmf(i) for i in range(101)] == pytest.approx([exact.pmf(i) for i in range(101)])


def test_cells_count_hits_groups_and_missing_intervals():
    point, members, truth, _ = world(1, 60)
    calibration = calibrate(*world(0, 99)[:3], level=0.9, calibrated_on="a world")
    found = ConformalIntervals(calibration=calibration)(point, members)
    lvef = found["LVEF"]
    lower = lvef.lower.clone()
    lower[5] = float("nan")
    found = replace(found, values={"LVEF": replace(lvef, lower=lower)})
    groups = ["low" if t < 50 else "high" for t in truth["LVEF"].tolist()]
    cells = coverage_cells(found, truth | {"none": truth["LVEF"]}, groups, calibrated=lambda name, group: 99)
    assert {c.group for c in cells} == {"low", "high"} and sum(c.cases for c in cells) == 59
    assert sum(c.missing for c in cells) == 1
    inside = (truth["LVEF"] >= lower) & (truth["LVEF"] <= lvef.upper)
    assert sum(c.hits for c in cells) == int(inside.sum())
    assert min(c.adjusted for c in cells) == pytest.approx(min(1.0, 2 * min(c.p for c in cells)))
    more = jointly([*cells, *cells])
    assert len(more) == 4 and all(a.adjusted >= b.adjusted for a, b in zip(more, cells, strict=False))
    assert coverage_markdown(cells).count("\n") == 4
    with pytest.raises(SettingError, match="one group per case"):
        coverage_cells(found, truth, groups[:-1], calibrated=lambda name, group: 99)


def test_intervals_that_are_too_narrow_do_not_hold():
    point, members, truth, _ = world(1, 300)
    calibration = calibrate(*world(0, 99)[:3], level=0.9, calibrated_on="a world")
    quantity = calibration.quantities["LVEF"]
    for factor, holds in ((1.0, True), (0.4, False)):
        narrow = {"LVEF": replace(quantity, lower=factor * quantity.lower, upper=factor * quantity.upper)}
        found = ConformalIntervals(calibration=replace(calibration, quantities=narrow))(point, members)
        [cell] = coverage_cells(found, truth, ["all"] * 300, calibrated=lambda name, group: 99)
        assert cell.holds is holds


def test_the_baseline_has_one_width_and_covers():
    shares = []
    for seed in range(20):
        point, _, truth, _ = world(seed, 99)
        stage = PlainIntervals(calibration=calibrate(point, None, truth, level=0.9, calibrated_on="a world"))
        point, _, truth, _ = world(1000 + seed, 200)
        found = stage(point)["LVEF"]
        shares.append(((truth["LVEF"] >= found.lower) & (truth["LVEF"] <= found.upper)).double().mean().item())
        assert float((found.upper - found.lower).std()) < 1e-9
    assert sum(shares) / 20 == pytest.approx(0.9, abs=0.02)
    with pytest.raises(SettingError, match="without members"):
        PlainIntervals(calibration=calibrate(*world(0, 30)[:3], level=0.9, calibrated_on="a world"))


def test_paired_difference_covers_its_mean_over_subjects_and_seeds():
    """Differences with effects of subject, seed and both; 3 seeds. The true mean is 0.5."""
    draw = torch.Generator().manual_seed(0)
    inside = 0
    for trial in range(300):
        table = (0.5 + torch.randn(40, 1, generator=draw) + 0.15 * torch.randn(1, 3, generator=draw)
                 + 0.5 * torch.randn(40, 3, generator=draw))
        found = paired_difference(table, torch.zeros(40, 3), resamples=400, seed=trial)
        inside += found.lower <= 0.5 <= found.upper
    assert 0.90 <= inside / 300 <= 0.99


def test_paired_difference_of_one_seed_is_the_bootstrap_of_the_mean():
    difference = torch.randn(50, 1, generator=torch.Generator().manual_seed(4)).double()
    found = paired_difference(difference, torch.zeros(50, 1).double(), resamples=20000)
    outside = stats.bootstrap((difference[:, 0].numpy(),), lambda x, axis: x.mean(axis), method="percentile",
                              n_resamples=20000, random_state=0).confidence_interval
    assert (found.lower, found.upper) == pytest.approx((outside.low, outside.high), abs=0.01)
    for bad in (torch.zeros(2, 1), torch.full((5, 1), float("nan"))):
        for paired in (paired_difference, paired_t):
            with pytest.raises(SettingError, match="subject, seed"):
                paired(bad, bad)


def test_paired_t_of_one_seed_is_scipy_s_paired_t_test():
    first, second = torch.randn(2, 20, 1, generator=torch.Generator().manual_seed(4)).double()
    found = paired_t(first, second)
    outside = stats.ttest_rel(first[:, 0].numpy(), second[:, 0].numpy()).confidence_interval(0.95)
    assert (found.lower, found.upper) == pytest.approx((outside.low, outside.high))


@pytest.mark.parametrize("of_seed", [0.0, 0.5, 1.5])
def test_paired_t_covers_however_much_three_seeds_differ(of_seed):
    draw = torch.Generator().manual_seed(1)
    inside = 0
    for _ in range(400):
        table = (0.5 + torch.randn(30, 1, generator=draw) + of_seed * torch.randn(1, 3, generator=draw)
                 + 0.5 * torch.randn(30, 3, generator=draw))
        found = paired_t(table, torch.zeros(30, 3))
        inside += found.lower <= 0.5 <= found.upper
    assert 0.90 <= inside / 400 <= 0.98


def test_calibration_cases_that_were_trained_on_are_found_by_their_data():
    grid = Grid.from_spacing((1, 4, 4), (8.0, 1.0, 1.0), batch=3)
    image = Image(Rows.subjects(3), torch.randn(3, 2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0)), grid)
    known = fingerprints(image)
    assert len(set(known)) == 3 and fingerprints(image.select(torch.tensor([2]))) == known[2:]
    assert fingerprints(replace(image, data=image.data + 1e-3)) != known
    point, members, truth, _ = world(0, 30)
    cases = tuple(f"case{i}" for i in range(27)) + known
    calibration = calibrate(point, members, truth, level=0.9, calibrated_on="a world", cases=cases)
    assert calibration.cases == cases
    with pytest.raises(SettingError, match=r"1 of 30 calibration cases among the training cases"):
        calibrate(point, members, truth, level=0.9, calibrated_on="a world", cases=cases, trained_on=known[:1])
    with pytest.raises(SettingError, match="given twice"):
        calibrate(point, members, truth, level=0.9, calibrated_on="a world", cases=(*cases[:-1], cases[0]))
    with pytest.raises(SettingError, match="one of each subject"):
        calibrate(point, members, truth, level=0.9, calibrated_on="a world", cases=known)
