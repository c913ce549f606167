"""From the numbers of all subjects to calibration and tables (Markdown for people, JSON for programs)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.provenance import versions, weights_hash
from firstread.core.records import Phenotype, Phenotypes, Rows
from firstread.recipes.heart_subjects import OURS, ZERO_FILLED, Reader, Scanner
from firstread.trust.agreement import Agreement, Estimate, agreement
from firstread.trust.conformal import covered
from firstread.trust.coverage import coverage_table
from firstread.trust.intervals import Calibration, ConformalIntervals, calibrate

VOLUMES = {"LVEDV": "mL", "LVESV": "mL", "LVSV": "mL", "LVEF": "%", "LVCO": "L/min", "LVM": "g", "RVEDV": "mL",
           "RVESV": "mL", "RVSV": "mL", "RVEF": "%"}
UNITS = VOLUMES | {f"WT_AHA_{i}": "mm" for i in range(1, 17)} | {"WT_Global": "mm"}
CLASSES = ("LV cavity", "LV myocardium", "RV cavity")
Source = Literal["k-space", "images"]
TEMPLATE = "heart_evidence.md.jinja"


@dataclass(frozen=True, eq=False)
class Results:
    """The numbers of all subjects of a family, as ``heart_subjects.measured`` gives them."""

    rows: list[dict[str, Any]]

    def column(self, pick: Callable[[dict[str, Any]], float | None]) -> Float[Tensor, " subjects"]:
        """One number per subject, NaN where there is none."""
        return torch.tensor([math.nan if (v := pick(row)) is None else v for row in self.rows], dtype=torch.float64)

    def truth(self) -> dict[str, Float[Tensor, " subjects"]]:
        """Analytic values by phenotype."""
        return {n: self.column(lambda row, n=n: row["truth"].get(n)) for n in UNITS if n in self.rows[0]["truth"]}

    def on_masks(self, which: Literal["convention", "readers"]) -> dict[str, Float[Tensor, " subjects"]]:
        """What the same conventions give on the noiseless masks: as they are, or redrawn as readers contour."""
        return {n: self.column(lambda row, n=n: row[which].get(n)) for n in UNITS}

    def point(self) -> Phenotypes:
        """The consensus' phenotypes, a row per subject."""
        values = {n: Phenotype(self.column(lambda row, n=n: row["point"].get(n)), unit) for n, unit in UNITS.items()}
        return Phenotypes(Rows.subjects(len(self.rows)), values)

    def members(self) -> Phenotypes:
        """Every member's phenotypes, a row per subject and member."""
        count = len(self.rows[0]["members"])
        rows = self.point().draws(count).rows
        each = [{n: self.column(lambda row, n=n, m=m: row["members"][m].get(n)) for n in UNITS} for m in range(count)]
        return Phenotypes(rows, {n: Phenotype(torch.stack([member[n] for member in each], 1).flatten(), unit)
                                 for n, unit in UNITS.items()})


def calibrate_on(results: Results, level: float, weights: dict[str, str], source: Source) -> Calibration:
    """Intervals from the calibration family."""
    about = f"simulation: {len(results.rows)} phantom hearts, from {source}"
    return calibrate(results.point(), results.members(), results.truth(), level=level, calibrated_on=about,
                     weights=weights)


def report(folder: Path, results: Results, calibration: Calibration, scanner: Scanner, reader: Reader, *,
           command: str, status: str, source: Source = "k-space") -> None:
    """Write ``heart.md`` and ``heart.json``, or ``heart-images.md`` and ``heart-images.json``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    intervals = ConformalIntervals(calibration=calibration)(results.point(), results.members())
    coverage = coverage_table(intervals, results.truth(), calibration)
    limits = {"analytic truth": limits_of_agreement(results, results.truth()),
              "the convention on noiseless masks": limits_of_agreement(results, results.on_masks("convention")),
              "the convention on noiseless masks contoured as readers do":
                  limits_of_agreement(results, results.on_masks("readers"))}
    halves = (reader.measure,) if source == "images" else (reader.reconstruct, reader.measure)
    steps = [step for half in halves for step in half.steps]
    stem = "heart-images" if source == "images" else "heart"
    page = Environment(loader=PackageLoader("firstread.recipes", "."), undefined=StrictUndefined,
                       autoescape=False, keep_trailing_newline=True).get_template(TEMPLATE)  # Markdown, not HTML
    text = page.render(
        status=status, source=source, stem=stem, subjects=len(results.rows), scanner=scanner, classes=CLASSES,
        units=UNITS, limits=limits,
        calibrating=max(q.count for q in calibration.quantities.values()), level=calibration.level,
        warned=sum(bool(row["notes"]) for row in results.rows), images=image_rows(results), overlaps=overlaps(results),
        method=calibration.method, coverage=coverage, groups=groups(results, intervals), versions=versions(),
        chain=[(step.name, step.settings(), weights_hash(step)) for step in steps], command=command,
        cpu_seconds=mean_of(results.column(lambda row: row["cpu_seconds"])).value)
    data = {"status": status, "scanner": asdict(scanner), "weights": calibration.weights, "versions": versions(),
            "command": command, "coverage": [asdict(row) for row in coverage], "subjects": results.rows,
            "agreement": {t: {n: asdict(a) for n, a in rows.items()} for t, rows in limits.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.md").write_text(text, encoding="utf-8")
    (folder / f"{stem}.json").write_text(json.dumps(_rounded(data)) + "\n", encoding="utf-8")


def mean_of(values: Float[Tensor, " n"], *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean over subjects with its 95 % percentile bootstrap interval; NaN left out.

    >>> mean_of(torch.tensor([2.0, 2.0, float("nan")], dtype=torch.float64)).text()
    '2.0 [2.0, 2.0]'
    """
    known = values[torch.isfinite(values)].double()
    if len(known) == 0:
        return Estimate(math.nan, math.nan, math.nan)
    pick = torch.randint(len(known), (resamples, len(known)), generator=torch.Generator().manual_seed(seed))
    low, high = torch.quantile(known[pick].mean(dim=1), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Estimate(known.mean().item(), low, high)


def image_rows(results: Results) -> list[dict[str, Any]]:
    """Image errors by reconstruction: zero-filled first, the chain's own last."""
    names = sorted({name for row in results.rows for name in row["image"]},
                   key=lambda name: (name != ZERO_FILLED, name == OURS, name))
    rows = []
    for name in names:
        columns = {key: results.column(lambda row, n=name, k=key: row["image"].get(n, {}).get(k))
                   for key in ("PSNR", "SSIM", "NRMSE")}
        rows.append({"name": "**this chain**" if name == OURS else name,
                     "count": int(torch.isfinite(columns["PSNR"]).sum()),
                     **{key: mean_of(values) for key, values in columns.items()}})
    return rows


def overlaps(results: Results) -> dict[str, list[Estimate]]:
    """Mean Dice by phase, in the order of ``CLASSES``."""
    return {phase: [mean_of(results.column(lambda row, p=phase, c=name: row["dice"][p][c])) for name in CLASSES]
            for phase in ("ED", "ES")}


def limits_of_agreement(results: Results, reference: dict[str, Float[Tensor, " subjects"]]) -> dict[str, Agreement]:
    """Bias and limits of agreement by phenotype, over the subjects that have both numbers."""
    found = {}
    for name, wanted in reference.items():
        value = results.point()[name].value
        known = torch.isfinite(wanted) if value is None else torch.isfinite(value) & torch.isfinite(wanted)
        if value is not None and int(known.sum()) >= 3:
            found[name] = agreement(value[known], wanted[known])
    return found


def groups(results: Results, intervals: Phenotypes) -> list[dict[str, Any]]:
    """Error and coverage of the LV ejection fraction in each pathology."""
    lvef, truth = intervals["LVEF"], results.truth()["LVEF"]
    if lvef.value is None or lvef.lower is None or lvef.upper is None:
        return []
    known = torch.isfinite(lvef.value) & torch.isfinite(truth) & torch.isfinite(lvef.lower)
    inside = covered(truth, lvef.lower.double(), lvef.upper.double())
    rows = []
    for name in sorted({row["pathology"] for row in results.rows}):
        chosen = known & torch.tensor([row["pathology"] == name for row in results.rows])
        error = (lvef.value - truth)[chosen]
        if len(error) > 1:
            rows.append({"name": name.replace("_", " "), "count": len(error), "mean": float(error.mean()),
                         "sd": float(error.std()), "covered": int(inside[chosen].sum()),
                         "width": float((lvef.upper - lvef.lower)[chosen].mean())})
    return rows


def _rounded(value: Any) -> Any:
    """Numbers to six significant digits; NaN (which JSON has not) becomes null."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
