"""Interpolation of a line of samples to a finer one, as a matrix: linear, and by cubic B-splines."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError


def finer_places(size: int, factor: int) -> Float[Tensor, " fine"]:
    """Where the middles of ``factor`` voxels for each of ``size`` lie, in indices of the coarse ones.

    >>> finer_places(2, 2).tolist()
    [-0.25, 0.25, 0.75, 1.25]
    """
    return (torch.arange(size * factor, dtype=torch.float64) + 0.5) / factor - 0.5


def interpolation_matrix(size: int, places: Float[Tensor, " fine"], *, order: int = 3) -> Float[Tensor, "fine size"]:
    """The matrix that takes ``size`` samples to their values at ``places`` (in indices; beyond the ends, the end's).

    order 1: linear. order 3: the cubic B-spline through the samples, ``s(u) = Σ_k c_k β³(u - k)`` with coefficients
    mirrored at both ends (Unser, Aldroubi and Eden 1993). Raises SettingError for another order or no sample.

    >>> interpolation_matrix(3, torch.tensor([0.5, 2.0]), order=1).tolist()
    [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]
    """
    if order not in (1, 3) or size < 1:
        raise SettingError(f"interpolation of order {order} from {size} samples", expected="order 1 or 3, one sample",
                           remedy="take 1 (linear) or 3 (cubic B-spline)")
    if size == 1:
        return torch.ones(len(places), 1, dtype=torch.float64)
    at = places.double().clamp(0, size - 1)
    if order == 1:
        return (1 - (at[:, None] - torch.arange(size)).abs()).clamp(min=0)
    through = _basis(torch.arange(size, dtype=torch.float64), size)
    return torch.linalg.solve(through.mT, _basis(at, size).mT).mT


def _basis(at: Tensor, size: int) -> Tensor:
    """``β³(at - k)`` for k = -1 … size, those beyond the ends folded back in."""
    far = (at[:, None] - torch.arange(-1, size + 1)).abs()
    near = 2 / 3 - far.square() + far**3 / 2
    value = torch.where(far < 1, near, (2 - far).clamp(min=0) ** 3 / 6)
    inner = value[:, 1:-1].clone()
    inner[:, 1] += value[:, 0]
    inner[:, -2] += value[:, -1]
    return inner
