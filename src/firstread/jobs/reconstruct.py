"""Reconstruction: raw data in, an image out.

    file ─▶ k-space ─▶ zero-filled and chosen method ─▶ image.nii.gz, page, JSON, DICOM MR
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from firstread.chains.reconstruct import DEFAULT, METHODS, method_of, reconstruct_chain, regularization_of
from firstread.core.errors import InputError
from firstread.core.provenance import file_hash, peak_memory_mb, versions
from firstread.core.reading import Reading
from firstread.core.records import KSpace, Note
from firstread.io.folder import check_free, new_folder
from firstread.io.open import located
from firstread.io.open import read as open_file
from firstread.io.opened import Opened
from firstread.io.trajectory import read_along
from firstread.report.reconstruction import MARKER, write

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What a user can say about a reconstruction.

    method: a name of ``chains.reconstruct.METHODS``, or ``cs``; regularization: a number, ``auto`` or a way to choose
    it, None for the method's default; trajectory: the file with the places of samples along one; matrix: (y, x) or
    (z, y, x) of the image then; axes: of an array file; variable: of a .mat file; spacing_mm: (z, y, x) where the
    file has none; complex_parts: write real and imaginary part too; identify: keep the patient module in DICOM; seed:
    of all draws.
    """

    method: str = DEFAULT
    regularization: str | None = None
    trajectory: Path | None = None
    matrix: tuple[int, ...] | None = None
    axes: str | None = None
    variable: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    complex_parts: bool = False
    identify: bool = False
    seed: int = 0


def reconstruct(source: Path, settings: Settings | None = None, *, progress: Progress = lambda text: None) -> Reading:
    """Reconstruct one raw file; the reading holds the records ``kspace``, ``zero_filled`` and ``image``.

    Raises InputError and its kin for whatever cannot be read, SettingError for a method that does not fit the data.
    """
    settings = settings or Settings()
    started, source = time.perf_counter(), located(source)
    progress(f"opening {source}")
    opened = _opened(source, settings)
    kspace = opened.case.get("kspace")
    if not isinstance(kspace, KSpace):
        raise InputError(f"{source.name}, which holds images", expected="k-space", remedy="state its axes, coil among "
                         "them, if it is k-space (--axes coil,y,x)" if opened.kind in ("npy", "MATLAB")
                         else "give raw data")
    name = method_of(settings.method, kspace)
    weight = regularization_of(settings.regularization, name, kspace)
    chain = reconstruct_chain(name, weight, trajectory=kspace.trajectory is not None)
    last = "z, y, x" if kspace.trajectory is None else "z, shot, sample"
    progress(f"  {' x '.join(map(str, kspace.data.shape[1:]))} (time, coil, {last}), method {name}")
    with torch.inference_mode():
        done = chain(replace(opened.case, seed=settings.seed),
                     watch=lambda stage: progress(f"  {stage.name.replace('_', ' ')}"))
    caution = METHODS[name].caution
    extra = () if caution is None else (Note("learned_on_simulation", caution),)
    return Reading(done, opened.person, source.name if settings.identify else f"{opened.kind} input", opened.kind,
                   file_hash(source), versions(), time.perf_counter() - started, peak_memory_mb(),
                   (*done.notes, *extra))


def reconstruct_to_folder(source: Path, folder: Path, settings: Settings | None = None, *, overwrite: bool = False,
                          progress: Progress = lambda text: None) -> Reading:
    """Reconstruct ``source`` and write image, page and JSON; whole or not at all."""
    settings = settings or Settings()
    check_free(folder, marker=MARKER, overwrite=overwrite)
    reading = reconstruct(source, settings, progress=progress)
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        progress("writing the image")
        write(reading, work, complex_parts=settings.complex_parts)
    return reading


def _opened(source: Path, settings: Settings) -> Opened:
    if settings.trajectory is not None:
        return read_along(source, settings.trajectory, matrix=settings.matrix, axes=settings.axes,
                          variable=settings.variable, spacing_mm=settings.spacing_mm)
    return open_file(source, axes=settings.axes, variable=settings.variable, spacing_mm=settings.spacing_mm,
                     identify=settings.identify)
