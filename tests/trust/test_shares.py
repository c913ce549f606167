"""Shares of variance: against analytic models, unbiased on average, intervals that hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import SettingError
from firstread.trust.shares import (
    covariance_shares,
    crossed_shares,
    crossed_variances,
    effects,
    nested_shares,
    nested_variances,
)


def two_stages(worlds: int, k1: int, k2: int, *, rec: float, seg: float, both: float, seed: int = 0) -> torch.Tensor:
    """Worlds of ``a_i + b_j + c_ij`` with these standard deviations; skewed, since nothing needs to be normal."""
    g = torch.Generator().manual_seed(seed)
    a, b, c = (torch.empty(worlds, *shape, dtype=torch.float64).exponential_(generator=g) - 1
               for shape in ((k1, 1), (1, k2), (k1, k2)))
    return 60 + rec * a + seg * b + both * c


def test_crossed_variances_are_unbiased():
    """a + b + c a b has first-order 1 and 4 and interaction 9 · 1 · 1 exactly."""
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(8_000, 4, 1, generator=g).double(), torch.randn(8_000, 1, 3, generator=g).double()
    whole, first, total = effects(crossed_variances(a + 2 * b + 3 * a * b, (1, 2)), (1, 2))
    for found, true in ((whole, 14.0), (first[1], 1.0), (first[2], 4.0), (total[1], 10.0), (total[2], 13.0)):
        assert abs(found.mean() - true) < 4 * found.std() / 8_000**0.5


def test_nested_variances_are_unbiased():
    g = torch.Generator().manual_seed(2)
    a, b = torch.randn(8_000, 4, 1, generator=g).double(), torch.randn(8_000, 4, 3, generator=g).double()
    outer, inner = nested_variances(a + 2 * b + 3 * a * b)
    for found, true in ((outer, 1.0), (inner, 13.0)):
        assert abs(found.mean() - true) < 4 * found.std() / 8_000**0.5


def test_ishigami_has_its_published_indices():
    """sin x1 + 7 sin² x2 + 0.1 x3⁴ sin x1: first .3139 .4424 0, total .5576 .4424 .2437 (Ishigami and Homma 1990)."""
    x = (torch.rand(3, 100, 16, generator=torch.Generator().manual_seed(3)).double() * 2 - 1) * torch.pi
    y = (x[0, :, :, None, None].sin() + 7 * x[1, :, None, :, None].sin()**2
         + 0.1 * x[2, :, None, None, :]**4 * x[0, :, :, None, None].sin())
    whole, first, total = effects(crossed_variances(y, (1, 2, 3)), (1, 2, 3))
    mean = whole.mean()
    assert abs(mean - 13.8446) < 4 * whole.std() / 100**0.5
    for axis, one, every in ((1, .3139, .5576), (2, .4424, .4424), (3, 0.0, .2437)):
        assert abs(first[axis].mean() / mean - one) < 0.03 and abs(total[axis].mean() / mean - every) < 0.03


@settings(deadline=None, max_examples=10)
@given(st.floats(-100, 100), st.floats(0.1, 10), st.integers(0, 1000))
def test_shares_do_not_depend_on_units(shift, scale, seed):
    values = two_stages(1, 4, 3, rec=1, seg=1, both=0.5, seed=seed)[0]
    one, other = (crossed_shares(v, ("a", "b"), resamples=50) for v in (values, shift + scale * values))
    assert other.variance == pytest.approx(scale**2 * one.variance, rel=1e-6)
    assert other["a"].first.value == pytest.approx(one["a"].first.value, abs=1e-6)
    assert other["b"].total.upper == pytest.approx(one["b"].total.upper, abs=1e-6)


def test_a_stage_that_changes_nothing_has_no_share():
    values = torch.tensor([1.0, 2.0, 4.0, 5.0])[:, None].expand(4, 3)
    shares = crossed_shares(values, ("reconstruction", "segmentation"))
    assert shares["reconstruction"].first.value == shares["reconstruction"].total.value == 1
    assert shares["segmentation"].first.value == shares["segmentation"].total.upper == 0


def test_bootstrap_intervals_hold():
    """True shares inside nominal 90 % intervals; few draws of a skewed model: somewhat less often than nominal."""
    worlds = two_stages(80, 12, 8, rec=1, seg=1, both=0.5, seed=4)
    held = 0
    for values in worlds:
        share = crossed_shares(values, ("rec", "seg"), resamples=200)["rec"]
        held += share.first.lower <= 1 / 2.25 <= share.first.upper
    assert 0.75 <= held / 80 <= 0.99


def test_nested_intervals_hold():
    g = torch.Generator().manual_seed(5)
    worlds = torch.randn(80, 12, 1, generator=g).double() + torch.randn(80, 12, 4, generator=g).double()
    held = sum((s := nested_shares(w, ("rec", "seg"), resamples=200)["rec"].first).lower <= 0.5 <= s.upper
               for w in worlds)
    assert 0.75 <= held / 80 <= 0.99


def test_two_draws_are_not_resampled():
    values = two_stages(1, 2, 5, rec=1, seg=0, both=0)[0]
    share = crossed_shares(values, ("method", "members"))["method"].first
    assert share.value == share.lower == share.upper == 1


@settings(deadline=None, max_examples=10)
@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 1000))
def test_covariance_shares_sum_to_one(draws, parts, seed):
    table = torch.randn(draws, parts, 2, generator=torch.Generator().manual_seed(seed))
    assert covariance_shares(table).sum().item() == pytest.approx(1, abs=1e-6)
    assert bool(covariance_shares(torch.ones(draws, parts)).isnan().all())


@pytest.mark.parametrize("values", [torch.ones(2, 1), torch.ones(1, 3), torch.tensor([[1.0, torch.nan], [1.0, 2.0]])])
def test_bad_designs_are_refused(values):
    for shares in (crossed_shares, nested_shares):
        with pytest.raises(SettingError, match="draws or more"):
            shares(values, ("a", "b"))
