"""Iterative solvers on plain tensors, differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Num
from torch import Tensor

from firstread.core.errors import SettingError


def inner(a: Num[Tensor, "*axes"], b: Num[Tensor, "*axes"], systems: int = 0) -> Tensor:
    """``Re <a, b>`` over all but the first ``systems`` axes, shaped to broadcast against ``a``."""
    shape = a.shape[:systems]
    left, right = ((torch.view_as_real(v) if v.is_complex() else v).reshape(shape.numel(), -1) for v in (a, b))
    return torch.linalg.vecdot(left, right).reshape(*shape, *[1] * (a.ndim - systems))


def conjugate_gradient(normal: Callable[[Tensor], Tensor], rhs: Num[Tensor, "*axes"], *,
                       start: Num[Tensor, "*axes"] | None = None, iterations: int = 30, tolerance: float = 0.0,
                       systems: int = 0) -> Num[Tensor, "*axes"]:
    """Solve ``N x = b`` for a Hermitian positive-definite ``N`` by conjugate gradients (Hestenes and Stiefel 1952).

    systems: the first axes number independent systems (batch, time …), each with step sizes of its own.
    tolerance: stop when ``‖b - N x‖ ≤ tolerance ‖b‖`` in every system.
    Autograd runs through the iterations; for a converged solution at the cost of one solve use ``solve``.

    >>> matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> x = conjugate_gradient(lambda v: matrix @ v, torch.tensor([1.0, 2.0]), iterations=2)
    >>> torch.allclose(matrix @ x, torch.tensor([1.0, 2.0]), atol=1e-5)
    True
    """
    if iterations < 1:
        raise SettingError(f"{iterations} iterations", expected="one or more", remedy="raise `iterations`")
    x = torch.zeros_like(rhs) if start is None else start
    residual = rhs if start is None else rhs - normal(start)
    direction = residual
    energy = inner(residual, residual, systems)
    limit = tolerance**2 * inner(rhs, rhs, systems).detach()
    for _ in range(iterations):
        if bool((energy.detach() <= limit).all()):
            break
        image = normal(direction)
        step = _ratio(energy, inner(direction, image, systems))
        x = x + step * direction
        residual = residual - step * image
        before, energy = energy, inner(residual, residual, systems)
        direction = residual + _ratio(energy, before) * direction
    return x


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, and 0 (with gradient 0) where b is 0: a system that has ended stays."""
    some = b > torch.finfo(b.dtype).tiny
    return torch.where(some, a / torch.where(some, b, torch.ones_like(b)), torch.zeros_like(a))


def solve(normal: Callable[[Tensor], Tensor], rhs: Num[Tensor, "*axes"], *, start: Num[Tensor, "*axes"] | None = None,
          iterations: int = 100, tolerance: float = 1e-6, systems: int = 0) -> Num[Tensor, "*axes"]:
    """``conjugate_gradient`` with the gradient of the solution instead of that of the iterations.

    With ``x = N⁻¹ b``: ``∂L/∂b = N⁻¹ ∂L/∂x`` and ``∂L/∂θ`` is that of ``-Re<∂L/∂b, N_θ x>``: one more solve, no stored
    iterates. Exact as far as the solve has converged.

    >>> b = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> solve(lambda v: 2 * v, b).sum().backward()
    >>> b.grad.tolist()
    [0.5, 0.5]
    """
    settings = {"iterations": iterations, "tolerance": tolerance, "systems": systems}
    with torch.no_grad():
        x = conjugate_gradient(normal, rhs, start=start, **settings)
    if not torch.is_grad_enabled():
        return x
    residual = rhs - normal(x)
    if not residual.requires_grad:
        return x
    return _Implicit.apply(x, residual, normal, settings)


class _Implicit(torch.autograd.Function):
    """The identity on x whose gradient flows to the residual ``b - N_θ x`` through one more solve."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor, normal: Callable[[Tensor], Tensor], settings: dict) -> Tensor:
        ctx.normal, ctx.settings = normal, settings
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
        with torch.no_grad():
            return None, conjugate_gradient(ctx.normal, grad, **ctx.settings), None, None
