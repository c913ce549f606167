"""Draws of the image from its posterior, given the measurements and a learned prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Complex
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Note
from firstread.core.stage import Stage
from firstread.nets.score import Denoiser, denoise
from firstread.reconstruct.learned import settings_of
from firstread.reconstruct.plug_and_play import Scan, noise_levels, rows_of, scan_of
from firstread.reconstruct.problem import image_from
from firstread.reconstruct.sensitivities import estimate_sensitivities


def posterior_draw(scan: Scan, network: Denoiser, start: Complex[Tensor, "1 time 1 z y x"],
                   generator: torch.Generator, *, levels: Sequence[float], spread: float, steps: int
                   ) -> Complex[Tensor, "1 time 1 z y x"]:
    """One draw of x given y, by annealing from noise level to noise level (Zhang et al. 2025, "DAPS")::

        x_1 = start + σ_1 n
        p(x₀ | x_i) ≈ CN(m, diag s² v),   m, v = D(x_i, σ_i)
        x₀ ~ p(x₀ | x_i) p(y | x₀)          exact for this Gaussian, by :func:`data_step`
        x_{i+1} = x₀ + σ_{i+1} n

    If x_i is drawn from ``p(x_i | y)`` then so is x_{i+1}, as far as the Gaussian holds; the noise of the first level
    drowns what the start has wrong (Chung et al. 2022). levels: σ_i; spread: s, which widens the prior's own error; the
    last x₀ is the draw.
    """
    def white(like: Tensor) -> Tensor:
        return torch.randn(like.shape, dtype=like.dtype, generator=generator).to(like.device)

    x = start
    for value in levels:
        level = torch.tensor(value, device=x.device)
        mean, variance = denoise(network, x + level * white(x), level)
        root = spread * variance.sqrt()
        projected = scan.encoding.adjoint(white(scan.measured))
        drawn = root * projected / scan.noise_variance.sqrt() + white(x)
        x = scan.data_step(mean, root.square(), steps=steps, drawn=drawn)
    return x


class Posterior(Stage):
    """One draw per row from the posterior of the image given its k-space: run the chain with ``samples=k``.

    network: the prior, a trained ``CineDenoiser`` or another module of its form (``Denoiser``); it sees images scaled
        to a brightness of about one.
    start: a reconstruction (KSpace to Image) that the draws begin at; it runs once for all draws of one scan.
    first, last, levels: noise levels relative to the brightness, one denoising and one data step each; the first is to
        be larger than the error of the start.
    spread: what the denoiser's own standard deviation is multiplied by.
    steps: of conjugate gradients per data step. noise, misfit: as for ``PlugAndPlay``.

    Reads a KSpace, writes the complex Image "reconstruction". Each draw depends on (seed, stage, subject, part, draw)
    alone. Where no gradient is asked, draws of the same measurements share coil maps and start; with a gradient, which
    runs through all steps, each row makes its own.
    """

    result = "reconstruction"

    def __init__(self, *, network: Denoiser, start: Stage, first: float = 0.2, last: float = 0.03, levels: int = 6,
                 spread: float | int = 1.0, steps: int = 5, noise: float | None = None, misfit: float = 0.01,
                 calibration_lines: int = 32):
        super().__init__()
        noise_levels(first, last, levels)
        if min(spread, steps) <= 0 or misfit < 0 or (noise is not None and noise <= 0):
            raise SettingError(f"spread {spread}, {steps} steps, noise {noise}, misfit {misfit}",
                               expected="above zero; the misfit may be zero", remedy="correct the setting")
        if start.random or [argument.kind for argument in start.arguments] != [KSpace] or start.makes is not Image:
            raise SettingError(f"{start.name} as the start of a posterior",
                               expected="a reconstruction, KSpace to Image, that is not random",
                               remedy="start at a Cascade, a PlugAndPlay or a TemporalTV")
        self.network, self.start = network, start
        self.first, self.last, self.levels, self.spread = first, last, levels, spread
        self.steps, self.noise, self.misfit, self.calibration_lines = steps, noise, misfit, calibration_lines

    def settings(self) -> str:
        """The network's size, the start, and the stage's own settings."""
        return f"{settings_of(self.network)}, start={self.start.name}({self.start.settings()}), {super().settings()}"

    def forward(self, kspace: KSpace, key: Key) -> Image:
        known: list[tuple[KSpace, Scan, Tensor]] = []
        draws, notes = [], []
        for row, generator in zip(rows_of(kspace), key.generators(kspace.rows), strict=True):
            shared = next((begun for begun in known if _same(begun[0], row)), None)
            if shared is None:
                scan, begin, said = self._begin(row)
                shared = (row, scan, begin)
                known.append(shared)
                notes += said
            _, scan, begin = shared
            image = posterior_draw(scan, self.network, begin, generator, steps=self.steps, spread=self.spread,
                                   levels=noise_levels(self.first, self.last, self.levels))
            draws.append(scan.brightness * image)
        return image_from(kspace, torch.cat(draws)).noted(*notes)

    def _begin(self, row: KSpace) -> tuple[Scan, Tensor, tuple[Note, ...]]:
        """The scan of a row, the image that its draws begin at, and what the start has to say."""
        if row.sensitivities is None and row.data.shape[2] > 1:
            row = replace(row, sensitivities=estimate_sensitivities(row, calibration_lines=self.calibration_lines))
        scan = scan_of(row, noise=self.noise, misfit=self.misfit, calibration_lines=self.calibration_lines)
        begun = self.start(replace(row, image_shape=None))
        return scan, begun.data / scan.brightness, begun.notes


def _same(one: KSpace, other: KSpace) -> bool:
    """Whether two rows hold the same measurements, and no gradient is asked that would tell them apart."""
    pairs = [(one.data, other.data), (one.mask, other.mask)]
    for known in ("sensitivities", "noise_covariance"):
        a, b = getattr(one, known), getattr(other, known)
        pairs += [] if a is None or b is None else [(a, b)]
    if torch.is_grad_enabled() and any(t.requires_grad for pair in pairs for t in pair):
        return False
    return all(torch.equal(a, b) for a, b in pairs)
