"""Plug and play: a denoiser in the place of the regularizer, and the data step that its kin share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import Image, KSpace, Note
from firstread.core.stage import Stage
from firstread.nets.cascade import share_data
from firstread.nets.score import SPREAD, Denoiser, denoise
from firstread.ops.encoding import CartesianEncoding, combine
from firstread.ops.minimize import Solution
from firstread.ops.solve import conjugate_gradient
from firstread.reconstruct.choice import noise_variance
from firstread.reconstruct.learned import settings_of
from firstread.reconstruct.problem import image_from, independent_axes, problem_of


def data_step(encoding: CartesianEncoding, rhs: Complex[Tensor, "batch time 1 z y x"],
              centre: Complex[Tensor, "batch time 1 z y x"], variance: Float[Tensor, "..."],
              noise_variance: Float[Tensor, ""], *, steps: int,
              drawn: Complex[Tensor, "batch time 1 z y x"] | None = None) -> Complex[Tensor, "batch time 1 z y x"]:
    """What measurements make of a Gaussian belief ``x ~ CN(c, diag v)``: its mean given ``y = E x + n``, or a draw.

        x = c + √v u,   (I + √v EᴴE √v / σ²) u = √v (Eᴴy - EᴴE c) / σ² + d

    In u the system is well conditioned however much v varies from pixel to pixel. rhs: ``Eᴴ y``; noise_variance: σ²;
    steps: of conjugate gradients; drawn: d, None for the mean ``argmin ‖E x - y‖² / σ² + Σ |x - c|² / v``, and for an
    exact draw ``d = √v Eᴴ n₁ / σ + n₂`` with white n₁, n₂ (Papandreou and Yuille 2010).

    >>> encoding = CartesianEncoding(mask=torch.ones(1, 1, 1, 1, 2, 1))
    >>> centre = torch.zeros(1, 1, 1, 1, 2, 2, dtype=torch.complex64)
    >>> data_step(encoding, centre + 1, centre, torch.tensor(1.0), torch.tensor(1.0), steps=1).real.flatten().tolist()
    [0.5, 0.5, 0.5, 0.5]
    """
    root = variance.sqrt()
    target = root * (rhs - encoding.gram(centre)) / noise_variance
    scaled = conjugate_gradient(lambda u: u + root * encoding.gram(root * u) / noise_variance,
                                target if drawn is None else target + drawn, iterations=steps,
                                systems=independent_axes(encoding))
    return centre + root * scaled


def noise_levels(first: float, last: float, count: int) -> list[float]:
    """``count`` levels from ``first`` down to ``last``, each the same share of the one before.

    >>> noise_levels(0.4, 0.1, 3)
    [0.4, 0.2, 0.1]
    """
    if count < 1 or not 0 < last <= first:
        raise SettingError(f"{count} noise levels from {first} to {last}", expected="one or more, falling, above zero",
                           remedy="correct the levels")
    return [round(first * (last / first) ** (i / max(1, count - 1)), 10) for i in range(count)]


@dataclass(frozen=True)
class Scan:
    """The problem of one batch row in images of brightness 1. noise_variance: of one measured sample."""

    encoding: CartesianEncoding
    measured: Complex[Tensor, "1 time coil z y x"]
    rhs: Complex[Tensor, "1 time 1 z y x"]
    brightness: Float[Tensor, "1 1 1 1 1 1"]
    noise_variance: Float[Tensor, ""]

    def data_step(self, centre: Complex[Tensor, "1 time 1 z y x"], variance: Float[Tensor, "..."], *, steps: int,
                  drawn: Complex[Tensor, "1 time 1 z y x"] | None = None) -> Complex[Tensor, "1 time 1 z y x"]:
        """:func:`data_step` with these measurements."""
        return data_step(self.encoding, self.rhs, centre, variance, self.noise_variance, steps=steps, drawn=drawn)

    def first_guess(self, *, steps: int) -> Complex[Tensor, "1 time 1 z y x"]:
        """The average over time, bent towards each frame's own lines."""
        average = combine(share_data(self.measured, self.encoding.mask, self.measured.shape[1]), self.encoding)
        return self.data_step(average, torch.tensor((SPREAD / 2) ** 2, device=average.device), steps=steps)


def scan_of(kspace: KSpace, *, noise: float | None, misfit: float, calibration_lines: int) -> Scan:
    """One row of k-space as a Scan; settings as in :class:`PlugAndPlay`."""
    problem = problem_of(kspace, calibration_lines=calibration_lines)
    if problem.encoding.sets > 1:
        raise SettingError(f"{problem.encoding.sets} sets of coil maps for a prior on images",
                           expected="one image per frame", remedy="estimate the maps with sets=1")
    brightness = problem.brightness()
    if noise is None:
        variance = noise_variance(kspace)[0] / brightness.square().squeeze()
    else:
        variance = torch.tensor(noise**2, device=brightness.device)
    measured = problem.measured / brightness
    return Scan(problem.encoding, measured, problem.encoding.adjoint(measured), brightness, variance + misfit**2)


def rows_of(kspace: KSpace) -> Iterator[KSpace]:
    """Each batch row by itself."""
    for row in range(kspace.batch):
        yield kspace.select(torch.tensor([row]))


def half_quadratic_splitting(scan: Scan, network: Denoiser, *, levels: Sequence[float], strength: float, steps: int,
                             iterations: int, tolerance: float) -> Solution:
    """``z = D(x, σ_k),  x = argmin_x ‖E x - y‖² / σ² + λ ‖x - z‖² / σ_k²`` (Zhang et al. 2017, 2021).

    levels: σ_k of the first iterations; the last level then goes on until ``‖x⁺ - x‖ ≤ tolerance ‖x‖`` or after
    ``iterations`` in all. strength: λ.
    """
    x = scan.first_guess(steps=2 * steps)
    residual, count = float("inf"), 0
    for count in range(1, max(iterations, len(levels)) + 1):
        level = torch.tensor(levels[min(count, len(levels)) - 1], device=x.device)
        mean, _ = denoise(network, x, level)
        made = scan.data_step(mean, level.square() / strength, steps=steps)
        residual = float((made - x).detach().norm() / made.detach().norm().clamp_min(1e-30))
        x = made
        if count >= len(levels) and residual <= tolerance:
            break
    return Solution(x, count, residual, tolerance)


class PlugAndPlay(Stage):
    """Half-quadratic splitting with a learned denoiser as the prior: k-space to complex image.

    network: a trained ``CineDenoiser`` or another module of its form (``Denoiser``); it sees images scaled to a
        brightness of about one.
    first, last, levels: noise levels that the denoiser is run at, relative to the brightness, one per iteration.
    strength: λ, the trust in the prior. steps: of conjugate gradients per data step.
    iterations, tolerance: the last level goes on until the relative change of an iteration is below the tolerance, or
        after so many iterations in all; the note ``solver`` says which.
    noise: standard deviation of a measured sample relative to the brightness of the image; None: by the scan's noise
        covariance or, without one, by outer k-space. misfit: of the model (coil maps), added as if it were noise.

    Reads a KSpace, writes the complex Image "reconstruction". The gradient runs through the iterations. After Zhang et
    al. 2021.
    """

    result = "reconstruction"

    def __init__(self, *, network: Denoiser, first: float = 0.2, last: float = 0.02, levels: int = 6,
                 strength: float | int = 1.0, steps: int = 5, iterations: int = 10, tolerance: float | int = 5e-3,
                 noise: float | None = None, misfit: float = 0.01, calibration_lines: int = 32):
        super().__init__()
        noise_levels(first, last, levels)
        if min(strength, steps, iterations) <= 0 or min(tolerance, misfit) < 0 or (noise is not None and noise <= 0):
            raise SettingError(f"strength {strength}, {steps} steps, {iterations} iterations, tolerance {tolerance}, "
                               f"noise {noise}, misfit {misfit}", remedy="correct the setting",
                               expected="above zero; tolerance and misfit may be zero")
        self.network = network
        self.first, self.last, self.levels, self.strength = first, last, levels, strength
        self.steps, self.iterations, self.tolerance = steps, iterations, tolerance
        self.noise, self.misfit, self.calibration_lines = noise, misfit, calibration_lines

    def settings(self) -> str:
        """The network's size and the stage's own settings."""
        return f"{settings_of(self.network)}, {super().settings()}"

    def forward(self, kspace: KSpace) -> Image:
        ends, images = [], []
        for row in rows_of(kspace):
            scan = scan_of(row, noise=self.noise, misfit=self.misfit, calibration_lines=self.calibration_lines)
            end = half_quadratic_splitting(scan, self.network, levels=noise_levels(self.first, self.last, self.levels),
                                           strength=self.strength, steps=self.steps, iterations=self.iterations,
                                           tolerance=self.tolerance)
            ends.append(end)
            images.append(scan.brightness * end.x)
        worst = max(ends, key=lambda end: end.residual)
        return image_from(kspace, torch.cat(images)).noted(Note("solver", f"{self.name}: {worst.reason}", "info"))
