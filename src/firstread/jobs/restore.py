"""Restoration of files: ``firstread restore slices``.

    stacks, mask ─▶ case ─▶ chain ─▶ volume.nii.gz, slices.json, page.html
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from firstread.chains.fetus import fetus_chain
from firstread.core.case import Case
from firstread.core.errors import InputError
from firstread.core.provenance import file_hash, peak_memory_mb, versions
from firstread.core.records import HardLabels, Image, Rows
from firstread.core.slices import SliceVolume
from firstread.io.folder import check_free, new_folder
from firstread.io.open import read as open_file
from firstread.jobs.restore_image import grey_image
from firstread.ops.resample import resample
from firstread.report.slices import MARKER, SlicesReport, write
from firstread.restore.slices import Method
from firstread.restore.slices_input import join_stacks

Progress = Callable[[str], None]


@dataclass(frozen=True)
class SliceSettings:
    """What a user can say: as the arguments of SliceToVolume; thickness_mm of all slices where files state none."""

    resolution_mm: float = 0.8
    method: Method = "voxels"
    thickness_mm: float | None = None
    iterations: int = 4
    robust: bool = True
    bias: bool = True
    patch_mm: float = 0.0


def restore_slices(stacks: Sequence[Path], mask: Path | None = None, settings: SliceSettings | None = None, *,
                   series: Sequence[str] = (), progress: Progress = lambda text: None) -> SlicesReport:
    """One volume of several stacks.

    mask: of the part that moves as one, drawn on one of the stacks, or anywhere in the same millimetres.
    series: where ``stacks`` is one DICOM folder, those of its series that are the stacks.

    Raises InputError for fewer than two stacks, the same one twice, 4D files or a header without orientation,
    GeometryError where stacks do not overlap, SignalError for an empty mask, and whatever reading a file may raise.
    """
    settings = settings or SliceSettings()
    started = time.perf_counter()
    if series and len(stacks) != 1:
        raise InputError(f"--series with {len(stacks)} stacks", expected="one DICOM folder whose series are the stacks",
                         remedy="give the folder alone, or a folder or file for each stack without --series")
    sources = [(stacks[0], name) for name in series] or [(path, None) for path in stacks]
    images = [_read(path, name, number, settings.thickness_mm, progress)
              for number, (path, name) in enumerate(sources)]
    joined = join_stacks(images)
    found = [(file_hash(path), () if name is None or image.source is None else image.source.series_uids)
             for (path, name), image in zip(sources, images, strict=True)]
    for number, one in enumerate(found):
        if one in found[:number]:
            raise InputError(f"stacks {found.index(one) + 1} and {number + 1}, which are the same "
                             f"{'series' if series else 'file'}", expected="stacks that were measured apart",
                             remedy="leave one out")
    hashes = tuple(digest for digest, _ in found)
    records: dict[str, Image | HardLabels] = {"stacks": joined}
    if mask is not None:
        records["mask"] = _read_mask(mask)
    chain = fetus_chain(resolution_mm=settings.resolution_mm, method=settings.method,
                        iterations=settings.iterations, robust=settings.robust, bias=settings.bias,
                        patch_mm=settings.patch_mm, progress=progress)
    with torch.no_grad():
        case = chain(Case(records))
    volume = cast(SliceVolume, case["volume"])
    before = resample(images[volume.template].data[:, 0].float(), images[volume.template].grid, volume.grid)[0, 0]
    return SlicesReport(case, volume, before, hashes, None if mask is None else file_hash(mask), settings.resolution_mm,
                        versions(), time.perf_counter() - started, peak_memory_mb())


def restore_slices_to_folder(stacks: Sequence[Path], folder: Path, mask: Path | None = None,
                             settings: SliceSettings | None = None, *, series: Sequence[str] = (),
                             overwrite: bool = False, progress: Progress = lambda text: None) -> SlicesReport:
    """Write ``volume.nii.gz``, ``slices.json`` and ``page.html``; whole or not at all."""
    check_free(folder, marker=MARKER, overwrite=overwrite)
    report = restore_slices(stacks, mask, settings, series=series, progress=progress)
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        write(report, work)
    return report


def _read(path: Path, series: str | None, number: int, thickness_mm: float | None, progress: Progress) -> Image:
    progress(f"opening stack {number + 1}: {path.name}{'' if series is None else f', series {series}'}")
    image = grey_image(path, series=series)
    if image.data.shape[1] > 1:
        raise InputError(f"{path.name} with {image.data.shape[1]} volumes (4D)", expected="one 3D stack of slices per "
                         "file", remedy="split it, and give each volume as a stack of its own")
    if image.grid.frame != "patient":
        raise InputError(f"{path.name}, whose header states no orientation", expected="stacks placed in one patient",
                         remedy="convert it from DICOM again")
    if thickness_mm is not None:
        if not 0 < thickness_mm < math.inf:
            raise InputError(f"a thickness of {thickness_mm} mm", expected="a number of mm above zero",
                             remedy="correct --thickness-mm")
        image = replace(image, grid=replace(image.grid, thickness_mm=torch.tensor([thickness_mm]).double()))
    return replace(image, data=image.data.abs().float(), rows=Rows.subjects(1))


def _read_mask(path: Path) -> HardLabels:
    image = open_file(path).case.get("image")
    if not isinstance(image, Image) or image.data.shape[1] > 1:
        raise InputError(f"{path.name}, which is no 3D image", expected="a mask: a 3D file of zeros and ones",
                         remedy="draw the mask on one of the stacks")
    image.grid.require_mm("placing the mask")
    return HardLabels(Rows.subjects(1), (image.data.abs() > 0.5).to(torch.uint8), image.grid, ("background", "region"))
