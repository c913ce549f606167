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

BLOCK = 4_000_000  # entries made at a time


class Projection(LinearOp):
    """Image ``[..., z, y, x]`` to line integrals ``[..., z, view, bin]`` in the image's unit times millimetres.

    After Joseph (1982): a ray that runs more along y than along x is sampled once in every row of the image, between
    two pixels, ``p = (Δy / |cos θ|) Σ_i (1 - w_i) f[i, k_i] + w_i f[i, k_i + 1]``; others once in every column. The
    image is zero outside its grid. The entries are computed at the first use and kept as two sparse matrices, so the
    adjoint is exact; forward and adjoint are differentiable, also twice.

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
        self._pairs: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(cls, beam: Beam, grid: Grid) -> Projection:
        """The projection of the slices of ``grid``.

        Raises GeometryError for a grid without millimetres, or whose rows differ in spacing.
        """
        return cls(beam=beam, shape=grid.shape[1:], spacing_mm=plane_spacing_mm(grid))

    def forward(self, x: Num[Tensor, "*lead y x"]) -> Num[Tensor, "*lead view bin"]:
        """Line integrals."""
        return self._apply(x, self.shape, self._rays, 0)

    def adjoint(self, y: Num[Tensor, "*lead view bin"]) -> Num[Tensor, "*lead y x"]:
        """Backprojection, the transpose of ``forward``."""
        return self._apply(y, self._rays, self.shape, 1)

    def _apply(self, values: Tensor, given: tuple[int, ...], made: tuple[int, ...], way: int) -> Tensor:
        if tuple(values.shape[-2:]) != given:
            raise GeometryError(f"planes of {tuple(values.shape[-2:])} for this projection", expected=f"{given}",
                                remedy="give the beam and grid of these data")
        if values.is_complex():
            parts = torch.view_as_real(values).movedim(-1, 0)
            return torch.complex(*self._apply(parts, given, made, way).unbind(0))
        pair = self._pair(values.dtype, values.device)
        columns = values.reshape(-1, given[0] * given[1]).T.contiguous()
        product = _Product.apply(pair[way], pair[1 - way], columns)
        return product.T.reshape(*values.shape[:-2], *made)

    def _pair(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        """The matrix and its transpose."""
        if (dtype, device) not in self._pairs:
            import scipy.sparse

            angle, distance = self.beam.rays()
            begin, column, value = joseph_entries(angle.flatten(), distance.flatten(), self.shape, self.spacing_mm)
            size = (self._rays[0] * self._rays[1], self.shape[0] * self.shape[1])
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
    """``A x``, whose gradient is ``Aᵀ g`` by the stored transpose."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, x: Tensor) -> Tensor:
        ctx.back = (transposed, matrix)
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        return None, None, _Product.apply(*ctx.back, gradient.contiguous())
