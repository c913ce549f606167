"""K-space along a trajectory: data and places in two files, .npy, .mat or BART's .cfl.

Places are cycles per field of view, as BART and sigpy have them: from ``-N/2`` to ``N/2`` for an image of N pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.case import Case
from firstread.core.errors import FormatError, InputError
from firstread.core.reading import Person
from firstread.core.records import KSpace, Note, Rows
from firstread.io.arrays import as_tensor, require_finite
from firstread.io.open import detect, located
from firstread.io.opened import Kind, Opened
from firstread.io.rawdata import load_bart, load_npy
from firstread.io.stated import REAL_KSPACE, Spacing, grid_of

_AXES = ("time", "coil", "z", "shot", "sample")
_TIME = 10  # of BART's axes


def read_along(source: Path, places: Path, *, axes: str | None, matrix: tuple[int, ...] | None = None,
               variable: str | None = None, spacing_mm: Spacing | None = None) -> Opened:
    """Samples and where they lie, as a Case with one k-space record.

    axes: of the samples in .npy and .mat, such as ``coil,shot,sample``; BART's are ``1, sample, shot, coil``. Places
    have the axes ``[time,] shot, sample, (y, x) or (z, y, x)``; in BART's files ``(x, y, z), sample, shot``.
    matrix: (y, x) or (z, y, x) of the image; None takes twice the largest place, with a note.

    Raises FormatError where samples and places are not of one length, InputError for axes that do not fit, for places
    beyond the matrix, and for places within one cycle of zero, which are in another unit.
    """
    source, places = located(source), located(places)
    kind, data = _samples(source, axes, variable)
    notes: list[Note] = []
    if not data.is_complex():
        notes.append(REAL_KSPACE)
        data = data.to(torch.complex64)
    where = _places(places)
    require_finite(data, "k-space")
    require_finite(where, "trajectory")
    times, shots, samples = data.shape[0], *data.shape[-2:]
    if where.shape[2:] != (shots, samples) or where.shape[0] not in (1, times):
        frames = "" if times == 1 and where.shape[0] == 1 else f" in {where.shape[0]} frame(s)"
        raise FormatError(f"a trajectory of {tuple(where.shape[2:])} shots and samples{frames}",
                          expected=f"({shots}, {samples})" + (f" in 1 frame or {times}" if times > 1 else "") +
                          ", as the data have", remedy="give the trajectory of these data")
    volume = where.shape[1] == 3 and bool((where[:, 0] != 0).any())
    where = where if volume else where[:, -2:]
    if volume and data.shape[2] > 1:
        raise InputError(f"{data.shape[2]} slices along a trajectory in three axes", expected="one volume, or places "
                         "(y, x) alone", remedy="give one of them")
    shape = _matrix(where, matrix, data.shape[2], volume, notes)
    grid = grid_of(shape, spacing_mm, notes)
    record = KSpace(Rows.subjects(1), data[None], grid, torch.ones(1, 1, 1, 1, 1, 1, dtype=torch.bool),
                    fourier_axes=("z", "y", "x") if volume else ("y", "x"), trajectory=where[None].contiguous(),
                    notes=tuple(notes))
    return Opened(Case({"kspace": record}), Person(), kind)


def _samples(path: Path, axes: str | None, variable: str | None) -> tuple[Kind, Tensor]:
    """``[time, coil, z, shot, sample]``."""
    kind = detect(path)
    if kind == "BART":
        array = _bart(path)
        if array.shape[0] != 1:
            raise InputError(f"BART samples of {array.shape[0]} along READ", expected="1, sample, shot, coil, for a "
                             "trajectory", remedy="reshape them so")
        return kind, as_tensor(np.ascontiguousarray(array[0].transpose(3, 2, 1, 0)))[:, :, None]
    array = _array(path, kind, variable)
    names = [name.strip() for name in (axes or "").split(",") if name.strip()]
    if len(names) != array.ndim or len(set(names)) != len(names) or not {"coil", "shot", "sample"} <= set(
            names) <= set(_AXES):
        raise InputError(f"axes {axes!r} for an array of shape {array.shape} along a trajectory",
                         expected=f"{array.ndim} different names out of {', '.join(_AXES)}; coil, shot and sample "
                         "among them", remedy="state them, such as --axes coil,shot,sample")
    array = array.transpose([names.index(name) for name in _AXES if name in names])
    sizes = dict(zip([name for name in _AXES if name in names], array.shape, strict=True))
    data = as_tensor(array.reshape([sizes.get(name, 1) for name in _AXES]))
    return kind, data


def _places(path: Path) -> Float[Tensor, "time axis shot sample"]:
    kind = detect(path)
    if kind == "BART":
        array = np.real(_bart(path)[::-1, :, :, 0]).transpose(3, 2, 1, 0)  # x, y, z become z, y, x
    else:
        array = _array(path, kind, None)
        array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[-1] not in (2, 3) or np.iscomplexobj(array):
        raise InputError(f"a trajectory of shape {array.shape[1:] if array.shape[0] == 1 else array.shape}",
                         expected="real numbers [time,] shot, sample, (y, x) or (z, y, x); BART: (x, y, z), sample, "
                         "shot", remedy="store it so")
    return as_tensor(np.ascontiguousarray(np.moveaxis(array, -1, 1), dtype=np.float32))


def _bart(path: Path) -> np.ndarray:
    """BART's first four axes and TIME."""
    array = load_bart(path)
    if any(size > 1 for axis, size in enumerate(array.shape) if axis > 3 and axis != _TIME):
        raise InputError(f"a BART file of {array.shape}", expected="READ, PHS1, PHS2, COIL and TIME alone",
                         remedy="take one with `bart slice`")
    return array.reshape(*array.shape[:4], array.shape[_TIME])


def _array(path: Path, kind: Kind, variable: str | None) -> np.ndarray:
    if kind == "npy":
        return load_npy(path)
    if kind == "MATLAB":
        from firstread.io.mat import load

        return load(path, variable)
    raise InputError(f"{path.name}, a {kind} file, for k-space along a trajectory", expected=".npy, .mat or BART .cfl",
                     remedy="convert it to one of them")


def _matrix(where: Tensor, stated: tuple[int, ...] | None, slices: int, volume: bool, notes: list[Note]
            ) -> tuple[int, int, int]:
    wanted = 3 if volume else 2
    reach = where.abs().amax(dim=(0, 2, 3))
    if float(reach.max()) <= 1:
        raise InputError(f"a trajectory that reaches {float(reach.max()):.2g} from zero", expected="cycles per field "
                         "of view, from -N/2 to N/2 for N pixels", remedy="multiply cycles per pixel by the matrix")
    if stated is None:
        stated = tuple(max(1, 2 * round(float(r))) for r in reach)
        notes.append(Note("matrix_assumed", f"The image's matrix {' x '.join(map(str, stated))} follows from the reach "
                          "of the trajectory; --matrix states another."))
    if len(stated) != wanted or min(stated) < 1 or max(stated) > 4096:
        raise InputError(f"a matrix of {stated} for a trajectory of {wanted} axes", remedy="correct --matrix",
                         expected=f"{wanted} sizes from 1 to 4096, {'z,y,x' if volume else 'y,x'}")
    far = [f"{float(r):.0f}" for r, size in zip(reach, stated, strict=True) if float(r) > 0.525 * size + 1]
    if far:
        raise InputError(f"a trajectory that reaches {far[0]} cycles per field of view", expected="half the matrix of "
                         f"{' x '.join(map(str, stated))} at most", remedy="state a larger --matrix, or check the unit")
    return (slices, *stated) if not volume else stated  # type: ignore[return-value]
