"""Total variation along time or space: the penalty, and a convergent primal-dual solver for least squares with it.

Differences are circular: a heart cycle closes, and so does the field of view of a discrete Fourier transform.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor

from firstread.core.errors import SettingError

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


def minimize_total_variation(gram: Callable[[Tensor], Tensor], rhs: Num[Tensor, "batch *shape"],
                             weight: Float[Tensor, "..."], *, bound: float, dims: Sequence[int] = TIME,
                             iterations: int = 60, report: Callable[[int, Tensor], None] | None = None
                             ) -> Num[Tensor, "batch *shape"]:
    """``argmin_x ½‖E x - y‖² + λ TV(x)`` from ``EᴴE`` (gram) and ``Eᴴ y`` (rhs), beginning at rhs.

    The proximal alternating predictor-corrector (Loris and Verhoeven 2011; Chen, Huang and Zhang 2013)::

        w = x - γ (EᴴE x - Eᴴy)
        p = P_λ(p + δ D (w - γ Dᴴ p))          P_λ: each |p| at most λ
        x = w - γ Dᴴ p

    It converges for ``γ < 2 / ‖EᴴE‖`` and ``γ δ ‖D‖² ≤ 1``; the steps follow from ``bound ≥ ‖EᴴE‖`` and from
    ``‖D‖² ≤ 4`` per axis. weight: λ, broadcast against rhs. dims: the axes of TV. report: called with the number of
    the iteration and the image.
    """
    if iterations < 1 or not bound > 0 or not dims:
        raise SettingError(f"{iterations} iterations, bound {bound}, axes {tuple(dims)}", remedy="correct the settings",
                           expected="one iteration or more, a bound above zero, one axis or more")
    step = 1.9 / bound
    dual_step = 0.25 / (step * len(dims))
    x, p, back = rhs, [torch.zeros_like(rhs) for _ in dims], torch.zeros_like(rhs)
    for iteration in range(iterations):
        w = torch.sub(x, gram(x) - rhs, alpha=step)
        corrected = torch.sub(w, back, alpha=step)
        p = _clip([torch.add(q, difference(corrected, dim), alpha=dual_step) for q, dim in zip(p, dims, strict=True)],
                  weight)
        back = _adjoint(p, dims)
        x = torch.sub(w, back, alpha=step)
        if report is not None:
            report(iteration, x)
    return x


def clip_magnitude(p: Num[Tensor, "*shape"], largest: Float[Tensor, "..."]) -> Num[Tensor, "*shape"]:
    """``p`` with ``|p|`` at most ``largest``, phase kept: the projection that is dual to the absolute value.

    >>> clip_magnitude(torch.tensor([3.0, -0.5]), torch.tensor(1.0)).tolist()
    [1.0, -0.5]
    """
    return _clip([p], largest)[0]


def _clip(parts: Sequence[Tensor], largest: Tensor) -> list[Tensor]:
    """``p λ / sqrt(max(Σ |p|², λ²))``."""
    square = sum(_square(p) for p in parts)
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


def _adjoint(parts: Sequence[Tensor], dims: Sequence[int]) -> Tensor:
    back = [difference_adjoint(p, dim) for p, dim in zip(parts, dims, strict=True)]
    return back[0] if len(back) == 1 else torch.stack(back).sum(dim=0)
