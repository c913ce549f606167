"""The calibration region: the fully sampled centre of k-space, collected over time."""

from __future__ import annotations

from jaxtyping import Bool, Complex
from torch import Tensor

from firstread.core.errors import SignalError
from firstread.core.records import KSpace
from firstread.ops.fourier import DIMENSION


def time_mean(kspace: KSpace) -> tuple[Complex[Tensor, "batch 1 coil z y x"], Bool[Tensor, "batch 1 1 mz my mx"]]:
    """Each sample as the mean over the frames that measured it, and which were measured in any frame.

    Frames that measure different lines (time-interleaved sampling) fill the region together (Breuer et al. 2005).
    """
    mask = (kspace.mask != 0).expand(-1, kspace.data.shape[1], *[-1] * 4)
    times = mask.sum(dim=1, keepdim=True)
    return kspace.data.sum(dim=1, keepdim=True) / times.clamp_min(1), times > 0


def central_region(measured: Bool[Tensor, "batch 1 1 mz my mx"], shape: tuple[int, int, int], axes: tuple[str, ...],
                   *, widest: int | None = None) -> tuple[slice, slice, slice]:
    """The largest box (z, y, x) around the zero frequency that is measured in every batch row, whole along other axes.

    measured: length 1 on axes along which it is constant; shape: of k-space. widest: the longest side, None for any.
    Where more than one axis has gaps the box shrinks along its longest side until it is full.

    Raises SignalError where the zero frequency was not measured.

    >>> import torch
    >>> lines = torch.tensor([1, 0, 1, 1, 1, 1, 0, 1]).bool().reshape(1, 1, 1, 1, 8, 1)
    >>> central_region(lines, (1, 8, 6), ("y", "x"))
    (slice(0, 1, None), slice(2, 6, None), slice(0, 6, None))
    """
    full = measured.flatten(0, 2).all(dim=0)
    for axis in {"z", "y", "x"} - set(axes):
        full = full.all(dim=DIMENSION[axis], keepdim=True)
    box = []
    for axis, size in zip(("z", "y", "x"), shape, strict=True):
        dim = DIMENSION[axis]
        line = full.movedim(dim, -1)
        line = line[line.shape[0] // 2, line.shape[1] // 2]
        start, stop = run_through_centre(line) if line.shape[0] > 1 else (0, size)
        if stop == start:
            raise SignalError(f"no measured line at the centre of {axis}", expected="a fully sampled centre",
                              remedy="acquire centre lines, or give the coil sensitivities")
        most = size if widest is None or axis not in axes else widest
        box.append(slice(max(start, size // 2 - most // 2), min(stop, size // 2 - most // 2 + most)))
    while not bool(_cut(full, box).all()):
        longest = max((b for b, n in zip(box, full.shape, strict=True) if n > 1), key=lambda b: b.stop - b.start)
        box[box.index(longest)] = slice(longest.start + 1, longest.stop - 1)
    return box[0], box[1], box[2]


def _cut(full: Tensor, box: list[slice]) -> Tensor:
    z, y, x = (b if n > 1 else slice(0, 1) for b, n in zip(box, full.shape, strict=True))
    return full[z, y, x]


def run_through_centre(line: Bool[Tensor, " n"]) -> tuple[int, int]:
    """Start and stop of the run of measured lines through ``N // 2``; equal where the centre itself is missing.

    >>> import torch
    >>> run_through_centre(torch.tensor([True, False, True, True, True, False]))
    (2, 5)
    """
    middle = line.shape[0] // 2
    up = int(line[middle:].long().cumprod(0).sum())
    down = int(line[: middle + 1].flip(0).long().cumprod(0).sum())
    return (middle, middle) if up == 0 else (middle - down + 1, middle + up)
