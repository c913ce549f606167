"""Total variation along time or space: the penalty, and least squares with it by the primal-dual solver.

Differences are circular: a heart cycle closes, and so does the field of view of a discrete Fourier transform.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.linear import LinearOp
from firstread.ops.minimize import LeastSquares, Report, Solution, primal_dual

TIME = (1,)
PLANE = (-2, -1)


def difference(x: Num[Tensor, "*shape"], dim: int) -> Num[Tensor, "*shape"]:
    """``(D x)_n = x_{n+1} - x_n`` along ``dim``, circular.

    >>> difference(torch.tensor([1.0, 3.0, 2.0]), 0).tolist()
    [2.0, -1.0, -1.0]
    """
    return x.roll(-1, dims=dim) - x


def difference_adjoint(p: Num[Tensor, "*shape"], dim: int) -> Num[Tensor, "*shape"]:
    """``(Dᴴ p)_n = p_{n-1} - p_n`` along ``dim``."""
    return p.roll(1, dims=dim) - p


def total_variation(x: Num[Tensor, "batch *shape"], dims: Sequence[int] = TIME) -> Float[Tensor, " batch"]:
    """``TV(x) = Σ sqrt(Σ_d |D_d x|²)`` per batch row.

    >>> total_variation(torch.tensor([[1.0, 3.0, 2.0]])).item()
    4.0
    """
    return _length([difference(x, dim) for dim in dims]).flatten(1).sum(dim=1)


class Differences(LinearOp):
    """``D x`` along ``dims``, stacked on a new first axis where there are several."""

    def __init__(self, dims: Sequence[int] = TIME):
        self.dims = tuple(dims)

    def forward(self, x: Num[Tensor, "..."]) -> Num[Tensor, "..."]:
        """``D x``."""
        parts = [difference(x, dim) for dim in self.dims]
        return parts[0] if len(parts) == 1 else torch.stack(parts)

    def adjoint(self, y: Num[Tensor, "..."]) -> Num[Tensor, "..."]:
        """``Dᴴ y``."""
        if len(self.dims) == 1:
            return difference_adjoint(y, self.dims[0])
        first, *rest = (difference_adjoint(p, dim) for p, dim in zip(y, self.dims, strict=True))
        return sum(rest, first)

    def bound(self) -> float:
        """``‖D‖² ≤ 4`` for each axis."""
        return 4.0 * len(self.dims)


def minimize_total_variation(gram: Callable[[Tensor], Tensor], rhs: Num[Tensor, "batch *shape"],
                             weight: Float[Tensor, "..."], *, bound: float, dims: Sequence[int] = TIME,
                             iterations: int = 60, report: Report | None = None) -> Num[Tensor, "batch *shape"]:
    """``argmin_x ½‖E x - y‖² + λ TV(x)`` from ``EᴴE`` (gram) and ``Eᴴ y`` (rhs), beginning at rhs.

    As ``solve_total_variation``, without an end before the iterations.
    """
    return solve_total_variation(LeastSquares(gram, rhs, bound), weight, dims=dims, iterations=iterations,
                                 tolerance=0.0, report=report).x


def solve_total_variation(fit: LeastSquares, weight: Float[Tensor, "..."], *, dims: Sequence[int] = TIME,
                          iterations: int = 60, tolerance: float = 1e-4, report: Report | None = None) -> Solution:
    """``argmin_x ½‖E x - y‖² + λ TV(x)`` by ``ops.minimize.primal_dual``: with ``w = x - γ (EᴴE x - Eᴴy)``::

        p = P_λ(p + δ D (w - γ Dᴴ p))          P_λ: each |p| at most λ
        x = w - γ Dᴴ p

    weight: λ, broadcast against the image. dims: the axes of TV. report: called with the number of the iteration and
    the image. Sources: Loris and Verhoeven 2011; Chen, Huang and Zhang 2013.
    """
    if not dims:
        raise SettingError("total variation along no axis", expected="one axis or more", remedy="correct `dims`")
    differences = Differences(dims)

    def project(p: Tensor, _: float) -> Tensor:
        if len(dims) == 1:
            return clip_magnitude(p, weight)
        return torch.stack(_clip(p.unbind(0), weight))

    return primal_dual(fit, project, differences, norm=differences.bound(), iterations=iterations,
                       tolerance=tolerance, report=report)


def clip_magnitude(p: Num[Tensor, "*shape"], largest: Float[Tensor, "..."]) -> Num[Tensor, "*shape"]:
    """``p`` with ``|p|`` at most ``largest``, phase kept: the projection that is dual to the absolute value.

    >>> clip_magnitude(torch.tensor([3.0, -0.5]), torch.tensor(1.0)).tolist()
    [1.0, -0.5]
    """
    return _clip([p], largest)[0]


def _clip(parts: Sequence[Tensor], largest: Tensor) -> list[Tensor]:
    """``p λ / sqrt(max(Σ |p|², λ²))``."""
    first, *rest = (_square(p) for p in parts)
    square = sum(rest, first)
    floor = largest.to(square.dtype).square().clamp_min(torch.finfo(square.dtype).tiny)
    scale = largest / torch.maximum(square, floor).sqrt()
    return [p * scale for p in parts]


def _square(p: Tensor) -> Tensor:
    """``|p|²`` of complex numbers several times faster than by their absolute value."""
    return torch.addcmul(p.real * p.real, p.imag, p.imag) if p.is_complex() else p * p


def _length(parts: Sequence[Tensor]) -> Tensor:
    if len(parts) == 1:
        return parts[0].abs()
    return torch.stack([p.abs() for p in parts]).norm(dim=0)
