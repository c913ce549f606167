"""Reconstruction: raw data in, an image out.

    file ─▶ k-space ─▶ zero-filled and chosen method ─▶ image.nii.gz, page, JSON, DICOM MR
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from firstread.chains.rays import ray_chain
from firstread.chains.reconstruct import DEFAULT, METHODS, method_of, reconstruct_chain, regularization_of
from firstread.core.emission import Emission
from firstread.core.errors import InputError
from firstread.core.provenance import file_hash, peak_memory_mb, versions
from firstread.core.reading import Reading
from firstread.core.records import KSpace, Note
from firstread.core.sinogram import Sinogram
from firstread.core.stage import Chain
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

    method: ``cs``, a name of ``chains.reconstruct.METHODS``, for CT and PET of ``chains.rays.METHODS``; None for
    the default (``cs``, ``fbp``, ``osem``); regularization: a number or a way to choose one, None: chosen from
    k-space by ``sure``, of CT and PET the method's default; trajectory: the file with the places of samples along
    one; matrix: (y, x) or (z, y, x) of the image then; axes: of an array file; variable: of a .mat file;
    spacing_mm: (z, y, x) where the file has none; complex_parts: write real and imaginary part too; identify: keep
    the patient module in DICOM; seed: of all draws.
    """

    method: str | None = None
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
    """Reconstruct one raw file; the reading holds the raw record, ``image``, and of k-space ``zero_filled``.

    Raises InputError and its kin for whatever cannot be read, SettingError for a method that does not fit the data.
    """
    settings = settings or Settings()
    started, source = time.perf_counter(), located(source)
    progress(f"opening {source}")
    opened = _opened(source, settings)
    if opened.kind not in ("npy", "MATLAB") and settings.axes is not None:
        raise InputError(f"axes stated for a {opened.kind} file", expected="axes for .npy and .mat alone",
                         remedy="leave out --axes: the file says what its axes are")
    chain, cautions = chosen_chain(opened, settings, source.name, progress)
    with torch.inference_mode():
        done = chain(replace(opened.case, seed=settings.seed),
                     watch=lambda stage: progress(f"  {stage.name.replace('_', ' ')}"))
    for note in done.notes:
        if note.code == "regularization":
            progress(f"  {note.text}")
    return Reading(done, opened.person, source.name if settings.identify else f"{opened.kind} input", opened.kind,
                   file_hash(source), versions(), time.perf_counter() - started, peak_memory_mb(),
                   (*done.notes, *cautions))


def chosen_chain(opened: Opened, settings: Settings, name: str, progress: Progress) -> tuple[Chain, tuple[Note, ...]]:
    """The chain that suits the raw data, and what a reader of its images must know."""
    (raw,) = opened.case.values()
    if isinstance(raw, Sinogram | Emission):
        progress(f"  {' x '.join(map(str, raw.data.shape[3:]))} (z, view, bin), {raw.beam.summary}")
        return ray_chain(settings.method, raw, settings.regularization), ()
    if not isinstance(raw, KSpace):
        raise InputError(f"{name}, which holds images", expected="raw data", remedy="state its axes, coil among "
                         "them, if it is k-space (--axes coil,y,x)" if opened.kind in ("npy", "MATLAB")
                         else "give raw data")
    method = method_of(settings.method or DEFAULT, raw)
    weight = regularization_of(settings.regularization, method)
    last = "z, y, x" if raw.trajectory is None else "z, shot, sample"
    progress(f"  {' x '.join(map(str, raw.data.shape[1:]))} (time, coil, {last}), method {method}")
    caution = METHODS[method].caution
    cautions = () if caution is None else (Note("learned_on_simulation", caution),)
    return reconstruct_chain(method, weight, trajectory=raw.trajectory is not None), (*cautions, *centre_missing(raw))


def centre_missing(kspace: KSpace) -> tuple[Note, ...]:
    """A note where no line next to the zero frequency was measured in any frame: the image's brightness is unknown.

    (With several coils the coil maps cannot be estimated either, which is an error of its own.)
    """
    if kspace.trajectory is not None:
        return ()
    mask = (kspace.mask != 0).any(dim=1, keepdim=True).expand(-1, -1, -1, *kspace.data.shape[3:])
    rows, columns = (slice(max(0, n // 2 - 1), n // 2 + 2) for n in kspace.data.shape[-2:])
    if bool(mask[..., rows, columns].any()):
        return ()
    return (Note("no_centre", "No sample next to the zero frequency was measured: the image's brightness and coarse "
                 "shape are made up by the method."),)


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
    if settings.matrix is not None and settings.trajectory is None:
        raise InputError("a matrix without a trajectory", expected="--matrix with --trajectory alone",
                         remedy="leave it out: Cartesian k-space has the matrix of its samples")
    if settings.trajectory is not None:
        return read_along(source, settings.trajectory, matrix=settings.matrix, axes=settings.axes,
                          variable=settings.variable, spacing_mm=settings.spacing_mm)
    return open_file(source, axes=settings.axes, variable=settings.variable, spacing_mm=settings.spacing_mm,
                     identify=settings.identify)
