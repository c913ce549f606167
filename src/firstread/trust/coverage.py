"""How intervals did on test cases: coverage with its expected band, width, interval score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.records import Phenotypes
from firstread.trust.conformal import coverage_band, covered, interval_score
from firstread.trust.intervals import Calibration


@dataclass(frozen=True)
class Coverage:
    """One phenotype on test cases. share: covered; band: where it falls (95 %) if test and calibration cases are
    exchangeable; width, score: means in ``unit``."""

    name: str
    unit: str
    cases: int
    share: float
    band: tuple[float, float]
    width: float
    score: float

    @property
    def within_band(self) -> bool:
        return self.band[0] <= self.share <= self.band[1]


def coverage_table(intervals: Phenotypes, truth: Mapping[str, Float[Tensor, " batch"]],
                   calibration: Calibration) -> list[Coverage]:
    """One row per phenotype that has both an interval and a truth; cases without either (NaN) are left out.

    >>> from firstread.core.records import Phenotype, Rows
    >>> from firstread.trust.intervals import Quantity
    >>> lvef = Phenotype(torch.tensor([60.0, 50.0]), "%", torch.tensor([55.0, 45.0]), torch.tensor([65.0, 55.0]), 0.9)
    >>> calibration = Calibration(0.9, 3, "an example", {"LVEF": Quantity(-2.0, 2.0, 1.0, 100, "%")})
    >>> [row] = coverage_table(Phenotypes(Rows.subjects(2), {"LVEF": lvef}), {"LVEF": torch.tensor([61.0, 58.0])},
    ...                        calibration)
    >>> row.share, row.width
    (0.5, 10.0)
    """
    rows = []
    for name, true in truth.items():
        found = intervals.values.get(name)
        if found is None or found.lower is None or found.upper is None or found.level is None:
            continue
        lower, upper, true = found.lower.double(), found.upper.double(), true.double()
        known = torch.isfinite(lower) & torch.isfinite(upper) & torch.isfinite(true)
        cases = int(known.sum())
        if cases == 0:
            continue
        lower, upper, true = lower[known], upper[known], true[known]
        rows.append(Coverage(name, found.unit, cases, covered(true, lower, upper).double().mean().item(),
                             coverage_band(calibration.quantities[name].count, cases, found.level),
                             (upper - lower).mean().item(),
                             interval_score(true, lower, upper, found.level).mean().item()))
    return rows
