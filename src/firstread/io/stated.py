"""Arrays whose axes and spacing a user states, as records."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from firstread.core.errors import InputError
from firstread.core.geometry import Grid
from firstread.core.records import Image, KSpace, Note, Rows
from firstread.io.arrays import as_tensor, require_finite

Spacing = tuple[float, float, float]
REAL_KSPACE = Note("real_kspace", "The samples are real numbers, but those of k-space are complex: of magnitudes no "
                   "right image can be made.")


def record_of(array: np.ndarray, axes: str | None, spacing_mm: Spacing | None = None) -> KSpace | Image:
    """An array with stated axes, such as ``time,coil,y,x``: k-space where one is ``coil``, else an image.

    Axes: time, coil (or channel), z, y, x; ``kz`` instead of ``z`` where k-space is encoded along it too. Zeros of
    k-space were not measured.

    >>> record_of(np.ones((3, 8, 6), dtype=np.complex64), "coil,y,x").data.shape
    torch.Size([1, 1, 3, 1, 8, 6])
    """
    names = _named(axes, array.shape)
    kspace = "coil" in names
    if not kspace and "kz" in names:
        raise InputError(f"axes {axes} without a coil", expected="coil among the axes of k-space",
                         remedy="add an axis of length one: array[None] and --axes coil,…")
    fourier = ("z", "y", "x") if "kz" in names else ("y", "x")
    names = ["z" if name == "kz" else "channel" if name == "coil" else name for name in names]
    wanted = ["time", "channel", "z", "y", "x"]
    present = [name for name in wanted if name in names]
    array = array.transpose([names.index(name) for name in present])
    sizes = dict(zip(present, array.shape, strict=True))
    data = as_tensor(array.reshape([sizes.get(name, 1) for name in wanted]))[None]
    notes: list[Note] = []
    grid = grid_of(tuple(data.shape[3:]), spacing_mm, notes)
    require_finite(data, "k-space" if kspace else "image")
    if not kspace:
        return Image(Rows.subjects(1), data, grid, notes=tuple(notes))
    if not data.is_complex():
        notes.append(REAL_KSPACE)
        data = data.to(torch.complex64)
    return kspace_of(data, grid, (data != 0).any(dim=2, keepdim=True), fourier, None, notes)


def grid_of(shape: tuple[int, ...], spacing_mm: Spacing | None, notes: list[Note]) -> Grid:
    """A grid of the stated spacing, or one that knows no millimetres; the notes say which."""
    depth, height, width = shape
    if spacing_mm is None:
        notes.append(Note("spacing_unknown", "The file states no spacing: nothing in mm or mL can be measured; state "
                          "it with --spacing z,y,x."))
        return Grid.pixels((depth, height, width))
    if min(spacing_mm) <= 0:
        raise InputError(f"a spacing of {spacing_mm} mm", expected="three numbers above zero, z,y,x",
                         remedy="correct --spacing")
    notes.append(Note("spacing_stated", "The spacing was stated by the user, not taken from the file.", "info"))
    return Grid.from_spacing((depth, height, width), spacing_mm, frame="detector")


def kspace_of(data: Tensor, grid: Grid, sampled: Tensor, fourier: tuple[str, ...], shape: tuple[int, int, int] | None,
            notes: list[Note]) -> KSpace:
    """K-space whose mask is as small as it can be without loss."""
    for axis in (-1, -2, 1):
        if sampled.shape[axis] > 1 and bool((sampled == sampled.narrow(axis, 0, 1)).all()):
            sampled = sampled.narrow(axis, 0, 1)
    return KSpace(Rows.subjects(1), data, grid, sampled.contiguous(), None, None, fourier, shape, notes=tuple(notes))


def _named(axes: str | None, shape: tuple[int, ...]) -> list[str]:
    known = ("time", "coil", "channel", "z", "kz", "y", "x")
    names = [name.strip() for name in (axes or "").split(",") if name.strip()]
    if (len(names) != len(shape) or len(set(names)) != len(names) or not set(names) <= set(known)
            or not {"y", "x"} <= set(names) or {"coil", "channel"} <= set(names) or {"z", "kz"} <= set(names)):
        stated = f"axes {axes!r} for" if axes else "no axes stated for"
        if {"shot", "sample"} & set(names):
            raise InputError(f"{stated} an array of shape {shape} without its places in k-space", remedy="give it, or "
                             "state the axes of Cartesian k-space, such as --axes coil,y,x",
                             expected="--trajectory FILE with the places of the samples")
        raise InputError(f"{stated} an array of shape {shape}", expected=f"{len(shape)} different names out of "
                         f"{', '.join(known)}, y and x among them", remedy="state them, such as --axes time,coil,y,x")
    return names
