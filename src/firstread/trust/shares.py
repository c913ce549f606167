"""Which stage does an uncertainty come from? Sobol' shares of variance, from designs of draws of every stage.

With independent draws of each stage the variance splits over sets of stages (Hoeffding 1948, Sobol' 1993):

    V = Σ_u σ²_u        first_i = σ²_{i} / V        total_i = Σ_{u ∋ i} σ²_u / V

A crossed design (every draw of one stage with every draw of the others) estimates all of them; a nested one (new draws
of the later stage for every draw of the earlier) the first-order part of the earlier and the total of the later stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.trust.agreement import Estimate

FEWEST_TO_RESAMPLE = 3


@dataclass(frozen=True)
class Share:
    """One stage's part of the variance, each between 0 and 1; None where the design cannot tell.

    first: what fixing this stage alone would take away on average; total: what would be left if all others were fixed.
    """

    stage: str
    first: Estimate | None
    total: Estimate | None


@dataclass(frozen=True)
class Shares:
    """Variance over all stages together (unit of the number squared), and the share of each stage."""

    variance: float
    stages: tuple[Share, ...]

    def __getitem__(self, stage: str) -> Share:
        return next(share for share in self.stages if share.stage == stage)


def superset_variance(values: Float[Tensor, "*lead_and_factors"], subset: Sequence[int], factors: Sequence[int]
                      ) -> Float[Tensor, "*lead"]:
    """``D_u = Σ_{v ⊇ u} σ²_v`` of a crossed design, unbiased (superset importance; Liu and Owen 2006).

        D_u = 2^-|u| · mean of (all differences along the axes in u)²
            = Π_{i in u} k_i / (k_i - 1) · mean of (values centred along every axis in u)²

    subset: u, the axes of these stages; factors: the axes of all stages, which are averaged over. Of a single axis it
    is that stage's total variance (Jansen 1999).

    >>> superset_variance(torch.tensor([[1.0, 1.0], [3.0, 3.0]]), (0,), (0, 1)).item()
    2.0
    """
    centred = values.double()
    for axis in subset:
        centred = centred - centred.mean(dim=axis, keepdim=True)
    return centred.square().mean(dim=tuple(factors)) * prod(values.shape[i] / (values.shape[i] - 1) for i in subset)


def crossed_variances(values: Float[Tensor, "*lead_and_factors"], factors: Sequence[int]
                      ) -> dict[tuple[int, ...], Float[Tensor, "*lead"]]:
    """``D_u`` of every non-empty set u of the axes ``factors``."""
    sets = [u for size in range(1, len(factors) + 1) for u in combinations(factors, size)]
    return {u: superset_variance(values, u, factors) for u in sets}


def effects(supersets: dict[tuple[int, ...], Tensor], factors: Sequence[int]
            ) -> tuple[Tensor, dict[int, Tensor], dict[int, Tensor]]:
    """Whole variance, first-order and total variance of each axis, from ``D_u``, by inclusion and exclusion.

        V = Σ_u (-1)^(|u|+1) D_u        σ²_{i} = Σ_{u ∋ i} (-1)^(|u|+1) D_u        total_i = D_{i}
    """
    signed = {u: (-1) ** (len(u) + 1) * value for u, value in supersets.items()}
    whole = torch.stack(list(signed.values())).sum(dim=0)
    first = {i: torch.stack([value for u, value in signed.items() if i in u]).sum(dim=0) for i in factors}
    return whole, first, {i: supersets[(i,)] for i in factors}


def crossed_shares(values: Float[Tensor, "*factors"], stages: Sequence[str], *, confidence: float = 0.9,
                   resamples: int = 2000, seed: int = 0) -> Shares:
    """First-order and total share of every stage, from a number measured for all combinations of the stages' draws.

    values: one axis per stage, two draws or more along each; stages: their names. The variances are unbiased, their
    ratios nearly so. Intervals: percentile bootstrap in which the draws of every stage are drawn again, all crossed
    (Owen 2007), each variance multiplied by ``k / (k - 1)`` for what a resample varies too little. Stages with fewer
    than three draws are not resampled: the interval then holds for exactly these draws. A stage's draws count as a
    sample of all that could have been drawn (other noise, other members of the ensemble).

    Raises SettingError for fewer than two draws of a stage, or numbers that are not finite.

    >>> sum_of_two = torch.tensor([0.0, 1.0, 2.0])[:, None] + torch.tensor([0.0, 2.0, 4.0])
    >>> shares = crossed_shares(sum_of_two, ("reconstruction", "segmentation"))
    >>> shares.variance, shares["segmentation"].first.value, shares["segmentation"].total.value
    (5.0, 0.8, 0.8)
    """
    if values.ndim != len(stages) or min(values.shape, default=0) < 2 or not bool(torch.isfinite(values).all()):
        raise SettingError(f"numbers of shape {tuple(values.shape)} for {len(stages)} stages, "
                           f"{int((~torch.isfinite(values)).sum())} not finite", expected="one axis per stage, two "
                           "draws or more of each, all measured", remedy="draw more, or leave out what is not measured")
    axes = tuple(range(values.ndim))
    whole, first, total = effects(crossed_variances(values, axes), axes)
    free = [i for i in axes if values.shape[i] >= FEWEST_TO_RESAMPLE]
    generator = torch.Generator().manual_seed(seed)
    again, behind = values[None].expand(resamples, *values.shape), tuple(i + 1 for i in axes)
    for i in free:
        drawn = torch.randint(values.shape[i], (resamples, values.shape[i]), generator=generator)
        index = drawn.reshape(resamples, *[-1 if j == i else 1 for j in axes])
        again = again.gather(i + 1, index.expand(*[values.shape[i] if j == i + 1 else again.shape[j]
                                                   for j in range(again.ndim)]))
    supersets = {u: d * prod(values.shape[i - 1] / (values.shape[i - 1] - 1) for i in u if i - 1 in free)
                 for u, d in crossed_variances(again, behind).items()}
    wholes, firsts, totals = effects(supersets, behind)
    named = tuple(Share(name, _share(first[i], whole, firsts[i + 1], wholes, confidence),
                        _share(total[i], whole, totals[i + 1], wholes, confidence))
                  for i, name in enumerate(stages))
    return Shares(float(whole), named)


def nested_variances(values: Float[Tensor, "*lead outer inner"]) -> tuple[Tensor, Tensor]:
    """First-order variance of the outer and total variance of the inner stage, unbiased (one-way analysis of variance).

        total_inner = mean_i s²_i        σ²_outer = s²(means) - total_inner / k₂

    >>> [v.item() for v in nested_variances(torch.tensor([[0.0, 2.0], [4.0, 6.0]]))]
    [7.0, 2.0]
    """
    values = values.double()
    within = values.var(dim=-1).mean(dim=-1)
    return values.mean(dim=-1).var(dim=-1) - within / values.shape[-1], within


def nested_shares(values: Float[Tensor, "outer inner"], stages: tuple[str, str], *, confidence: float = 0.9,
                  resamples: int = 2000, seed: int = 0) -> Shares:
    """Shares from ``k₂`` new draws of the later stage (dropout, say) for each of ``k₁`` draws of the earlier one.

    Such a design gives the first-order share of the earlier and the total of the later stage. Intervals: percentile
    bootstrap over the outer draws, each with its inner ones (Davison and Hinkley 1997), the variance between them
    multiplied by ``k₁ / (k₁ - 1)``. Errors as ``crossed_shares``.

    >>> nested_shares(torch.tensor([[0.0, 2.0], [4.0, 6.0], [8.0, 10.0]]), ("noise", "dropout"))["noise"].total is None
    True
    """
    if values.ndim != 2 or min(values.shape) < 2 or not bool(torch.isfinite(values).all()):
        raise SettingError(f"numbers of shape {tuple(values.shape)}, {int((~torch.isfinite(values)).sum())} not finite",
                           expected="[outer, inner], two draws or more of each, all measured",
                           remedy="draw more, or leave out draws without the number")
    outer, inner = nested_variances(values)
    drawn = torch.randint(len(values), (resamples, len(values)), generator=torch.Generator().manual_seed(seed))
    again = values[drawn].double()
    inners = again.var(dim=-1).mean(dim=-1)
    outers = again.mean(dim=-1).var(dim=-1) * len(values) / (len(values) - 1) - inners / values.shape[1]
    first = _share(outer, outer + inner, outers, outers + inners, confidence)
    total = _share(inner, outer + inner, inners, outers + inners, confidence)
    return Shares(float(outer + inner), (Share(stages[0], first, None), Share(stages[1], None, total)))


def covariance_shares(parts: Float[Tensor, "draw *parts"]) -> Float[Tensor, "*parts"]:
    """``Cov(part, Σ parts) / Var(Σ parts)`` over draws: what each part brings into the variance of the sum.

    They sum to one; a part that moves against the others has a share below zero. NaN where the sum does not vary.

    >>> covariance_shares(torch.tensor([[0.0, 0.0], [3.0, 1.0]])).tolist()
    [0.75, 0.25]
    """
    centred = parts.double() - parts.double().mean(dim=0)
    whole = centred.flatten(1).sum(dim=1)
    energy = whole.square().sum()
    return torch.tensordot(whole, centred, dims=1) / torch.where(energy > 0, energy, torch.nan)


def _share(part: Tensor, whole: Tensor, parts: Tensor, wholes: Tensor, confidence: float) -> Estimate:
    """``part / whole`` within 0 and 1; unknown where nothing varies."""
    if not bool(whole > 0):
        return Estimate(float("nan"), float("nan"), float("nan"))
    ratios = (parts / torch.where(wholes > 0, wholes, torch.nan)).clamp(0, 1)
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = torch.nanquantile(ratios, tails).tolist()
    return Estimate(float((part / whole).clamp(0, 1)), low, high)
