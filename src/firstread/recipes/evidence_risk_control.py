"""Evidence of conformal risk control for masks and distances, on phantom subjects, by one command:

    python -m firstread.recipes.evidence_risk_control -o docs/evidence --cache FOLDER

The subjects are those of ``evidence_intervals`` and are taken from its cache where it has them. Of each, the losses at
every margin are stored; all splits are made from these. Kill it, run it again, and it goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from firstread.acquire.heart_population import Family
from firstread.core.case import Case
from firstread.core.errors import FirstreadError, InputError, SettingError
from firstread.core.records import HardLabels, Image
from firstread.core.stage import Chain
from firstread.ops.regions import signed_distance_mm
from firstread.recipes import heart_subjects as subjects
from firstread.recipes.evidence_heart import Job, in_turn, run_all
from firstread.recipes.evidence_intervals import SHIFTS
from firstread.recipes.files import write_text
from firstread.recipes.risk_tables import MARGINS, Losses, page
from firstread.trust.bands import band_losses, structure
from firstread.trust.risk_control import distant_share

STRUCTURES = ("LV cavity", "LV myocardium")


@dataclass(frozen=True)
class RiskJob(Job):
    """As ``Job``, from reconstructed images: segments end-diastole and end-systole, stores losses at all margins."""

    def file(self, reader: subjects.Reader, family: Family, index: int) -> Path:
        """Where the losses of a subject are stored."""
        asked = hashlib.sha256(str((MARGINS, STRUCTURES)).encode()).hexdigest()[:4]
        made = f"{reader.label(reader.reconstruct)}-risk{asked}{reader.label(reader.measure)}"
        return self.cache / f"{family}-{index:04d}-{self.scanner.label()}-{made}.json"

    def run(self, family: Family, index: int) -> Path | None:
        """Everything of one subject that is not stored yet."""
        reader = subjects.Reader.build(self.weights)
        numbers = self.file(reader, family, index)
        if not numbers.is_file():
            Job(self.cache, self.scanner, self.weights, "reconstructed", 0).run(family, index)
            stem = f"{family}-{index:04d}-{self.scanner.label()}"
            made = subjects.load(self.cache / f"{stem}.npz")
            with np.load(self.cache / f"{stem}-{reader.label(reader.reconstruct)}.image.npz") as stored:
                image = torch.from_numpy(stored["image"])
            write_text(numbers, json.dumps(losses_of(reader, made, image)))
        return numbers


def losses_of(reader: subjects.Reader, made: subjects.Simulated, image: Tensor) -> dict[str, dict[str, list[float]]]:
    """By structure: losses at every margin over both frames, and volumes in shares of the predicted one."""
    truth = made.labels
    volumes = structure(truth, ("LV cavity",))[0].sum(dim=(1, 2, 3))
    frames = [int(volumes.argmax()), int(volumes.argmin())]
    one = Image(truth.rows, image[:, frames], truth.grid)
    true = HardLabels(truth.rows, truth.data[:, frames], truth.grid, truth.names)
    with torch.no_grad():
        predicted = Chain(*reader.measure.steps[:2])(Case({"image": one}))["labels"]
    return {name: structure_losses(predicted, true, name) for name in STRUCTURES}


def structure_losses(predicted: HardLabels, true: HardLabels, name: str) -> dict[str, list[float]]:
    """Losses and volumes of one structure at every margin, over all frames and slices together."""
    margins = torch.tensor(MARGINS, dtype=torch.float64)
    losses = band_losses(predicted, true, (name,), margins)
    mask, wanted = structure(predicted, (name,))[0], structure(true, (name,))[0]
    _, y, x = predicted.grid.spacing_mm[0].tolist()
    distance = signed_distance_mm(mask, (y, x))
    size = max(1, int(mask.sum()))
    far = signed_distance_mm(border(mask, (y, x)), (y, x)).clamp_min(0)[border(wanted, (y, x))]
    return {"missed": losses["missed"][0].tolist(), "claimed": losses["claimed"][0].tolist(),
            "distant": distant_share(far, margins).tolist(),
            "outer": [int((distance <= margin).sum()) / size for margin in MARGINS],
            "inner": [int((distance < -margin).sum()) / size for margin in MARGINS],
            "truth": [int(wanted.sum()) / size]}


def border(mask: Bool[Tensor, "*lead y x"], spacing_mm: tuple[float, float]) -> Bool[Tensor, "*lead y x"]:
    """The pixels of a mask that have a neighbour outside it, within the plane.

    >>> border(torch.ones(1, 3, 5).bool() & (torch.arange(5) < 4), (1.0, 1.0))[0, 1].tolist()
    [False, False, False, True, False]
    """
    return mask & (signed_distance_mm(mask, spacing_mm) >= -max(spacing_mm) - 1e-9)


def gathered(job: RiskJob, reader: subjects.Reader, family: Family, count: int) -> Losses | None:
    """What is stored of the first ``count`` subjects; None where nothing is."""
    files = [file for index in range(count) if (file := job.file(reader, family, index)).is_file()]
    return Losses([json.loads(file.read_text(encoding="utf-8")) for file in files]) if files else None


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_risk_control", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page")
    parser.add_argument("--cache", type=Path, required=True, help="folder of what is stored per subject")
    parser.add_argument("--subjects", type=int, default=200, help="of the test family")
    parser.add_argument("--calibration", type=int, default=100, help="subjects of the calibration family")
    parser.add_argument("--shifted", type=int, default=20, help="test subjects for each other scanner")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--weights", help="of the segmentation: a default weight's name or a file")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no subject after that, for each scanner")
    asked = parser.parse_args(argv)
    try:
        if not asked.cache.is_dir():
            raise InputError(f"no folder {asked.cache.name}", expected="a folder for --cache", remedy="make it first")
        if min(asked.subjects, asked.calibration, asked.shifted or 3) < 3:
            raise SettingError(f"{asked.subjects} subjects, {asked.calibration} to calibrate, {asked.shifted} of each "
                               "other scanner", expected="three or more of each, of other scanners none or three",
                               remedy="ask for more")
        reader = subjects.Reader.build(asked.weights)

        def losses(scanner: subjects.Scanner, calibration: int, test: int) -> dict[str, Losses]:
            job = RiskJob(asked.cache, scanner, asked.weights, "measured", 0)
            run_all(job, in_turn(calibration, test), asked.workers, asked.minutes)
            counts: list[tuple[Family, int]] = [("calibration", calibration), ("test", test)]
            return {family: made for family, count in counts if (made := gathered(job, reader, family, count))}

        base = losses(subjects.Scanner(), asked.calibration, asked.subjects)
        others = {called: made["test"] for called, scanner in SHIFTS.items()
                  if asked.shifted and "test" in (made := losses(scanner, 0, asked.shifted))}
        command = "python -m firstread.recipes.evidence_risk_control " + shlex.join(
            ["-o", "docs/evidence", "--subjects", str(asked.subjects), "--calibration", str(asked.calibration),
             "--shifted", str(asked.shifted), "--cache", "FOLDER"])
        text = page(base["calibration"], base["test"], others, command=command)
        asked.output.mkdir(parents=True, exist_ok=True)
        (asked.output / "risk-control.md").write_text(text, encoding="utf-8")
    except FirstreadError as error:
        print(f"evidence_risk_control: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
