"""One trajectory prepared for many transforms: which grid points each sample touches, with which weights.

Both directions are a sum of few rows of a table, ``embedding_bag``: samples gather from the grid, and grid points
gather from the samples (the transposed table), so that nothing is scattered. All images of a batch are columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import product

import numpy as np
import scipy.fft
import scipy.sparse
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from firstread.core.errors import SettingError, SignalError
from firstread.ops.nufft_window import (
    OVERSAMPLINGS,
    Window,
    check_tolerance,
    kaiser_bessel_transform,
    taps,
    width_for,
)

_COLUMNS = 32  # images transformed together: a row of the grid then fits in a few cache lines


class NufftPlan:
    """The transform between images of ``shape`` and samples at ``trajectory``, without gradients (see ``nufft``).

    trajectory: ``[axis, sample]``, cycles per field of view, one row for each axis of ``shape`` in its order.
    tolerance: relative error (root mean square over samples) that is aimed at; window and oversampling follow from it.
    dtype: of the window: float32 for complex64 data, float64 for complex128.
    oversampling: of the grid, 1.25 to 2; None takes the one with the least work.

    The plan keeps ``4 + (4 or 8)`` bytes, twice, for each of the ``w^d`` grid points of every sample.
    """

    def __init__(self, trajectory: Float[Tensor, "axis sample"], shape: Sequence[int], *, tolerance: float = 1e-3,
                 dtype: torch.dtype = torch.float32, oversampling: float | None = None):
        check_trajectory(trajectory, shape)
        check_tolerance(tolerance, dtype)
        self.shape, self.samples, self.tolerance = tuple(shape), trajectory.shape[1], tolerance
        self.dtype, self.device = dtype, trajectory.device
        chosen = oversampling if oversampling is not None else _cheapest(self.shape, self.samples, tolerance)
        self.grid = tuple(_grid_size(n, chosen) for n in self.shape)
        self.windows = tuple(Window(width_for(tolerance, k / n), k / n)
                             for n, k in zip(self.shape, self.grid, strict=True))
        self._index, self._weight = self._neighbours(trajectory.detach().double())
        self._inverse = [1 / kaiser_bessel_transform(_positions(n, k, self.device), w) / math.sqrt(n)
                         for n, k, w in zip(self.shape, self.grid, self.windows, strict=True)]

    def forward(self, image: Complex[Tensor, "..."]) -> Complex[Tensor, "... sample"]:
        """``[*lead, *shape]`` to ``[*lead, sample]``."""
        lead = image.shape[: image.ndim - len(self.shape)]
        parts = [self.interpolate(self._to_grid(part)) for part in image.reshape(-1, *self.shape).split(_COLUMNS)]
        return _joined(parts).reshape(*lead, self.samples)

    def adjoint(self, samples: Complex[Tensor, "... sample"]) -> Complex[Tensor, "..."]:
        """``[*lead, sample]`` to ``[*lead, *shape]``."""
        lead = samples.shape[:-1]
        parts = [self._from_grid(self.spread(part)) for part in samples.reshape(-1, self.samples).split(_COLUMNS)]
        return _joined(parts).reshape(*lead, *self.shape)

    def interpolate(self, grid: Complex[Tensor, "n *grid"]) -> Complex[Tensor, "n sample"]:
        """``y_m = Σ_l φ(κ_m - l) G_l``: the values of grids at the samples."""
        rows = torch.view_as_real(grid.flatten(1).t().contiguous()).flatten(1)
        made = torch.nn.functional.embedding_bag(self._index, rows, mode="sum", per_sample_weights=self._weight)
        return torch.view_as_complex(made.reshape(self.samples, -1, 2)).t()

    def spread(self, samples: Complex[Tensor, "n sample"]) -> Complex[Tensor, "n *grid"]:
        """``G_l = Σ_m φ(κ_m - l) y_m``, the adjoint of ``interpolate``."""
        rows = torch.view_as_real(samples.t().contiguous()).flatten(1)
        starts, sources, weight = self._transposed
        made = torch.nn.functional.embedding_bag(sources, rows, starts, mode="sum", per_sample_weights=weight,
                                                 include_last_offset=True)
        made = torch.view_as_complex(made.reshape(made.shape[0], -1, 2))
        return made.t().contiguous().reshape(-1, *self.grid)

    def _neighbours(self, trajectory: Float[Tensor, "axis sample"]
                    ) -> tuple[Int[Tensor, "sample point"], Float[Tensor, "sample point"]]:
        """Flat grid indices and window weights of every sample; places in float64, as k times phase needs."""
        index = torch.zeros(self.samples, 1, dtype=torch.int32, device=self.device)
        weight = torch.ones(self.samples, 1, dtype=self.dtype, device=self.device)
        for k, n, size, window in zip(trajectory, self.shape, self.grid, self.windows, strict=True):
            place = k * (size / n) - window.width / 2
            first = torch.ceil(place)
            near = taps(first - place, window, self.tolerance).to(self.dtype)
            steps = torch.arange(window.width, dtype=torch.int32, device=self.device)
            along = (first.remainder(size).int()[:, None] + steps).remainder(size)
            index = (index[:, :, None] * size + along[:, None]).flatten(1)
            weight = (weight[:, :, None] * near[:, None]).flatten(1)
        return index, weight

    def table(self) -> scipy.sparse.csr_array:
        """The window weights as a sparse matrix, samples by grid points: ``interpolate`` is its product."""
        starts = np.arange(0, self._index.numel() + 1, self._index.shape[1], dtype=np.int32)
        return scipy.sparse.csr_array((self._weight.cpu().numpy().ravel(), self._index.cpu().numpy().ravel(), starts),
                                      shape=(self.samples, math.prod(self.grid)))

    @cached_property
    def _transposed(self) -> tuple[Int[Tensor, " start"], Int[Tensor, " n"], Float[Tensor, " n"]]:
        """By grid point: where its run begins, the samples in the run, their weights."""
        columns = self.table().tocsc()
        starts, sources, weight = (torch.from_numpy(part).to(self.device)
                                   for part in (columns.indptr, columns.indices, columns.data))
        return starts, sources, weight

    def _to_grid(self, image: Tensor) -> Tensor:
        """``F`` of the image divided by the window's transform, in the middle of zeros (pixel N // 2 first)."""
        grid = image.new_zeros(image.shape[0], *self.grid)
        for inner, outer in self._blocks():
            grid[outer] = self._corrected(image, inner)
        return torch.fft.fftn(grid, dim=self._dims())

    def _from_grid(self, grid: Tensor) -> Tensor:
        field = torch.fft.ifftn(grid, dim=self._dims(), norm="forward")
        image = field.new_empty(field.shape[0], *self.shape)
        for inner, outer in self._blocks():
            image[inner] = field[outer]
        return self._corrected(image, (slice(None),) * image.ndim)

    def _corrected(self, image: Tensor, block: tuple[slice, ...]) -> Tensor:
        part = image[block]
        factor = torch.ones((), dtype=self.dtype, device=self.device)
        for axis, inverse in enumerate(self._inverse):
            factor = factor[..., None] * inverse.to(self.dtype)[block[axis + 1]]
        return part * factor

    def _blocks(self) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
        """Pairs of blocks of image and grid: pixels from N // 2 on come first, those before it last."""
        halves = [((slice(n // 2, n), slice(0, n - n // 2)), (slice(0, n // 2), slice(k - n // 2, k)))
                  for n, k in zip(self.shape, self.grid, strict=True)]
        chosen = [half for half in product(*halves) if all(inner.stop > inner.start for inner, _ in half)]
        return [((slice(None), *(i for i, _ in half)), (slice(None), *(o for _, o in half))) for half in chosen]

    def _dims(self) -> tuple[int, ...]:
        return tuple(range(-len(self.shape), 0))


def check_trajectory(trajectory: Float[Tensor, "axis *sample"], shape: Sequence[int]) -> None:
    """Refuse a trajectory that no transform of images of ``shape`` can follow."""
    if not 1 <= len(shape) <= 3 or trajectory.shape[0] != len(shape) or min(shape) < 1:
        raise SettingError(f"a trajectory of {trajectory.shape[0]} axes for an image of shape {tuple(shape)}",
                           expected="one row of frequencies for each of 1 to 3 image axes",
                           remedy="give the trajectory as [axis, sample], in the order of the image's axes")
    if trajectory[0].numel() == 0 or not bool(torch.isfinite(trajectory.detach()).all()):
        raise SignalError("a trajectory that is empty or has NaN", expected="finite frequencies",
                          remedy="check the file or the gradient waveform that it comes from")


def _grid_size(size: int, oversampling: float) -> int:
    return int(scipy.fft.next_fast_len(max(2, math.ceil(size * oversampling - 1e-9))))


def _cheapest(shape: tuple[int, ...], samples: int, tolerance: float) -> float:
    """The oversampling with the least work: Fourier transform, copies of the grid, and window points.

    In nanoseconds for one image on one core, as measured: 0.4 per grid point and doubling, 4 per grid point, 0.6 per
    window point.
    """
    def cost(oversampling: float) -> float:
        points = math.prod(_grid_size(n, oversampling) for n in shape)
        window = width_for(tolerance, oversampling) ** len(shape)
        return points * (0.4 * math.log2(points) + 4) + 0.6 * samples * window

    return min(OVERSAMPLINGS, key=cost)


def _positions(size: int, grid: int, device: torch.device) -> Tensor:
    return (torch.arange(size, dtype=torch.float64, device=device) - size // 2) / grid


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
