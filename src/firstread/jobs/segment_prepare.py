"""From files to a fingerprint, and to cases as training wants them, kept on disk while it runs."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from firstread.analyze.trained import prepared
from firstread.core.errors import FirstreadError, InputError, OutputError, SignalError
from firstread.jobs.segment_data import DataSet, Sample, class_indices, counted, load_sample
from firstread.learn.fingerprint import CaseFacts, case_facts, fingerprint
from firstread.learn.patches import PreparedCase, find_places
from firstread.nets.plan import Plan
from firstread.ops.arrange import Arrangement

Progress = Callable[[str], None]


def data_hash(data: DataSet) -> str:
    """Which files a data set holds: names, sizes, patients, what was annotated. Not their content."""
    lines = [f"{s.name}|{s.patient}|{','.join(s.annotated)}|"
             + "|".join(f"{p.name}:{_size(p)}" for p in (*s.images, s.label)) for s in data.samples]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def newest(data: DataSet) -> float:
    """When the latest of the files was written: what tells that one was replaced while training was interrupted."""
    return max(path.stat().st_mtime for s in data.samples for path in (*s.images, s.label))


def fingerprint_of(data: DataSet, *, progress: Progress) -> dict[str, Any]:
    """Open every case once. Raises what opening raises, and InputError for cases of different numbers of channels,
    or where no voxel of any has a class."""
    facts: list[CaseFacts] = []
    for number, sample in enumerate(data.samples, start=1):
        progress(f"fingerprint: {sample.name} ({number} of {len(data.samples)})")
        image, values = load_sample(sample)
        if not bool(torch.isfinite(image.data).all()):
            raise SignalError(f"{sample.name}: values that are no numbers", expected="finite values",
                              remedy="repair the image")
        facts.append(case_facts(sample.name, sample.patient, image.data[0], values, image.grid))
    if not any(value not in (0, data.ignored) for f in facts for value in f.voxels):
        raise InputError(f"labels of {counted(len(facts), 'case')} that are background everywhere",
                         expected="voxels of one class or more", remedy="check that these are the labels")
    channels = {len(f.intensity) for f in facts}
    if len(channels) > 1:
        raise InputError(f"cases of {sorted(channels)} channels", expected="the same channels for all",
                         remedy="leave out the others")
    made = fingerprint(facts, names=data.names, modalities=data.modalities)
    return {**made, "data": data_hash(data)}


def prepare_cases(data: DataSet, plan: Plan, folder: Path, *, progress: Progress) -> list[PreparedCase]:
    """All cases at the plan's spacing, from the folder where they are there, else made and kept there."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, sample in enumerate(data.samples):
        home = folder / f"{number:05d}"
        annotated = annotated_of(sample, plan)
        case = _stored(home, annotated) if home.is_dir() else None
        if case is None:
            progress(f"preparing: {sample.name} ({number + 1} of {len(data.samples)})")
            shutil.rmtree(home, ignore_errors=True)
            _store(home, *_prepared(sample, plan), plan)
            case = _stored(home, annotated)
        if case is None:
            raise OutputError(f"{home.name}, which could not be read back", expected="a disk that keeps its "
                              "files", remedy="free some space, and run the command again")
        made.append(case)
    return made


def annotated_of(sample: Sample, plan: Plan) -> Tensor:
    """Which of the plan's classes were looked for in a case. Raises InputError for a name the plan does not know."""
    if not sample.annotated:
        return torch.ones(len(plan.classes), dtype=torch.bool)
    found = torch.zeros(len(plan.classes), dtype=torch.bool)
    found[0] = True
    for wanted in sample.annotated:
        places = [i for i, c in enumerate(plan.classes) if wanted in (c.name, str(c.value))]
        if not places:
            raise InputError(f"{sample.name}: annotated for {wanted!r}", expected=f"one of {', '.join(plan.names)}",
                             remedy="correct the column `annotated`")
        found[places[0]] = True
    return found


def _prepared(sample: Sample, plan: Plan) -> tuple[Tensor, Tensor, tuple[float, ...]]:
    """Image ``[time, channel, z, y, x]`` and class indices at the plan's spacing, and that spacing."""
    image, values = load_sample(sample)
    known = {c.value: index for index, c in enumerate(plan.classes)}
    index = class_indices(values, known, plan.ignored_value, sample.name)
    arrangement = Arrangement.of(image.grid, spacing_mm=plan.spacing_mm, slices=plan.dims == 2)
    try:
        with torch.no_grad():
            data = prepared(image.data[0], arrangement, plan)
    except FirstreadError as error:
        raise type(error)(f"{sample.name}: {error.got}", expected=error.expected, remedy=error.remedy) from error
    label = arrangement.labels(index, classes=len(plan.classes))
    return data, label, tuple(arrangement.target.spacing_mm[0].tolist())


def _store(home: Path, image: Tensor, label: Tensor, spacing: Sequence[float], plan: Plan) -> None:
    """Whole or not at all."""
    work = home.with_name(home.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    np.save(work / "image.npy", image.numpy().astype(np.float32))
    np.save(work / "label.npy", label.numpy().astype(np.uint8))
    places = find_places(label, classes=len(plan.classes), seed=plan.training.seed)
    np.savez(work / "places.npz", **{str(value): where.numpy().astype(np.int32) for value, where in places.items()})
    (work / "spacing.json").write_text(json.dumps(list(spacing)), encoding="utf-8")
    work.rename(home)


def _stored(home: Path, annotated: Tensor) -> PreparedCase | None:
    """Mapped from disk, so that only what patches touch is read; None where it is damaged."""
    try:
        image = torch.from_numpy(np.load(home / "image.npy", mmap_mode="c"))
        label = torch.from_numpy(np.load(home / "label.npy", mmap_mode="c"))
        with np.load(home / "places.npz") as stored:
            places = {int(name): torch.from_numpy(stored[name]).long() for name in stored.files}
        spacing = json.loads((home / "spacing.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    kept = {value: where for value, where in places.items() if bool(annotated[value])}
    return PreparedCase(image, label, kept, annotated, (spacing[0], spacing[1], spacing[2]))


def plan_hash(plan: Plan) -> str:
    """Sixteen digits that change with anything in the plan (a shape term left out is as if plans did not know it, so
    that trainings begun before they did go on)."""
    stated = asdict(plan)
    if not plan.loss.shape:
        del stated["loss"]["shape"]
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:16]


def _size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size
