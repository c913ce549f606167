"""Linear maps along each axis of a volume, as products with small matrices: smoothing, resizing, sums of neighbours."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.ops.spline import interpolation_matrix


def along_axes(x: Float[Tensor, "*lead z y x"], matrices: tuple[Tensor | None, Tensor | None, Tensor | None]
               ) -> Float[Tensor, "*lead Z Y X"]:
    """``M_z M_y M_x`` applied to the last three axes; None leaves an axis as it is.

    >>> along_axes(torch.ones(1, 2, 3), (torch.ones(1, 1), torch.ones(1, 2), None)).tolist()
    [[[2.0, 2.0, 2.0]]]
    """
    along_z, along_y, along_x = matrices
    if along_x is not None:
        x = x @ along_x.T
    if along_y is not None:
        x = along_y @ x
    if along_z is not None:
        x = (along_z @ x.flatten(-2)).unflatten(-1, x.shape[-2:])
    return x


def gaussian_matrix(size: int, sd: float) -> Float[Tensor, "size size"] | None:
    """Smoothing with a Gaussian of ``sd`` voxels whose taps inside the line sum to one; None where it does nothing.

    >>> gaussian_matrix(5, 1.0).sum(dim=1).round(decimals=4).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    if size == 1 or sd < 0.1:
        return None
    apart = torch.arange(size, dtype=torch.float64)[:, None] - torch.arange(size, dtype=torch.float64)
    taps = torch.exp(-0.5 * (apart / sd) ** 2) * (apart.abs() <= math.ceil(3.5 * sd))
    return (taps / taps.sum(dim=1, keepdim=True)).float()


def smooth(x: Float[Tensor, "*lead z y x"], sd_voxels: tuple[float, float, float]) -> Float[Tensor, "*lead z y x"]:
    """Gaussian smoothing, sd in voxels along (z, y, x); beyond the edges nothing counts."""
    z, y, x_matrix = (gaussian_matrix(n, sd) for n, sd in zip(x.shape[-3:], sd_voxels, strict=True))
    return along_axes(x, (_like(z, x), _like(y, x), _like(x_matrix, x)))


def resize_matrix(size: int, target: int) -> Float[Tensor, "target size"] | None:
    """Linear interpolation to ``target`` voxels over the same field of view (outer edges stay).

    >>> resize_matrix(2, 4)[:, 0].tolist()
    [1.0, 0.75, 0.25, 0.0]
    """
    if size == target:
        return None
    places = (torch.arange(target, dtype=torch.float64) + 0.5) * (size / target) - 0.5
    return interpolation_matrix(size, places, order=1).float()


def resize(x: Float[Tensor, "*lead z y x"], shape: tuple[int, int, int]) -> Float[Tensor, "*lead Z Y X"]:
    """``x`` on ``shape`` voxels of the same field of view, by linear interpolation."""
    z, y, x_matrix = (resize_matrix(n, m) for n, m in zip(x.shape[-3:], shape, strict=True))
    return along_axes(x, (_like(z, x), _like(y, x), _like(x_matrix, x)))


def resize_adjoint(x: Float[Tensor, "*lead Z Y X"], shape: tuple[int, int, int]) -> Float[Tensor, "*lead z y x"]:
    """The adjoint of :func:`resize` from ``shape``: gradients of the finer grid gathered on the coarser one."""
    matrices = (resize_matrix(n, m) for n, m in zip(shape, x.shape[-3:], strict=True))
    z, y, x_matrix = (None if m is None else m.T for m in matrices)
    return along_axes(x, (_like(z, x), _like(y, x), _like(x_matrix, x)))


def box_sum(x: Float[Tensor, "*lead z y x"], radius: int) -> Float[Tensor, "*lead z y x"]:
    """Sums over windows of ``2 radius + 1`` voxels along each axis longer than one; zeros outside.

    By doubling, ``S_2k(i) = S_k(i) + S_k(i + k)``: its cost grows with the logarithm of the window.

    >>> box_sum(torch.ones(1, 1, 5), 1).tolist()
    [[[2.0, 3.0, 3.0, 3.0, 2.0]]]
    """
    for axis in (-1, -2, -3):
        if x.shape[axis] > 1:
            x = _running_sum(x, axis, radius)
    return x


def _running_sum(x: Tensor, axis: int, radius: int) -> Tensor:
    size, width = x.shape[axis], 2 * radius + 1
    pad = [0] * (2 * -axis)
    pad[-2:] = [radius, radius]
    power = torch.nn.functional.pad(x, pad)
    total, start, length = None, 0, 1
    while length <= width:
        if width & length:
            part = power.narrow(axis, start, size)
            total = part if total is None else total + part
            start += length
        if 2 * length <= width:
            power = power.narrow(axis, 0, power.shape[axis] - length) + power.narrow(axis, length,
                                                                                     power.shape[axis] - length)
        length *= 2
    assert total is not None
    return total


def _like(matrix: Tensor | None, x: Tensor) -> Tensor | None:
    return None if matrix is None else matrix.to(x)
