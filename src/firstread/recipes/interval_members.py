"""How much intervals depend on the training: each member of the ensemble, which has its own seed, as if it were alone.

All from stored numbers: a member's numbers of the calibration subjects calibrate it; on the test subjects it is tested.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.recipes.heart_tables import Results
from firstread.recipes.interval_cohort import Cohort
from firstread.trust.cells import Cell, coverage_cells
from firstread.trust.conformal import coverage_band
from firstread.trust.intervals import PlainIntervals, split_calibration


def alone(one: Cohort, member: int) -> Cohort:
    """The cohort as if the member's numbers were the chain's."""
    rows = [{**row, "point": row["members"][member]} for row in one.results.rows]
    return Cohort(Results(rows), one.features, one.names)


def members_section(calibration: Cohort, test: Cohort, *, level: float) -> str:
    """Mean absolute error, coverage and width by phenotype, one value for each member."""
    each = [_numbers(alone(calibration, m), alone(test, m), level)
            for m in range(len(calibration.results.rows[0]["members"]))]
    low, high = (100 * side for side in coverage_band(len(calibration.features), len(test.features), level))
    lines = ["| phenotype | mean absolute error | covered | width |", "|---|---|---|---|"]
    for name in each[0]:
        errors, cells = zip(*(found[name] for found in each), strict=True)
        unit = cells[0].unit
        lines.append(f"| {name} | {', '.join(f'{float(error):.1f}' for error in errors)} {unit} | "
                     f"{', '.join(f'{100 * cell.share:.0f}' for cell in cells)} % | "
                     f"{', '.join(f'{cell.width:.1f}' for cell in cells)} {unit} |")
    return (f"## Other trainings\n\nThe number alone, of each of the {len(each)} members of the segmentation as if it "
            "were the only one: branches of one trunk, each trained on with its own seed and data, behind one "
            "reconstruction; values in the order of their seeds. On all subjects the share falls within "
            f"{low:.0f} … {high:.0f} % (95 %) if calibration and test subjects are exchangeable.\n\n"
            + "\n".join(lines) + "\n")


def _numbers(calibration: Cohort, test: Cohort, level: float) -> dict[str, tuple[Float[Tensor, ""], Cell]]:
    """Mean absolute error and the cell of all test subjects, by phenotype."""
    made = split_calibration(calibration.scores(ensemble=False), level=level)
    point, truth = test.results.point(), test.truth()
    cells = coverage_cells(PlainIntervals(calibration=made)(point), truth, ["all"] * len(test.features),
                           calibrated=lambda name, group: made.quantities[name].count)
    return {cell.name: (torch.nanmean((point[cell.name].value - truth[cell.name]).abs()), cell) for cell in cells}
