"""Agreement of two ways to measure the same thing: bias and limits of agreement, with intervals by subject."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from firstread.core.errors import SettingError


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval."""

    value: float
    lower: float
    upper: float

    def text(self, digits: int = 1) -> str:
        """As in ``1.2 [0.8, 1.6]``."""
        return f"{self.value:.{digits}f} [{self.lower:.{digits}f}, {self.upper:.{digits}f}]"


@dataclass(frozen=True)
class Agreement:
    """Bland and Altman's analysis of ``measured - reference``.

    bias: mean difference; low, high: limits of agreement, ``bias ∓ 1.96 sd``; absolute: mean absolute difference.
    """

    subjects: int
    bias: Estimate
    low: Estimate
    high: Estimate
    absolute: Estimate


def agreement(measured: Float[Tensor, " n"], reference: Float[Tensor, " n"], *,
              subject: Int[Tensor, " n"] | None = None, confidence: float = 0.95, resamples: int = 2000,
              seed: int = 0) -> Agreement:
    """Bias and limits of agreement, ``mean(d) ∓ 1.96 sd(d)``, with percentile bootstrap intervals over subjects.

    subject: which subject each pair belongs to (default: one pair each); all pairs of a subject are drawn together.
    Source: Bland and Altman 1986. Raises SettingError for fewer than three subjects.

    >>> found = agreement(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 2.0, 2.0, 4.0]), resamples=200)
    >>> found.bias.value, found.absolute.value, round(found.high.value, 3)
    (0.5, 0.5, 1.632)
    """
    difference = (measured - reference).double()
    group = torch.arange(len(difference)) if subject is None else torch.unique(subject, return_inverse=True)[1]
    count = int(group.max()) + 1 if len(group) else 0
    if count < 3 or not bool(torch.isfinite(difference).all()):
        missing = int((~torch.isfinite(difference)).sum())
        raise SettingError(f"differences of {count} subjects, {missing} of them not finite",
                           expected="three subjects or more, all measured", remedy="leave out what was not measured")
    chosen = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    times = torch.stack([torch.bincount(draw, minlength=count) for draw in chosen])[:, group].double()
    plain = _statistics(difference, torch.ones(1, len(difference), dtype=torch.float64))[0]
    tail = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    lower, upper = torch.nanquantile(_statistics(difference, times), tail, dim=0)
    numbers = zip(plain.tolist(), lower.tolist(), upper.tolist(), strict=True)
    bias, low, high, absolute = (Estimate(*three) for three in numbers)
    return Agreement(count, bias, low, high, absolute)


def _statistics(difference: Tensor, times: Tensor) -> Tensor:
    """Bias, limits and mean absolute difference, each pair counted ``times`` often: ``[resample, 4]``."""
    total = times.sum(dim=1)
    bias = (times * difference).sum(dim=1) / total
    squares = (times * (difference - bias[:, None])**2).sum(dim=1)
    half = 1.96 * (squares / (total - 1)).sqrt()
    return torch.stack((bias, bias - half, bias + half, (times * difference.abs()).sum(dim=1) / total), dim=1)
