"""Simulated subjects for joint training, stored once: a cine of a few short-axis slices with its truth.

Phase encoding runs along y; of the readout, which is fully sampled, only the columns about the heart are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from firstread.acquire.heart import LABEL_NAMES, heart_subject
from firstread.acquire.heart_population import Family
from firstread.core.case import Case
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image, Phenotype, Phenotypes, Rows
from firstread.measure.cardiac import CardiacFunction
from firstread.recipes.files import write_array

FIRST_SEED: Mapping[Family, int] = {"train": 100_000, "calibration": 120_000, "test": 140_000}
R = TypeVar("R", Image, HardLabels)


@dataclass(frozen=True)
class Stack:
    """What is scanned of a subject: ``slices`` from the first with LV cavity on, ``lines`` by ``columns`` pixels."""

    lines: int = 160
    columns: int = 56
    frames: int = 12
    slices: int = 3
    spacing_mm: float = 2.0
    thickness_mm: float = 8.0
    gap_mm: float = 16.0

    def label(self) -> str:
        """Short text that differs where any setting does."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


def store(path: Path, stack: Stack, family: Family, number: int) -> None:
    """Make subject ``number`` of ``family``; the file is there whole or not at all."""
    made = heart_subject(seed=FIRST_SEED[family] + number, family=family, matrix=(stack.lines, stack.lines),
                         spacing_mm=stack.spacing_mm, slice_thickness_mm=stack.thickness_mm, gap_mm=stack.gap_mm,
                         frames=stack.frames)
    heart = made.labels.data[0, 0, 0] > 0
    cavity = (made.labels.data[0, 0, 0] == 1).flatten(1).any(dim=1)
    first = min(int(cavity.int().argmax()), len(cavity) - stack.slices)
    middle = int(heart.any(dim=0).any(dim=0).nonzero().float().mean())
    left = min(max(middle - stack.columns // 2, 0), stack.lines - stack.columns)
    image, labels = (_cut(record, stack, first, left) for record in (made.image, made.labels))
    numbers = {"stack": numbers_of(CardiacFunction(warn=False)(labels)), "whole": numbers_of(made.truth.phenotypes())}
    write_case(path, image, labels, numbers | {"pathology": made.truth.pathology})


def write_case(path: Path, image: Image, labels: HardLabels, numbers: Mapping[str, Any]) -> None:
    """Store one subject; numbers: ``stack`` and ``whole``, each name: (value, unit), and whatever is to be kept."""
    data = torch.view_as_real(image.data[0, :, 0])
    write_array(path, data=data.half().numpy(), labels=labels.data[0, :, 0].to(torch.uint8).numpy(),
                affine=image.grid.affine.numpy(), times=image.times_s.numpy(), cycle=image.cycle_s.numpy(),
                numbers=np.array(json.dumps(numbers)))


def store_all(folder: Path, stack: Stack, family: Family, count: int) -> list[Path]:
    """The files of the subjects 0 to ``count - 1``; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{family}-{number:04d}-{stack.label()}.npz" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.is_file():
            store(path, stack, family, number)
    return paths


def case_of(path: Path, *, seed: int) -> Case:
    """A stored subject as a case; coils and noise will follow from ``seed``.

    ``truth.image``: complex and noiseless; ``truth.labels``; ``truth.phenotypes``: of these labels, that is of this
    stack; ``truth.whole``: analytic, of the whole heart.
    """
    with np.load(path) as stored:
        part = {name: stored[name] for name in stored.files}
    data = torch.view_as_complex(torch.from_numpy(part["data"]).float())[None, :, None]
    grid = Grid(torch.from_numpy(part["affine"]), tuple(data.shape[-3:]))
    times = {"times_s": torch.from_numpy(part["times"]), "cycle_s": torch.from_numpy(part["cycle"])}
    labels = torch.from_numpy(part["labels"])[None, :, None]
    numbers, rows = json.loads(str(part["numbers"])), Rows.subjects(1)
    return Case({"truth.image": Image(rows, data, grid, **times),
                 "truth.labels": HardLabels(rows, labels, grid, LABEL_NAMES, **times),
                 "truth.phenotypes": _phenotypes(numbers["stack"]), "truth.whole": _phenotypes(numbers["whole"])},
                seed=seed)


def _cut(record: R, stack: Stack, first: int, left: int) -> R:
    size = (stack.slices, stack.lines, stack.columns)
    data = record.data[:, :, :, first:first + stack.slices, :, left:left + stack.columns].contiguous()
    times, cycle = (None if t is None else t[..., first:first + stack.slices] for t in (record.times_s, record.cycle_s))
    return replace(record, data=data, grid=record.grid.crop((first, 0, left), size), times_s=times, cycle_s=cycle)


def numbers_of(phenotypes: Phenotypes) -> dict[str, tuple[float, str]]:
    """Value and unit of every phenotype that could be measured in one subject."""
    return {name: (p.value.item(), p.unit) for name, p in phenotypes.values.items() if p.value is not None}


def _phenotypes(numbers: Mapping[str, Any]) -> Phenotypes:
    return Phenotypes(Rows.subjects(1), {name: Phenotype(torch.tensor([value], dtype=torch.float64), unit)
                                         for name, (value, unit) in numbers.items()})
