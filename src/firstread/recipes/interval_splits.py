"""How much intervals depend on which subjects calibrated them: both families pooled and split again and again.

Within a split of the pool, calibration and test subjects are exchangeable by construction, which the two families of
the other tables are not. All from stored numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from firstread.core.records import Phenotypes, Rows
from firstread.trust.cells import coverage_cells
from firstread.trust.conformal import coverage_band
from firstread.trust.intervals import ConformalIntervals, PlainIntervals, split_calibration
from firstread.trust.mondrian import GroupIntervals, Groups, group_calibration
from firstread.trust.scores import Scores

SEEDS, SPLITS = 3, 100


@dataclass(frozen=True, eq=False)
class Pool:
    """Subjects of both families. members: rows of one subject side by side; plain: scores without the ensemble."""

    point: Phenotypes
    members: Phenotypes
    truth: Mapping[str, Float[Tensor, " subject"]]
    scores: Scores
    plain: Scores

    def cases(self, chosen: Int[Tensor, " chosen"]) -> tuple[Phenotypes, Phenotypes]:
        """Point and members of some of the subjects, numbered anew, of the phenotypes that have a truth."""
        each = self.scores.members
        rows = (chosen[:, None] * each + torch.arange(each)).flatten()
        point = Phenotypes(Rows.subjects(len(chosen)), {n: self.point[n].select(chosen) for n in self.truth})
        return point, Phenotypes(point.draws(each).rows, {n: self.members[n].select(rows) for n in self.truth})


def plain(pool: Pool, calibration: Tensor, test: Tensor, level: float) -> Phenotypes:
    """The number alone."""
    made = split_calibration(pool.plain.select(calibration), level=level)
    return PlainIntervals(calibration=made)(pool.cases(test)[0])


def ensemble(pool: Pool, calibration: Tensor, test: Tensor, level: float) -> Phenotypes:
    """Normalized by the ensemble."""
    point, members = pool.cases(test)
    made = split_calibration(pool.scores.select(calibration), level=level)
    return ConformalIntervals(calibration=made)(point, members)


def grouped(pool: Pool, calibration: Tensor, test: Tensor, level: float) -> Phenotypes:
    """Normalized, by third of the measured ejection fraction."""
    point, members = pool.cases(test)
    scores = pool.scores.select(calibration)
    made = group_calibration(scores, Groups.terciles("LVEF", scores.number("LVEF")), level=level)
    return GroupIntervals(calibration=made)(point, members, None)


METHODS: Mapping[str, Callable[..., Phenotypes]] = {"the number alone": plain, "normalized by the ensemble": ensemble,
                                                    "normalized, by third of measured EF": grouped}


def split_section(pool: Pool, calibration: int, *, level: float, splits: int = SPLITS,
                  methods: Mapping[str, Callable[..., Phenotypes]] = METHODS) -> str:
    """Coverage of each method and phenotype in three splits, and its mean and range over many; width and its range."""
    subjects = len(pool.point.rows.subject)
    low, high = (100 * side for side in coverage_band(calibration, subjects - calibration, level))
    lines = [f"| method | phenotype | covered, splits {', '.join(map(str, range(SEEDS)))} | covered, mean of {splits} "
             "splits | 95 % of the splits | splits in the band | width, mean (95 % of the splits) |",
             "|---|---|---|---|---|---|---|"]
    for method, intervals in methods.items():
        shares, widths, units = _over_splits(pool, calibration, intervals, level, splits)
        for name, found in shares.items():
            inside = ((100 * found >= low - 1e-9) & (100 * found <= high + 1e-9)).double().mean()
            ends, width = _range(100 * found), _range(widths[name])
            three = ", ".join(f"{100 * share:.0f}" for share in found[:SEEDS].tolist())
            lines.append(f"| {method} | {name} | {three} % | {100 * float(found.mean()):.1f} % | {ends[0]:.0f} … "
                         f"{ends[1]:.0f} % | {100 * float(inside):.0f} % | {float(widths[name].mean()):.1f} "
                         f"({width[0]:.1f} … {width[1]:.1f}) {units[name]} |")
    return (f"## Other calibration subjects\n\nThe {subjects} subjects of both families pooled, {calibration} of them "
            f"drawn to calibrate, the other {subjects - calibration} tested, by split seeds 0 to {splits - 1}; in one "
            f"split the share falls within {low:.0f} … {high:.0f} % (95 %). The splits share their subjects and one "
            "training: they show what the choice of calibration subjects does, nothing else. Coverage lies above "
            f"{100 * level:.0f} % where all errors go one way (an interval always reaches to the value itself), and by "
            "thirds, which have fewer cases each.\n\n" + "\n".join(lines) + "\n")


def _over_splits(pool: Pool, calibration: int, intervals: Callable[..., Phenotypes], level: float, splits: int
                 ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
    shares: dict[str, list[float]] = {name: [] for name in pool.truth}
    widths: dict[str, list[float]] = {name: [] for name in pool.truth}
    units = {}
    for seed in range(splits):
        order = torch.randperm(len(pool.point.rows.subject), generator=torch.Generator().manual_seed(seed))
        first, second = order[:calibration], order[calibration:]
        truth = {name: values[second] for name, values in pool.truth.items()}
        for cell in coverage_cells(intervals(pool, first, second, level), truth, ["all"] * len(second),
                                   calibrated=lambda name, group: calibration):
            shares[cell.name].append(cell.share)
            widths[cell.name].append(cell.width)
            units[cell.name] = cell.unit
    return ({name: torch.tensor(found, dtype=torch.float64) for name, found in shares.items()},
            {name: torch.tensor(found, dtype=torch.float64) for name, found in widths.items()}, units)


def _range(values: Float[Tensor, " split"]) -> tuple[float, float]:
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
