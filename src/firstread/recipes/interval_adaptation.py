"""Subjects of other scanners, read by a reconstruction that is first fitted to each scan: before and after.

The intervals stay those that were calibrated without adaptation; what is asked is whether they hold, for the scanners
they were not made for, once the reconstruction has adapted. A step per subject is stored, as in ``evidence_heart``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.acquire.heart_population import Family
from firstread.core.case import Case
from firstread.core.records import Phenotypes
from firstread.core.stage import Chain
from firstread.recipes import heart_subjects as subjects
from firstread.recipes.evidence_heart import Job
from firstread.recipes.files import write_text
from firstread.recipes.heart_tables import Results
from firstread.reconstruct.adapt import AdaptedCascade
from firstread.reconstruct.cascade import Cascade
from firstread.trust.bootstrap import paired_difference
from firstread.trust.cells import coverage_cells
from firstread.trust.describe import DescribeImage


@dataclass(frozen=True)
class AdaptedJob(Job):
    """As ``Job``, from k-space that is stored, by a reconstruction that each scan fits to itself in ``steps`` steps."""

    steps: int = 20

    def chain(self, reader: subjects.Reader) -> Chain:
        """K-space to image, adapted."""
        plain = cast(Cascade, reader.reconstruct.stage("image"))
        return reader.reconstruct.replacing("image", AdaptedCascade(network=plain.network, steps=self.steps)).eval()

    def _source(self, reader: subjects.Reader) -> str:
        return reader.label(self.chain(reader))

    def run(self, family: Family, index: int) -> Path | None:
        """Adapt, reconstruct, measure one subject, where that is not stored yet."""
        reader = subjects.Reader.build(self.weights)
        numbers = self.file(reader, family, index)
        if numbers.is_file():
            return numbers
        made = subjects.load(self.cache / f"{self._stem(family, index)}.npz")
        begun = time.process_time()
        with torch.no_grad():
            image = self.chain(reader)(Case({"kspace": made.kspace}))["image"]
        spent = time.process_time() - begun
        found = subjects.measured(reader, made, image.data)
        about = {"image": {subjects.OURS: subjects.image_errors(image, made.magnitude)}, "index": index,
                 "family": family, "adapted": any(note.code == "adapted" for note in image.notes),
                 "features": DescribeImage()(image).data[0].tolist(), "cpu_seconds": spent}
        write_text(numbers, json.dumps(found | about))
        return numbers


def adapted_rows(files: Sequence[Path]) -> list[dict[str, Any]]:
    """What is stored of the subjects that are done."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def adaptation_table(called: str, before: Results, after: Results,
                     intervals: Mapping[str, tuple[Phenotypes, Phenotypes]], names: Sequence[str]) -> list[str]:
    """A Markdown row for each phenotype of a scanner.

    before, after: the same subjects in the same order; intervals: by scanner, before and after.
    """
    plain, fitted = intervals[called]
    kept = sum(bool(row["adapted"]) for row in after.rows)
    rows = []
    for name in names:
        truth = before.truth()[name]
        errors = [(one.column(lambda row, n=name: row["point"].get(n)) - truth).abs()[:, None]
                  for one in (before, after)]
        known = torch.isfinite(errors[0] + errors[1])[:, 0]
        change = (paired_difference(errors[1][known], errors[0][known]).text() if int(known.sum()) > 2 else "too few")
        rows.append(f"| {called} | {kept} of {len(after.rows)} | {name} | {_covered(plain, name, truth)} | "
                    f"{_covered(fitted, name, truth)} | {float(errors[0][known].mean()):.1f} | "
                    f"{float(errors[1][known].mean()):.1f} | {change} |")
    return rows


def adaptation_section(table: Sequence[str], *, steps: int, seconds: float) -> str:
    """The rows of all scanners under their heading."""
    head = ["| scanner | adaptation kept | phenotype | before | adapted | error before | adapted | adapted − before |",
            "|---|---|---|---|---|---|---|---|"]
    return ("## Adaptation\n\nThe first subjects of each other scanner, before and after the reconstruction is fitted "
            f"to each scan in at most {steps} steps (rolled back where held-out lines are not predicted better): "
            "coverage and mean width of the ensemble's intervals, which were calibrated without adaptation; mean "
            "absolute error of the measured value, and its change with a 95 % bootstrap interval over subjects. "
            f"{seconds:.0f} s of one CPU thread for each scan.\n\n" + "\n".join([*head, *table]) + "\n")


def _covered(intervals: Phenotypes, name: str, truth: Float[Tensor, " subject"]) -> str:
    cells = coverage_cells(intervals, {name: truth}, ["all"] * len(truth), calibrated=lambda name, group: 10_000)
    return "no interval" if not cells else (f"{cells[0].hits} of {cells[0].cases}, {cells[0].width:.1f} "
                                            f"{cells[0].unit}")
