"""Super-resolution of files: ``firstread restore superres``.

    stack (and views) ─▶ case ─▶ chain of one stage ─▶ image.nii.gz, restore.json, page.html
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

import torch

from firstread.core.case import Case
from firstread.core.errors import FormatError, GeometryError, InputError, SettingError
from firstread.core.provenance import file_hash, peak_memory_mb, versions
from firstread.core.records import Image, Note, Record, Rows
from firstread.core.stage import Chain, Stage
from firstread.io.folder import check_free, new_folder
from firstread.jobs.restore_image import grey_image
from firstread.jobs.superres_views import long_axis_views
from firstread.nets.superres import SuperResolution
from firstread.ops.slice_profile import SliceProfile
from firstread.report.superresolved import MARKER, SuperResolvedReport, ViewFit, write
from firstread.restore.superres import (
    LearnedSuperResolution,
    ModelSuperResolution,
    Upsample,
    check,
    finer,
    nearest_factor,
)
from firstread.zoo.store import load

Progress = Callable[[str], None]
Method = Literal["model", "cubic", "linear", "learned"]
MOST, GAP, THICK = 16, 0.75, 3.0
"""Largest factor; thickness over distance of slices below which a warning is due, and above which it is refused."""

SAID: dict[str, Note] = {
    "interpolated": Note("interpolated", "Interpolation: what lies between the slices was not measured. On simulated "
                         "hearts no method was clearly better without long-axis views (docs/evidence/superres.md).",
                         "info"),
    "model": Note("no_other_view", "Least squares without another view was no nearer to the truth than interpolation "
                  "on simulated hearts (docs/evidence/superres.md); it needs long-axis views (--view)."),
    "model, views": Note("small_gain", "On simulated hearts three long-axis views raised the Dice of the wall by .010 "
                         "over interpolation; a perfect volume would by .055 (docs/evidence/superres.md).", "info"),
    "learned": Note("learned_on_simulation", "A network fills in between the slices what it saw in training. One "
                    "trained on simulated hearts gained little over interpolation there "
                    "(docs/evidence/superres.md); no real heart has measured it.")}


@dataclass(frozen=True)
class SuperResSettings:
    """What a user can say.

    factor: voxels per slice; None: nearest to the pixels in plane, at most 8 (of ``learned``: the network's).
    thickness_mm: of the stack's slices, and of views whose files state none; None: the file's.
    method: None: ``model`` with views, ``cubic`` without; weight: of ``learned``.
    spacing_mm: (z, y, x) of the stack, where its file states none; series: which of a DICOM folder is the stack.
    """

    factor: int | None = None
    thickness_mm: float | None = None
    method: Method | None = None
    weight: Path | None = None
    spacing_mm: tuple[float, float, float] | None = None
    series: str | None = None


def restore_superres(stack: Path, views: Sequence[Path] = (), settings: SuperResSettings | None = None, *,
                     progress: Progress = lambda text: None) -> SuperResolvedReport:
    """A thick-slice stack, alone or with long-axis views, to a volume that is finer through its slices.

    Raises InputError for files that are no stack or no views of it and options that do not fit, GeometryError where a
    thickness is missing or a view does not cross the stack, SettingError for a factor out of range.
    """
    settings = settings or SuperResSettings()
    started = time.perf_counter()
    method = _method(settings, bool(views))
    network = _network(settings.weight, settings.factor) if method == "learned" else None
    progress(f"opening {stack.name}")
    image, thickness_from = _stack(stack, settings, needs_thickness=method in ("model", "learned"))
    factor = network.factor if network is not None else _factor(settings.factor, image)
    records: dict[str, Record] = {"image": image}
    notes, fits = _cautions(image, factor, method, bool(views)), tuple[ViewFit, ...]()
    if views:
        progress(f"opening {len(views)} {'view' if len(views) == 1 else 'views'}")
        image = replace(image, data=image.data.abs())
        seen = long_axis_views(views, image, finer(image.grid, factor), settings.thickness_mm)
        records |= {"image": image, "long_axis": seen.record}
        notes, fits = notes + seen.notes, seen.fits
    stage: Stage = Upsample(factor=factor, order=1 if method == "linear" else 3)
    if method == "model":
        stage = ModelSuperResolution(factor=factor)
    elif network is not None:
        stage = LearnedSuperResolution(network=network)
    frames = image.data.shape[1]
    progress(f"{method}: {image.grid.shape[0]} slices to {factor * image.grid.shape[0]}"
             + (f", {frames} frames" if frames > 1 else ""))
    with torch.inference_mode():
        case = Chain(stage.using(reads={"image": "image"}))(Case(records))
        after = cast(Image, case[stage.writes])
        unexplained = _unexplained(image, after)
    return SuperResolvedReport(
        case=case, before=image, after=after, method=method, factor=factor, thickness_from=thickness_from, views=fits,
        unexplained=unexplained, notes=(*case.notes, *notes),
        hashes=tuple(file_hash(path) for path in (stack, *views)), weight=None if settings.weight is None else
        file_hash(settings.weight), versions=versions(), seconds=time.perf_counter() - started,
        peak_mb=peak_memory_mb())


def restore_superres_to_folder(stack: Path, folder: Path, views: Sequence[Path] = (),
                               settings: SuperResSettings | None = None, *, overwrite: bool = False,
                               progress: Progress = lambda text: None) -> SuperResolvedReport:
    """Write ``image.nii.gz``, ``restore.json`` and ``page.html``; whole or not at all."""
    check_free(folder, marker=MARKER, overwrite=overwrite)
    report = restore_superres(stack, views, settings, progress=progress)
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        progress("writing the volume")
        write(report, work)
    return report


def _method(settings: SuperResSettings, views: bool) -> Method:
    """The method that is meant; options that it has no use for are refused."""
    method: Method = settings.method or ("model" if views else "cubic")
    if method not in get_args(Method):
        raise InputError(f"the method {method!r}", expected=f"one of {', '.join(get_args(Method))}",
                         remedy="correct --method")
    if views and method in ("cubic", "linear"):
        raise InputError(f"long-axis views for {method} interpolation", expected="the stack alone",
                         remedy="leave --view out, or take --method model")
    if method == "learned" and settings.weight is None:
        raise InputError("the method learned without a weight", expected="--weight FILE.safetensors",
                         remedy="train one: firstread train heart-superres -o DIR")
    if method != "learned" and settings.weight is not None:
        raise InputError(f"a weight for the method {method}", expected="--method learned with --weight",
                         remedy="leave --weight out, or add --method learned")
    if settings.factor is not None and not 2 <= settings.factor <= MOST:
        raise SettingError(f"a factor of {settings.factor}", expected=f"2 to {MOST} voxels per slice",
                           remedy="correct --factor, or leave it out")
    if settings.thickness_mm is not None and not 0 < settings.thickness_mm < math.inf:
        raise SettingError(f"a thickness of {settings.thickness_mm} mm", expected="a number of mm above zero",
                           remedy="correct --thickness")
    return method


def _network(weight: Path | None, factor: int | None) -> SuperResolution:
    found = load(str(weight))
    try:
        network = SuperResolution.from_weight(found.card["network"], found.state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # RuntimeError: parameters of another network
        raise FormatError(f"{found.name}, which is no network of super-resolution", expected="the weight and the card "
                          "beside it (.json) that firstread train heart-superres writes",
                          remedy="give both files of one training") from error
    if factor not in (None, network.factor):
        raise InputError(f"--factor {factor} for a network of factor {network.factor}", expected="the network's",
                         remedy="leave --factor out")
    return network


def _stack(path: Path, settings: SuperResSettings, *, needs_thickness: bool) -> tuple[Image, str]:
    """The stack with its thickness where known, and where that comes from."""
    image = grey_image(path, spacing_mm=settings.spacing_mm, series=settings.series)
    if image.batch > 1:
        raise InputError(f"{path.name} with {image.batch} slices that are not one even stack", expected="parallel "
                         "slices at even distances", remedy="give one stack without other views or scouts")
    check(image)
    image, distance = replace(image, rows=Rows.subjects(1)), float(image.grid.spacing_mm[0, 0])
    if settings.thickness_mm is not None:
        if settings.thickness_mm > THICK * distance:
            raise SettingError(f"slices of {settings.thickness_mm:g} mm that lie {distance:g} mm apart",
                               expected=f"a thickness up to {THICK:g} times the distance", remedy="correct --thickness")
        thickness = torch.tensor([settings.thickness_mm], dtype=torch.float64)
        return replace(image, grid=replace(image.grid, thickness_mm=thickness)), "stated"
    if image.grid.thickness_mm is not None:
        return image, "file"
    if needs_thickness:
        raise GeometryError(f"{path.name}, which states no slice thickness (its slices lie {distance:g} mm apart)",
                            expected="the thickness without the gap",
                            remedy=f"state it: --thickness 8, say, or --thickness {distance:g} if there is no gap")
    return image, "unknown"


def _factor(stated: int | None, image: Image) -> int:
    if stated is not None:
        return stated
    found = nearest_factor(image.grid)
    if found < 2:
        step, *plane = image.grid.spacing_mm[0].tolist()
        raise InputError(f"slices {step:g} mm apart with pixels of {plane[1]:g} mm", expected="slices further apart "
                         "than 1.3 pixels", remedy="state --spacing where the file's is wrong, or --factor to refine "
                         "it all the same")
    return found


def _cautions(image: Image, factor: int, method: str, views: bool) -> tuple[Note, ...]:
    """What a reader of the volume must know, views apart."""
    key = "interpolated" if method in ("cubic", "linear") else "model, views" if method == "model" and views else method
    notes = [SAID[key]]
    step, *plane = image.grid.spacing_mm[0].tolist()
    if image.grid.thickness_mm is not None and float(image.grid.thickness_mm[0]) < GAP * step:
        notes.append(Note("gap", f"Slices of {float(image.grid.thickness_mm[0]):g} mm lie {step:g} mm apart: what is "
                          "in the gaps was not measured."))
    if step / factor > 1.5 * sum(plane) / 2:
        notes.append(Note("not_isotropic", f"The voxels stay longer across slices ({step / factor:.2g} mm) than in "
                          f"plane ({plane[1]:.2g} mm).", "info"))
    return tuple(notes)


def _unexplained(image: Image, volume: Image) -> float | None:
    """Root mean square of what the slices hold beyond what they should see of the volume, over that of the slices."""
    if image.grid.thickness_mm is None:
        return None
    stack = SliceProfile.between(image.grid, volume.grid).to(volume.data)
    apart = total = 0.0
    for frame in range(image.data.shape[1]):
        slices = image.data[:, frame:frame + 1]
        slices = slices if volume.data.is_complex() else slices.abs()
        apart += float((stack(volume.data[:, frame:frame + 1]) - slices).abs().square().sum())
        total += float(slices.abs().square().sum())
    return math.sqrt(apart / total) if total > 0 else None
