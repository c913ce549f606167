"""Correlated complex receiver noise."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SignalError


def random_covariance(coils: int, correlation: float, generator: torch.Generator) -> Complex[Tensor, "coil coil"]:
    """A noise covariance of mean variance 1: ``Ψ = D C D``, gains D within ±20 %, C with neighbours correlated.

    ``C[c, d] = ρ^|c - d| exp(i (φ_c - φ_d))`` on a ring of coils, plus the identity's share so that it stays definite.

    >>> random_covariance(4, 0.3, torch.Generator().manual_seed(0)).diagonal().real.mean().item()
    1.0
    """
    index = torch.arange(coils)
    apart = (index[:, None] - index[None]).abs()
    ring = torch.minimum(apart, coils - apart).float()
    phase = torch.rand(coils, generator=generator) * 6.283185
    decay = torch.where(ring == 0, 1.0, 0.9 * correlation ** ring.clamp_min(1))
    gain = 0.8 + 0.4 * torch.rand(coils, generator=generator)
    covariance = torch.polar(decay * gain[:, None] * gain[None], phase[:, None] - phase[None])
    values, vectors = torch.linalg.eigh(covariance)
    covariance = (vectors * values.clamp_min(0.05)) @ vectors.mH
    return covariance / covariance.diagonal().real.mean()


def correlated_noise(covariance: Complex[Tensor, "coil coil"], shape: tuple[int, ...], generator: torch.Generator
                     ) -> Complex[Tensor, "coil ..."]:
    """``n = L w`` with ``Ψ = L Lᴴ`` and w standard complex normal, so that ``E[n nᴴ] = Ψ``."""
    white = torch.randn(covariance.shape[0], *shape, generator=generator, dtype=covariance.dtype)
    return torch.tensordot(torch.linalg.cholesky(covariance), white, dims=1)


def covariance_of(noise: Complex[Tensor, "coil sample"]) -> Complex[Tensor, "coil coil"]:
    """The covariance ``Ψ = n nᴴ / N`` of a noise scan.

    >>> covariance_of(torch.ones(1, 8, dtype=torch.complex64)).item()
    (1+0j)
    """
    if noise.shape[1] < noise.shape[0]:
        raise SignalError(f"{noise.shape[1]} noise samples of {noise.shape[0]} coils",
                          expected="more samples than coils", remedy="use a longer noise scan")
    return noise @ noise.mH / noise.shape[1]


def signal_level(magnitude: Float[Tensor, "*axes"]) -> float:
    """What an SNR refers to: the mean magnitude over the object (above a tenth of the 99th percentile)."""
    values = magnitude.detach().flatten()
    if values.numel() > 1_000_000:
        values = values[:: values.numel() // 1_000_000 + 1]
    floor = 0.1 * torch.quantile(values, 0.99)
    if not bool(floor > 0):
        raise SignalError("an image without signal", expected="values above zero", remedy="check the image to encode")
    return float(values[values > floor].mean())
