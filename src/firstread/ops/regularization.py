"""How strongly to regularize: the discrepancy principle, Stein's unbiased risk by Monte Carlo, the L-curve.

Each works on functions of λ that hold one number per batch row, and searches λ on a logarithmic scale.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError


def by_discrepancy(misfit: Callable[[Tensor], Tensor], target: Float[Tensor, " batch"], *, lowest: float,
                   highest: float, steps: int = 7) -> Float[Tensor, " batch"]:
    """The λ at which ``‖A x_λ − y‖²`` is what noise alone gives (Morozov 1966), by bisection of log λ.

    misfit: grows with λ. target: ``m σ²`` of m complex samples. Where no λ in the range meets it, the nearer end comes
    back.

    >>> by_discrepancy(lambda v: v, torch.tensor([0.1]), lowest=1e-4, highest=1.0, steps=20).round(decimals=3)
    tensor([0.1000])
    """
    _check(lowest, highest, steps)
    low = torch.full_like(target, lowest).log()
    high = torch.full_like(target, highest).log()
    for _ in range(steps):
        middle = (low + high) / 2
        above = misfit(middle.exp()) > target
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return ((low + high) / 2).exp()


def by_descent(risk: Callable[[Tensor], Tensor], start: Float[Tensor, " batch"], *, lowest: float, highest: float,
               factor: float = 10**0.5) -> Float[Tensor, " batch"]:
    """The λ of the lowest risk, downhill from ``start`` in steps of ``factor`` until it rises on both sides or the
    range ends; then the vertex of the parabola through the last three values in log λ.

    risk: of one λ for each batch row, with one valley. Each row goes its own way; three values at least.

    >>> by_descent(lambda v: (v.log() + 2) ** 2, torch.ones(1), lowest=1e-3, highest=10.0).log().round(decimals=4)
    tensor([-2.])
    """
    _check(lowest, highest, 1)
    if not factor > 1:
        raise SettingError(f"steps of a factor {factor}", expected="more than one", remedy="raise `factor`")
    step = torch.tensor(factor, dtype=torch.float64).log().to(start)
    low, high = (torch.tensor(v, dtype=torch.float64).log().to(start) for v in (lowest, highest))
    middle = start.log().clamp(low, high)
    below, at, above = (risk((middle + k * step).exp()) for k in (-1, 0, 1))
    while True:
        left = (below < at) & (below <= above) & (middle > low)
        right = (above < at) & (above < below) & (middle < high)
        if not bool((left | right).any()):
            break
        middle = middle + step * (right.to(start) - left.to(start))
        new = risk((middle + step * (right.to(start) - left.to(start))).exp())
        below, at, above = (torch.where(left, new, torch.where(right, at, below)),
                            torch.where(left, below, torch.where(right, above, at)),
                            torch.where(left, at, torch.where(right, new, above)))
    bend = below - 2 * at + above
    shift = torch.where(bend > 0, (below - above) / (2 * bend).clamp_min(torch.finfo(bend.dtype).tiny), 0 * bend)
    return (middle + shift.clamp(-1, 1) * step).clamp(low, high).exp()


def by_corner(curve: Callable[[Tensor], tuple[Tensor, Tensor]], like: Float[Tensor, " batch"], *, lowest: float,
              highest: float, steps: int = 9) -> Float[Tensor, " batch"]:
    """The λ at the corner of the L-curve, ``log ‖A x_λ − y‖²`` against ``log R(x_λ)`` (Hansen 1992).

    The corner is the vertex of the largest curvature (the inverse radius of the circle through three neighbours).
    curve: misfit and penalty at λ.
    """
    logs = _grid(lowest, highest, steps).to(like)
    points = torch.stack([torch.stack(curve(v.exp().expand_as(like))) for v in logs])
    x, y = points.clamp_min(torch.finfo(like.dtype).tiny).log().unbind(1)
    bend = _curvature(x, y)
    return _vertex(logs[1:-1], -bend).exp()


def predicted_risk(misfit: Float[Tensor, " batch"], divergence: Float[Tensor, " batch"],
                   samples: Float[Tensor, " batch"], variance: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """``‖A x − y‖² / m − σ² + 2 σ² / m · div``: unbiased for ``‖A (x − x₀)‖² / m`` (Stein 1981, Ramani et al. 2012).

    divergence: ``Re tr ∂(A x) / ∂y`` over the m complex samples, from ``monte_carlo_divergence``; variance: σ², of a
    complex sample.

    >>> predicted_risk(*torch.tensor([[9.0], [1.0], [10.0], [1.0]])).round(decimals=2)
    tensor([0.1000])
    """
    return misfit / samples - variance + 2 * variance * divergence / samples


def monte_carlo_divergence(predict: Callable[[Tensor], Tensor], y: Complex[Tensor, "batch *shape"],
                           probe: Complex[Tensor, "batch *shape"], *, size: float,
                           at_y: Complex[Tensor, "batch *shape"] | None = None) -> Float[Tensor, " batch"]:
    """``Re tr ∂f/∂y ≈ Re<b, f(y + ε b) − f(y)> / ε`` with one random probe b of unit variance (Ramani et al. 2008).

    size: ε; at_y: f(y), where known.

    >>> y = torch.ones(1, 5, dtype=torch.complex64)
    >>> monte_carlo_divergence(lambda v: 0.5 * v, y, y, size=0.1)
    tensor([2.5000])
    """
    start = predict(y) if at_y is None else at_y
    return (probe.conj() * (predict(y + size * probe) - start)).real.flatten(1).sum(dim=1) / size


def outer_noise_variance(data: Complex[Tensor, "batch time coil z y x"], mask: Bool[Tensor, "batch time 1 z y x"],
                         radius: Float[Tensor, "#batch #time 1 #z #y #x"], *, share: float = 0.1
                         ) -> Float[Tensor, " batch"]:
    """The variance of complex noise from the outermost ``share`` of the measured samples, where signal has faded.

    The median of ``|y|²`` over ``ln 2`` (that of an exponential law) of every coil, averaged. radius: how far out each
    sample lies.

    Raises SignalError where those samples are zero (filled, not measured).
    """
    found = []
    for row, sampled, far in zip(data, mask, radius.expand(mask.shape), strict=True):
        distance = far[sampled]
        count = max(int(share * distance.numel()), 1)
        limit = distance.kthvalue(distance.numel() - count + 1).values
        outer = sampled & (far >= limit)
        power = torch.stack([(c[outer] * c[outer].conj()).real.median() for c in row.split(1, dim=1)])
        found.append(power.mean() / torch.log(torch.tensor(2.0)).to(power))
    variance = torch.stack(found)
    if not bool((variance > 0).all()):
        raise SignalError("outer k-space that is zero", expected="measured samples there, with noise",
                          remedy="give the noise covariance, or the regularization itself")
    return variance


def cartesian_radius(data: Complex[Tensor, "batch time coil z y x"], dims: tuple[int, ...]
                     ) -> Float[Tensor, "1 1 1 _ _ _"]:
    """``Σ_d (2 k_d / N_d)²`` of every sample along the Fourier axes ``dims``.

    >>> cartesian_radius(torch.zeros(1, 1, 1, 1, 1, 4) + 0j, (-1,)).flatten()
    tensor([1.0000, 0.2500, 0.0000, 0.2500])
    """
    radius = torch.zeros(1, 1, 1, 1, 1, 1, dtype=data.real.dtype, device=data.device)
    for dim in dims:
        n = data.shape[dim]
        k = (torch.arange(n, dtype=radius.dtype, device=data.device) - n // 2) / max(n / 2, 1)
        radius = radius + k.square().reshape(-1, *[1] * (-dim - 1))
    return radius


def _grid(lowest: float, highest: float, steps: int) -> Tensor:
    _check(lowest, highest, steps)
    if steps < 5:
        raise SettingError(f"{steps} values of λ", expected="five or more", remedy="raise `steps`")
    return torch.linspace(0, 1, steps, dtype=torch.float64) * torch.log(
        torch.tensor(highest / lowest, dtype=torch.float64)) + torch.log(torch.tensor(lowest, dtype=torch.float64))


def _vertex(logs: Tensor, values: Tensor) -> Tensor:
    """Where the parabola through the lowest value and its neighbours is lowest; the end itself at an end."""
    best = values.argmin(dim=0)
    middle = best.clamp(1, len(logs) - 2)
    a, b, c = (values.gather(0, (middle + k)[None])[0] for k in (-1, 0, 1))
    bend = a - 2 * b + c
    shift = torch.where(bend > 0, (a - c) / (2 * bend).clamp_min(torch.finfo(bend.dtype).tiny), torch.zeros_like(bend))
    inside = logs[middle] + shift.clamp(-1, 1) * (logs[1] - logs[0])
    return torch.where(best == middle, inside, logs[best])


def _curvature(x: Tensor, y: Tensor) -> Tensor:
    """Signed inverse radius of the circle through three neighbours, positive at the corner of an L."""
    ax, ay, bx, by = x[1:-1] - x[:-2], y[1:-1] - y[:-2], x[2:] - x[1:-1], y[2:] - y[1:-1]
    sides = (ax.hypot(ay) * bx.hypot(by) * (ax + bx).hypot(ay + by)).clamp_min(torch.finfo(x.dtype).tiny)
    return 2 * (ax * by - ay * bx) / sides


def _check(lowest: float, highest: float, steps: int) -> None:
    if not 0 < lowest < highest or steps < 1:
        raise SettingError(f"λ from {lowest} to {highest} in {steps} steps", remedy="correct the range",
                           expected="0 < lowest < highest, one step or more")
