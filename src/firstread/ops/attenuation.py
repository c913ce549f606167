"""Hounsfield units and Beer and Lambert's law."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

WATER_PER_MM = 0.0193  # linear attenuation of water near 70 keV (NIST XCOM), where a 120 kV spectrum has its mean
WATER_511_PER_MM = 0.0096  # of the photons of PET (NIST XCOM)


def hounsfield(attenuation_per_mm: Float[Tensor, "*axes"], water_per_mm: float = WATER_PER_MM
               ) -> Float[Tensor, "*axes"]:
    """``HU = 1000 (μ - μ_water) / μ_water``.

    >>> hounsfield(torch.tensor([0.0, WATER_PER_MM])).tolist()
    [-1000.0, 0.0]
    """
    return 1000 * (attenuation_per_mm / water_per_mm - 1)


def attenuation_per_mm(hounsfield: Float[Tensor, "*axes"], water_per_mm: float = WATER_PER_MM
                       ) -> Float[Tensor, "*axes"]:
    """``μ = μ_water (1 + HU / 1000)``, per millimetre.

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


def attenuation_at_511(hounsfield: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Attenuation of 511 keV photons per millimetre from a CT, bilinear as PET/CT scanners have it::

        μ = 0.0096 (1 + HU / 1000) below water,   0.0096 (1 + HU / 2000) above,   never below zero

    Above water it is bone, which is denser to the CT's photons: cortical bone has about 1580 HU at 70 keV and 0.0172
    per mm at 511 keV (NIST XCOM). After Kinahan et al., Med. Phys. 25:2046 (1998).

    >>> attenuation_at_511(torch.tensor([-1000.0, 0.0, 1000.0])).double().round(decimals=5).tolist()
    [0.0, 0.0096, 0.0144]
    """
    share = hounsfield / 1000
    return (WATER_511_PER_MM * (1 + torch.where(share > 0, share / 2, share))).clamp_min(0)
