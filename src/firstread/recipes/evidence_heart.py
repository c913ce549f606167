"""Evidence from k-space to ejection fraction on phantom subjects, by one command:

    python -m firstread.recipes.evidence_heart -o docs/evidence --subjects 200 --workers 2 --cache FOLDER

First the calibration family (``--calibration`` subjects), which makes the default intervals ``heart-intervals.json``;
then the test family with those intervals. Every subject's steps are stored in the cache: kill it, run it again, and it
goes on. ``--until`` stops after a step, so that phantoms can be drawn before weights are final.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from firstread.acquire.heart_population import Family
from firstread.core.errors import FirstreadError, InputError
from firstread.recipes import heart_subjects as subjects
from firstread.recipes.heart_tables import Results, calibrate_on, report
from firstread.reconstruct.iterative import CGSense, TemporalTV
from firstread.trust.intervals import Calibration

STEPS = ("simulated", "reconstructed", "measured")
LEVEL = 0.9
WEIGHTS = Path(__file__).parents[1] / "zoo" / "weights"


@dataclass(frozen=True)
class Job:
    """What every worker does, and where."""

    cache: Path
    scanner: subjects.Scanner
    weights: str | None
    until: str
    classical: int

    def run(self, family: Family, index: int) -> Path | None:
        """All steps of one subject that are not stored yet; the file of the last, None where ``until`` ends earlier."""
        stem = f"{family}-{index:04d}-{self.scanner.label()}"
        scan = self.cache / f"{stem}.npz"
        if not scan.is_file():
            subjects.save(scan, subjects.simulate(self.scanner, family, index))
        if self.until == STEPS[0]:
            return None
        reader = subjects.Reader.build(self.weights)
        picture = self.cache / f"{stem}-{reader.label(reader.reconstruct)}.image.npz"
        made = subjects.load(scan)
        if not picture.is_file():
            rivals = [CGSense(), TemporalTV()] if family == "test" and index < self.classical else []
            image, errors = subjects.reconstructed(reader, made, rivals)
            subjects.write_array(picture, image=image.numpy(), errors=np.array(json.dumps(errors)))
        if self.until == STEPS[1]:
            return None
        both = reader.label(reader.reconstruct) + reader.label(reader.measure)
        numbers = self.cache / f"{stem}-{both}.json"
        if not numbers.is_file():
            with np.load(picture) as stored:
                image, errors = torch.from_numpy(stored["image"]), json.loads(str(stored["errors"]))
            begun = time.process_time()
            found = subjects.measured(reader, made, image) | {"image": errors, "index": index, "family": family,
                                                              "cpu_seconds": time.process_time() - begun}
            subjects.write_text(numbers, json.dumps(found))
        return numbers


def run_all(job: Job, family: Family, count: int, workers: int) -> Results:
    """The subjects 0 … count - 1 of a family, on ``workers`` processes of one thread each."""
    files: list[Path] = []
    begun = time.monotonic()
    with ProcessPoolExecutor(workers, initializer=_alone) as pool:
        waiting = {pool.submit(job.run, family, index) for index in range(count)}
        for done, future in enumerate(as_completed(waiting), start=1):
            file = future.result()
            files += [file] if file is not None else []
            spent = time.monotonic() - begun
            print(f"\r{family}: {done} of {count}, {spent:.0f} s", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return Results([json.loads(file.read_text(encoding="utf-8")) for file in sorted(files)])


def _alone() -> None:
    """One thread, behind everything else on the machine."""
    os.nice(10)
    torch.set_num_threads(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_heart", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--cache", type=Path, required=True, help="folder of what is stored per subject")
    parser.add_argument("--subjects", type=int, default=200, help="of the test family")
    parser.add_argument("--calibration", type=int, default=100, help="subjects of the calibration family")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--weights", help="of the segmentation: a default weight's name or a file")
    parser.add_argument("--classical", type=int, default=40, help="test subjects reconstructed by the classical method")
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1])
    parser.add_argument("--intervals", type=Path, help="where the calibration goes (default: the default weights)")
    parser.add_argument("--status", default="", help="a sentence put on top, for tables that are not final")
    asked = parser.parse_args(argv)
    try:
        if not asked.cache.is_dir():
            raise InputError(f"no folder {asked.cache.name}", expected="a folder for --cache", remedy="make it first")
        job = Job(asked.cache, subjects.Scanner(), asked.weights, asked.until, asked.classical)
        calibrating = run_all(job, "calibration", asked.calibration, asked.workers)
        testing = run_all(job, "test", asked.subjects, asked.workers)
        if asked.until != STEPS[-1]:
            return 0
        reader = subjects.Reader.build(asked.weights)
        calibration: Calibration = calibrate_on(calibrating, LEVEL, reader.weights())
        calibration.save(asked.intervals or WEIGHTS / "heart-intervals.json")
        command = "python -m firstread.recipes.evidence_heart " + shlex.join(
            ["-o", "docs/evidence", "--subjects", str(asked.subjects), "--calibration", str(asked.calibration),
             "--workers", str(asked.workers), "--cache", "FOLDER"])
        report(asked.output, testing, calibration, job.scanner, reader, command=command, status=asked.status)
    except FirstreadError as error:
        print(f"evidence_heart: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
