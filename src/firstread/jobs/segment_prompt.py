"""``firstread segment prompt``: an image and what is pointed at in it in, a mask out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch

from firstread.analyze.prompt_handover import Handover
from firstread.analyze.prompt_network import PromptedNetwork
from firstread.analyze.prompted import Propagate
from firstread.analyze.prompting import Promptable
from firstread.analyze.register_motion import is_in_plane
from firstread.analyze.sam import PromptedSam
from firstread.chains.prompted import NETWORK, open_promptable, prompted_chain
from firstread.core.case import Case
from firstread.core.errors import GeometryError, InputError, UnsupportedError
from firstread.core.prompts import Prompts, check_box
from firstread.core.provenance import file_hash, versions
from firstread.core.records import Image
from firstread.io.dicom.seg import write_seg
from firstread.io.dicom.source import DicomSource
from firstread.io.folder import check_free, new_folder
from firstread.io.open import read as open_file
from firstread.report.prompted import MARKER, PromptedReport, write

Progress = Callable[[str], None]
LONGEST = 64  # characters of DICOM's Segment Label
_LPS = (-1.0, -1.0, 1.0)  # of RAS


@dataclass(frozen=True)
class PromptSettings:
    """What a user points at.

    points: (x, y, z), or (x, y) in an image of one slice; positive: of each, whether it lies on the object; boxes: (x0,
    y0, z0, x1, y1, z1), or (x0, y0, x1, y1). In RAS+ millimetres, as NIfTI and most viewers say them; voxels: as
    indices counted from 0 instead. frame: of time, counted from 0; name: of the object; propagate: through space, time,
    both or none; prepared: how SAM's weights were trained to see images; reach_mm: but for SAM, how far from a click
    the object may reach; spacing_mm (z, y, x) where the file states none; series: of a DICOM folder.
    """

    points: tuple[tuple[float, ...], ...] = ()
    positive: tuple[bool, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    voxels: bool = False
    frame: int = 0
    name: str = "object"
    propagate: Propagate = "both"
    prepared: Literal["auto", "sam", "medsam"] = "auto"
    reach_mm: float = 50.0
    spacing_mm: tuple[float, float, float] | None = None
    series: str | None = None


def parse_point(text: str) -> tuple[tuple[float, ...], bool]:
    """``x,y,z``, ``x,y,z:+`` or ``x,y,z:-``. Raises InputError for anything else.

    >>> parse_point("30,42.5,7:-")
    ((30.0, 42.5, 7.0), False)
    """
    places, colon, sign = text.partition(":")
    if colon and sign not in ("+", "-"):
        raise InputError(f"--point {text!r}", expected="x,y,z, or x,y,z:+ or x,y,z:-", remedy="correct its ending")
    return _parsed(places, f"--point {text!r}", "x,y,z"), sign != "-"


def parse_box(text: str) -> tuple[float, ...]:
    """``x0,y0,z0,x1,y1,z1``. Raises InputError for anything else."""
    return _parsed(text, f"--box {text!r}", "x0,y0,z0,x1,y1,z1")


def _parsed(text: str, said: str, form: str) -> tuple[float, ...]:
    try:
        made = tuple(float(part) for part in text.split(","))
        if not all(isfinite(value) for value in made):
            raise ValueError(text)
    except ValueError:
        raise InputError(said, expected=f"numbers {form}", remedy="join them by commas, without spaces") from None
    return made


def check_name(name: str) -> None:
    """Raises InputError for a name of an object that DICOM SEG cannot hold, or that says the opposite.

    >>> check_name("left kidney")
    """
    if not name.strip() or len(name) > LONGEST or "\\" in name or not name.isprintable() or name == "background":
        raise InputError(f"--name {name!r}", expected=f"1 to {LONGEST} characters on one line without a backslash, and "
                         "not background", remedy="name the object, such as liver")


def prompt_to_folder(path: Path, folder: Path, settings: PromptSettings, *, model: str | Path | None = None,
                     overwrite: bool = False, progress: Progress = lambda text: None) -> dict[str, Any]:
    """Write ``mask.nii.gz``, ``seg/`` for DICOM input, ``prompt.json`` and ``page.html``; whole or not at all.

    model: as :func:`~firstread.chains.prompted.open_promptable`. Raises InputError for k-space, a name that no file may
    hold or no prompt on the object, GeometryError for prompts outside the image, and whatever reading the file and the
    method may raise.
    """
    check_name(settings.name)
    check_free(folder, marker=MARKER, overwrite=overwrite)
    started = time.perf_counter()
    progress(f"opening {path.name}")
    image = read_image(path, settings)
    prompts = prompts_of(image, settings)
    method = open_promptable(model, prepared=settings.prepared, reach_mm=settings.reach_mm,
                             thin=image.grid.has_mm and not is_in_plane(image.grid))
    progress("segmenting")
    with torch.no_grad():
        chain = prompted_chain(method, propagate=settings.propagate).eval()
        case = chain(Case({"image": image, "prompts": prompts}))
    labels = case["labels"].harden()
    report = PromptedReport(
        case=case, image=image, prompts=prompts, labels=labels, method=_words(method, model), given=_given(settings),
        hash=file_hash(path), versions=versions(), seconds=time.perf_counter() - started)
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        files = []
        if isinstance(image.source, DicomSource) and image.grid.frame == "patient" and bool(labels.data.any()):
            (work / "seg").mkdir()
            files = [f"seg/{made.name}" for made in write_seg(labels, image.source, work / "seg")]
        return write(report, work, files=files)


def read_image(path: Path, settings: PromptSettings) -> Image:
    """The image of a file, one row. Raises InputError for k-space, UnsupportedError for slices of several views."""
    image = open_file(path, spacing_mm=settings.spacing_mm, series=settings.series).case.get("image")
    if not isinstance(image, Image):
        raise InputError(f"{path.name}, which holds k-space", expected="an image", remedy="reconstruct it first")
    if image.batch > 1:
        raise UnsupportedError(f"{path.name}, slices that are no stack ({image.batch} of them)",
                               expected="one slice, or a stack of parallel ones", remedy="give one series")
    return image


def prompts_of(image: Image, settings: PromptSettings) -> Prompts:
    """The prompts in the image's own millimetres. Raises GeometryError for numbers that name no place in it."""
    if not settings.voxels and not image.grid.has_mm:
        raise GeometryError("prompts in millimetres for an image without spacing", expected="voxel indices",
                            remedy="add --voxels, or state the spacing with --spacing")
    if not settings.boxes and not any(settings.positive):
        raise InputError("no prompt on the object", expected="a box, or a point that lies on it",
                         remedy="add --box, or --point x,y,z")
    flat = settings.voxels and image.grid.shape[0] == 1
    points = [_full(point, 3, flat, "--point x,y,z") for point in settings.points]
    boxes = [_full(box, 6, flat, "--box x0,y0,z0,x1,y1,z1") for box in settings.boxes]
    if not settings.voxels:
        points = [tuple(v * s for v, s in zip(point, _LPS, strict=True)) for point in points]
        boxes = [_lps_box(box) for box in boxes]
    return Prompts.on_grid(image.grid, points=points, positive=settings.positive, boxes=boxes, frame=settings.frame,
                           name=settings.name, voxels=settings.voxels)


def _words(method: Promptable, model: str | Path | None) -> str:
    """What segmented, for the page."""
    name = Path(model).name if model is not None else NETWORK
    if isinstance(method, PromptedSam):
        return f"{'MedSAM' if method.prepared == 'medsam' else 'SAM'}: {name}"
    if isinstance(method, Handover):
        return f"{_words(method.pointed, model)}; carried on through thin slices by the {_words(method.carried, None)}"
    if isinstance(method, PromptedNetwork):
        return f"network {name}, trained on simulated scenes alone"
    return "random walker, no weights"


def _full(numbers: tuple[float, ...], count: int, flat: bool, form: str) -> tuple[float, ...]:
    """With the slice 0 added where the image has one slice and voxels are meant."""
    if flat and len(numbers) == 2 * count // 3:
        half = len(numbers) // (count // 3)
        numbers = tuple(v for start in range(0, len(numbers), half) for v in (*numbers[start:start + half], 0.0))
    if len(numbers) != count:
        raise InputError(f"a prompt of {len(numbers)} numbers", expected=f"{count} (two axes are enough for voxels of "
                         "an image of one slice)", remedy=f"write it as {form}")
    return numbers


def _lps_box(box: tuple[float, ...]) -> tuple[float, ...]:
    check_box(torch.tensor(box, dtype=torch.float64).reshape(2, 3))
    x0, y0, z0, x1, y1, z1 = box
    return -x1, -y1, z0, -x0, -y0, z1


def _given(settings: PromptSettings) -> dict[str, Any]:
    """As ``prompt.json`` states them."""
    return {"units": "voxel indices (x, y, z) from 0" if settings.voxels else "RAS+ millimetres",
            "points": [{"at": list(point), "on": sign}
                       for point, sign in zip(settings.points, settings.positive, strict=True)],
            "boxes": [list(box) for box in settings.boxes], "frame": settings.frame, "propagate": settings.propagate,
            "reach_mm": settings.reach_mm}
