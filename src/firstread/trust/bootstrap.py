"""Paired differences of two methods over subjects and seeds, with bootstrap intervals."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.trust.agreement import Estimate


def paired_difference(first: Float[Tensor, "subject seed"], second: Float[Tensor, "subject seed"], *,
                      confidence: float = 0.95, resamples: int = 4000, seed: int = 0) -> Estimate:
    """Mean of ``first - second`` with a percentile bootstrap interval over subjects and over seeds, both crossed.

    first, second: a number (error, width, interval score) of every test subject under every training seed, the same
    subjects and seeds in the same places. Each resample draws subjects and seeds with replacement, independently, and
    keeps all pairs of the two (Owen 2007, the pigeonhole bootstrap); deviations of the seeds are stretched by
    ``sqrt(s / (s - 1))``, since a resample of s of them varies that much too little. With one seed the interval is over
    subjects alone. Raises SettingError for other shapes, fewer than three subjects, or numbers that are not finite.

    >>> ours, theirs = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[2.0], [3.0], [4.0]])
    >>> paired_difference(ours, theirs).text()
    '-1.0 [-1.0, -1.0]'
    """
    if first.shape != second.shape or len(first) < 3 or not bool(torch.isfinite(first - second).all()):
        raise SettingError(f"numbers of shape {tuple(first.shape)} and {tuple(second.shape)}, "
                           f"{int((~torch.isfinite(first)).sum() + (~torch.isfinite(second)).sum())} not finite",
                           expected="[subject, seed], the same of both, three subjects or more, all measured",
                           remedy="leave out, from both, the subjects that either could not measure")
    difference = (first - second).double()
    subjects, seeds = difference.shape
    mean, by_seed = difference.mean(), difference.mean(dim=0, keepdim=True)
    if seeds > 1:
        difference = difference + (by_seed - mean) * ((seeds / (seeds - 1))**0.5 - 1)
    generator = torch.Generator().manual_seed(seed)
    rows = _counts(subjects, resamples, generator)
    columns = _counts(seeds, resamples, generator)
    means = ((rows @ difference) * columns).sum(dim=1) / (subjects * seeds)
    tail = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = torch.quantile(means, tail).tolist()
    return Estimate(float(mean), low, high)


def _counts(size: int, resamples: int, generator: torch.Generator) -> Tensor:
    """How often each of ``size`` is drawn in each resample: ``[resample, size]``."""
    drawn = torch.randint(size, (resamples, size), generator=generator)
    return torch.zeros(resamples, size, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())
