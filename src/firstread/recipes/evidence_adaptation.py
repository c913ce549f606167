"""Does the scan itself adapt the reconstruction? On simulated subjects of scanners that the cascade has not seen:

    python -m firstread.recipes.evidence_adaptation -o docs/evidence --subjects 6 --seeds 3 --work FOLDER

Every subject of the test family is scanned by the scanner of the training range and by shifted ones, reconstructed by
the default cascade as it is and adapted, and measured. Every reading is stored: kill it, run it again, and it goes on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from firstread.acquire.coils import GaussianCoils, LoopCoils
from firstread.acquire.heart import heart_subject
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import VariableDensity
from firstread.chains.heart import reconstruction
from firstread.core.case import Case
from firstread.core.errors import FirstreadError, SettingError
from firstread.core.keys import Key
from firstread.core.stage import Stage
from firstread.recipes.files import write_text
from firstread.recipes.heart_subjects import FIRST_SEED, Reader, Scanner, Simulated, image_errors
from firstread.reconstruct.adapt import AdaptedCascade
from firstread.reconstruct.cascade import Cascade
from firstread.trust.bootstrap import paired_difference


@dataclass(frozen=True)
class Shift:
    """A scanner; contrast: exponent of the magnitude (1 as trained, below 1 flatter); loops: coils as in testing."""

    scanner: Scanner = field(default_factory=lambda: Scanner(gap_mm=20.0))
    contrast: float = 1.0
    loops: bool = True


SHIFTS: Mapping[str, Shift] = {
    "as calibrated (6-fold, SNR 30)": Shift(),
    "SNR 12": Shift(Scanner(gap_mm=20.0, snr=12.0)),
    "10-fold": Shift(Scanner(gap_mm=20.0, acceleration=10.0)),
    "flat contrast (magnitude to the power 0.4)": Shift(contrast=0.4),
    "16 broad coils": Shift(Scanner(gap_mm=20.0, coils=16), loops=False)}


def simulate(shift: Shift, index: int) -> Simulated:
    """Subject ``index`` of the test family, as this scanner sees it."""
    scanner, seed = shift.scanner, FIRST_SEED["test"] + index
    made = heart_subject(seed=seed, family="test", matrix=(scanner.matrix, scanner.matrix), frames=scanner.frames,
                         spacing_mm=scanner.spacing_mm, slice_thickness_mm=scanner.slice_thickness_mm,
                         gap_mm=scanner.gap_mm)
    size = made.image.data.abs()
    peak = size.amax().clamp_min(1e-30)
    flat = made.image.data * (size / peak).clamp_min(1e-4) ** (shift.contrast - 1)
    image = replace(made.image, data=flat)
    coils = LoopCoils(count=scanner.coils) if shift.loops else GaussianCoils(count=scanner.coils)
    encode = Encode(sampling=VariableDensity(acceleration=scanner.acceleration), coils=coils, snr=scanner.snr)
    return Simulated(encode(image, Key(seed, "evidence")), made.labels, flat[0, :, 0].abs(), dict(made.truth.values),
                     made.truth.pathology)


def read(shift: Shift, index: int, *, steps: int, seeds: int, reader: Reader) -> dict[str, Any]:
    """Image error and LVEF of one subject, as it is and adapted under every seed of the held-out lines."""
    made = simulate(shift, index)
    plain = next(stage for stage in reconstruction() if isinstance(stage, Cascade))
    adapted: Stage = AdaptedCascade(network=plain.network, steps=steps)
    found: dict[str, Any] = {"truth": made.truth["LVEF"], "before": _numbers(made, plain, Key(0, "plain"), reader)}
    found["after"] = [_numbers(made, adapted, Key(seed, "adapt"), reader) for seed in range(seeds)]
    return found


def _numbers(made: Simulated, stage: Stage, key: Key, reader: Reader) -> dict[str, Any]:
    started = time.process_time()
    with torch.no_grad():
        image = stage(made.kspace, key) if stage.random else stage(made.kspace)
        seconds = time.process_time() - started
        phenotypes = reader.measure(Case({"image": made.as_image(image.data)}))["phenotypes.point"]
    value = phenotypes["LVEF"].value
    return {"NRMSE": image_errors(image, made.magnitude)["NRMSE"], "LVEF": None if value is None else value.item(),
            "seconds": seconds, "kept": any(note.code == "adapted" for note in image.notes)}


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A Markdown row per scanner: means before and after, their paired difference over subjects and seeds."""
    lines = []
    for called, subjects in found.items():
        seeds = len(subjects[0]["after"])
        before = torch.tensor([[s["before"]["NRMSE"]] * seeds for s in subjects], dtype=torch.float64)
        after = torch.tensor([[run["NRMSE"] for run in s["after"]] for s in subjects], dtype=torch.float64)
        measured = [s for s in subjects if all(run["LVEF"] is not None for run in (s["before"], *s["after"]))]
        error = torch.tensor([[abs(s["before"]["LVEF"] - s["truth"])] * seeds for s in measured], dtype=torch.float64)
        later = torch.tensor([[abs(run["LVEF"] - s["truth"]) for run in s["after"]] for s in measured],
                             dtype=torch.float64)
        kept = sum(run["kept"] for s in subjects for run in s["after"])
        seconds = sum(run["seconds"] for s in subjects for run in s["after"]) / sum(
            s["before"]["seconds"] * seeds for s in subjects)
        ef = (f"{error.mean():.1f} | {paired_difference(later, error).text()}" if len(measured) > 2
              else f"measured in {len(measured)} subjects | –")
        lines.append(f"| {called} | {kept} of {after.numel()} | {before.mean():.3f} | "
                     f"{paired_difference(after, before).text(3)} | {ef} | {seconds:.0f} × |")
    return lines


def report(found: Mapping[str, Sequence[Mapping[str, Any]]], *, steps: int, command: str) -> str:
    """The page."""
    first = next(iter(found.values()))
    scanner = Shift().scanner
    text = ["# Adaptation of the reconstruction to one scan", "",
            f"**Simulated**, small: {len(first)} subjects of the test family, the held-out lines drawn under "
            f"{len(first[0]['after'])} seeds, {scanner.matrix}² pixels of {scanner.spacing_mm:g} mm, {scanner.frames} "
            f"frames, slices every {scanner.slice_thickness_mm + scanner.gap_mm:g} mm.",
            f"The default cascade as it is, and fitted to each scan by its own lines in {steps} steps at most, rolled",
            "back unless held-out lines say that it helps. NRMSE of the magnitude against the noiseless image; LVEF",
            "error: mean absolute, in points, against the analytic truth (few slices, so large). Differences: after",
            "minus before, paired by subject and seed, 95 % bootstrap interval over both. Cost: processor time over",
            "that of the plain cascade; 1 × where a scan has too few lines to hold any out, and stays as it is.", "",
            "| scanner | kept | NRMSE before | difference | LVEF error before | difference | cost |",
            "|---|---|---|---|---|---|---|", *table(found), "", "```", command, "```", ""]
    return "\n".join(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_adaptation", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page and the numbers")
    parser.add_argument("--work", type=Path, required=True, help="folder of the readings")
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    asked = parser.parse_args(argv)
    try:
        if asked.subjects < 3 or min(asked.seeds, asked.steps) < 1:
            raise SettingError(f"{asked.subjects} subjects, {asked.seeds} seeds, {asked.steps} steps",
                               expected="three subjects or more, one seed and step or more", remedy="ask for more")
        reader, found = Reader.build(None), {}
        asked.work.mkdir(parents=True, exist_ok=True)
        for number, (called, shift) in enumerate(SHIFTS.items()):
            for index in range(asked.subjects):
                place = asked.work / f"{number}-{index:03d}-{asked.steps}-{asked.seeds}.json"
                if not place.is_file():
                    print(f"{called}, subject {index}", file=sys.stderr, flush=True)
                    one = read(shift, index, steps=asked.steps, seeds=asked.seeds, reader=reader)
                    write_text(place, json.dumps(one))
                found.setdefault(called, []).append(json.loads(place.read_text(encoding="utf-8")))
    except FirstreadError as error:
        print(f"evidence_adaptation: {error}", file=sys.stderr)
        return 2
    said = shlex.join(["--subjects", str(asked.subjects), "--seeds", str(asked.seeds), "--steps", str(asked.steps)])
    command = f"python -m firstread.recipes.evidence_adaptation -o docs/evidence --work FOLDER {said}"
    asked.output.mkdir(parents=True, exist_ok=True)
    write_text(asked.output / "adaptation.md", report(found, steps=asked.steps, command=command))
    write_text(asked.output / "adaptation.json", json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
