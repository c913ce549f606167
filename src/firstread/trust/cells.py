"""Coverage in many cells at once (phenotype by subgroup, acceleration, SNR …): bands, p-values, Holm's correction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import Phenotypes
from firstread.trust.conformal import coverage_band, coverage_law, covered, interval_score


@dataclass(frozen=True)
class Cell:
    """Intervals of one phenotype in one group of test cases.

    hits: cases covered, of ``cases``; missing: cases with a truth but no interval; calibrated: calibration cases behind
    the interval; band: the 95 % band of the share if calibration and test cases are exchangeable; p: of a share this
    far out; adjusted: by Holm over all cells of the table; width, score: means in ``unit``.
    """

    name: str
    group: str
    unit: str
    cases: int
    hits: int
    missing: int
    calibrated: int
    band: tuple[float, float]
    p: float
    adjusted: float
    width: float
    score: float

    @property
    def share(self) -> float:
        return self.hits / self.cases

    @property
    def holds(self) -> bool:
        """Whether the coverage is compatible with the nominal one, simultaneously over all cells of the table."""
        return self.adjusted > 0.05


def coverage_p_value(hits: int, cases: int, calibration: int, level: float) -> float:
    """Two-sided p-value of the hits under the beta-binomial law, ``min(1, 2 min(P(X <= hits), P(X >= hits)))``.

    >>> round(coverage_p_value(180, 200, 100, 0.9), 2), round(coverage_p_value(150, 200, 100, 0.9), 4)
    (0.96, 0.0011)
    """
    law = coverage_law(calibration, cases, level)
    return min(1.0, 2 * min(float(law.cdf(hits)), float(law.sf(hits - 1))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: rejecting what is at most α errs anywhere with probability at most α.

    ``p~_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))``, under any dependence. Source: Holm 1979.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise SettingError(f"p-values {list(p_values)}", expected="between 0 and 1", remedy="leave out what has none")
    adjusted, running = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = running
    return adjusted


def coverage_cells(intervals: Phenotypes, truth: Mapping[str, Float[Tensor, " batch"]], groups: Sequence[str], *,
                   calibrated: Callable[[str, str], int]) -> list[Cell]:
    """One cell per phenotype and group, groups in the order in which they first appear.

    groups: the group of each row; calibrated: how many calibration cases stand behind the intervals of (phenotype,
    group). Cases without a truth are left out; those without an interval are counted as missing. A cell without any
    interval is left out. For several groupings, give each to this function and join the lists with :func:`jointly`.
    """
    if len(groups) != intervals.batch:
        raise SettingError(f"{len(groups)} groups of {intervals.batch} cases", expected="one group per case",
                           remedy="name the group of every row")
    cells = []
    for name, true in truth.items():
        found = intervals.values.get(name)
        if found is None or found.lower is None or found.upper is None or found.level is None:
            continue
        lower, upper, true = found.lower.double(), found.upper.double(), true.double()
        known = torch.isfinite(lower) & torch.isfinite(upper) & torch.isfinite(true)
        for group in dict.fromkeys(groups):
            inside = torch.tensor([g == group for g in groups])
            chosen = known & inside
            cases = int(chosen.sum())
            if cases == 0:
                continue
            low, high, wanted = lower[chosen], upper[chosen], true[chosen]
            hits, behind = int(covered(wanted, low, high).sum()), calibrated(name, group)
            p = coverage_p_value(hits, cases, behind, found.level)
            cells.append(Cell(name, group, found.unit, cases, hits, int((inside & torch.isfinite(true)).sum()) - cases,
                              behind, coverage_band(behind, cases, found.level), p, p, float((high - low).mean()),
                              float(interval_score(wanted, low, high, found.level).mean())))
    return jointly(cells)


def jointly(cells: Sequence[Cell]) -> list[Cell]:
    """The same cells with p-values adjusted over all of them (Holm)."""
    return [replace(cell, adjusted=p) for cell, p in zip(cells, holm([cell.p for cell in cells]), strict=True)]


def coverage_markdown(cells: Sequence[Cell], *, first: str = "group") -> str:
    """The cells as a Markdown table, coverage in per cent."""
    lines = [f"| {first} | phenotype | cases (no interval) | calibrated on | covered | 95 % band | p (Holm) | width | "
             "interval score |", "|---|---|---|---|---|---|---|---|---|"]
    for cell in cells:
        low, high = (100 * side for side in cell.band)
        lines.append(f"| {cell.group} | {cell.name} | {cell.cases} ({cell.missing}) | {cell.calibrated} | "
                     f"{100 * cell.share:.1f} % | {low:.1f} … {high:.1f} % | {cell.adjusted:.3f} | {cell.width:.1f} "
                     f"{cell.unit} | {cell.score:.1f} {cell.unit} |")
    return "\n".join(lines) + "\n"
