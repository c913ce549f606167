"""Point distribution model (Cootes 1995): what shapes of one organ have in common, and how they vary.

Shapes are points that correspond from one to the next. Aligned to each other, ``x = mean + P b`` with the principal
directions P of their covariance and ``b_k`` of variance ``lambda_k``. It generates shapes (``b`` drawn), describes them
(``b`` found) and says how likely one is (``sum b_k^2 / lambda_k``), which is a regularizer with a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from firstread.core.errors import SettingError


def align(points: Float[Tensor, "shape point axis"], to: Float[Tensor, "point axis"], *, scale: bool = False
          ) -> Float[Tensor, "shape point axis"]:
    """Each shape moved and turned (``scale``: and scaled) to lie closest to ``to`` in least squares (Kabsch 1976).

    ``min_R,t,s sum_i |s R x_i + t - y_i|^2``; no reflections. Differentiable, the rotation held (its own gradient has
    no limit where a shape is round).
    """
    x, y = points - points.mean(dim=1, keepdim=True), to - to.mean(dim=0)
    u, values, vt = torch.linalg.svd(torch.einsum("npa,pb->nab", x, y).detach())
    sign = torch.ones_like(values)
    sign[:, -1] = torch.sign(torch.linalg.det(u @ vt))
    turned = x @ ((u * sign.unsqueeze(1)) @ vt)
    if scale:
        turned = turned * ((turned * y).sum((1, 2)) / x.square().sum((1, 2)).clamp(min=1e-12))[:, None, None]
    return turned + to.mean(dim=0)


@dataclass(frozen=True, eq=False)
class ShapeModel:
    """mean ``[point, axis]``; modes ``[mode, point, axis]``, orthonormal; variance ``[mode]``, the largest first."""

    mean: Float[Tensor, "point axis"]
    modes: Float[Tensor, "mode point axis"]
    variance: Float[Tensor, " mode"]

    @classmethod
    def fit(cls, points: Float[Tensor, "shape point axis"], *, share: float = 0.98, scale: bool = False,
            rounds: int = 5) -> ShapeModel:
        """Of shapes with corresponding points: aligned to their mean (generalized Procrustes), principal components.

        share: of the variance that the modes shall hold. Raises SettingError for fewer than three shapes or a share out
        of range.
        """
        if len(points) < 3 or not 0 < share <= 1:
            raise SettingError(f"{len(points)} shapes, share {share}", expected="three or more, a share in (0, 1]",
                               remedy="give more shapes")
        mean = points[0]
        size = (mean - mean.mean(0)).norm()
        for _ in range(rounds):
            aligned = align(points, mean, scale=scale)
            mean = aligned.mean(dim=0)
            if scale:  # otherwise the mean would shrink to a point
                mean = (mean - mean.mean(0)) * size / (mean - mean.mean(0)).norm() + mean.mean(0)
        aligned = align(points, mean, scale=scale)
        mean = aligned.mean(dim=0)
        _, values, vt = torch.linalg.svd((aligned - mean).flatten(1), full_matrices=False)
        variance = values.square() / (len(points) - 1)
        held = variance.cumsum(0) / variance.sum().clamp(min=1e-30)
        count = min(len(points) - 1, int((held < share).sum()) + 1)
        return cls(mean, vt[:count].unflatten(1, mean.shape), variance[:count])

    def describe(self, points: Float[Tensor, "shape point axis"], *, scale: bool = False
                 ) -> Float[Tensor, "shape mode"]:
        """``b = P^T (x - mean)`` of shapes, aligned to the mean first."""
        return torch.einsum("mpa,npa->nm", self.modes, align(points, self.mean, scale=scale) - self.mean)

    def shapes(self, weights: Float[Tensor, "shape mode"]) -> Float[Tensor, "shape point axis"]:
        """``mean + P b``."""
        return self.mean + torch.einsum("nm,mpa->npa", weights, self.modes)

    def draw(self, count: int, generator: Generator, *, limit: float = 3.0) -> Float[Tensor, "shape point axis"]:
        """Random shapes, ``b_k ~ N(0, lambda_k)``, no further than ``limit`` standard deviations along each mode."""
        normal = torch.randn(count, len(self.variance), generator=generator, dtype=self.mean.dtype)
        return self.shapes(normal.clamp(-limit, limit) * self.variance.sqrt())

    def unlikeliness(self, points: Float[Tensor, "shape point axis"], *, scale: bool = False
                     ) -> Float[Tensor, " shape"]:
        """``sum_k b_k^2 / lambda_k + |x - mean - P b|^2 / lambda_last``: a regularizer of shapes, 0 at the mean."""
        away = align(points, self.mean, scale=scale) - self.mean
        b = torch.einsum("mpa,npa->nm", self.modes, away)
        rest = away - torch.einsum("nm,mpa->npa", b, self.modes)
        last = self.variance[-1].clamp(min=1e-12)
        return (b.square() / self.variance.clamp(min=1e-12)).sum(1) + rest.square().sum((1, 2)) / last
