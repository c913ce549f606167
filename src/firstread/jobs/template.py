"""A template of several images: ``firstread template``.

    images ─▶ Register (each on the first) ─▶ the middle of them all ─▶ ToTemplate ─▶ template.nii.gz, transforms, page
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.register import Register, both_ways, check_pair, seen_on, unit_range
from firstread.analyze.register_deformable import displacement
from firstread.analyze.register_group import ToTemplate
from firstread.analyze.register_linear import Kind
from firstread.core.alignment import Alignment
from firstread.core.errors import InputError
from firstread.core.geometry import Transform
from firstread.core.provenance import file_hash, peak_memory_mb, versions
from firstread.core.records import Image, Note, Rows
from firstread.io.folder import check_free, new_folder
from firstread.io.open import read as open_file
from firstread.jobs.register_notes import notes_of
from firstread.ops.similarity import LocalCorrelation
from firstread.ops.velocity import sample_at
from firstread.ops.warp import jacobian_determinant
from firstread.report.template import MARKER, Member, TemplateReport, write

Progress = Callable[[str], None]
ENDINGS = (".nii.gz", ".nii", ".dcm", ".png", ".jpg", ".jpeg", ".hdr")


@dataclass(frozen=True)
class TemplateSettings:
    """What a user can say.

    first: how images are aligned on the first one before; rounds: how often the template is made anew; spacing_mm:
    (z, y, x) where files state none.
    """

    first: Kind = "affine"
    rounds: int = 3
    spacing_mm: tuple[float, float, float] | None = None


def template(paths: Sequence[Path], settings: TemplateSettings | None = None, *,
             progress: Progress = lambda text: None) -> TemplateReport:
    """The mean of several images in the middle of their shapes, and how each lies in it.

    On the grid of the first image, which only says where the template lies: the linear transforms too are taken about
    their own mean (the exponential of the mean of their logarithms). Values are 0 to 1: each image between its own
    0.1st and 99.9th percentile. Raises InputError for fewer than two images, two of one name or raw data, and whatever
    Register may raise.
    """
    settings = settings or TemplateSettings()
    started = time.perf_counter()
    if len(paths) < 2:
        raise InputError(f"{len(paths)} image", expected="two or more", remedy="name all of them")
    names = _names(paths)
    images = [_image(path, settings, progress) for path in paths]
    for path, image in zip(paths[1:], images[1:], strict=True):
        try:
            check_pair(images[0], image)
        except Exception as error:
            raise _named(error, path) from error
    grid = images[0].grid
    matrices = [torch.eye(4, dtype=torch.float64)]
    for path, image in zip(paths[1:], images[1:], strict=True):
        progress(f"aligning {path.name}")
        found = cast(Alignment, Register(kind=settings.first)(images[0], image))
        matrices.append(found.forward.matrix[0])
    linear = [Transform(matrix[None], None, grid, image.grid) for matrix, image in
              zip(about_their_mean(torch.stack(matrices)), images, strict=True)]
    unit = [unit_range(image.data) for image in images]
    aligned = torch.stack([seen_on(one, image.grid, start, grid)[0]
                           for one, image, start in zip(unit, images, linear, strict=True)])
    z, y, x = grid.spacing_mm[0].tolist()
    stage = ToTemplate(rounds=settings.rounds, progress=progress)
    velocity = stage.velocities(aligned, (z, y, x))
    shape = (aligned.shape[1], aligned.shape[2], aligned.shape[3])
    seen = sample_at(aligned[:, None], displacement(velocity, shape))[:, 0]
    before, after = aligned.mean(dim=0), seen.mean(dim=0)
    members: list[Member] = []
    notes: list[Note] = []
    for row, (name, start, image) in enumerate(zip(names, linear, images, strict=True)):
        forward, backward = both_ways(velocity[row:row + 1], start, grid, image.grid)
        moved = forward.displacement_mm
        assert moved is not None
        way, grown = moved[0].norm(dim=0), jacobian_determinant(forward, grid)
        members.append(Member(name, forward, backward, aligned[row], seen[row],
                              (_likeness(before, aligned[row]), _likeness(after, seen[row])),
                              (float(way.mean()), float(way.max())),
                              int((grown <= 0).sum())))
        notes.extend(notes_of(forward, backward, grown, name=name))
    return TemplateReport(
        replace(images[0], data=before[None, None, None]), replace(images[0], data=after[None, None, None]),
        tuple(members), settings.first, settings.rounds, {path.name: file_hash(path) for path in paths}, versions(),
        time.perf_counter() - started, peak_memory_mb(), tuple(notes))


def template_to_folder(paths: Sequence[Path], folder: Path, settings: TemplateSettings | None = None, *,
                       overwrite: bool = False, progress: Progress = lambda text: None) -> TemplateReport:
    """Write ``template.nii.gz``, transforms and images in the template, ``template.json``, ``page.html``."""
    check_free(folder, marker=MARKER, overwrite=overwrite)
    report = template(paths, settings, progress=progress)
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        write(report, work)
    return report


def about_their_mean(matrices: Float[Tensor, "image 4 4"]) -> Float[Tensor, "image 4 4"]:
    """``A_i exp(-mean_k log A_k)``: transforms from the middle of all instead of from the first.

    >>> shift = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    >>> shift[1, 0, 3] = 4.0
    >>> about_their_mean(shift)[:, 0, 3].tolist()
    [-2.0, 2.0]
    """
    from scipy.linalg import expm, logm

    mean = np.mean([np.real(logm(matrix.numpy())) for matrix in matrices], axis=0)
    return matrices @ torch.from_numpy(expm(-mean))


def _likeness(one: Tensor, two: Tensor) -> float:
    """Local correlation with the template."""
    return float(LocalCorrelation(one[None])(two[None])[0])


def _image(path: Path, settings: TemplateSettings, progress: Progress) -> Image:
    progress(f"opening {path.name}")
    image = open_file(path, spacing_mm=settings.spacing_mm).case.get("image")
    if not isinstance(image, Image) or image.batch != 1:
        raise InputError(f"{path.name}, which is no single image", expected="one volume or slice in each file",
                         remedy="reconstruct or stack it first")
    data = image.data.abs() if image.data.is_complex() else image.data
    return replace(image, data=data.float(), rows=Rows.subjects(1))


def _names(paths: Sequence[Path]) -> list[str]:
    """What files of each image are called. Raises InputError where two would be called alike."""
    names = []
    for path in paths:
        ending = next((e for e in ENDINGS if path.name.lower().endswith(e)), "")
        names.append(path.name[:len(path.name) - len(ending)] or path.name)
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InputError(f"two images named {twice[0]}", expected="a name of its own for each",
                         remedy="rename one, or leave it out where it is the same")
    return names


def _named(error: Exception, path: Path) -> Exception:
    """The same error with the file it is about."""
    from firstread.core.errors import FirstreadError

    if not isinstance(error, FirstreadError):
        return error
    return type(error)(f"{path.name}: {error.got}", expected=error.expected, remedy=error.remedy)
