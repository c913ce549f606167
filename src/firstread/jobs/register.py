"""Registration of two files: ``firstread register``.

    fixed, moving (and labels) ─▶ case ─▶ Register ─▶ warped.nii.gz, transforms both ways, transform.json, page.html
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from torch import Tensor

from firstread.analyze.register import First, Kind, MetricName, Register
from firstread.core.alignment import Alignment
from firstread.core.case import Case
from firstread.core.errors import GeometryError, InputError
from firstread.core.geometry import Grid, Transform
from firstread.core.provenance import file_hash, peak_memory_mb, versions
from firstread.core.records import Image, Rows
from firstread.core.stage import Chain
from firstread.io.folder import check_free, new_folder
from firstread.io.open import read as open_file
from firstread.ops.regions import dice
from firstread.ops.warp import apply, jacobian_determinant, warp
from firstread.report.registered import MARKER, Overlap, RegisteredReport, write

Progress = Callable[[str], None]
MOST_LABELS = 1000


@dataclass(frozen=True)
class RegisterSettings:
    """What a user can say: kind, first and metric as for Register; spacing_mm (z, y, x) where files state none."""

    kind: Kind = "deformable"
    first: First = "affine"
    metric: MetricName = "auto"
    spacing_mm: tuple[float, float, float] | None = None


def register(fixed: Path, moving: Path, settings: RegisterSettings | None = None, *, labels: Path | None = None,
             fixed_labels: Path | None = None, progress: Progress = lambda text: None) -> RegisteredReport:
    """How ``moving`` lies on ``fixed``, the moving image as seen there, and numbers about both.

    labels: of the moving image, warped with it; fixed_labels: of the fixed one, for Dice before and after.

    Raises InputError for k-space, labels that are no whole numbers or fixed labels alone, GeometryError for labels on
    another grid, and whatever reading a file and Register may raise.
    """
    settings = settings or RegisterSettings()
    started = time.perf_counter()
    if fixed_labels is not None and labels is None:
        raise InputError("labels of the fixed image alone", expected="those of the moving image too",
                         remedy="add --labels")
    one, two = (_read(path, name, settings, progress) for path, name in ((fixed, "fixed"), (moving, "moving")))
    own = None if labels is None else _labels(labels, two, settings)
    other = None if fixed_labels is None else _labels(fixed_labels, one, settings)
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
    moved = (apply(alignment.forward, one.grid.points_mm()) - one.grid.points_mm()).norm(dim=-1)
    return RegisteredReport(
        case=case, kind=settings.kind, fixed=one, before=before, after=after, alignment=alignment,
        jacobian=jacobian_determinant(alignment.forward, one.grid), moved_mm=(float(moved.mean()), float(moved.max())),
        labels=seen_labels, overlap=overlap, hashes={"fixed": file_hash(fixed), "moving": file_hash(moving)},
        versions=versions(), seconds=time.perf_counter() - started, peak_mb=peak_memory_mb())


def register_to_folder(fixed: Path, moving: Path, folder: Path, settings: RegisterSettings | None = None, *,
                       labels: Path | None = None, fixed_labels: Path | None = None, overwrite: bool = False,
                       progress: Progress = lambda text: None) -> RegisteredReport:
    """Write the warped image, the transforms, ``transform.json`` and ``page.html``; whole or not at all."""
    check_free(folder, marker=MARKER, overwrite=overwrite)
    report = register(fixed, moving, settings, labels=labels, fixed_labels=fixed_labels, progress=progress)
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        write(report, work)
    return report


def _read(path: Path, name: str, settings: RegisterSettings, progress: Progress) -> Image:
    progress(f"opening the {name} image: {path.name}")
    image = open_file(path, spacing_mm=settings.spacing_mm).case.get("image")
    if not isinstance(image, Image):
        raise InputError(f"{path.name}, which holds k-space", expected="images", remedy="reconstruct it first")
    data = image.data.abs() if image.data.is_complex() else image.data
    return replace(image, data=data.float(), rows=Rows.subjects(image.batch))


def _labels(path: Path, image: Image, settings: RegisterSettings) -> Image:
    found = open_file(path, spacing_mm=settings.spacing_mm).case.get("image")
    if not isinstance(found, Image) or found.data.is_complex() or bool((found.data.float() % 1 != 0).any()):
        raise InputError(f"{path.name}, which holds no labels", expected="whole numbers, one per voxel",
                         remedy="give a segmentation")
    if found.data.shape != image.data.shape or not found.grid.same_as(image.grid, tolerance_mm=0.01):
        raise GeometryError(f"labels of {tuple(found.data.shape[3:])} voxels for an image of "
                            f"{tuple(image.data.shape[3:])}", expected="labels on the grid of their image",
                            remedy="draw or resample them on it")
    return replace(found, data=found.data.float())


def _seen(image: Image, transform: Transform, grid: Grid, mode: str) -> Tensor:
    return warp(image.data[:, 0], image.grid, transform, grid, mode=mode)[:, None]


def _overlap(fixed: Tensor, before: Tensor, after: Tensor) -> Overlap:
    """Dice of every label of the fixed image, before and after."""
    values = [int(v) for v in fixed.unique().tolist() if v != 0][:MOST_LABELS]
    if not values:
        raise InputError("labels of the fixed image that are all zero", expected="one label or more",
                         remedy="give a segmentation")
    first, second = ({v: float(dice(fixed == v, found == v)) for v in values} for found in (before, after))
    return Overlap(first, second)
