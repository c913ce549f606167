"""Weighted conformal intervals: coverage under a known shift, likelihood ratios, effective size, refusal."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import coverage, phenotypes, world

from firstread.core.errors import MissingRecordError, SettingError, SignalError
from firstread.trust.conformal import conformal_quantile
from firstread.trust.intervals import ConformalIntervals, split_calibration
from firstread.trust.scores import collect_scores
from firstread.trust.weighted import (
    LikelihoodRatio,
    WeightedIntervals,
    effective_size,
    fit_ratio,
    weighted_quantile,
)


def growing(x):
    return (1 + 3 * torch.sigmoid(2 * x)).double()


def true_ratio(shift):
    """N(shift, 1) over N(0, 1): ``exp(shift x - shift² / 2)``."""
    one = torch.ones(1).double()
    return LikelihoodRatio(("x",), 0 * one, one, shift * one, -shift**2 / 2, 1, 1)


def scores_of(seed, n):
    point, members, truth, features = world(seed, n, noise=growing)
    return collect_scores(point, members, truth, calibrated_on="a world", features=features)


@settings(max_examples=50, deadline=None)
@given(st.integers(19, 80), st.floats(0.5, 0.94), st.integers(0, 9))
def test_equal_weights_give_the_split_conformal_quantile(n, level, seed):
    scores = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    found = weighted_quantile(scores, torch.full((n,), 0.3), torch.tensor([0.3]), level)
    assert found.item() == conformal_quantile(scores, level)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=20, max_size=20), st.integers(0, 99))
def test_whole_weights_are_repeated_cases(times, seed):
    scores = torch.randn(20, generator=torch.Generator().manual_seed(seed))
    weights = torch.tensor(times, dtype=torch.float64)
    repeated = scores.repeat_interleave(weights.long())
    found = weighted_quantile(scores, weights, torch.tensor([1.0]), 0.9)
    assert found.item() == conformal_quantile(repeated, 0.9)


def test_coverage_under_a_known_shift_is_nominal_with_the_true_ratio_and_lost_without():
    plain, weighted, fitted = [], [], []
    for seed in range(25):
        scores = scores_of(seed, 300)
        point, members, truth, features = world(1000 + seed, 300, noise=growing, centre=1.0)
        estimated = fit_ratio(scores.number("x")[:, None], features.data, ("x",))
        before = ConformalIntervals(calibration=split_calibration(scores, level=0.9))(point, members)
        plain.append(coverage(before, truth).double().mean().item())
        for ratio, shares in ((true_ratio(1.0), weighted), (estimated, fitted)):
            after = WeightedIntervals(scores=scores, ratio=ratio, level=0.9)(point, members, features)
            shares.append(coverage(after, truth).double().mean().item())
            width = (after["LVEF"].upper - after["LVEF"].lower).nanmean()
            assert width > (before["LVEF"].upper - before["LVEF"].lower).mean()
    assert sum(plain) / 25 < 0.865
    for shares in (weighted, fitted):
        assert 0.885 < sum(shares) / 25 < 0.925


def test_the_fitted_ratio_approaches_the_true_one():
    draw = torch.Generator().manual_seed(0)
    old, new = torch.randn(20000, 1, generator=draw), torch.randn(20000, 1, generator=draw) + 0.8
    ratio = fit_ratio(old, new, ("x",))
    x = torch.tensor([[-1.0], [0.0], [1.0], [2.0]])
    torch.testing.assert_close(ratio(x).log(), true_ratio(0.8)(x).log(), atol=0.06, rtol=0.0)
    assert ratio(old).mean().item() == pytest.approx(1.0, abs=0.05)


def test_logistic_regression_is_at_its_optimum():
    """The gradient of the penalized likelihood is zero; an outside optimizer finds the same slopes."""
    from scipy import optimize

    draw = torch.Generator().manual_seed(1)
    old, new = torch.randn(40, 2, generator=draw).double(), torch.randn(25, 2, generator=draw).double() * 1.5 + 0.5
    ratio = fit_ratio(old, new, ("a", "b"), penalty=0.7)
    x = ((torch.cat((old, new)) - ratio.mean) / ratio.sd).numpy()
    y = torch.cat((torch.zeros(40), torch.ones(25))).numpy()

    def loss(beta):
        z = torch.from_numpy(x @ beta[:2] + beta[2])
        fit = torch.nn.functional.binary_cross_entropy_with_logits(z, torch.from_numpy(y).double(), reduction="sum")
        return fit.item() + 0.35 * float((beta[:2]**2).sum())

    best = optimize.minimize(loss, [0.0, 0.0, 0.0], tol=1e-10).x
    assert ratio.slope.tolist() == pytest.approx(best[:2], abs=1e-4)
    assert ratio.intercept == pytest.approx(best[2] + math.log(40 / 25), abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=40), st.floats(0.1, 10))
def test_effective_size_lies_between_one_and_all_whatever_the_scale(weights, scale):
    w = torch.tensor(weights, dtype=torch.float64)
    assert 1 - 1e-9 <= effective_size(w) <= len(weights) + 1e-9
    assert effective_size(scale * w) == pytest.approx(effective_size(w))


def test_a_far_target_is_refused_with_its_effective_size():
    with pytest.raises(SettingError, match=r"effective calibration cases of 200 .* 19 or more at level 0.9"):
        WeightedIntervals(scores=scores_of(0, 200), ratio=true_ratio(3.0), level=0.9)


@pytest.mark.parametrize("away", [10.0, 30.0])
def test_sets_that_have_nothing_in_common_are_refused_although_their_weights_are_equal(away):
    scores = scores_of(0, 100)
    calibration = scores.number("x")[:, None]
    ratio = fit_ratio(calibration, calibration + away, ("x",))
    with pytest.raises(SettingError, match="too unlike the calibration cases"):
        WeightedIntervals(scores=scores, ratio=ratio, level=0.9)
    assert float(fit_ratio(calibration, calibration + 0.5, ("x",))(calibration).mean()) == pytest.approx(1, abs=0.3)


def test_a_case_far_beyond_the_calibration_cases_has_no_interval_and_a_note():
    stage = WeightedIntervals(scores=scores_of(0, 300), ratio=true_ratio(1.0), level=0.9)
    point, members, _, features = world(7, 3, noise=growing)
    data = features.data.clone()
    data[1], data[2] = 6.0, float("nan")
    found = stage(point, members, replace(features, data=data))
    assert torch.isnan(found["LVEF"].lower).tolist() == [False, True, True]
    assert [n.code for n in found.notes] == ["unlike_calibration"] and "subject 1, 2" in found.notes[0].text
    assert "effective calibration size" in found["LVEF"].method


def test_a_measured_number_can_tell_the_target_apart():
    """Errors grow with the measured number, and the target has more of the high ones."""
    def mix(seed, n, high):
        draw = torch.Generator().manual_seed(seed)
        truth = torch.where(torch.rand(n, generator=draw) < high, 65.0, 35.0).double() + torch.randn(n, generator=draw)
        value = truth + (0.5 + 4 * (truth > 50)) * torch.randn(n, generator=draw)
        return (*phenotypes(value, value[:, None] + torch.randn(n, 3, generator=draw)), {"LVEF": truth})

    before, after = [], []
    for seed in range(12):
        point, members, truth = mix(seed, 300, 0.15)
        scores = collect_scores(point, members, truth, calibrated_on="a mix")
        target, copies, wanted = mix(1000 + seed, 300, 0.85)
        ratio = fit_ratio(point["LVEF"].value[:, None], target["LVEF"].value[:, None], ("LVEF",))
        plain = ConformalIntervals(calibration=split_calibration(scores, level=0.9))
        before.append(coverage(plain(target, copies), wanted).double().mean().item())
        found = WeightedIntervals(scores=scores, ratio=ratio, level=0.9)(target, copies, None)
        after.append(coverage(found, wanted).double().mean().item())
    assert sum(before) / 12 < 0.75 and 0.87 < sum(after) / 12 < 0.96


def test_bad_input_is_named():
    with pytest.raises(MissingRecordError, match="no number 'x'"):
        point, members, _, features = world(7, 3)
        stage = WeightedIntervals(scores=scores_of(0, 300), ratio=true_ratio(0.5), level=0.9)
        stage(point, members, replace(features, names=("y",)))
    with pytest.raises(SettingError, match="two or more of both"):
        fit_ratio(torch.zeros(9, 1), torch.zeros(1, 1), ("x",))
    with pytest.raises(SignalError, match="finite"):
        fit_ratio(torch.zeros(9, 1), torch.full((9, 1), float("nan")), ("x",))
    with pytest.raises(SettingError, match="no number 'y'"):
        WeightedIntervals(scores=scores_of(0, 100), ratio=replace(true_ratio(0.5), names=("y",)), level=0.9)
    apart = fit_ratio(torch.zeros(30, 1), torch.ones(30, 1), ("x",))
    assert bool(torch.isfinite(apart.slope).all())
