"""The main job: a file in, a reading out.

    file ─▶ Case ─▶ chain ─▶ Reading ─▶ page, JSON, labels, DICOM SEG
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import torch

from firstread.chains.drawn import draws_note, draws_of
from firstread.chains.heart import basis_of, foreign_segmentation, heart_chain
from firstread.core.case import Case
from firstread.core.errors import InputError
from firstread.core.provenance import file_hash, peak_memory_mb, versions
from firstread.core.reading import Person, Reading
from firstread.core.records import Image, KSpace, Note, Phenotypes
from firstread.core.stage import Chain
from firstread.io.folder import check_free, new_folder
from firstread.io.open import located
from firstread.io.open import read as open_file
from firstread.reconstruct.adapt import AdaptedCascade
from firstread.reconstruct.cascade import Cascade
from firstread.report.write import write
from firstread.simulate import compare, read_truth, simulate_hearts
from firstread.trust.by_name import open_calibration
from firstread.trust.intervals import ConformalIntervals, PlainIntervals
from firstread.zoo.store import names

MARKER = "reading.json"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What a user can say about an input.

    axes: of a .npy or .mat array; variable: which array of a .mat file; spacing_mm: (z, y, x) where the file has none;
    series: which DICOM series; phase: of a single frame; sex, height_cm, weight_kg: override the file's; weights: of
    the segmentation, a name of the zoo or a file; model: a segmentation model trained elsewhere in its place, classes:
    which of the model's are LV, MYO and RV, calibration: of its intervals, group: which of those
    of several groups; truth: a subject's folder of ``firstread
    simulate``; identify: keep the patient's name; adapt: the most steps in which the reconstruction of raw signal is
    fitted to this scan, 0 for none; draws: posterior draws of the reconstruction that are measured too; seed: of all
    draws.
    """

    axes: str | None = None
    variable: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    series: str | None = None
    phase: Literal["ED", "ES"] | None = None
    sex: Literal["F", "M"] | None = None
    height_cm: float | None = None
    weight_kg: float | None = None
    weights: str | None = None
    model: Path | None = None
    classes: Mapping[str, str] | None = None
    calibration: Path | None = None
    group: str | None = None
    truth: Path | None = None
    identify: bool = False
    adapt: int = 0
    draws: int = 0
    seed: int = 0

    def stated(self) -> dict[str, Any]:
        """What was said about how to read the input, without what might name a person (paths, descriptions)."""
        said = {"axes": self.axes, "variable": self.variable, "spacing_mm": self.spacing_mm and list(self.spacing_mm),
                "series": self.series if self.series is not None and self.series.isdigit() else None,
                "phase": self.phase, "classes": dict(self.classes) if self.classes else None,
                "weights": self.weights if self.weights in names() else None, "adapt": self.adapt or None,
                "draws": self.draws or None}
        return {name: value for name, value in said.items() if value is not None}

    def filled(self, stated: Mapping[str, Any]) -> Settings:
        """These, and where they are silent what another reading ``stated`` of its input.

        >>> Settings(series="3").filled({"series": "1", "spacing_mm": [8, 1.5, 1.5]}).spacing_mm
        (8, 1.5, 1.5)
        """
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()}
        silent = {name: value for name, value in known.items() if not getattr(self, name)}
        return replace(self, **silent)


def read(source: Path, settings: Settings | None = None, *, progress: Progress = lambda text: None) -> Reading:
    """Read one heart from a DICOM folder or file, NIfTI, ISMRMRD, fastMRI, BART, .npy or picture.

    Raises InputError and its kin for whatever cannot be read, each with what to do.
    """
    settings = settings or Settings()
    started, source = time.perf_counter(), located(source)
    truth, analytic = read_truth(settings.truth) if settings.truth is not None else ({}, {})
    progress(f"opening {source}")
    opened = open_file(source, axes=settings.axes, variable=settings.variable, spacing_mm=settings.spacing_mm,
                       series=settings.series, identify=settings.identify)
    done, basis, drawn = replace(opened.case, seed=settings.seed), None, {}
    extra: tuple[Note, ...] = ()
    if (reason := no_heart(done, opened.kind)) is not None:
        extra = (Note("not_a_heart_stack", f"Nothing was measured: {reason}, not a short-axis MR stack."),)
    else:
        raw = any(isinstance(record, KSpace) for record in done.values())
        chain = _chain(settings, raw=raw, progress=progress)
        if settings.adapt:
            chain = adapted(chain, settings.adapt, raw=raw)
        if settings.draws and (not raw or settings.draws < 2):
            raise InputError(f"{settings.draws} draws of the reconstruction of {'raw signal' if raw else 'images'}",
                             expected="raw signal and two draws or more",
                             remedy="leave --draws out, or give the raw file")
        with torch.inference_mode():
            done = chain(done, watch=lambda stage: progress(f"  {stage.name.replace('_', ' ')}"))
            basis = basis_of(done)
        made = [step.calibration for step in chain.steps if isinstance(step, ConformalIntervals | PlainIntervals)]
        if basis is not None and any(set(basis.fingerprints) & set(calibration.cases) for calibration in made):
            extra = (Note("calibration_case", "This scan is one of those that calibrated the intervals."),)
        if not made:
            extra = (Note("no_intervals", "No intervals: none were calibrated for these weights."),)
        elif any(note.code == "adapted" for note in done["image"].notes):
            done = replace(done, records={**done.records, "phenotypes": done["phenotypes.point"]})
            extra = (Note("no_intervals", "No intervals: they were calibrated without adaptation to the scan."),)
        if settings.draws:
            drawn = _drawn(done, chain, settings, progress)
            extra = (*extra, draws_note(drawn, settings.draws, _fraction(done)))
    errors: dict[str, float] = {}
    if truth:
        errors = compare(done, truth, analytic)
        done = replace(done, records={**done.records, **truth})
    rows = max(record.batch for record in opened.case.values())
    kept = {name: record for name, record in done.items() if record.batch == rows and not name.endswith(".point")}
    name = source.name if settings.identify else f"{opened.kind} input"
    return Reading(replace(done, records=kept), _person(opened.person, settings), name, opened.kind, file_hash(source),
                   versions(), time.perf_counter() - started, peak_memory_mb(), (*done.notes, *extra), errors,
                   settings.stated(), basis, drawn)


def read_to_folder(source: Path, folder: Path, settings: Settings | None = None, *, overwrite: bool = False,
                   progress: Progress = lambda text: None) -> Reading:
    """Read ``source`` and write page, JSON, labels and, for DICOM, segmentation objects; whole or not at all."""
    check_free(folder, marker=MARKER, overwrite=overwrite)
    reading = read(source, settings, progress=progress)
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        progress("writing the report")
        write(reading, work)
    return reading


def demonstrate(folder: Path, *, seed: int = 0, overwrite: bool = False,
                progress: Progress = lambda text: None) -> Reading:
    """The embedded example: simulate the raw signal of one heart, then read it as any other file."""
    check_free(folder, marker=MARKER, overwrite=overwrite)
    with TemporaryDirectory() as home:
        progress("simulating a beating heart: 8 coils, 6-fold undersampled")
        subject = simulate_hearts(Path(home) / "heart", example=True, seed=seed)[0]
        settings = Settings(truth=subject, sex="F", height_cm=165, weight_kg=62, seed=seed)
        return read_to_folder(subject / "kspace.h5", folder, settings, overwrite=overwrite, progress=progress)


def _chain(settings: Settings, *, raw: bool, progress: Progress) -> Chain:
    if settings.model is None and settings.classes:
        raise InputError("--classes without a model", expected="--model with the model that they are of",
                         remedy="add it, or leave them out")
    if settings.model is not None and settings.weights is not None:
        raise InputError("--model and --weights", expected="one of them", remedy="leave one out")
    segmenter = None if settings.model is None else foreign_segmentation(
        settings.model, settings.classes, watch=lambda text: progress(f"    {text}"))
    if settings.calibration is None and settings.group is not None:
        raise InputError("--group without a calibration", expected="--calibration with a file of `firstread calibrate "
                         "--by`", remedy="add it, or leave the group out")
    calibration = None if settings.calibration is None else open_calibration(settings.calibration, settings.group)
    return heart_chain(raw=raw, weights=settings.weights, phase=settings.phase, segmenter=segmenter,
                       calibration=calibration)


def _fraction(done: Case) -> float:
    """The ejection fraction that was measured, NaN where it was not."""
    found = cast(Phenotypes, done["phenotypes"]).values.get("LVEF")
    return math.nan if found is None or found.value is None else float(found.value[0])


def _drawn(done: Case, chain: Chain, settings: Settings, progress: Progress) -> dict[str, tuple[float, ...]]:
    """The numbers of posterior draws, segmented as the reading was."""
    segmenting = [step for step in chain.steps if step.writes.startswith("labels") and step.writes != "labels.hard"]
    with torch.inference_mode():
        return draws_of(done, segmenting, settings.draws, phase=settings.phase,
                        watch=lambda text: progress(f"  {text}"))


def adapted(chain: Chain, steps: int, *, raw: bool) -> Chain:
    """The chain whose reconstruction each scan fits to itself in at most ``steps`` steps, or undoes it.

    Raises InputError for images, which have no lines to learn from.
    """
    if not raw or steps < 0:
        raise InputError(f"{steps} steps of adaptation of an input of {'raw signal' if raw else 'images'}",
                         expected="raw signal and one step or more", remedy="leave --adapt out, or give the raw file")
    return chain.replacing("image", AdaptedCascade(network=cast(Cascade, chain.stage("image")).network, steps=steps))


def no_heart(case: Case, kind: str) -> str | None:
    """Why an input cannot be a short-axis MR stack, or None: a picture file, rays, a colour or a projected image."""
    if kind == "picture":
        return "the input is a picture"
    if kind == "rays":
        return "the input holds the rays of a CT or PET scan"
    for image in case.values():
        if isinstance(image, Image):
            if image.data.shape[2] != 1:
                return f"the input has {image.data.shape[2]} colours"
            if kind == "DICOM" and image.grid.frame != "patient":
                return "the input is a projected image"
    return None


def _person(found: Person, settings: Settings) -> Person:
    """What the user stated, else what the file says."""
    stated = {name: value for name in ("sex", "height_cm", "weight_kg")
              if (value := getattr(settings, name)) is not None}
    return replace(found, **stated)
