"""A stored transform at work: ``firstread warp``.

    images, labels or points, transforms, a grid ─▶ warped.nii.gz or points.csv, warp.json, page.html

What is given lies where the moving image lies, and comes to where the fixed one lies; inverse: the other way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.errors import FormatError, GeometryError, InputError
from firstread.core.geometry import Grid, Transform
from firstread.core.provenance import file_hash, peak_memory_mb, versions
from firstread.core.records import Image, Note, Rows
from firstread.io.dicom.seg_read import grid_of, open_seg, seg_files
from firstread.io.folder import check_free, new_folder
from firstread.io.open import read as open_file
from firstread.io.points import PointTable, read_points
from firstread.io.transforms import read_all
from firstread.jobs.segment_seg import placed, values_of, values_used
from firstread.ops.warp import apply, apply_inverse, sample_labels, sample_mm
from firstread.report.warped import MARKER, WarpedReport, write

Progress = Callable[[str], None]
Interpolation = Literal["linear", "nearest", "onehot"]
SLAB, LITTLE, OFF_MM = 1_000_000, 0.1, 0.1  # voxels at a time; share of a grid that is suspiciously small; mm
MOST_LABELS, FEW_VALUES = 256, 64  # different numbers that labels have at most; that hardly an image has


@dataclass(frozen=True)
class WarpSettings:
    """What a user can say.

    interpolation: linear (images); nearest or onehot (labels; onehot: each label linearly, then the largest share).
    inverse: from where the fixed image lies to where the moving one does.
    spacing_mm: (z, y, x) where files state none.
    """

    interpolation: Interpolation = "linear"
    inverse: bool = False
    spacing_mm: tuple[float, float, float] | None = None


def warp(path: Path, transforms: Sequence[Path], grid: Path | None, settings: WarpSettings | None = None, *,
         progress: Progress = lambda text: None) -> WarpedReport:
    """Images, labels or points (.csv) of ``path`` through stored transforms; images onto the grid of ``grid``.

    transforms: in the order in which they act on a point of the fixed image, as ANTs lists them.

    Raises InputError for what is missing, k-space, or labels that are no whole numbers; FormatError for transforms that
    cannot be read; GeometryError for 2D on 3D, images without millimetres and a transform that leads outside.
    """
    settings = settings or WarpSettings()
    started = time.perf_counter()
    steps = read_transforms(transforms)
    onto = None if grid is None else _image(grid, "grid", settings, progress)
    if not path.exists():
        raise InputError(f"nothing at {path.name}", expected="images, labels, or a table of points (.csv)",
                         remedy="check the path")
    hashes = {file.name: file_hash(file) for file in (path, *transforms, *([grid] if grid is not None else []))}
    if path.suffix.lower() == ".csv":
        table = read_points(path)
        moved, notes = _points(table, steps, onto, settings)
        return WarpedReport(settings.interpolation, settings.inverse, hashes, versions(), time.perf_counter() - started,
                            peak_memory_mb(), notes, table=table, moved_mm=moved)
    if onto is None:
        raise InputError("an image and no grid to bring it onto", expected="an image whose voxels the result has",
                         remedy="name it with --on")
    image, names = _source(path, settings, progress)
    flat = [one.grid.shape[0] == 1 for one in (image, onto)]
    if flat[0] != flat[1] or any((step.from_grid.shape[0] == 1) != flat[0] for step in steps if step.from_grid):
        kinds = ["2D" if one else "3D" for one in flat]
        fields = ["2D" if step.from_grid.shape[0] == 1 else "3D" for step in steps if step.from_grid]
        raise GeometryError(f"a {kinds[0]} image, a {kinds[1]} grid" + "".join(f", a {kind} field" for kind in fields),
                            expected="one dimensionality", remedy="give what belongs together")
    if image.batch != 1 or onto.batch != 1:
        raise GeometryError(f"images of {image.batch} and {onto.batch} parts that are not parallel",
                            expected="one volume or slice each", remedy="give a stack of parallel slices")
    progress(f"warping onto {' x '.join(map(str, onto.grid.shape))} voxels")
    after, covered, notes = _seen(image, steps, onto.grid, settings)
    before, _, _ = _seen(image, [], onto.grid, settings)
    if settings.interpolation == "linear" and are_labels(image.data) and len(image.data.unique()) <= FEW_VALUES:
        notes = (*notes, Note("labels_blended", f"{path.name} holds few whole numbers, as labels do, and linear "
                              "interpolation made numbers between them: for labels say --interpolation nearest or "
                              "onehot."))
    return WarpedReport(settings.interpolation, settings.inverse, hashes, versions(), time.perf_counter() - started,
                        peak_memory_mb(), notes, fixed=onto, given=image,
                        before=replace(image, data=before, grid=onto.grid),
                        after=replace(image, data=after, grid=onto.grid), covered=covered, names=names)


def warp_to_folder(path: Path, transforms: Sequence[Path], grid: Path | None, folder: Path,
                   settings: WarpSettings | None = None, *, overwrite: bool = False,
                   progress: Progress = lambda text: None) -> WarpedReport:
    """Write what was warped, ``warp.json`` and ``page.html``; whole or not at all."""
    check_free(folder, marker=MARKER, overwrite=overwrite)
    report = warp(path, transforms, grid, settings, progress=progress)
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        write(report, work)
    return report


def read_transforms(paths: Sequence[Path]) -> list[Transform]:
    """The transforms of all files in the order in which they act. Raises InputError, FormatError, UnsupportedError."""
    if not paths:
        raise InputError("no transform", expected="one file or more of ITK or ANTs", remedy="name it with -t")
    found = []
    for path in paths:
        if not path.is_file():
            raise InputError(f"no transform at {path.name}", expected="a file of ITK or ANTs", remedy="check the path")
        for step in read_all(path):
            parts = [step.matrix] if step.displacement_mm is None else [step.matrix, step.displacement_mm]
            if not all(bool(torch.isfinite(part).all()) for part in parts):
                raise FormatError(f"{path.name}, a transform with values that are no numbers", expected="finite values",
                                  remedy="export it again")
            found.append(step)
    return found


def follow(steps: Sequence[Transform], points_mm: Float[Tensor, "batch *n 3"], *, inverse: bool = False
           ) -> Float[Tensor, "batch *n 3"]:
    """Points through all transforms in turn, or back through all of them."""
    for step in reversed(steps) if inverse else steps:
        points_mm = apply_inverse(step, points_mm) if inverse else apply(step, points_mm)
    return points_mm


def _points(table: PointTable, steps: Sequence[Transform], onto: Image | None, settings: WarpSettings
            ) -> tuple[Tensor, tuple[Note, ...]]:
    """Points go the other way than images are fetched."""
    start = table.points_mm[None]
    moved = follow(steps, start, inverse=not settings.inverse)
    notes = [] if settings.inverse else _settled(steps, moved, start, "points")
    if onto is not None and (outside := int((~_within(onto.grid, moved)).sum())):
        notes.append(Note("points_outside", f"{outside} of {len(table.rows)} points lie outside the grid."))
    return moved[0], tuple(notes)


def _seen(image: Image, steps: Sequence[Transform], grid: Grid, settings: WarpSettings
          ) -> tuple[Tensor, float, tuple[Note, ...]]:
    """The image on ``grid``, slab by slab; the share of the grid that lies in the image; what to know about it."""
    made: list[Tensor] = []
    notes: list[Note] = []
    inside, reached = 0, 0
    height = max(1, SLAB // (grid.shape[1] * grid.shape[2]))
    fields = [step.from_grid for step in steps if step.from_grid is not None]
    for z in range(0, grid.shape[0], height):
        part = grid.crop((z, 0, 0), (min(height, grid.shape[0] - z), *grid.shape[1:]))
        points = part.points_mm()
        places = follow(steps, points, inverse=settings.inverse)
        inside += int(_within(image.grid, places).sum())
        reached += int(_touched(steps, points if not settings.inverse else places).sum())
        if settings.inverse and not notes:
            notes = _settled(steps, places, points, "voxels")
        made.append(_sampled(image, places, settings.interpolation))
    total = grid.shape[0] * grid.shape[1] * grid.shape[2]
    if steps and fields and not reached:
        raise GeometryError("a deformation whose field covers nothing of the grid", expected="the transform of these "
                            "images", remedy="check that transform, image and grid belong together")
    if steps and not inside:
        raise GeometryError("a transform that leads no voxel of the grid into the image", expected="the transform of "
                            "these images", remedy="check that transform, image and grid belong together, and its "
                            "direction (--inverse)")
    if steps and inside < LITTLE * total:
        notes.append(Note("little_overlap", f"Only {100 * inside / total:.1f} % of the grid lies in the image."))
    return torch.cat(made, dim=3), inside / total, tuple(notes)


def _touched(steps: Sequence[Transform], points: Tensor) -> Bool[Tensor, "batch *n"]:
    """Which points of the fixed image some field knows."""
    found = torch.zeros(points.shape[:-1], dtype=torch.bool)
    for step in steps:
        if step.from_grid is not None:
            found |= _within(step.from_grid, points)
        points = apply(step, points)
    return found


def _sampled(image: Image, places: Tensor, interpolation: Interpolation) -> Tensor:
    frames = image.data[:, :, 0]
    if interpolation == "onehot":
        return sample_labels(frames, image.grid, places)[:, :, None]
    mode = {"linear": "bilinear", "nearest": "nearest"}[interpolation]
    return sample_mm(frames, image.grid, places, mode=mode)[:, :, None]


def _settled(steps: Sequence[Transform], found: Tensor, wanted: Tensor, what: str) -> list[Note]:
    """A note where the transform could not be inverted."""
    off = (follow(steps, found) - wanted).norm(dim=-1) > OFF_MM
    share = 100 * float(off.double().mean())
    return [Note("not_inverted", f"For {share:.2g} % of the {what} no inverse was found to {OFF_MM} mm: the transform "
                 "folds or changes too fast there.")] if share else []


def _within(grid: Grid, points_mm: Tensor) -> Bool[Tensor, "batch *n"]:
    """Which points lie in the field of view; a single slice has all depths."""
    index = grid.to_index(points_mm)
    sizes = torch.tensor(grid.shape[::-1], dtype=index.dtype)
    return (((index >= -0.5) & (index <= sizes - 0.5)) | (sizes == 1)).all(dim=-1)


def _source(path: Path, settings: WarpSettings, progress: Progress) -> tuple[Image, dict[int, str]]:
    """The image or labels to warp, and names of labels where the file says them."""
    if objects := seg_files(path):
        if settings.interpolation == "linear":
            raise InputError(f"{path.name}, labels, with linear interpolation", expected="nearest or onehot",
                             remedy="add --interpolation onehot")
        files = [open_seg(file) for file in objects]
        grid, values = grid_of(files), values_of(files, {})
        data = placed(files, grid, values, frames=1, source=None, name=path.name)
        progress(f"opening {path.name}: {len(values)} segment{'s' * (len(values) != 1)}")
        one = Image(Rows.subjects(1), data=data[None, :, None].float(), grid=grid)
        return one, values_used(values)
    image = _image(path, "image", settings, progress)
    if settings.interpolation != "linear" and not are_labels(image.data):
        raise InputError(f"{path.name}, which holds no labels", expected="whole numbers from 0 on, one per voxel",
                         remedy="take --interpolation linear")
    return image, {}


def are_labels(data: Tensor) -> bool:
    """Whether all values are whole numbers from 0 on, and not as many as an image has.

    >>> are_labels(torch.tensor([0.0, 17.0])), are_labels(torch.arange(5000))
    (True, False)
    """
    return (not data.is_complex() and bool(((data.float() % 1 == 0) & (data >= 0)).all())
            and len(data.unique()) <= MOST_LABELS)


def _image(path: Path, what: str, settings: WarpSettings, progress: Progress) -> Image:
    progress(f"opening the {what}: {path.name}")
    image = open_file(path, spacing_mm=settings.spacing_mm).case.get("image")
    if not isinstance(image, Image):
        raise InputError(f"{path.name}, which holds raw data", expected="images", remedy="reconstruct it first")
    image.grid.require_mm(f"warping ({path.name})")
    if image.data.shape[2] != 1:
        raise InputError(f"{path.name} of {image.data.shape[2]} channels", expected="one channel",
                         remedy="give one channel alone, a colour picture in grey")
    return replace(image, data=(image.data.abs() if image.data.is_complex() else image.data).float())
