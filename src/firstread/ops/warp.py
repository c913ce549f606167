"""Transforms of millimetres at work: on points, images and labels; composed, inverted, and their Jacobian.

A transform is ``T(x) = A x + d(x)`` (:class:`~firstread.core.geometry.Transform`). Beyond its grid a field is that of
the nearest border.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import GeometryError
from firstread.core.geometry import Grid, Transform
from firstread.ops.resample import sample
from firstread.ops.velocity import jacobian_determinant as voxel_determinant


def apply(transform: Transform, points_mm: Float[Tensor, "batch *n 3"]) -> Float[Tensor, "batch *n 3"]:
    """``A x + d(x)`` of points (x, y, z) in millimetres; differentiable.

    >>> apply(Transform.identity(), torch.ones(1, 2, 3, dtype=torch.float64)).sum().item()
    6.0
    """
    moved = replace(transform, displacement_mm=None).apply(points_mm)
    if transform.displacement_mm is None:
        return moved
    return moved + field_at(transform, points_mm).to(moved.dtype)


def field_at(transform: Transform, points_mm: Float[Tensor, "batch *n 3"]) -> Float[Tensor, "batch *n 3"]:
    """``d(x)`` alone at points in millimetres."""
    if transform.displacement_mm is None or transform.from_grid is None:
        return torch.zeros_like(points_mm)
    index = transform.from_grid.to_index(points_mm.reshape(points_mm.shape[0], -1, 3))
    return _sample(transform.displacement_mm, index, "bilinear", "border").movedim(1, -1).reshape(points_mm.shape)


def warp(data: Float[Tensor, "batch channel z y x"], grid: Grid, transform: Transform, target: Grid, *,
         mode: str = "bilinear", outside: str = "zeros") -> Float[Tensor, "batch channel tz ty tx"]:
    """``data(T(x))`` at the voxels x of ``target``; differentiable with respect to data and field.

    data: the moving image on ``grid``; mode: ``nearest`` for hard labels; outside: ``zeros`` or ``border``.

    >>> grid = Grid.from_spacing((4, 4, 4), (1.0, 1.0, 1.0))
    >>> warp(torch.ones(1, 1, 4, 4, 4), grid, Transform.identity(), grid).sum().item()
    64.0
    """
    points = target.points_mm()
    index = grid.to_index(apply(transform, points)).reshape(len(points), -1, 3)
    return _sample(data, index, mode, outside).unflatten(-1, target.shape)


def compose(second: Transform, first: Transform, *, grid: Grid | None = None) -> Transform:
    """The transform that applies ``first``, then ``second``, its field on ``grid`` (else on that of ``first``)::

        T2(T1(x)) = A2 A1 x + (A2 d1(x) + d2(T1(x)))

    Raises GeometryError where there is a field and no grid to put it on.
    """
    if second.displacement_mm is None and first.displacement_mm is None:
        return second.compose(first)
    grid = grid or first.from_grid
    if grid is None:
        raise GeometryError("two transforms to compose on no grid", expected="a grid for the field",
                            remedy="give `grid`, that of the fixed image")
    points = grid.points_mm()
    matrix = second.matrix @ first.matrix
    field = apply(second, apply(first, points)) - Transform(matrix).apply(points)
    return Transform(matrix, field.movedim(-1, 1).to(_dtype(first, second)), grid, second.to_grid)


def inverse(transform: Transform, *, iterations: int = 30, tolerance_mm: float = 1e-3) -> Transform:
    """The transform back, its field on the grid of this one as the matrix moves it, by fixed-point iteration::

        T^-1(y) = A^-1 y + e(y),    e(y) <- -A^-1 d(A^-1 y + e(y))

    (Chen et al. 2008), which converges for fields without folds. Ends when no step exceeds ``tolerance_mm``. What comes
    from a velocity has an inverse of its own, the flow of ``-v``.
    """
    if transform.displacement_mm is None or transform.from_grid is None:
        return transform.inverse()
    back = torch.linalg.inv(transform.matrix)
    base = transform.from_grid.points_mm()  # A^-1 y
    e = torch.zeros_like(base)
    for _ in range(iterations):
        step = -_turn(back[:, :3, :3], field_at(transform, base + e))
        change, e = (step - e).abs().amax(), step
        if change < tolerance_mm:
            break
    return Transform(back, e.movedim(-1, 1).to(transform.displacement_mm.dtype),
                     moved_grid(transform.from_grid, transform.matrix), transform.from_grid)


def moved_grid(grid: Grid, matrix: Float[Tensor, "batch 4 4"]) -> Grid:
    """The grid whose voxels lie where ``matrix`` takes those of ``grid``."""
    return replace(grid, affine=matrix @ grid.affine, thickness_mm=None)


def jacobian_determinant(transform: Transform, grid: Grid) -> Float[Tensor, "batch z y x"]:
    """``det dT/dx`` at the voxels of ``grid``: how much volume grows there; 0 and below: a fold.

    >>> double = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0], dtype=torch.float64))[None]
    >>> jacobian_determinant(Transform(double), Grid.from_spacing((2, 2, 2), (1.0, 1.0, 1.0))).unique().item()
    2.0
    """
    whole = torch.linalg.det(transform.matrix[:, :3, :3])[:, None, None, None]
    if transform.displacement_mm is None:
        return whole.expand(-1, *grid.shape).float()
    linear = torch.linalg.inv(transform.matrix[:, :3, :3] @ grid.affine[:, :3, :3])
    in_voxels = _turn(linear, field_at(transform, grid.points_mm()))
    return (voxel_determinant(in_voxels.movedim(-1, 1)) * whole).float()


def _sample(data: Tensor, index: Tensor, mode: str, outside: str) -> Tensor:
    """``data [batch, channel, z, y, x]`` at ``index [batch, n, 3]``; a single slice is read in its own plane."""
    index = index.to(data.dtype) if data.is_floating_point() else index
    if data.shape[2] == 1:
        return sample(data[:, :, 0], index[:, None, :, :2], mode=mode, outside=outside)[:, :, 0]
    return sample(data, index[:, None, None], mode=mode, outside=outside)[:, :, 0, 0]


def _turn(linear: Float[Tensor, "batch 3 3"], vectors: Float[Tensor, "batch z y x 3"]) -> Tensor:
    return torch.einsum("bij,bzyxj->bzyxi", linear, vectors.to(linear.dtype))


def _dtype(first: Transform, second: Transform) -> torch.dtype:
    for transform in (first, second):
        if transform.displacement_mm is not None:
            return transform.displacement_mm.dtype
    return torch.float32
