"""Registration of two files: ``firstread register``.

    fixed, moving (and labels) ─▶ case ─▶ Register ─▶ warped.nii.gz, transforms both ways, transform.json, page.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from torch import Tensor

from firstread.analyze.canonical import onto
from firstread.analyze.register import First, Kind, MetricName, Register
from firstread.core.alignment import Alignment
from firstread.core.case import Case
from firstread.core.errors import FirstreadError, GeometryError, InputError, SettingError
from firstread.core.geometry import Grid, Transform
from firstread.core.provenance import file_hash, peak_memory_mb, versions
from firstread.core.records import Image, Rows
from firstread.core.stage import Chain
from firstread.io.dicom.seg_read import open_seg, seg_files
from firstread.io.folder import check_free, new_folder
from firstread.io.open import read as open_file
from firstread.jobs.register_notes import headers_apart, notes_of, round_trip
from firstread.jobs.segment_pairs import grid_difference
from firstread.jobs.segment_seg import placed, require_numbers, values_of
from firstread.ops.regions import dice
from firstread.ops.warp import apply, jacobian_determinant, warp
from firstread.report.registered import MARKER, Overlap, RegisteredReport, write

Progress = Callable[[str], None]
MOST_LABELS = 1000


@dataclass(frozen=True)
class RegisterSettings:
    """What a user can say: kind, first and metric as for Register; spacing_mm (z, y, x) where files state none;
    series, moving_series: of the DICOM folder of the fixed and of the moving image; frame, moving_frame: which frame of
    each, from 0, or "mean", where a file has several."""

    kind: Kind = "deformable"
    first: First = "affine"
    metric: MetricName = "auto"
    spacing_mm: tuple[float, float, float] | None = None
    series: str | None = None
    moving_series: str | None = None
    frame: str | None = None
    moving_frame: str | None = None


def register(fixed: Path, moving: Path, settings: RegisterSettings | None = None, *, labels: Path | None = None,
             fixed_labels: Path | None = None, progress: Progress = lambda text: None) -> RegisteredReport:
    """How ``moving`` lies on ``fixed``, the moving image as seen there, and numbers about both.

    labels: of the moving image, warped with it; fixed_labels: of the fixed one, for Dice before and after. Either may
    be DICOM SEG; segments then go by their label.

    Raises InputError for k-space, labels that are no whole numbers or fixed labels alone, GeometryError for labels on
    another grid, and whatever reading a file and Register may raise.
    """
    settings = settings or RegisterSettings()
    started = time.perf_counter()
    if fixed_labels is not None and labels is None:
        raise InputError("labels of the fixed image alone", expected="those of the moving image too",
                         remedy="add --labels")
    one, two = (_read(path, name, settings, progress) for path, name in ((fixed, "fixed"), (moving, "moving")))
    values = _segment_values(labels, fixed_labels)
    own = None if labels is None else _labels(labels, two, settings, values, "moving")
    other = None if fixed_labels is None else _labels(fixed_labels, one, settings, values, "fixed")
    if other is not None and not bool(other.data.any()):
        raise InputError("labels of the fixed image that are all zero", expected="one label or more",
                         remedy="give a segmentation")
    stage = Register(kind=settings.kind, first=settings.first, metric=settings.metric, progress=progress)
    case = Chain(stage)(Case({"fixed": one, "moving": two}))
    alignment = cast(Alignment, case["alignment"])
    progress("warping")
    here = Transform.identity()
    before, after = (replace(one, data=_seen(two, transform, one.grid, "bilinear"))
                     for transform in (here, alignment.forward))
    seen_labels = None if own is None else replace(one, data=_seen(own, alignment.forward, one.grid, "nearest"))
    overlap = None
    if own is not None and other is not None and seen_labels is not None:
        overlap = _overlap(other.data, _seen(own, here, one.grid, "nearest"), seen_labels.data)
    grown = jacobian_determinant(alignment.forward, one.grid)
    notes = headers_apart(one.grid, two.grid) + notes_of(alignment.forward, alignment.backward, grown)
    moved = (apply(alignment.forward, one.grid.points_mm()) - one.grid.points_mm()).norm(dim=-1)
    return RegisteredReport(
        case=case, kind=settings.kind, fixed=one, before=before, after=after, alignment=alignment,
        jacobian=grown, moved_mm=(float(moved.mean()), float(moved.max())), notes=notes,
        round_trip_mm=round_trip(alignment.forward, alignment.backward, one.grid),
        labels=seen_labels, overlap=overlap, hashes={"fixed": file_hash(fixed), "moving": file_hash(moving)},
        versions=versions(), seconds=time.perf_counter() - started, peak_mb=peak_memory_mb())


def register_to_folder(fixed: Path, moving: Path, folder: Path, settings: RegisterSettings | None = None, *,
                       labels: Path | None = None, fixed_labels: Path | None = None, overwrite: bool = False,
                       progress: Progress = lambda text: None) -> RegisteredReport:
    """Write the warped image, the transforms, ``transform.json`` and ``page.html``; whole or not at all.

    Warnings are said as progress, too: a wrong answer is not known by its files.
    """
    check_free(folder, marker=MARKER, overwrite=overwrite)
    report = register(fixed, moving, settings, labels=labels, fixed_labels=fixed_labels, progress=progress)
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        write(report, work)
    for note in (*report.notes, *report.case.notes):
        if note.severity == "warning":
            progress(f"warning: {note.text}")
    return report


def _read(path: Path, name: str, settings: RegisterSettings, progress: Progress) -> Image:
    progress(f"opening the {name} image: {path.name}")
    series, option = (settings.moving_series, "--moving-series") if name == "moving" else (settings.series, "--series")
    try:
        image = open_file(path, spacing_mm=settings.spacing_mm, series=series).case.get("image")
    except FirstreadError as error:
        remedy = error.remedy.replace("--series", option)
        raise type(error)(error.got, expected=error.expected, remedy=remedy) from error
    if not isinstance(image, Image):
        raise InputError(f"{path.name}, which holds k-space", expected="images", remedy="reconstruct it first")
    data = image.data.abs() if image.data.is_complex() else image.data
    frame, option = (settings.moving_frame, "--moving-frame") if name == "moving" else (settings.frame, "--frame")
    times_s = image.times_s if data.shape[1] == 1 else None
    notes = tuple(note for note in image.notes if note.code != "cycle_assumed")  # one frame has no cycle
    return replace(image, data=_one_frame(data.float(), frame, option, path.name), times_s=times_s, notes=notes,
                   rows=Rows.subjects(image.batch))


def _one_frame(data: Tensor, frame: str | None, option: str, name: str) -> Tensor:
    """One frame of ``[batch, time, channel, z, y, x]``, or the mean of all. Raises SettingError where it is unsaid
    which, or there is none of that number."""
    count = data.shape[1]
    if frame is None and count > 1:
        raise SettingError(f"{name}, which has {count} frames", expected="one frame of each image",
                           remedy=f"say which with {option}: a number from 0 to {count - 1}, or mean")
    if frame is None or frame == "mean":
        return data.mean(dim=1, keepdim=True)
    if not frame.isdecimal() or int(frame) >= count:
        raise SettingError(f"{option} {frame} for {name}, which has {count} "
                           f"{'frame' if count == 1 else 'frames'}", remedy="correct it",
                           expected=f"mean, or a number from 0 to {count - 1}" if count > 1 else "0, mean or nothing")
    return data[:, int(frame):int(frame) + 1]


def _segment_values(*paths: Path | None) -> dict[str, int]:
    """The value of each segment where labels are DICOM SEG, the same in both files."""
    files = [[open_seg(object_) for object_ in seg_files(path)] for path in paths if path is not None]
    opened = [file for found in files for file in found]
    values = values_of(opened, {})
    if opened and not all(files):
        require_numbers(opened, values, remedy="give both as DICOM SEG or both as NIfTI")
    return values


def _labels(path: Path, image: Image, settings: RegisterSettings, values: Mapping[str, int], of: str) -> Image:
    """Labels on the grid of the ``of`` image. Raises InputError for other values, GeometryError for another grid."""
    name = f"{path.name}, the labels of the {of} image"
    if objects := seg_files(path):
        data = placed([open_seg(file) for file in objects], image.grid, values, frames=1, source=None, name=name)
        return replace(image, data=data[None, :, None].float())
    found = open_file(path, spacing_mm=settings.spacing_mm).case.get("image")
    if not isinstance(found, Image) or not _whole(found.data):
        raise InputError(f"{path.name}, which holds no labels", expected="whole numbers from 0 on, one per voxel",
                         remedy="give a segmentation")
    if (turned := onto(found.data, found.grid, image.grid)) is not None:
        found = replace(found, data=turned, grid=image.grid)
    if (apart := grid_difference(found.grid, image.grid)) is not None or found.data.shape != image.data.shape:
        raise GeometryError(f"{name}, with {apart or 'other frames or parts'}", expected="labels on the grid of their "
                            "image", remedy="draw or resample them on it")
    return replace(found, data=found.data.float())


def _whole(data: Tensor) -> bool:
    """Whether all values are whole numbers from 0 on."""
    return not data.is_complex() and bool(((data.float() % 1 == 0) & (data.float() >= 0)).all())


def _seen(image: Image, transform: Transform, grid: Grid, mode: str) -> Tensor:
    return warp(image.data[:, 0], image.grid, transform, grid, mode=mode)[:, None]


def _overlap(fixed: Tensor, before: Tensor, after: Tensor) -> Overlap:
    """Dice of every label of the fixed image, before and after."""
    values = [int(v) for v in fixed.unique().tolist() if v != 0][:MOST_LABELS]
    first, second = ({v: float(dice(fixed == v, found == v)) for v in values} for found in (before, after))
    return Overlap(first, second)
