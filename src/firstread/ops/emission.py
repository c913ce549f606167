"""Emission tomography: the Poisson likelihood and its maximization by expectation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.linear import LinearOp
from firstread.ops.projection import Projection
from firstread.ops.sart import view_subsets

Report = Callable[[int, Tensor], object]
"""Called after each pass over all views with its number and the image."""


def poisson_log_likelihood(counts: Float[Tensor, "batch *ray"], expected: Float[Tensor, "batch *ray"]
                           ) -> Float[Tensor, " batch"]:
    """``Σ y ln ȳ - ȳ`` per batch row (without ``ln y!``); minus infinity where counts came that were not expected.

    >>> poisson_log_likelihood(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 3.0]])).item()
    -4.0
    """
    return (torch.xlogy(counts, expected) - expected).flatten(1).sum(dim=1)


def update(x: Float[Tensor, "*lead y x"], counts: Float[Tensor, "*lead view bin"], projection: LinearOp,
           factors: Float[Tensor, "..."], background: Float[Tensor, "..."], sensitivity: Float[Tensor, "..."]
           ) -> Float[Tensor, "*lead y x"]:
    """One step of expectation maximization (Shepp and Vardi 1982), s the sensitivity ``Aᵀ f``::

        x ← x / s · Aᵀ(f y / (f A x + b))

    Pixels that no ray sees keep their value.
    """
    expected = factors * projection(x) + background
    ratio = torch.where(expected > 0, counts / torch.where(expected > 0, expected, 1), 0)
    seen = sensitivity > 0
    change = projection.adjoint(factors * ratio) / torch.where(seen, sensitivity, 1)
    return x * torch.where(seen, change, 1)


def expectation_maximization(counts: Float[Tensor, "*lead view bin"], projection: Projection,
                             factors: Float[Tensor, "..."], background: Float[Tensor, "..."] | None = None, *,
                             subsets: int = 1, iterations: int = 20, start: Float[Tensor, "*lead y x"] | None = None,
                             report: Report | None = None) -> Float[Tensor, "*lead y x"]:
    """The image of greatest likelihood by MLEM, or faster and nearly by ordered subsets (Hudson and Larkin 1994).

    ``y ~ Poisson(f A x + b)``. subsets: of the views, 1 for MLEM, whose likelihood never falls. iterations: passes over
    all views. start: positive image; None for ones times the mean that explains the counts. Autograd runs through the
    iterations.
    """
    if iterations < 1:
        raise SettingError(f"{iterations} iterations", expected="one or more", remedy="raise `iterations`")
    chosen = view_subsets(len(projection.beam.angles_rad), subsets)
    factors = factors.expand(*counts.shape)
    background = torch.zeros_like(counts) if background is None else background.expand(*counts.shape)
    parts = [_Part(projection, views, counts, factors, background) for views in chosen]
    x = _first(counts, projection, factors) if start is None else start
    for number in range(1, iterations + 1):
        for part in parts:
            x = update(x, part.counts, part.projection, part.factors, part.background, part.sensitivity)
        if report is not None:
            report(number, x)
    return x


class _Part:
    """What belongs to some of the views."""

    def __init__(self, projection: Projection, views: Sequence[int], counts: Tensor, factors: Tensor,
                 background: Tensor):
        self.projection = Projection(beam=projection.beam.at_views(views), shape=projection.shape,
                                     spacing_mm=projection.spacing_mm)
        self.counts, self.factors, self.background = (v[..., list(views), :] for v in (counts, factors, background))
        self.sensitivity = self.projection.adjoint(self.factors)


def _first(counts: Tensor, projection: Projection, factors: Tensor) -> Tensor:
    """A flat image, in each plane of the value that explains all counts of the plane."""
    one = torch.ones(*counts.shape[:-2], *projection.shape, dtype=counts.dtype, device=counts.device)
    expected = (factors * projection(one)).sum(dim=(-2, -1), keepdim=True)
    return one * (counts.detach().sum(dim=(-2, -1), keepdim=True) / expected.clamp_min(1e-30)).clamp_min(1e-30)
