"""The fixed point of a map, with the gradient of the point instead of that of the iterations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Num
from torch import Tensor

from firstread.core.errors import SettingError


def iterate(step: Callable[[Tensor], Tensor], start: Num[Tensor, "*axes"], *, iterations: int, tolerance: float
            ) -> tuple[Num[Tensor, "*axes"], int, float]:
    """``x ← f(x)`` until ``‖f(x) - x‖ ≤ tolerance ‖f(x)‖``: the last x, the steps taken, the last relative change.

    >>> x, steps, change = iterate(lambda v: 1 + v / 2, torch.zeros(1), iterations=50, tolerance=1e-6)
    >>> round(x.item(), 4), steps < 30, change <= 1e-6
    (2.0, True, True)
    """
    if iterations < 1 or tolerance < 0:
        raise SettingError(f"{iterations} iterations, tolerance {tolerance}", expected="one or more, zero or more",
                           remedy="correct the setting")
    x, change, taken = start, float("inf"), 0
    while taken < iterations and change > tolerance:
        new = step(x)
        size = float(new.detach().norm())
        change = float((new - x).detach().norm()) / max(size, torch.finfo(new.real.dtype).tiny)
        x, taken = new, taken + 1
    return x, taken, change


def fixed_point(step: Callable[[Tensor], Tensor], start: Num[Tensor, "*axes"], *, iterations: int = 50,
                tolerance: float = 1e-4) -> Num[Tensor, "*axes"]:
    """``x* = f(x*)`` of a contraction, and its implicit gradient (Bai et al. 2019; Gilton et al. 2021).

    With ``J = ∂f/∂x`` at x*, a gradient g becomes ``u = g + Jᴴ u``, found by the same iteration, and flows on through
    one evaluation of f: memory does not depend on the number of iterations. Exact as far as both have converged.

    >>> a = torch.tensor([0.5], requires_grad=True)
    >>> fixed_point(lambda v: 1 + a * v, torch.zeros(1), tolerance=1e-7).backward()
    >>> round(a.grad.item(), 4)  # x* = 1 / (1 - a)
    4.0
    """
    with torch.no_grad():
        point, _, _ = iterate(step, start, iterations=iterations, tolerance=tolerance)
    if not torch.is_grad_enabled():
        return point
    made = step(point)
    if not made.requires_grad:
        return made
    return _Implicit.apply(made, point, step, iterations, tolerance)


class _Implicit(torch.autograd.Function):
    """The identity whose gradient g is replaced by the solution of ``u = g + Jᴴ u``."""

    @staticmethod
    def forward(ctx: Any, made: Tensor, point: Tensor, step: Callable[[Tensor], Tensor], iterations: int,
                tolerance: float) -> Tensor:
        ctx.point, ctx.step, ctx.settings = point.detach(), step, {"iterations": iterations, "tolerance": tolerance}
        return made.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        with torch.enable_grad():
            point = ctx.point.requires_grad_()
            made = ctx.step(point)

        def adjoint(u: Tensor) -> Tensor:
            (pulled,) = torch.autograd.grad(made, point, u, retain_graph=True)
            return grad + pulled

        u, _, _ = iterate(adjoint, grad, **ctx.settings)
        return u, None, None, None, None
