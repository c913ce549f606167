"""Magnitudes of complex Gaussian noise: their mean, and back from it to the signal.

``M = |A + n|``, σ the noise of each part, follows Rice's distribution (Gudbjartsson and Patz 1995)::

    E[M]  = σ sqrt(π / 2) L(t),   L(t) = e^(-t/2) [(1 + t) I₀(t/2) + t I₁(t/2)],   t = A² / (2 σ²)
    E[M²] = A² + 2 σ²
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from firstread.ops.noise import diagonal_differences

HALF = math.sqrt(math.pi / 2)


def rician_mean(signal: Float[Tensor, "*axes"], noise: Float[Tensor, "*#axes"]) -> Float[Tensor, "*axes"]:
    """``E[M]`` of a signal A of zero or more, σ above zero.

    >>> rician_mean(torch.tensor([0.0, 100.0]), torch.tensor([1.0])).tolist()
    [1.2533..., 100.00...]
    """
    t = signal.square() / (2 * noise.square())
    return noise * HALF * ((1 + t) * torch.special.i0e(t / 2) + t * torch.special.i1e(t / 2))


def signal_of_mean(mean: Float[Tensor, "*axes"], noise: Float[Tensor, "*#axes"], *, iterations: int = 12
                   ) -> Float[Tensor, "*axes"]:
    """The A whose ``E[M]`` is ``mean``; zero where the mean is that of noise alone, ``σ sqrt(π / 2)``, or below.

    Newton's method from ``sqrt(mean² - σ²)``, which never lies below A, so that it falls monotonically (E[M] is convex
    in A). Differentiable by the implicit function; σ of zero changes nothing. After Koay and Basser 2006.

    >>> signal_of_mean(rician_mean(torch.tensor([2.0]), torch.tensor([1.0])), torch.tensor([1.0])).item()
    2.0...
    """
    level = noise.clamp_min(torch.finfo(mean.dtype).tiny ** 0.25)
    floor = HALF * level
    inside = torch.maximum(mean, floor * (1 + 1e-4))
    with torch.no_grad():
        found = (inside.square() - level.square()).sqrt()
        for _ in range(iterations):
            found = _newton(found, inside, level)
    return torch.where(mean > floor, _newton(found, inside, level), 0)


def _newton(signal: Tensor, mean: Tensor, noise: Tensor) -> Tensor:
    """``A - (E[M](A) - mean) / E[M]'(A)``, never below zero; the slope counts as constant."""
    half = signal.detach().square() / (4 * noise.detach().square())
    slope = HALF * signal.detach() / (2 * noise.detach()) * (torch.special.i0e(half) + torch.special.i1e(half))
    return (signal - (rician_mean(signal, noise) - mean) / slope.clamp_min(1e-3)).clamp_min(0)


def rician_noise_level(images: Float[Tensor, "rows y x"], *, window: int = 5, iterations: int = 10
                       ) -> Float[Tensor, " rows"]:
    """σ of magnitude planes: the finest differences, each over what Rice's distribution leaves of σ at its brightness::

        σ = median(|d| / sqrt(ξ)) / 0.6745,   ξ = 2 + (A/σ)² - (E[M]/σ)²

    by a fixed point; A from the mean of ``window`` x ``window`` pixels less its own error, σ / window, without which
    chance makes air look like signal. In air ξ is 0.43: a level that takes the noise as Gaussian
    (``ops.noise.noise_level``) is up to a third too low there.

    >>> g = torch.Generator().manual_seed(0)
    >>> air = torch.randn(1, 64, 64, dtype=torch.complex64, generator=g).abs()  # σ² of each part: 1/2
    >>> abs(rician_noise_level(air).item() - 0.5**0.5) < 0.03
    True
    """
    d = diagonal_differences(images).abs()
    wide = F.pad(images[:, None], (window // 2,) * 4, mode="replicate")
    mean = F.avg_pool2d(wide, window, stride=1)[:, 0, :-1, :-1]
    level = (d.flatten(1).median(dim=1).values / 0.6745)[:, None, None]
    for _ in range(iterations):
        ratio = signal_of_mean(mean - level / window, level) / level.clamp_min(1e-20)
        left = (2 + ratio.square() - rician_mean(ratio, torch.ones_like(level)).square()).clamp(0.42, 1.0)
        level = ((d / left.sqrt()).flatten(1).median(dim=1).values / 0.6745)[:, None, None]
    return level[:, 0, 0]
