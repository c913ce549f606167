"""Super-resolution: the volume that explains all slices, with edges kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.ops.slice_sampling import SliceSampling
from firstread.ops.solve import solve

DIRECTIONS = tuple((z, y, x) for z in (-1, 0, 1) for y in (-1, 0, 1) for x in (-1, 0, 1)
                   if (z, y, x) > (0, 0, 0))  # 13: each pair of neighbours once
EDGE = 150 / 700  # a step that counts as an edge, over the mean intensity


def gridded(sampling: SliceSampling, values: Float[Tensor, "slice v u"], weights: Float[Tensor, "slice v u"]
            ) -> Float[Tensor, "z y x"]:
    """``Sᵀ w y / Sᵀ w``: every voxel the weighted mean of the pixels that see it; 0 where none does."""
    top, bottom = sampling.adjoint(torch.stack((weights * values, weights)))
    return torch.where(bottom > 0.02 * bottom.max(), top / bottom.clamp_min(1e-9), torch.zeros_like(top))


def edge_weights(volume: Float[Tensor, "z y x"], edge: float) -> list[Float[Tensor, "z y x"]]:
    """``b_d = f / sqrt(1 + (D_d x sqrt(f) / δ)²)``, f = 1 / (city-block length of d), for 13 directions.

    Small where the volume has an edge (Charbonnier 1997, as in Kuklisova-Murgasova 2012).
    """
    made = []
    for d in DIRECTIONS:
        f = 1 / sum(abs(n) for n in d)
        made.append(f / torch.sqrt(1 + difference(volume, d).square() * (f / edge**2)))
    return made


def difference(volume: Float[Tensor, "z y x"], d: tuple[int, int, int]) -> Float[Tensor, "z y x"]:
    """``x(p + d) - x(p)``, 0 where p + d is outside."""
    made = torch.zeros_like(volume)
    here, there = _overlap(volume.shape, d)
    made[here] = volume[there] - volume[here]
    return made


def penalty_gradient(volume: Float[Tensor, "z y x"], weights: list[Float[Tensor, "z y x"]]) -> Float[Tensor, "z y x"]:
    """``Σ_d D_dᵀ b_d D_d x``."""
    made = torch.zeros_like(volume)
    for d, b in zip(DIRECTIONS, weights, strict=True):
        here, there = _overlap(volume.shape, d)
        flow = b[here] * (volume[there] - volume[here])
        made[there] += flow
        made[here] -= flow
    return made


def super_resolve(sampling: SliceSampling, values: Float[Tensor, "slice v u"], weights: Float[Tensor, "slice v u"],
                  start: Float[Tensor, "z y x"], *, regularization: float, edge: float, iterations: int
                  ) -> Float[Tensor, "z y x"]:
    """``argmin_x Σ w (y - S x)² + λ Σ_d b_d(start) (D_d x)²`` by conjugate gradients from ``start``.

    The edge weights are those of ``start``. The gradient with respect to values is that of the solution.
    """
    edges = edge_weights(start.detach(), edge)
    return solve(_normal(sampling, weights, edges, regularization), sampling.adjoint(weights * values),
                 start=start.detach(), iterations=iterations, tolerance=1e-4)


def _normal(sampling: SliceSampling, weights: Tensor, edges: list[Tensor], regularization: float
            ) -> Callable[[Tensor], Tensor]:
    def normal(x: Tensor) -> Tensor:
        return sampling.adjoint(weights * sampling(x)) + regularization * penalty_gradient(x, edges)

    return normal


def _overlap(shape: torch.Size, d: tuple[int, int, int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The voxels p with p + d inside, and those p + d."""
    here = tuple(slice(max(0, -n), size - max(0, n)) for n, size in zip(d, shape, strict=True))
    there = tuple(slice(max(0, n), size - max(0, -n)) for n, size in zip(d, shape, strict=True))
    return here, there
