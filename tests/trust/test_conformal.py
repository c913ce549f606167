"""Split conformal intervals: exact coverage by simulation, ranks, bad calibration sets."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from firstread.core.errors import SettingError, SignalError
from firstread.trust import conformal


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 500), st.floats(0.05, 0.99))
def test_the_rank_is_the_smallest_that_covers(count, level):
    if count < conformal.smallest_calibration(level):
        with pytest.raises(SettingError, match="calibration cases"):
            conformal.rank(count, level)
        return
    k = conformal.rank(count, level)
    assert 1 <= k <= count
    assert k / (count + 1) >= level - 1e-9
    assert (k - 1) / (count + 1) < level


@pytest.mark.parametrize("level, smallest", [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)])
def test_the_smallest_calibration_set_is_named_in_the_error(level, smallest):
    assert conformal.rank(smallest, level) == smallest
    with pytest.raises(SettingError, match=f"expected {smallest} or more"):
        conformal.conformal_quantile(torch.rand(smallest - 1), level)


def test_coverage_over_calibration_sets_has_the_exact_beta_law():
    """4000 calibration sets of 50: conditional coverage of uniform scores is the quantile, Beta(k, n + 1 - k)."""
    generator = torch.Generator().manual_seed(3)
    found = [conformal.conformal_quantile(torch.rand(50, generator=generator), 0.9) for _ in range(4000)]
    k = conformal.rank(50, 0.9)
    assert k == 46
    assert stats.kstest(found, stats.beta(k, 51 - k).cdf).pvalue > 1e-3
    assert sum(found) / 4000 == pytest.approx(k / 51, abs=0.003)


def test_hits_fall_in_the_band_as_often_as_stated():
    generator = torch.Generator().manual_seed(5)
    low, high = conformal.coverage_band(40, 60, 0.9)
    inside = 0
    for _ in range(3000):
        lower, upper = conformal.equal_tails(torch.rand(40, generator=generator), 0.9)
        tests = torch.rand(60, generator=generator)
        inside += low <= ((tests >= lower) & (tests <= upper)).double().mean().item() <= high
    exact = stats.betabinom(60, 37, 4)  # between the 2nd and the 39th of 40
    expected = exact.cdf(round(high * 60)) - exact.cdf(round(low * 60) - 1)
    assert expected >= 0.95
    assert inside / 3000 == pytest.approx(expected, abs=0.012)


def test_band_by_hand():
    """Between the first and the third of three scores: the hits of one test are 1 with probability one half."""
    law = stats.betabinom(1, 2, 2)
    assert [law.pmf(i) for i in range(2)] == pytest.approx([0.5] * 2)
    assert conformal.coverage_band(3, 1, 0.5, confidence=0.9) == (0.0, 1.0)


def test_each_tail_holds_its_half():
    """Errors with a bias and a skew: what falls short and what falls beyond are both the nominal 5 %."""
    generator = torch.Generator().manual_seed(9)
    below, above = [], []
    for _ in range(300):
        errors = 3 + torch.rand(199 + 500, generator=generator).log().neg()
        lower, upper = conformal.equal_tails(errors[:199], 0.9)
        below.append((errors[199:] < lower).double().mean().item())
        above.append((errors[199:] > upper).double().mean().item())
    assert sum(below) / 300 == pytest.approx(0.05, abs=0.005)
    assert sum(above) / 300 == pytest.approx(0.05, abs=0.005)


def test_normalized_intervals_cover_heteroscedastic_errors():
    generator = torch.Generator().manual_seed(7)
    shares, n = [], 200
    for _ in range(200):
        spread = torch.rand(2 * n, generator=generator) * 5
        truth = (0.3 + spread) * torch.randn(2 * n, generator=generator)
        value = torch.zeros(2 * n)
        errors = conformal.normalized_errors(truth[:n], value[:n], spread[:n], 0.5)
        lower, upper = conformal.equal_tails(errors, 0.9)
        scale = spread[n:] + 0.5
        shares.append(conformal.covered(truth[n:], lower * scale, upper * scale).double().mean().item())
    assert sum(shares) / len(shares) == pytest.approx(181 / 201, abs=0.008)


@settings(max_examples=50, deadline=None)
@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(0, 20), st.floats(0.5, 0.99))
def test_interval_score_is_at_least_the_width(truth, lower, width, level):
    t, lo = torch.tensor([truth], dtype=torch.float64), torch.tensor([lower], dtype=torch.float64)
    score = conformal.interval_score(t, lo, lo + width, level).item()
    assert score >= width - 1e-9
    if conformal.covered(t, lo, lo + width):
        assert score == pytest.approx(width)


def test_interval_score_is_least_at_the_true_quantiles():
    y = torch.randn(20000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    half = stats.norm.ppf(0.95)
    scores = [conformal.interval_score(y, torch.full_like(y, -h), torch.full_like(y, h), 0.9).mean().item()
              for h in (0.7 * half, half, 1.4 * half)]
    assert min(scores) == scores[1]


def test_bad_numbers_are_refused():
    with pytest.raises(SignalError, match="NaN"):
        conformal.conformal_quantile(torch.tensor([math.nan] * 20), 0.9)
    with pytest.raises(SettingError, match="floor"):
        conformal.normalized_errors(torch.ones(1), torch.ones(1), torch.zeros(1), 0.0)
    for level in (0.0, 1.0, 90.0):
        with pytest.raises(SettingError, match="level"):
            conformal.smallest_calibration(level)
