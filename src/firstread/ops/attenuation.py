"""Hounsfield units and Beer and Lambert's law."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

WATER_PER_MM = 0.0193  # linear attenuation of water near 70 keV (NIST XCOM), where a 120 kV spectrum has its mean


def hounsfield(attenuation_per_mm: Float[Tensor, "*axes"], water_per_mm: float = WATER_PER_MM
               ) -> Float[Tensor, "*axes"]:
    """``HU = 1000 (μ - μ_water) / μ_water``.

    >>> import torch
    >>> hounsfield(torch.tensor([0.0, WATER_PER_MM])).tolist()
    [-1000.0, 0.0]
    """
    return 1000 * (attenuation_per_mm / water_per_mm - 1)


def attenuation_per_mm(hounsfield: Float[Tensor, "*axes"], water_per_mm: float = WATER_PER_MM
                       ) -> Float[Tensor, "*axes"]:
    """``μ = μ_water (1 + HU / 1000)``, per millimetre.

    >>> import torch
    >>> attenuation_per_mm(torch.tensor([-1000.0, 1000.0]), 0.02).double().round(decimals=6).tolist()
    [0.0, 0.04]
    """
    return water_per_mm * (1 + hounsfield / 1000)


def transmitted(integrals: Float[Tensor, "*ray"], photons: float) -> Float[Tensor, "*ray"]:
    """Expected counts behind an object, ``I = I₀ exp(-p)``."""
    return photons * (-integrals).exp()


def integrals_of(counts: Float[Tensor, "*ray"], photons: float, *, least: float = 0.5) -> Float[Tensor, "*ray"]:
    """``p = ln(I₀ / I)``; counts below ``least`` (a ray without photons, or with noise below zero) count as that."""
    return -(counts.clamp_min(least) / photons).log()
