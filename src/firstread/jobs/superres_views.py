"""Files of long-axis views for a stack: opened, refused where they cannot belong to it, joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from firstread.core.errors import GeometryError, InputError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Note, Rows
from firstread.jobs.restore_image import grey_image
from firstread.report.superresolved import ViewFit
from firstread.restore.superres import interpolate
from firstread.restore.views import agreement, join_views, views_of

POOR = 0.5
"""Correlation with the stack below which a view gets a warning."""


@dataclass(frozen=True, eq=False)
class LongAxis:
    """Views as rows of one record, how well each fits the stack, and what is doubtful."""

    record: Image
    fits: tuple[ViewFit, ...]
    notes: tuple[Note, ...]


def long_axis_views(paths: Sequence[Path], stack: Image, volume: Grid, thickness_mm: float | None) -> LongAxis:
    """The views in ``paths``, magnitudes, on their own grids.

    stack: magnitudes, its thickness known; volume: the grid to restore; thickness_mm: of views whose files state none,
    None: the stack's.

    Raises GeometryError for files without a place in the patient and for views that do not cross the stack,
    InputError for other frames than the stack's, SignalError for zeros alone.
    """
    _require_place(stack, "a stack")
    opened, fits, without, notes = [], [], list[str](), list[Note]()
    assumed = float(cast(Tensor, stack.grid.thickness_mm)[0]) if thickness_mm is None else thickness_mm
    for path in paths:
        view = _opened(path, stack)
        if view.grid.thickness_mm is None:
            view = replace(view, grid=replace(view.grid, thickness_mm=torch.full((view.batch,), assumed).double()))
            without.append(path.name)
        fit = _fit(path.name, view, stack, volume)
        if fit.correlation < POOR:
            notes.append(Note("view_disagrees", f"{fit.name} does not look like the stack where they cross "
                              f"(correlation {fit.correlation:.2f}): check patient, position and heart phase."))
        opened += [view.select(torch.tensor([row])) for row in range(view.batch)]
        fits.append(fit)
    if without:
        notes.append(Note("view_thickness", f"Views that state no slice thickness: {assumed:g} mm is taken "
                          f"({', '.join(without)}).", "info"))
    return LongAxis(join_views(opened), tuple(fits), tuple(notes))


def _opened(path: Path, stack: Image) -> Image:
    view = grey_image(path)
    _require_place(view, path.name)
    if view.data.shape[1] != stack.data.shape[1]:
        raise InputError(f"{path.name} of {view.data.shape[1]} frames for a stack of {stack.data.shape[1]}",
                         expected="the same heart phases in both", remedy="bring both to one number of frames first")
    return replace(view, data=view.data.abs(), rows=Rows.parts(view.batch), times_s=None, cycle_s=None)


def _require_place(image: Image, what: str) -> None:
    if image.grid.frame != "patient":
        raise GeometryError(f"{what} without orientation in its file", expected="stack and views placed in one patient",
                            remedy="convert it from DICOM again, or leave --view out")


def _fit(name: str, view: Image, stack: Image, volume: Grid) -> ViewFit:
    """How a file of views agrees with the interpolated first frame of the stack."""
    first = stack.data[:, :1]
    guess = interpolate(first, volume.shape[0] // stack.grid.shape[0], 3)
    joined = join_views([replace(view.select(torch.tensor([row])), data=view.data[row:row + 1, :1])
                         for row in range(view.batch)])
    found = []
    for row in range(joined.batch):
        part = joined.select(torch.tensor([row]))
        try:
            ((one,),) = views_of(part, replace(stack, data=first, times_s=None), volume,
                                 first.new_ones(1, 1, 1, 1, 1, 1), profile="trapezoid")
        except GeometryError as error:
            raise GeometryError(f"{name}, a view that does not cross the stack", expected="views through it",
                                remedy="check that both are of one patient and position") from error
        found.append(agreement(one, guess))
    correlations, shares = zip(*found, strict=True)
    return ViewFit(name, joined.batch, min(correlations), sum(shares) / len(shares))
