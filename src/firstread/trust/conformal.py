"""Split conformal prediction: intervals whose coverage holds for any distribution, from held-out errors.

With n exchangeable calibration scores, a new one lies at or below their k-th smallest, ``k = ceil((n + 1) level)``,
with probability ``level`` or more, on average over calibration sets. An interval with a quantile of its own on each
side (equal tails) need not be symmetric: where a method errs to one side, it reaches further to the other. Given one
calibration set, the coverage between the r-th and the s-th smallest of continuous scores is Beta(s - r, n + 1 - s + r),
so hits among m test cases are beta-binomial.
Sources: Papadopoulos 2002, Vovk 2012, Lei 2018 (normalized scores), Romano 2019 (tails apart).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError


def smallest_calibration(level: float) -> int:
    """The smallest n for which a bound of this level exists, ``ceil((n + 1) level) <= n``.

    >>> smallest_calibration(0.9), smallest_calibration(0.95)
    (9, 19)
    """
    _check_level(level)
    return math.ceil(level / (1 - level) - 1e-9)


def rank(count: int, level: float) -> int:
    """Which of ``count`` sorted scores bounds the interval, ``ceil((n + 1) level)``, counted from 1.

    Raises SettingError where the calibration set is too small for the level.

    >>> rank(100, 0.9)
    91
    """
    _check_level(level)
    if count < smallest_calibration(level):
        raise SettingError(f"{count} calibration cases for a bound at level {level}",
                           expected=f"{smallest_calibration(level)} or more",
                           remedy="calibrate on more cases, or lower the level")
    return math.ceil((count + 1) * level - 1e-9)


def conformal_quantile(scores: Float[Tensor, " n"], level: float) -> float:
    """The finite-sample quantile of calibration scores: the ``ceil((n + 1) level)``-th smallest.

    Raises SettingError where there are too few scores, SignalError where one is NaN.

    >>> conformal_quantile(torch.arange(1.0, 20.0), 0.9)
    18.0
    """
    if bool(torch.isnan(scores).any()):
        raise SignalError("NaN among the calibration scores", expected="finite scores",
                          remedy="leave out cases that could not be measured, and count them")
    return float(scores.sort().values[rank(scores.numel(), level) - 1])


def normalized_errors(truth: Float[Tensor, " n"], value: Float[Tensor, " n"], spread: Float[Tensor, " n"],
                      floor: float) -> Float[Tensor, " n"]:
    """Signed error in units of the expected one, ``(y - yhat) / (spread + floor)``.

    ``floor`` (unit of y, above zero) keeps a case with no spread from having an interval of no width; it must not be
    chosen by the errors of the calibration cases.

    >>> normalized_errors(torch.tensor([10.0]), torch.tensor([13.0]), torch.tensor([1.0]), 0.5).item()
    -2.0
    """
    if not floor > 0:
        raise SettingError(f"a floor of {floor}", expected="above zero",
                           remedy="take the finest difference that matters")
    return (truth - value) / (spread + floor)


def equal_tails(errors: Float[Tensor, " n"], level: float) -> tuple[float, float]:
    """Bounds that leave ``(1 - level) / 2`` or less on each side: conformal quantiles of ``errors`` and ``-errors``.

    Raises SettingError where there are fewer than ``smallest_calibration((1 + level) / 2)``, SignalError for NaN.

    >>> equal_tails(torch.arange(-5.0, 34.0), 0.9)
    (-4.0, 32.0)
    """
    tail = (1 + level) / 2
    return -conformal_quantile(-errors, tail), conformal_quantile(errors, tail)


def coverage_law(calibration: int, test: int, level: float) -> Any:
    """How many of ``test`` cases intervals of equal tails cover, given exchangeable cases: SciPy's beta-binomial.

    ``a = 2k - (n + 1), b = n + 1 - a``, where ``k`` is the rank of a tail among n calibration cases.

    >>> round(float(coverage_law(99, 100, 0.9).mean()), 6)
    90.0
    """
    from scipy.stats import betabinom

    between = 2 * rank(calibration, (1 + level) / 2) - (calibration + 1)
    return betabinom(test, between, calibration + 1 - between)


def coverage_band(calibration: int, test: int, level: float, *, confidence: float = 0.95) -> tuple[float, float]:
    """The central band in which the share of ``test`` cases covered falls if calibration and test are exchangeable.

    Both tails of the band hold at most ``(1 - confidence) / 2`` of :func:`coverage_law`.

    >>> coverage_band(100, 200, 0.9)
    (0.82, 0.96)
    """
    _check_level(confidence)
    law, tail = coverage_law(calibration, test, level), (1 - confidence) / 2
    return float(law.ppf(tail)) / test, float(law.isf(tail)) / test


def covered(truth: Float[Tensor, " n"], lower: Float[Tensor, " n"], upper: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Whether each interval holds the truth, borders included.

    >>> covered(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 2.0])).tolist()
    [True, False]
    """
    return (truth >= lower) & (truth <= upper)


def interval_score(truth: Float[Tensor, " n"], lower: Float[Tensor, " n"], upper: Float[Tensor, " n"],
                   level: float) -> Float[Tensor, " n"]:
    """Width plus a penalty for what lies outside, in units of y; lower is better, and honest intervals are best.

        S = (u - l) + 2 / (1 - level) * (max(l - y, 0) + max(y - u, 0))

    Source: Gneiting and Raftery 2007, equation 43.

    >>> round(interval_score(torch.tensor([3.0]), torch.tensor([0.0]), torch.tensor([2.0]), 0.9).item(), 4)
    22.0
    """
    _check_level(level)
    outside = (lower - truth).clamp_min(0) + (truth - upper).clamp_min(0)
    return (upper - lower) + 2 / (1 - level) * outside


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise SettingError(f"level {level}", expected="between 0 and 1", remedy="write 90 % as 0.9")
