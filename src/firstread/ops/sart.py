"""The simultaneous algebraic reconstruction technique with ordered subsets."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.projection import Projection


def view_subsets(views: int, count: int) -> list[list[int]]:
    """Every ``count``-th view, in an order in which one subset says much that the one before did not (bit reversal).

    >>> view_subsets(8, 4)
    [[0, 4], [2, 6], [1, 5], [3, 7]]
    """
    if not 1 <= count <= views:
        raise SettingError(f"{count} subsets of {views} views", expected="one to the number of views",
                           remedy="use fewer subsets")
    digits = (count - 1).bit_length()
    order = sorted(range(count), key=lambda number: int(f"{number:0{digits}b}"[::-1], 2) if digits else 0)
    return [list(range(first, views, count)) for first in order]


def sart(measured: Float[Tensor, "*lead view bin"], projection: Projection, *, subsets: int = 10, iterations: int = 10,
         relaxation: float = 0.5, start: Float[Tensor, "*lead y x"] | None = None, non_negative: bool = True
         ) -> Float[Tensor, "*lead y x"]:
    """Andersen and Kak's iteration (1984) over subsets of views, from ``start`` or zero::

        x ← x + λ / (A_sᵀ 1)  A_sᵀ ((y_s - A_s x) / (A_s 1))

    iterations: passes over all views; relaxation: λ, between 0 and 2; non_negative: cut off below zero after each
    step. Autograd runs through the iterations.
    """
    if iterations < 1 or not 0 < relaxation < 2:
        raise SettingError(f"{iterations} iterations, relaxation {relaxation}",
                           expected="one or more, between 0 and 2", remedy="correct the setting")
    chosen = view_subsets(len(projection.beam.angles_rad), subsets)
    parts = [Projection(beam=projection.beam.at_views(views), shape=projection.shape,
                        spacing_mm=projection.spacing_mm) for views in chosen]
    shape = (*measured.shape[:-2], *projection.shape)
    x = torch.zeros(shape, dtype=measured.dtype, device=measured.device) if start is None else start
    one = torch.ones(projection.shape, dtype=measured.dtype, device=measured.device)
    through = [_inverse(part(one)) for part in parts]
    over = [_inverse(part.adjoint(torch.ones_like(length))) for part, length in zip(parts, through, strict=True)]
    for _ in range(iterations):
        for part, views, length, touched in zip(parts, chosen, through, over, strict=True):
            x = x + relaxation * touched * part.adjoint((measured[..., views, :] - part(x)) * length)
            if non_negative:
                x = x.clamp_min(0)
    return x


def _inverse(values: Tensor) -> Tensor:
    """1 / values, and 0 where a ray meets no pixel, or a pixel no ray (less than a thousandth of the most)."""
    return torch.where(values > 1e-3 * values.max(), values.clamp_min(1e-30).reciprocal(), torch.zeros_like(values))
