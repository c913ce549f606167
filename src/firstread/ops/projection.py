"""Projection of slices along rays, ``p = ∫ f dl``, as a sparse matrix with its exact adjoint, for any beam."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor

from firstread.core.errors import GeometryError
from firstread.core.geometry import Grid
from firstread.core.sinogram import Beam
from firstread.ops.linear import LinearOp
from firstread.ops.ray_symmetry import ray_symmetry, turned, turned_back

BLOCK = 4_000_000  # entries made at a time
COLUMNS = 8  # that a matrix is multiplied with at a time; more do not stay in the cache


class Projection(LinearOp):
    """Image ``[..., z, y, x]`` to line integrals ``[..., z, view, bin]`` in the image's unit times millimetres.

    After Joseph (1982): a ray that runs more along y than along x is sampled once in every row of the image, between
    two pixels, ``p = (Δy / |cos θ|) Σ_i (1 - w_i) f[i, k_i] + w_i f[i, k_i + 1]``; others once in every column. The
    image is zero outside its grid. The entries are computed at the first use and kept as two sparse matrices, so the
    adjoint is exact, of those rays that are not turned or mirrored others (``ops.ray_symmetry``). Forward and adjoint
    are differentiable, also twice.

    shape: (y, x) of the plane; spacing_mm: of its pixels, (y, x).

    >>> from firstread.core.sinogram import ParallelBeam
    >>> beam = ParallelBeam.uniform(views=2, bins=3, bin_mm=2.0)
    >>> Projection(beam=beam, shape=(3, 3), spacing_mm=(2.0, 2.0))(torch.ones(1, 3, 3)).tolist()
    [[[6.0, 6.0, 6.0], [6.0, 6.0, 6.0]]]
    """

    def __init__(self, *, beam: Beam, shape: tuple[int, int], spacing_mm: tuple[float, float]):
        if min(shape) < 1 or not min(spacing_mm) > 0:
            raise GeometryError(f"a plane of {shape} pixels of {spacing_mm} mm", expected="both above zero",
                                remedy="correct the grid")
        self.beam, self.shape, self.spacing_mm = beam, tuple(shape), tuple(spacing_mm)
        self._rays = (len(beam.angles_rad), beam.bins)
        square = shape[0] == shape[1] and abs(spacing_mm[0] / spacing_mm[1] - 1) < 1e-9
        self._symmetry = ray_symmetry(beam, square=square)
        self._pairs: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(cls, beam: Beam, grid: Grid) -> Projection:
        """The projection of the slices of ``grid``.

        Raises GeometryError for a grid without millimetres, or whose rows differ in spacing.
        """
        return cls(beam=beam, shape=grid.shape[1:], spacing_mm=plane_spacing_mm(grid))

    def forward(self, x: Num[Tensor, "*lead y x"]) -> Num[Tensor, "*lead view bin"]:
        """Line integrals."""
        return _Product.apply(self, False, self._checked(x, self.shape))

    def adjoint(self, y: Num[Tensor, "*lead view bin"]) -> Num[Tensor, "*lead y x"]:
        """Backprojection, the transpose of ``forward``."""
        return _Product.apply(self, True, self._checked(y, self._rays))

    def bound(self, weights: Float[Tensor, "*lead view bin"] | None = None) -> float:
        """An upper bound of the norm of ``Aᵀ W A``: ``max_i (M v)_i / v_i`` of a matrix without negative entries, for
        any ``v > 0`` (Collatz 1942); v after a few steps of the power method, so that it is close."""
        with torch.no_grad():
            v = torch.ones(self.shape, dtype=torch.float32 if weights is None else weights.dtype)
            v = v if weights is None else v.to(weights.device).expand(*weights.shape[:-2], *self.shape)
            largest = 0.0
            for _ in range(5):
                rays = self.forward(v)
                image = self.adjoint(rays if weights is None else weights * rays)
                seen = v > 1e-6 * v.max()
                largest, v = float((image[seen] / v[seen]).max()), image / image.max()
        return largest

    def product(self, values: Num[Tensor, "*lead rows columns"], *, adjoint: bool) -> Num[Tensor, "*lead m n"]:
        """``A x`` or ``Aᵀ y`` without a gradient."""
        if values.is_complex():
            parts = self.product(torch.view_as_real(values).movedim(-1, 0), adjoint=adjoint)
            return torch.complex(parts[0], parts[1])
        matrices, planes = self._pair(values.dtype, values.device), values.reshape(-1, *values.shape[-2:])
        step, way = max(1, COLUMNS // len(self._symmetry.elements)), self._back if adjoint else self._ahead
        made = torch.cat([way(matrices[int(adjoint)], part) for part in planes.split(step)])
        return made.reshape(*values.shape[:-2], *(self.shape if adjoint else self._rays))

    def _ahead(self, matrix: Tensor, planes: Tensor) -> Tensor:
        symmetry = self._symmetry
        columns = torch.stack([turned(planes, g).flatten(1) for g in symmetry.elements])
        sums = matrix @ columns.flatten(0, 1).T.contiguous()
        return sums.reshape(-1, len(planes))[symmetry.slot.to(sums.device)].T

    def _back(self, matrix: Tensor, planes: Tensor) -> Tensor:
        symmetry = self._symmetry
        rows = torch.nn.functional.pad(planes.flatten(1), (0, 1)).T.contiguous()
        columns = rows[symmetry.ray.to(rows.device)].reshape(len(symmetry.base), -1)
        images = (matrix @ columns).T.reshape(len(symmetry.elements), len(planes), *self.shape)
        first, *rest = (turned_back(image, g) for image, g in zip(images, symmetry.elements, strict=True))
        return sum(rest, first)

    def _checked(self, values: Tensor, given: tuple[int, ...]) -> Tensor:
        if tuple(values.shape[-2:]) != given:
            raise GeometryError(f"planes of {tuple(values.shape[-2:])} for this projection", expected=f"{given}",
                                remedy="give the beam and grid of these data")
        return values

    def _pair(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """The matrix of the base rays and its transpose."""
        if (dtype, device) not in self._pairs:
            import scipy.sparse

            angle, distance = (part.flatten()[self._symmetry.base] for part in self.beam.rays())
            begin, column, value = joseph_entries(angle, distance, self.shape, self.spacing_mm)
            size = (len(angle), self.shape[0] * self.shape[1])
            number = np.float64 if dtype == torch.float64 else np.float32
            matrix = scipy.sparse.csr_matrix((value.astype(number, copy=False), column, begin), shape=size)
            self._pairs[dtype, device] = tuple(_csr(m).to(device, dtype) for m in (matrix, matrix.T.tocsr()))
        return self._pairs[dtype, device]


def plane_spacing_mm(grid: Grid) -> tuple[float, float]:
    """(y, x) spacing of a grid whose rows all have the same.

    Raises GeometryError where they have not, or where there are no millimetres.
    """
    grid.require_mm("projection")
    spacing = grid.spacing_mm[:, 1:]
    if not torch.allclose(spacing, spacing[:1].expand_as(spacing), rtol=1e-6):
        raise GeometryError("rows of different spacing", expected="one spacing for all of them",
                            remedy="project them one by one")
    return float(spacing[0, 0]), float(spacing[0, 1])


def joseph_entries(angle_rad: Float[Tensor, " ray"], distance_mm: Float[Tensor, " ray"], shape: tuple[int, int],
                   spacing_mm: tuple[float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joseph's matrix as compressed rows: where each ray begins, pixel numbers, weights in millimetres."""
    block = max(1, BLOCK // (2 * max(shape)))
    parts = [_entries(a.numpy(), s.numpy(), shape, spacing_mm)
             for a, s in zip(angle_rad.split(block), distance_mm.split(block), strict=True)]
    counts, columns, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    begin = np.concatenate(([0], np.cumsum(counts)))
    kind = np.int32 if begin[-1] < 2**31 else np.int64
    return begin.astype(kind), columns.astype(kind, copy=False), values


def _entries(angle: np.ndarray, distance: np.ndarray, shape: tuple[int, int], spacing: tuple[float, float]
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entries of each ray, pixel numbers and weights of a block of rays."""
    cos, sin = np.cos(angle), np.sin(angle)
    down = np.abs(cos) >= np.abs(sin)
    count = np.zeros(len(angle), dtype=np.int64)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for chosen, axis, main, other in ((down, 0, cos, sin), (~down, 1, sin, cos)):
        rays = np.flatnonzero(chosen)
        steps, across = shape[axis], shape[1 - axis]
        step_mm, across_mm = spacing[axis], spacing[1 - axis]
        place = (np.arange(steps) - (steps - 1) / 2) * step_mm
        crossing = (distance[rays, None] - place * other[rays, None]) / main[rays, None]
        index = crossing / across_mm + (across - 1) / 2
        low = np.floor(index)
        right = index - low
        pixel = np.stack((low, low + 1), axis=-1).astype(np.int32)
        weight = np.stack((1 - right, right), axis=-1) * (step_mm / np.abs(main[rays]))[:, None, None]
        inside = (pixel >= 0) & (pixel < across) & (weight != 0)
        row = np.arange(steps, dtype=np.int32)[:, None]
        number = row * shape[1] + pixel if axis == 0 else pixel * shape[1] + row
        count[rays] = inside.sum(axis=(1, 2))
        found.append((np.repeat(rays, count[rays]), number[inside], weight[inside]))
    ray, number, weight = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if down.any() and not down.all():
        order = np.argsort(ray, kind="stable")
        number, weight = number[order], weight[order]
    return count, number, weight


def _csr(matrix: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its compressed rows a beta
        return torch.sparse_csr_tensor(torch.from_numpy(matrix.indptr), torch.from_numpy(matrix.indices),
                                       torch.from_numpy(matrix.data), size=matrix.shape)


class _Product(torch.autograd.Function):
    """``A x`` or ``Aᵀ y``, whose gradient is the other of the two."""

    @staticmethod
    def forward(ctx: Any, operator: Projection, adjoint: bool, values: Tensor) -> Tensor:
        ctx.operator, ctx.adjoint = operator, adjoint
        return operator.product(values, adjoint=adjoint)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        return None, None, _Product.apply(ctx.operator, not ctx.adjoint, gradient)
