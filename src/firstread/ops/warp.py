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

SMALLEST = 0.02  # share of the matrix' own determinant below which a place counts as folded
AT_ONCE = 1 << 19  # points that are inverted together, for the memory


def apply(transform: Transform, points_mm: Float[Tensor, "batch *n 3"]) -> Float[Tensor, "batch *n 3"]:
    """``A x + d(x)`` of points (x, y, z) in millimetres; differentiable.

    >>> apply(Transform.identity(), torch.ones(1, 2, 3, dtype=torch.float64)).sum().item()
    6.0
    """
    moved = replace(transform, displacement_mm=None).apply(points_mm)
    if transform.displacement_mm is None:
        return moved
    return moved + field_at(transform, points_mm).to(moved.dtype)


def apply_inverse(transform: Transform, points_mm: Float[Tensor, "batch *n 3"], *, iterations: int = 30,
                  tolerance_mm: float = 1e-3, near: Transform | None = None) -> Float[Tensor, "batch *n 3"]:
    """``T^-1(y)`` of points in millimetres, each by itself, by Newton's method with steps cut until they help::

        x <- x - s J(x)^-1 (T(x) - y),    s = 1, 1/2, 1/4 …,    J = dT/dx

    near: an inverse that is nearly right, where each search starts (default: that of the matrix); no answer lies
    further off than its. Ends when all are there to ``tolerance_mm``; where ``T`` folds there may be no answer:
    compare ``apply(T, x)``.

    >>> moved = apply_inverse(Transform(torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0]).double())[None]),
    ...                       torch.ones(1, 1, 3, dtype=torch.float64))
    >>> moved.tolist()
    [[[0.5, 0.5, 0.5]]]
    """
    start = apply(Transform(torch.linalg.inv(transform.matrix)), points_mm)
    if transform.displacement_mm is None:
        return start
    if near is not None:
        start = apply(near, points_mm)
    found = []
    for row in torch.arange(len(points_mm))[:, None]:
        one = transform.select(row)
        slopes = _slopes(one)
        pairs = zip(points_mm[row].reshape(1, -1, 3).split(AT_ONCE, dim=1),
                    start[row].reshape(1, -1, 3).split(AT_ONCE, dim=1), strict=True)
        found.append(torch.cat([_newton(one, slopes, *pair, iterations, tolerance_mm) for pair in pairs], dim=1))
    return torch.cat(found).reshape(points_mm.shape)


def _slopes(transform: Transform) -> Float[Tensor, "batch 9 z y x"]:
    """Of the field along x, y and z by voxels, each of three components."""
    field = transform.displacement_mm
    assert field is not None
    return torch.cat([torch.gradient(field, dim=axis)[0] if field.shape[axis] > 1 else torch.zeros_like(field)
                      for axis in (4, 3, 2)], dim=1)


def _newton(transform: Transform, slopes: Tensor, wanted: Tensor, start: Tensor, iterations: int, tolerance_mm: float
            ) -> Tensor:
    """One row: ``[1, n, 3]``. Points that are there are left alone."""
    grid = transform.from_grid
    assert grid is not None
    last = torch.tensor(grid.shape[::-1]).to(wanted) - 1
    to_index, matrix = torch.linalg.inv(grid.affine[0, :3, :3]), transform.matrix[0, :3, :3]
    found, size = start.clone(), wanted.new_ones(wanted.shape[1])
    off = apply(transform, found) - wanted
    for _ in range(iterations):
        todo = off[0].norm(dim=-1) > tolerance_mm
        if not bool(todo.any()):
            break
        places, rest = found[:, todo], off[:, todo]
        index = grid.to_index(places)
        slope = _sample(slopes, index, "bilinear", "border")[0].unflatten(0, (3, 3)).to(matrix.dtype)
        slope = slope * ((index[0] >= 0) & (index[0] <= last)).T[:, None]  # none beyond the border, where d stays
        jacobian = matrix + torch.einsum("acn,ax->ncx", slope, to_index)
        sound = torch.linalg.det(jacobian) / torch.linalg.det(matrix) > SMALLEST
        step = torch.linalg.solve(torch.where(sound[:, None, None], jacobian, matrix), rest[0])
        tried = places - size[todo, None] * step
        left = apply(transform, tried) - wanted[:, todo]
        better = left[0].norm(dim=-1) < rest[0].norm(dim=-1)
        found[:, todo] = torch.where(better[:, None], tried, places)
        off[:, todo] = torch.where(better[:, None], left, rest)
        size[todo] = torch.where(better, (2 * size[todo]).clamp(max=1.0), size[todo] / 2)
    return found


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
    return sample_mm(data, grid, apply(transform, target.points_mm()), mode=mode, outside=outside)


def sample_mm(data: Float[Tensor, "batch channel z y x"], grid: Grid, points_mm: Float[Tensor, "batch *n 3"], *,
              mode: str = "bilinear", outside: str = "zeros") -> Float[Tensor, "batch channel *n"]:
    """``data``, which lies on ``grid``, at points in millimetres; a single slice is read in its own plane.

    >>> grid = Grid.from_spacing((1, 2, 2), (1.0, 1.0, 1.0))
    >>> sample_mm(torch.tensor([[[[[0.0, 1.0], [2.0, 3.0]]]]]), grid, torch.zeros(1, 1, 3)).item()
    1.5
    """
    index = grid.to_index(points_mm).reshape(len(points_mm), -1, 3)
    return _sample(data, index, mode, outside).unflatten(-1, points_mm.shape[1:-1])


def sample_labels(labels: Float[Tensor, "batch channel z y x"], grid: Grid, points_mm: Float[Tensor, "batch *n 3"]
                  ) -> Float[Tensor, "batch channel *n"]:
    """The label that has the largest share at each point, every label interpolated linearly; 0 outside.

    Borders come out smoother than by nearest neighbours.

    >>> grid = Grid.from_spacing((1, 1, 4), (1.0, 1.0, 1.0))
    >>> labels = torch.tensor([0.0, 3.0, 3.0, 0.0]).reshape(1, 1, 1, 1, 4)
    >>> sample_labels(labels, grid, torch.tensor([[[0.9, 0.0, 0.0], [1.1, 0.0, 0.0]]])).tolist()
    [[[3.0, 0.0]]]
    """
    shape = (*labels.shape[:2], *points_mm.shape[1:-1])
    found, most, rest = labels.new_zeros(shape), labels.new_zeros(shape), labels.new_ones(shape)
    for value in labels.unique().tolist():
        if value:
            share = sample_mm((labels == value).to(labels.dtype), grid, points_mm)
            found, most, rest = torch.where(share > most, value, found), torch.maximum(share, most), rest - share
    return torch.where(rest > most, 0.0, found)


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


def inverse(transform: Transform, *, near: Transform | None = None) -> Transform:
    """The transform back, its field on the grid of this one as the matrix moves it (see :func:`apply_inverse`)::

        T^-1(y) = A^-1 y + e(y)

    Right at the voxels of that grid, interpolated between them. What comes from a velocity has an inverse of its own,
    the flow of ``-v``, which is only nearly that of the interpolated field: give it as ``near``.
    """
    if transform.displacement_mm is None or transform.from_grid is None:
        return transform.inverse()
    grid = moved_grid(transform.from_grid, transform.matrix)
    places = grid.points_mm()
    back = torch.linalg.inv(transform.matrix)
    field = apply_inverse(transform, places, near=near) - apply(Transform(back), places)
    return Transform(back, field.movedim(-1, 1).to(transform.displacement_mm.dtype), grid, transform.from_grid)


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
