"""Solvers of ``min_x ½‖A x − y‖² + g(x) + h(K x)`` on plain tensors, with automatic steps and a stated end.

``g`` and ``h`` are given by their proximal maps (``ops.proximal``), ``A`` and ``K`` as linear operators. The first axis
numbers independent problems (the batch). Autograd runs through the iterations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Num
from torch import Tensor

from firstread.core.errors import SettingError, SignalError
from firstread.ops.linear import LinearOp
from firstread.ops.solve import conjugate_gradient, inner

Proximal = Callable[[Tensor, float], Tensor]
"""``prox(v, step) = argmin_x ½‖x − v‖² + step g(x)``."""
Report = Callable[[int, Tensor], object]
"""Called after each iteration with its number and the image."""


@dataclass(frozen=True)
class LeastSquares:
    """``½‖A x − y‖²`` as solvers need it: ``gram`` is AᴴA, ``rhs`` is Aᴴy, ``bound ≥ ‖AᴴA‖``."""

    gram: Callable[[Tensor], Tensor]
    rhs: Tensor
    bound: float

    def __post_init__(self):
        if not self.bound > 0:
            raise SignalError(f"an operator of norm {self.bound}", expected="one that measures something",
                              remedy="check mask and sensitivities")

    def gradient(self, x: Num[Tensor, "batch *shape"]) -> Num[Tensor, "batch *shape"]:
        """``AᴴA x − Aᴴy``."""
        return self.gram(x) - self.rhs


def least_squares(operator: LinearOp, measured: Num[Tensor, "batch *shape"]) -> LeastSquares:
    """``½‖A x − y‖²`` of an operator; its norm from its own ``bound()`` or else by power iteration.

    >>> from firstread.ops.encoding import CartesianEncoding
    >>> encoding = CartesianEncoding(mask=torch.ones(1, 1, 1, 1, 4, 1))
    >>> least_squares(encoding, torch.ones(1, 1, 1, 1, 4, 4) + 0j).bound
    1.0
    """
    rhs = operator.adjoint(measured)
    known = getattr(operator, "bound", None)
    return LeastSquares(operator.gram, rhs, known() if known is not None else largest_eigenvalue(operator.gram, rhs))


def largest_eigenvalue(gram: Callable[[Tensor], Tensor], like: Num[Tensor, "*shape"], *, iterations: int = 30,
                       margin: float = 1.05) -> float:
    """The norm of a Hermitian positive operator by power iteration from a fixed start, times ``margin``.

    The Rayleigh quotient approaches the eigenvalue from below; the margin makes steps from it safe.

    >>> round(largest_eigenvalue(lambda v: v * torch.tensor([1.0, 4.0]), torch.zeros(2), margin=1.0), 3)
    4.0
    """
    generator = torch.Generator().manual_seed(0)
    found = 0.0
    with torch.no_grad():
        x = torch.randn(like.shape, dtype=like.dtype, generator=generator).to(like.device)
        for _ in range(iterations):
            x = x / x.norm()
            image = gram(x)
            found, x = float(inner(x, image)), image
            if not found > 0:
                return 0.0
    return found * margin


@dataclass(frozen=True)
class Solution:
    """Where a solver ended and why.

    iterations: that ran; residual: the relative change that was left, the largest of the batch (each solver says which
    one); tolerance: what it was to fall below.
    """

    x: Tensor
    iterations: int
    residual: float
    tolerance: float

    @property
    def converged(self) -> bool:
        """Whether the solver stopped by its tolerance, not by the number of iterations."""
        return self.residual <= self.tolerance

    @property
    def reason(self) -> str:
        """One line that says why the solver stopped."""
        reached = "reached" if self.converged else "not reached"
        return f"{self.iterations} iterations, residual {self.residual:.1e} (tolerance {self.tolerance:.0e} {reached})"


def fista(problem: LeastSquares, proximal: Proximal, *, start: Num[Tensor, "batch *shape"] | None = None,
          iterations: int = 100, tolerance: float = 1e-4, restart: bool = True,
          report: Report | None = None) -> Solution:
    """``argmin_x ½‖A x − y‖² + g(x)`` by fast proximal gradients (Beck and Teboulle 2009), from ``start``, else Aᴴy::

        x⁺ = prox_{g/L}(z − (AᴴA z − Aᴴy) / L)
        t⁺ = (1 + sqrt(1 + 4 t²)) / 2
        z⁺ = x⁺ + (t − 1) / t⁺ (x⁺ − x)

    restart: begin again with t = 1 where ``Re<z − x⁺, x⁺ − x> > 0`` (O'Donoghue and Candès 2015).
    Ends when the proximal gradient step is small, ``‖x⁺ − z‖ ≤ tolerance ‖x⁺‖`` in each row.

    >>> problem = LeastSquares(lambda v: v, torch.tensor([[3.0, 0.1]]), 1.0)
    >>> fista(problem, lambda v, step: v.sign() * (v.abs() - step).clamp_min(0)).x
    tensor([[2., 0.]])
    """
    _check(iterations, tolerance)
    x = problem.rhs if start is None else start
    step = 1 / problem.bound
    z, t, residual, count = x, torch.ones(x.shape[0], *[1] * (x.ndim - 1)).to(x.real), float("inf"), 0
    for count in range(1, iterations + 1):
        made = proximal(torch.sub(z, problem.gradient(z), alpha=step), step)
        change, moved = made - x, made - z
        residual = _relative(moved, made)
        if restart:
            t = torch.where(inner(moved, change, 1).detach() < 0, torch.ones_like(t), t)
        following = (1 + (1 + 4 * t * t).sqrt()) / 2
        x, z = made, torch.addcmul(made, ((t - 1) / following).to(made.dtype), change)
        t = following
        if report is not None:
            report(count, x)
        if residual <= tolerance:
            break
    return Solution(x, count, residual, tolerance)


def primal_dual(problem: LeastSquares, dual_proximal: Proximal, operator: LinearOp, *, norm: float,
                proximal: Proximal | None = None, start: Num[Tensor, "batch *shape"] | None = None,
                iterations: int = 100, tolerance: float = 1e-4, report: Report | None = None) -> Solution:
    """``argmin_x ½‖A x − y‖² + g(x) + h(K x)`` without solving any system (PD3O, Yan 2018), from ``start`` or Aᴴy::

        x  = prox_{γ g}(w)
        p⁺ = prox_{δ h*}(p + δ K (2 x − w − γ (AᴴA x − Aᴴy) − γ Kᴴp))
        w⁺ = x − γ (AᴴA x − Aᴴy) − γ Kᴴ p⁺

    With ``g = 0`` it is the predictor-corrector of Loris and Verhoeven (2011), with ``A = 0`` that of Chambolle and
    Pock (2011). Steps: ``γ = 1.9 / bound`` and ``γ δ ‖K‖² = 1``, longer than those of Condat (2013) and Vũ (2013).

    dual_proximal: of the conjugate h*, for a norm the projection on the dual ball (``ops.proximal.conjugate`` makes it
    of any h). norm: ``‖K‖²`` or a bound of it. Ends when ``‖w⁺ − w‖ ≤ tolerance ‖w‖`` in each row.
    """
    _check(iterations, tolerance)
    if not norm > 0:
        raise SettingError(f"a norm of {norm}", expected="above zero", remedy="give ‖K‖² or a bound of it")
    step = 1.9 / problem.bound
    dual_step = 1 / (step * norm)
    w = problem.rhs if start is None else start
    dual: Tensor | None = None
    back = torch.zeros_like(w)
    x, residual, count = w, float("inf"), 0
    for count in range(1, iterations + 1):
        x = w if proximal is None else proximal(w, step)
        down = torch.sub(x, problem.gradient(x), alpha=step)
        ahead = torch.sub(down if proximal is None else down + (x - w), back, alpha=step)
        image = operator(ahead)
        dual = dual_proximal(image * dual_step if dual is None else torch.add(dual, image, alpha=dual_step), dual_step)
        back = operator.adjoint(dual)
        following = torch.sub(down, back, alpha=step)
        residual = _relative(following - w, following) if tolerance > 0 or count == iterations else residual
        w = following
        if report is not None:
            report(count, w if proximal is None else x)
        if residual <= tolerance:
            break
    return Solution(w if proximal is None else proximal(w, step), count, residual, tolerance)


def admm(problem: LeastSquares, proximal: Proximal, operator: LinearOp | None = None, *, norm: float = 1.0,
         start: Num[Tensor, "batch *shape"] | None = None, iterations: int = 50, tolerance: float = 1e-4,
         inner_iterations: int = 5, report: Report | None = None) -> Solution:
    """``argmin_x ½‖A x − y‖² + h(K x)`` by alternating directions (Boyd et al. 2011), from ``start`` or Aᴴy::

        (AᴴA + ρ KᴴK) x = Aᴴy + ρ Kᴴ(z − u)       inner_iterations of conjugate gradients from the last x
        z = prox_{h/ρ}(K x + u)
        u = u + K x − z

    ρ begins at ``bound / (10 norm)`` and is halved or doubled so that the relative primal and dual residuals stay
    within a factor of ten (Wohlberg 2017). operator: K, or None for the identity; norm: ``‖K‖²``.
    Ends when ``‖K x − z‖ / max(‖K x‖, ‖z‖)`` and ``‖Kᴴ(z⁺ − z)‖ / ‖Kᴴu‖`` are both at most ``tolerance`` in each row.
    """
    _check(iterations, tolerance)
    x = problem.rhs if start is None else start
    forward, adjoint, gram = ((_same, _same, _same) if operator is None
                              else (operator.forward, operator.adjoint, operator.gram))
    rho = 0.1 * problem.bound / norm
    z, residual, count = forward(x), float("inf"), 0
    u = torch.zeros_like(z)
    for count in range(1, iterations + 1):
        rhs = torch.add(problem.rhs, adjoint(z - u), alpha=rho)
        x = conjugate_gradient(partial(_weighted_sum, problem.gram, gram, rho), rhs, start=x,
                               iterations=inner_iterations, systems=1)
        image = forward(x)
        before, z = z, proximal(image + u, 1 / rho)
        u = u + image - z
        primal = _relative(image - z, image if float(image.detach().norm()) > float(z.detach().norm()) else z)
        dual = _relative(adjoint(z - before), adjoint(u))
        residual = max(primal, dual)
        if report is not None:
            report(count, x)
        if residual <= tolerance:
            break
        factor = 2.0 if primal > 10 * dual else 0.5 if dual > 10 * primal else 1.0
        rho, u = rho * factor, u / factor
    return Solution(x, count, residual, tolerance)


def _weighted_sum(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], weight: float, x: Tensor
                  ) -> Tensor:
    return torch.add(one(x), other(x), alpha=weight)


def _same(x: Tensor) -> Tensor:
    return x


def _relative(change: Tensor, of: Tensor) -> float:
    """The largest ``‖change‖ / ‖of‖`` of the rows (0 where both are zero)."""
    with torch.no_grad():
        square = inner(change, change, 1) / inner(of, of, 1).clamp_min(torch.finfo(of.real.dtype).tiny)
        return float(square.max()) ** 0.5


def _check(iterations: int, tolerance: float) -> None:
    if iterations < 1 or not tolerance >= 0:
        raise SettingError(f"{iterations} iterations, tolerance {tolerance}",
                           expected="one iteration or more, a tolerance of zero or more", remedy="correct the setting")
