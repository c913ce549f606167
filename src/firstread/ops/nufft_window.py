"""The Kaiser-Bessel window of the non-uniform Fourier transform, and how wide it must be for a tolerance.

After Beatty, Nishimura and Pauly, IEEE Trans. Med. Imaging 24:799 (2005).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError

OVERSAMPLINGS = (1.25, 1.5, 2.0)
LARGEST_TOLERANCE = 0.1
SMALLEST_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@dataclass(frozen=True)
class Window:
    """``φ(u) = I0(β sqrt(1 - (2u/w)²))`` for ``|u| ≤ w/2`` steps of the oversampled grid.

    width: w, in steps; oversampling: σ, grid steps per frequency.
    """

    width: int
    oversampling: float

    @property
    def beta(self) -> float:
        """``β = π sqrt((w/σ)² (σ - ½)² - 0.8)`` (Beatty 2005, equation 5)."""
        inner = (self.width / self.oversampling * (self.oversampling - 0.5)) ** 2 - 0.8
        return math.pi * math.sqrt(max(inner, 0.01))


def kaiser_bessel(u: Float[Tensor, "*n"], window: Window) -> Float[Tensor, "*n"]:
    """``φ(u) exp(-β)`` at distances u in grid steps, 0 beyond ``w/2``.

    >>> kaiser_bessel(torch.tensor([0.0, 3.0]), Window(4, 2.0)).gt(0).tolist()
    [True, False]
    """
    square = 1 - (2 * u / window.width).square()
    root = square.clamp_min(0).sqrt()
    value = torch.special.i0e(window.beta * root) * torch.exp(window.beta * (root - 1))
    return torch.where(square >= 0, value, torch.zeros_like(value))


def taps(fraction: Float[Tensor, " n"], window: Window, tolerance: float) -> Float[Tensor, "n width"]:
    """The window at its w grid points, ``φ(w/2 - j - f)`` for j = 0 … w - 1 and fractions f in [0, 1).

    Each tap is a smooth function of f: a polynomial through Chebyshev nodes replaces the Bessel function, of a degree
    whose error (measured) is a twentieth of the tolerance or less.

    >>> window = Window(4, 2.0)
    >>> f = torch.rand(9, dtype=torch.float64)
    >>> torch.allclose(taps(f, window, 1e-3)[:, 1], kaiser_bessel(1 - f, window), atol=5e-5)
    True
    """
    degree = window.width + 2 + math.ceil(-math.log10(tolerance) / 2)
    nodes = torch.cos(math.pi * (torch.arange(degree + 1, dtype=torch.float64) + 0.5) / (degree + 1))
    steps = window.width / 2 - torch.arange(window.width, dtype=torch.float64)
    values = kaiser_bessel(steps - (nodes[:, None] + 1) / 2, window)
    powers = torch.linalg.vander(nodes, N=degree + 1)
    coefficients = torch.linalg.solve(powers, values).to(fraction)
    return torch.linalg.vander(2 * fraction - 1, N=degree + 1) @ coefficients


def kaiser_bessel_transform(position: Float[Tensor, "*n"], window: Window) -> Float[Tensor, "*n"]:
    """``∫ φ(u) exp(-β) exp(-2πi u x) du = w exp(-β) sinh(s) / s``, ``s = sqrt(β² - (π w x)²)``, for real s.

    position: x, in fractions of the oversampled field of view; the image fills ``|x| ≤ 1 / (2 σ)``.
    """
    s = (window.beta**2 - (math.pi * window.width * position).square()).clamp_min(1e-12).sqrt()
    return window.width * (torch.exp(s - window.beta) - torch.exp(-s - window.beta)) / (2 * s)


def width_for(tolerance: float, oversampling: float) -> int:
    """The narrowest window whose error in two dimensions stays below twice the tolerance.

    The error of one dimension is ``6.6 (1 - 1/σ) exp(-π w sqrt(1 - 1/σ))``, the factor fitted for σ of 1.25 to 2 and w
    of 3 to 14.

    >>> width_for(1e-3, 2.0), width_for(1e-3, 1.25)
    (4, 5)
    """
    gap = 1 - 1 / oversampling
    return max(2, math.ceil(math.log(6.6 * gap * math.sqrt(2) / (2 * tolerance)) / (math.pi * math.sqrt(gap))))


def check_tolerance(tolerance: float, real: torch.dtype) -> None:
    """Refuse a tolerance that the number format cannot keep."""
    smallest = SMALLEST_TOLERANCE[real]
    if not smallest <= tolerance <= LARGEST_TOLERANCE:
        name = "complex64" if real == torch.float32 else "complex128"
        raise SettingError(f"a tolerance of {tolerance:g} in {name}", expected=f"{smallest:g} to {LARGEST_TOLERANCE:g}",
                           remedy="use complex128 data for a smaller one" if real == torch.float32 else "correct it")
