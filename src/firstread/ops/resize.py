"""Resizing of voxel data with the edges of the field of view kept in place, by splines, differentiable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.spline import interpolation_matrix

_EDGE = 12  # samples repeated beyond each end; a cubic spline forgets 2 - sqrt(3) per sample, 1e-7 in all


def resize(data: Float[Tensor, "*space"], shape: Sequence[int], *, order: int = 3,
           clip: bool = True) -> Float[Tensor, "*new"]:
    """The last ``len(shape)`` axes of ``data`` cut into ``shape`` voxels; the others go along.

    Sample i of n is taken at ``(i + 1/2) m/n - 1/2`` of the m old ones, edges repeated. order 0: the nearest; 1:
    linear; 3: cubic B-splines through the samples. clip: keep splines within the range of each block of the last axes,
    as scikit-image's ``resize(mode="edge", anti_aliasing=False)`` does.

    Raises SettingError for another order or too many axes.

    >>> resize(torch.tensor([0.0, 1.0]), (4,), order=1).tolist()
    [0.0, 0.25, 0.75, 1.0]
    """
    if order not in (0, 1, 3) or len(shape) > data.ndim or min(shape, default=1) < 1:
        raise SettingError(f"resizing of {tuple(data.shape)} to {tuple(shape)} with order {order}",
                           expected="axes that the data has, order 0, 1 or 3", remedy="correct shape or order")
    axes = range(data.ndim - len(shape), data.ndim)
    if all(data.shape[axis] == size for axis, size in zip(axes, shape, strict=True)):
        return data
    if order == 1 and len(shape) <= 3:
        return _linear(data, tuple(shape))
    out = data
    for axis, size in zip(axes, shape, strict=True):
        out = resize_axis(out, axis, size, order=order)
    if order < 3 or not clip:
        return out
    last = tuple(axes)
    return torch.minimum(torch.maximum(out, data.amin(last, keepdim=True)), data.amax(last, keepdim=True))


def resize_axis(data: Float[Tensor, "*space"], axis: int, size: int, *, order: int) -> Float[Tensor, "*new"]:
    """One axis of ``data`` cut into ``size`` voxels, as :func:`resize` without clipping.

    >>> resize_axis(torch.tensor([[1.0, 2.0]]), 1, 3, order=0).tolist()
    [[1.0, 2.0, 2.0]]
    """
    old = data.shape[axis]
    if old == size:
        return data
    places = (torch.arange(size, dtype=torch.float64) + 0.5) * (old / size) - 0.5
    if order == 0:
        nearest = torch.floor(places + 0.5).long().clamp(0, old - 1)
        return data.index_select(axis, nearest.to(data.device))
    matrix = spline_matrix(old, places) if order == 3 else interpolation_matrix(old, places, order=1)
    return torch.tensordot(data, matrix.to(data), dims=([axis], [1])).movedim(-1, axis)


def spline_matrix(size: int, places: Float[Tensor, " new"]) -> Float[Tensor, "new size"]:
    """Cubic B-splines through ``size`` samples whose ends are repeated for ever, at ``places`` (in indices).

    >>> spline_matrix(3, torch.tensor([1.0, -0.5])).round(decimals=3).tolist()
    [[0.0, 1.0, 0.0], [1.1, -0.127, 0.027]]
    """
    longer = interpolation_matrix(size + 2 * _EDGE, places + _EDGE, order=3)
    inner = longer[:, _EDGE:_EDGE + size].clone()
    inner[:, 0] += longer[:, :_EDGE].sum(dim=1)
    inner[:, -1] += longer[:, _EDGE + size:].sum(dim=1)
    return inner


def _linear(data: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Torch's own interpolation, which keeps edges and takes no matrix."""
    mode = ("linear", "bilinear", "trilinear")[len(shape) - 1]
    flat = data.reshape(1, -1, *data.shape[data.ndim - len(shape):])
    made = F.interpolate(flat, size=shape, mode=mode, align_corners=False)
    return made.reshape(*data.shape[:data.ndim - len(shape)], *shape)
