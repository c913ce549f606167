"""Interval methods side by side on the same test cases: coverage, width, interval score, paired with a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import Phenotypes
from firstread.trust.agreement import Estimate
from firstread.trust.bootstrap import paired_difference, paired_t
from firstread.trust.conformal import covered, interval_score


@dataclass(frozen=True)
class Comparison:
    """One method on the cases that all methods gave an interval for (``cases`` of ``of``, under ``seeds`` seeds).

    share: covered; width, score: means in ``unit``; narrower, better: width and interval score minus the baseline's,
    paired by case and seed, with a 95 % interval over both (below zero is better than the baseline).
    """

    method: str
    unit: str
    cases: int
    of: int
    seeds: int
    share: float
    width: float
    score: float
    narrower: Estimate
    better: Estimate


def compare_intervals(methods: Mapping[str, Sequence[Phenotypes]], truth: Float[Tensor, " batch"], name: str, *,
                      baseline: str) -> list[Comparison]:
    """Each method's intervals of phenotype ``name`` beside those of ``baseline``.

    methods: by name, the phenotypes under each training seed, rows the same test cases in the same order; truth: of
    each row. A case that some method under some seed gave no interval for is left out of all. The differences have
    bootstrap intervals over cases where there is one seed, t intervals over cases and seeds where there are more
    (:mod:`firstread.trust.bootstrap` says why). Raises SettingError for another baseline, numbers of seeds, or fewer
    than three cases left.
    """
    if baseline not in methods or len({len(runs) for runs in methods.values()}) != 1:
        raise SettingError(f"baseline {baseline!r} among {sorted(methods)} with {[len(r) for r in methods.values()]} "
                           "runs", expected="one of the methods, each with a run per seed",
                           remedy="give the phenotypes of every seed for every method")
    tables = {method: [_bounds(run, name) for run in runs] for method, runs in methods.items()}
    known: Bool[Tensor, " batch"] = torch.isfinite(truth)
    for lower, upper, _, _ in (bounds for runs in tables.values() for bounds in runs):
        known = known & torch.isfinite(lower) & torch.isfinite(upper)
    if int(known.sum()) < 3:
        raise SettingError(f"{int(known.sum())} cases with intervals by all methods", expected="three or more",
                           remedy="compare methods that give intervals for the same cases")
    wanted, found = truth.double()[known], {}
    for method, runs in tables.items():
        low, high = (torch.stack([bounds[side][known] for bounds in runs], dim=1) for side in (0, 1))
        scores = [interval_score(wanted, a, b, runs[0][2]) for a, b in zip(low.unbind(1), high.unbind(1), strict=True)]
        hits = torch.stack([covered(wanted, a, b) for a, b in zip(low.unbind(1), high.unbind(1), strict=True)])
        found[method] = (hits.double().mean().item(), high - low, torch.stack(scores, dim=1))
    _, base_width, base_score = found[baseline]
    over = paired_t if len(methods[baseline]) > 1 else paired_difference
    return [Comparison(method, tables[method][0][3], int(known.sum()), len(truth), len(tables[method]), share,
                       width.mean().item(), score.mean().item(),
                       over(width, base_width), over(score, base_score))
            for method, (share, width, score) in found.items()]


def comparison_markdown(rows: Sequence[Comparison], *, baseline: str) -> str:
    """The comparison as a Markdown table, coverage in per cent."""
    lines = [f"| method | cases | covered | width | interval score | width − {baseline} | score − {baseline} |",
             "|---|---|---|---|---|---|---|"]
    lines += [f"| {row.method} | {row.cases} of {row.of} | {100 * row.share:.1f} % | {row.width:.1f} {row.unit} | "
              f"{row.score:.1f} {row.unit} | {row.narrower.text()} | {row.better.text()} |" for row in rows]
    return "\n".join(lines) + "\n"


def _bounds(phenotypes: Phenotypes, name: str) -> tuple[Tensor, Tensor, float, str]:
    found = phenotypes.values.get(name)
    if found is None or found.lower is None or found.upper is None or found.level is None:
        raise SettingError(f"no intervals of {name}", expected="intervals by every method",
                           remedy="leave out the method, or calibrate the phenotype")
    return found.lower.double(), found.upper.double(), found.level, found.unit
