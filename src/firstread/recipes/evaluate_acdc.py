"""Dice on real short-axis scans (ACDC): ``python -m firstread.recipes.evaluate_acdc FOLDER -o docs/evidence``.

The folder holds one ``patientNNN.npz`` each with ``ed_image``, ``es_image``, ``ed_label``, ``es_label`` (slice, y, x);
labels 1 right cavity, 2 myocardium, 3 left cavity. The spacing is not in the files: 1.5 x 1.5 x 9 mm is assumed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from firstread.analyze.consensus import Consensus
from firstread.analyze.segment import Segment
from firstread.chains.trained import networks_of
from firstread.core.errors import FirstreadError, InputError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.core.stage import Chain
from firstread.zoo.store import load

SPACING_MM = (9.0, 1.5, 1.5)
WEIGHTS = ("heart-sax", "heart-sax-sunnybrook")
CLASSES = ("LV cavity", "LV myocardium", "RV cavity")
OURS = (0, 3, 2, 1)  # their label -> ours


@dataclass(frozen=True)
class Scan:
    """One phase of one patient: truth and prediction, class indices ``[z, y, x]``."""

    patient: str
    phase: str
    image: np.ndarray
    truth: np.ndarray
    found: np.ndarray

    def dice(self, index: int) -> float:
        """``2 |A & B| / (|A| + |B|)`` over the volume; 1 where both are empty."""
        a, b = self.truth == index, self.found == index
        total = int(a.sum() + b.sum())
        return 2 * int((a & b).sum()) / total if total else 1.0


def segment_folder(folder: Path, networks: Sequence[nn.Module]) -> list[Scan]:
    """All patients of ``folder``, each phase by itself."""
    files = sorted(folder.glob("patient*.npz"))
    if not files:
        raise InputError(f"no patients in {folder.name}", expected="files patientNNN.npz", remedy="give ACDC's folder")
    chain = Chain(Segment(networks=networks), Consensus())
    scans = []
    for file in files:
        with np.load(file) as stored:
            for phase in ("ed", "es"):
                image = stored[f"{phase}_image"].astype(np.float32)
                truth = np.array(OURS, dtype=np.uint8)[stored[f"{phase}_label"]]
                grid = Grid.from_spacing(image.shape, SPACING_MM, frame="detector")
                record = Image(Rows.subjects(1), torch.from_numpy(image)[None, None, None], grid)
                with torch.no_grad():
                    found = chain(record)["labels"].data[0, 0, 0].numpy()
                scans.append(Scan(file.stem, phase.upper(), image, truth, found))
    return scans


def interval(values: np.ndarray, *, level: float = 0.95, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over patients.

    >>> interval(np.array([0.9, 0.9, 0.9]))
    (0.9, 0.9)
    """
    pick = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(values[pick].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return round(float(low), 4), round(float(high), 4)


def dice_table(scans: Sequence[Scan]) -> dict[str, dict[str, Any]]:
    """Per class: mean over patients of (ED + ES) / 2 with its interval, mean of each phase, and the worst patient."""
    patients = sorted({s.patient for s in scans})
    table: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(CLASSES, start=1):
        each = {(s.patient, s.phase): s.dice(index) for s in scans}
        both = np.array([(each[p, "ED"] + each[p, "ES"]) / 2 for p in patients])
        worst = int(both.argmin())
        table[name] = {"dice": round(float(both.mean()), 4), "interval_95": interval(both),
                       "ED": round(float(np.mean([each[p, "ED"] for p in patients])), 4),
                       "ES": round(float(np.mean([each[p, "ES"] for p in patients])), 4),
                       "worst": [patients[worst], round(float(both[worst]), 3)]}
    return table


def failures(scans: Sequence[Scan]) -> dict[str, Any]:
    """What was taken for what (share of all wrong voxels), volume ratios, Dice by the slice's place in the stack."""
    names = ("background", *CLASSES)
    count = np.zeros((4, 4))
    places: dict[str, np.ndarray] = {p: np.zeros((3, 2)) for p in ("base", "middle", "apex", "beyond the labels")}
    for scan in scans:
        np.add.at(count, (scan.truth.ravel(), scan.found.ravel()), 1)
        labelled = [z for z in range(len(scan.truth)) if (scan.truth[z] > 0).any()]
        for z in range(len(scan.truth)):
            if z not in labelled:
                place = "beyond the labels"
            else:
                place = "base" if z == labelled[0] else "apex" if z == labelled[-1] else "middle"
            for c in (1, 2, 3):
                a, b = scan.truth[z] == c, scan.found[z] == c
                places[place][c - 1] += (2 * (a & b).sum(), a.sum() + b.sum())
    wrong = count * (1 - np.eye(4))
    kinds = sorted(((f"{names[i]} called {names[j]}", round(float(wrong[i, j] / wrong.sum()), 3))
                    for i in range(4) for j in range(4) if i != j), key=lambda kind: -kind[1])
    return {"share_of_wrong_voxels": dict(kinds[:8]),
            "volume_ratio": {names[c]: round(float(count[:, c].sum() / count[c].sum()), 3) for c in (1, 2, 3)},
            "slice_dice": {p: [round(float(n / max(1, d)), 3) for n, d in v] for p, v in places.items()}}


def evaluate(folder: Path, name: str) -> dict[str, Any]:
    """The figures of one weight: its name and summary, ``dice`` and ``failures``, and the number of patients."""
    weight = load(name)
    scans = segment_folder(folder, networks_of(weight))
    return {"name": weight.name, "summary": weight.card["summary"], "patients": len(scans) // 2,
            "dice": dice_table(scans), "failures": failures(scans)}


def render(weights: Sequence[Mapping[str, Any]]) -> str:
    """The page of evidence, as Markdown, from :func:`evaluate` of each weight."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("firstread.recipes", "."), undefined=StrictUndefined,
                              autoescape=False, trim_blocks=True, keep_trailing_newline=True)
    kinds = list(dict.fromkeys(kind for found in weights for kind in found["failures"]["share_of_wrong_voxels"]))
    return environment.get_template("acdc_evidence.md.jinja").render(
        weights=weights, kinds=kinds, patients=weights[0]["patients"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: figures to read, and with ``-o`` the page and its numbers as files."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evaluate_acdc",
                                     description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="files patientNNN.npz")
    parser.add_argument("--weights", nargs="+", default=WEIGHTS, metavar="NAME", help="default weights, or files")
    parser.add_argument("-o", "--output", type=Path, help="folder for acdc.md and acdc.json")
    given = parser.parse_args(arguments)
    try:
        found = [evaluate(given.folder, name) for name in given.weights]
    except FirstreadError as error:
        print(f"evaluate_acdc: {error}", file=sys.stderr)
        return 2
    for weight in found:
        print(f"{weight['patients']} patients, {weight['name']}, 1.5 x 1.5 x 9 mm assumed; 95 % bootstrap intervals")
        for name, row in weight["dice"].items():
            low, high = row["interval_95"]
            phases = f"ED {row['ED']:.3f}  ES {row['ES']:.3f}"
            print(f"{name:14s} {row['dice']:.3f} [{low:.3f}, {high:.3f}]  {phases}  worst {row['worst']}")
        for title, content in weight["failures"].items():
            print(title, content)
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "acdc.md").write_text(render(found), encoding="utf-8")
        (given.output / "acdc.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
