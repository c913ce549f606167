"""Temporal total variation: the penalty, and a convergent primal-dual solver for least squares with it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Num
from torch import Tensor

from firstread.core.errors import SettingError


def temporal_difference(x: Num[Tensor, "batch time *space"]) -> Num[Tensor, "batch time *space"]:
    """``(D x)_t = x_{t+1} - x_t``, circular: a heart cycle closes.

    >>> temporal_difference(torch.tensor([[1.0, 3.0, 2.0]])).tolist()
    [[2.0, -1.0, -1.0]]
    """
    return x.roll(-1, dims=1) - x


def temporal_difference_adjoint(p: Num[Tensor, "batch time *space"]) -> Num[Tensor, "batch time *space"]:
    """``(Dᴴ p)_t = p_{t-1} - p_t``."""
    return p.roll(1, dims=1) - p


def temporal_variation(x: Num[Tensor, "batch time *space"]) -> Float[Tensor, " batch"]:
    """``TV(x) = Σ |D x|`` per batch row.

    >>> temporal_variation(torch.tensor([[1.0, 3.0, 2.0]])).item()
    4.0
    """
    return temporal_difference(x).abs().flatten(1).sum(dim=1)


def minimize_temporal_variation(gram: Callable[[Tensor], Tensor], rhs: Num[Tensor, "batch time *space"],
                                weight: Float[Tensor, "..."], *, bound: float, iterations: int = 60,
                                report: Callable[[int, Tensor], None] | None = None
                                ) -> Num[Tensor, "batch time *space"]:
    """``argmin_x ½‖E x - y‖² + λ TV(x)`` from ``EᴴE`` (gram) and ``Eᴴ y`` (rhs).

    The proximal alternating predictor-corrector (Loris and Verhoeven 2011; Chen, Huang and Zhang 2013)::

        w = x - γ (EᴴE x - Eᴴy)
        p = P_λ(p + δ D (w - γ Dᴴ p))          P_λ: each |p| at most λ
        x = w - γ Dᴴ p

    It converges for ``γ < 2 / ‖EᴴE‖`` and ``γ δ ‖D‖² ≤ 1``; steps are set from ``bound ≥ ‖EᴴE‖`` and ``‖D‖² ≤ 4``.
    weight: λ, broadcast against rhs. report: called with the number of the iteration and the image.
    """
    if iterations < 1 or not bound > 0:
        raise SettingError(f"{iterations} iterations, bound {bound}", remedy="correct the settings",
                           expected="one iteration or more, a bound above zero")
    step = 1.9 / bound
    dual_step = 0.25 / step
    x, p = rhs, torch.zeros_like(rhs)
    for iteration in range(iterations):
        w = x - step * (gram(x) - rhs)
        p = clip_magnitude(p + dual_step * temporal_difference(w - step * temporal_difference_adjoint(p)), weight)
        x = w - step * temporal_difference_adjoint(p)
        if report is not None:
            report(iteration, x)
    return x


def clip_magnitude(p: Num[Tensor, "*shape"], largest: Float[Tensor, "..."]) -> Num[Tensor, "*shape"]:
    """``p`` with ``|p|`` at most ``largest``, phase kept: the projection that is dual to the absolute value.

    >>> clip_magnitude(torch.tensor([3.0, -0.5]), torch.tensor(1.0)).tolist()
    [1.0, -0.5]
    """
    size = p.abs()
    return p * (largest / torch.maximum(size, largest.clamp_min(torch.finfo(size.dtype).tiny)))
