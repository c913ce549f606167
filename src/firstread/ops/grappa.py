"""GRAPPA: missing lines of k-space as fixed combinations of their measured neighbours in all coils (Griswold 2002).

Any pattern of lines: each missing line takes the nearest measured lines on both sides, and one kernel is fitted for
every set of distances that occurs.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import torch
from jaxtyping import Bool, Complex
from torch import Tensor

Offsets = tuple[int, ...]


def plan(measured: Bool[Tensor, " line"], *, lines: int, room: int, least: dict[int, int]) -> dict[Offsets, list[int]]:
    """Which missing lines are filled, grouped by the distances to their source lines.

    Sources are the nearest measured lines, up to ``lines // 2`` on each side. The farthest are dropped until the kernel
    (sources and target) fits into a calibration region of ``room`` lines with ``least[sources]`` positions to spare.
    Beyond the outermost measured lines, only lines no farther out than the gap next to the end inside are filled.

    >>> every_third = torch.tensor([1, 0, 0, 1, 0, 0, 1, 0]).bool()
    >>> plan(every_third, lines=2, room=8, least={1: 1, 2: 1})
    {(-1, 2): [1, 4], (-2, 1): [2, 5], (-1,): [7]}
    """
    known = torch.nonzero(measured)[:, 0].tolist()
    found: dict[Offsets, list[int]] = defaultdict(list)
    gaps = [b - a - 1 for a, b in pairwise(known)] or [0]
    for line in torch.nonzero(~measured)[:, 0].tolist():
        below = [k - line for k in known if k < line][-(lines // 2):]
        above = [k - line for k in known if k > line][: lines // 2]
        offsets = below + above
        if (not below and above[0] > gaps[0]) or (not above and -below[-1] > gaps[-1]):
            continue
        while offsets and room - _span(offsets) < least[len(offsets)]:
            offsets.remove(max(offsets, key=abs))
        if offsets:
            found[tuple(offsets)].append(line)
    return dict(found)


def fit_kernel(calibration: Complex[Tensor, "coil line sample"], offsets: Offsets, *, readout: int,
               regularization: float) -> Complex[Tensor, "n coil"]:
    """``W`` of least squares ``min ‖A W - T‖² + λ ‖W‖²`` over all places of the calibration region.

    Rows of A: the samples at the source lines and ``readout`` neighbouring samples of all coils, n of them; T: the
    target samples of all coils. regularization: λ, relative to the mean eigenvalue of AᴴA.
    """
    count, samples = calibration.shape[1:]
    first, last = max(0, -min(offsets)), count - max(0, *offsets)
    sources = torch.stack([calibration[:, first + o : last + o] for o in offsets], dim=1)
    rows = _neighbours(sources.to(torch.complex128), readout).flatten(0, 1)
    half = readout // 2
    targets = calibration[:, first:last, half : samples - half].flatten(1).T.to(torch.complex128)
    gram = rows.mH @ rows
    weight = regularization * gram.diagonal().real.mean().clamp_min(torch.finfo(torch.float64).tiny)
    identity = torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram + weight * identity, rows.mH @ targets).to(calibration.dtype)


def apply_kernel(kspace: Complex[Tensor, "coil line sample"], kernel: Complex[Tensor, "n coil"], offsets: Offsets,
                 lines: list[int], *, readout: int) -> Complex[Tensor, "coil target sample"]:
    """The missing ``lines``, ``T = A W``; k-space is zero beyond its edges along the readout."""
    where = torch.tensor(lines, device=kspace.device)
    sources = torch.stack([kspace[:, where + o] for o in offsets], dim=1)
    padded = torch.nn.functional.pad(sources, (readout // 2, readout // 2))
    return (_neighbours(padded, readout) @ kernel).permute(2, 0, 1)


def _neighbours(sources: Complex[Tensor, "coil source line sample"], readout: int
                ) -> Complex[Tensor, "line position n"]:
    """Rows of the calibration equations, one for each line and readout position."""
    return sources.unfold(-1, readout, 1).permute(2, 3, 0, 1, 4).flatten(2)


def _span(offsets: list[int]) -> int:
    """How many lines farther than one the sources and their target reach."""
    return max(0, *offsets) - min(0, *offsets)
