"""Evidence from k-space to ejection fraction on phantom subjects, by one command:

    python -m firstread.recipes.evidence_heart -o docs/evidence --subjects 200 --workers 2 --cache FOLDER

The subjects of the calibration family make the default intervals ``heart-intervals.json``, with what the guard knows of
their images; those of the test family are read with them. With ``--images`` the same subjects are read from their fully
sampled images instead, for ``heart-intervals-images.json``. Every subject's steps are stored in the cache: kill it, run
it again, and it goes on.
``--until`` stops after a step, so that phantoms can be drawn before weights are final; ``--minutes`` reports on what is
done by then.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.acquire.heart_population import Family
from firstread.core.errors import FirstreadError, InputError
from firstread.recipes import heart_subjects as subjects
from firstread.recipes.files import write_array, write_text
from firstread.recipes.heart_tables import Results, Source, calibrate_on, report
from firstread.reconstruct.iterative import CGSense, TemporalTV
from firstread.trust.describe import NAMES as FEATURES
from firstread.trust.describe import DescribeImage
from firstread.trust.intervals import Calibration
from firstread.trust.shift import Novelty, fit_novelty

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
    images: bool = False

    def file(self, reader: subjects.Reader, family: Family, index: int) -> Path:
        """Where the numbers of a subject are stored."""
        return self.cache / f"{self._stem(family, index)}-{self._source(reader)}{reader.label(reader.measure)}.json"

    def run(self, family: Family, index: int) -> Path | None:
        """All steps of one subject that are not stored yet; the file of the last, None where ``until`` ends earlier."""
        stem = self._stem(family, index)
        scan, rivals = self.cache / f"{stem}.npz", self.cache / f"{stem}.classical.json"
        compared = family == "test" and index < self.classical and not self.images
        reader = None if self.until == STEPS[0] else subjects.Reader.build(self.weights)
        if reader is not None and self.until == STEPS[2] and (rivals.is_file() or not compared):
            stored = self.file(reader, family, index)
            if stored.is_file():
                return stored
        if not scan.is_file():
            subjects.save(scan, subjects.simulate(self.scanner, family, index))
        made = subjects.load(scan)
        if compared and not rivals.is_file():
            errors = subjects.classical_errors(made, [CGSense(), TemporalTV()])
            write_text(rivals, json.dumps(errors))
        if reader is None:
            return None
        picture = self.cache / f"{stem}-{self._source(reader)}.image.npz"
        if not self.images and not picture.is_file():
            image, errors = subjects.reconstructed(reader, made)
            write_array(picture, image=image.numpy(), errors=np.array(json.dumps(errors)))
        if self.until == STEPS[1]:
            return None
        numbers = self.file(reader, family, index)
        if not numbers.is_file():
            if self.images:
                image = subjects.scanned(self.scanner, made, subjects.FIRST_SEED[family] + index)
                errors = {subjects.OURS: subjects.image_errors(made.as_image(image), made.magnitude)}
            else:
                with np.load(picture) as stored_image:
                    image, errors = (torch.from_numpy(stored_image["image"]),
                                     json.loads(str(stored_image["errors"])))
            if not self.images and rivals.is_file():
                errors |= json.loads(rivals.read_text(encoding="utf-8"))
            begun = time.process_time()
            found = subjects.measured(reader, made, image) | {"image": errors, "index": index, "family": family}
            write_text(numbers, json.dumps(found | {"cpu_seconds": time.process_time() - begun}))
        return numbers

    def _stem(self, family: Family, index: int) -> str:
        return f"{family}-{index:04d}-{self.scanner.label()}"

    def _source(self, reader: subjects.Reader) -> str:
        return "images" if self.images else reader.label(reader.reconstruct)

    def described(self, family: Family, index: int) -> Float[Tensor, " feature"]:
        """Features of one subject's image, as the chain sees it; what makes it must be stored."""
        stem = self._stem(family, index)
        made = subjects.load(self.cache / f"{stem}.npz")
        if self.images:
            image = subjects.scanned(self.scanner, made, subjects.FIRST_SEED[family] + index)
        else:
            reader = subjects.Reader.build(self.weights)
            with np.load(self.cache / f"{stem}-{self._source(reader)}.image.npz") as stored:
                image = torch.from_numpy(stored["image"])
        return DescribeImage()(made.as_image(image)).data[0]


def novelty_of(features: Float[Tensor, "subject feature"], *, calibrated_on: str, reference: float = 0.4) -> Novelty:
    """How unlike these subjects an image is, by the features that differ between them.

    reference: share of the subjects that give mean and covariance; the scores of the others calibrate. Pixel size and
    slice distance are the same in all of them, so nothing is known of others: they do not count.
    """
    chosen = [number for number, name in enumerate(FEATURES) if not name.endswith("_mm")]
    cut = int(reference * len(features))
    return fit_novelty(features[:cut, chosen], features[cut:, chosen], tuple(FEATURES[i] for i in chosen),
                       calibrated_on=calibrated_on)


def in_turn(calibration: int, test: int) -> list[tuple[Family, int]]:
    """Subjects of both families mixed in proportion, so that a run cut short has its share of each.

    >>> in_turn(1, 2)
    [('calibration', 0), ('test', 0), ('test', 1)]
    """
    keyed = [((index + 0.5 * (family == "test")) / max(count, 1), family, index)
             for family, count in (("calibration", calibration), ("test", test)) for index in range(count)]
    return [(family, index) for _, family, index in sorted(keyed, key=lambda item: item[0])]


def run_all(job: Job, work: Sequence[tuple[Family, int]], workers: int, minutes: float) -> dict[Family, Results]:
    """All of ``work`` on ``workers`` processes of one thread each; after ``minutes`` no new subject is begun."""
    files: dict[Family, list[Path]] = {"calibration": [], "test": []}
    begun = time.monotonic()
    with ProcessPoolExecutor(workers, initializer=_alone) as pool:
        waiting = {pool.submit(job.run, family, index): family for family, index in work}
        seconds = 60 * minutes if minutes < math.inf else None
        try:
            for done, future in enumerate(as_completed(waiting, timeout=seconds), start=1):
                file, spent = future.result(), time.monotonic() - begun
                files[waiting[future]] += [file] if file is not None else []
                print(f"\r{done} of {len(work)} subjects, {spent:.0f} s", end="", file=sys.stderr, flush=True)
        except TimeoutError:
            print("\nout of time: the tables hold the subjects that are done", end="", file=sys.stderr)
            pool.shutdown(wait=True, cancel_futures=True)
    print(file=sys.stderr)
    return {family: Results([json.loads(path.read_text(encoding="utf-8")) for path in sorted(paths)])
            for family, paths in files.items()}


def _alone() -> None:
    """One thread, behind everything else on the machine."""
    os.setpriority(os.PRIO_PROCESS, 0, max(10, os.getpriority(os.PRIO_PROCESS, 0)))
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
    parser.add_argument("--classical", type=int, default=20, help="test subjects reconstructed by the classical method")
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1])
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no subject after that, and report")
    parser.add_argument("--intervals", type=Path, help="where the calibration goes (default: the default weights)")
    parser.add_argument("--images", action="store_true", help="read the fully sampled images, not the k-space")
    parser.add_argument("--status", default="", help="a sentence put on top, for tables that are not final")
    asked = parser.parse_args(argv)
    try:
        if not asked.cache.is_dir():
            raise InputError(f"no folder {asked.cache.name}", expected="a folder for --cache", remedy="make it first")
        job = Job(asked.cache, subjects.Scanner(), asked.weights, asked.until, asked.classical, asked.images)
        found = run_all(job, in_turn(asked.calibration, asked.subjects), asked.workers, asked.minutes)
        if asked.until != STEPS[-1]:
            return 0
        reader = subjects.Reader.build(asked.weights)
        source: Source = "images" if asked.images else "k-space"
        weights = reader.weights(images=asked.images)
        calibration: Calibration = calibrate_on(found["calibration"], LEVEL, weights, source)
        features = torch.stack([job.described("calibration", row["index"]) for row in found["calibration"].rows])
        novelty = novelty_of(features, calibrated_on=calibration.calibrated_on)
        file = asked.intervals or WEIGHTS / f"heart-intervals{'-images' if asked.images else ''}.json"
        replace(calibration, novelty=novelty).save(file)
        command = "python -m firstread.recipes.evidence_heart " + shlex.join(
            ["-o", "docs/evidence", "--subjects", str(asked.subjects), "--calibration", str(asked.calibration),
             "--workers", str(asked.workers), "--cache", "FOLDER", *(["--images"] if asked.images else [])])
        report(asked.output, found["test"], calibration, job.scanner, reader, command=command, status=asked.status,
               source=source)
    except FirstreadError as error:
        print(f"evidence_heart: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
