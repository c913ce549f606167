"""EM robust statistics of voxels and slices (Kuklisova-Murgasova 2012, sections 2.5 and 2.6)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SCALE_RANGE = (0.2, 5.0)
POTENTIAL_SD = 0.03  # no class of slices is narrower


@dataclass(frozen=True)
class Outliers:
    """Of errors: inliers are Gaussian of variance ``variance``, a share ``inliers`` of all; outliers are uniform."""

    variance: float
    density: float
    inliers: float = 0.9

    @classmethod
    def of(cls, error: Float[Tensor, " point"], share: Float[Tensor, " point"]) -> Outliers:
        """To begin with: the variance of all errors, and the density ``1 / (max - min)``."""
        variance = float((share * error.square()).sum() / share.sum())
        reach = float(error.max() - error.min())
        return cls(max(variance, 1e-12), 1 / max(reach, 1e-6))

    def weights(self, error: Float[Tensor, " point"]) -> Float[Tensor, " point"]:
        """Probability of being an inlier, ``w = G(e) c / (G(e) c + m (1 - c))``."""
        gauss = torch.exp(-error.square() / (2 * self.variance)) / math.sqrt(2 * math.pi * self.variance)
        return gauss * self.inliers / (gauss * self.inliers + self.density * (1 - self.inliers))

    def updated(self, error: Float[Tensor, " point"], weights: Float[Tensor, " point"],
                share: Float[Tensor, " point"]) -> Outliers:
        """``σ² = Σ w e² / Σ w`` and ``c = mean w``."""
        total = (share * weights).sum()
        variance = float((share * weights * error.square()).sum() / total.clamp_min(1e-12))
        return Outliers(max(variance, 1e-12), self.density, min(float(total / share.sum()), 0.999))


def slice_potentials(weights: Float[Tensor, " point"], share: Float[Tensor, " point"], which: Tensor, count: int
                     ) -> Float[Tensor, " slice"]:
    """``sqrt(mean_i (1 - w_i)²)`` over the pixels of each slice; NaN for slices without any."""
    bad = torch.zeros(count, dtype=weights.dtype).index_add(0, which, share * (1 - weights).square())
    pixels = torch.zeros(count, dtype=weights.dtype).index_add(0, which, share)
    return torch.where(pixels > 0, (bad / pixels.clamp_min(1e-9)).sqrt(), torch.full_like(bad, torch.nan))


def slice_weights(potentials: Float[Tensor, " slice"], *, iterations: int = 10) -> Float[Tensor, " slice"]:
    """Probability that each slice is an inlier: two Gaussians of the potentials, fitted by EM.

    Below the mean of the good class a slice is good, above that of the bad class bad. NaN potentials get 0. One class
    alone (no slice stands out by three standard deviations) leaves all slices in.

    >>> slice_weights(torch.tensor([0.10, 0.12, 0.11, 0.13, 0.9])).round().tolist()
    [1.0, 1.0, 1.0, 1.0, 0.0]
    """
    known = potentials.isfinite()
    p = potentials[known].double()
    if p.numel() == 0:
        return torch.zeros_like(potentials)
    good = p.median()
    sd_good = sd_bad = max(1.4826 * float((p - good).abs().median()), POTENTIAL_SD)
    bad, mixture = (p.max() + good) / 2, 0.9
    if float(p.max() - good) < 3 * sd_good:
        return known.to(potentials.dtype)
    weight = torch.ones_like(p)
    for _ in range(iterations):
        inside = mixture * torch.exp(-0.5 * ((p - good) / sd_good)**2) / sd_good
        outside = (1 - mixture) * torch.exp(-0.5 * ((p - bad) / sd_bad)**2) / sd_bad
        weight = inside / (inside + outside).clamp_min(1e-300)
        weight = torch.where(p <= good, torch.ones_like(p), torch.where(p >= bad, torch.zeros_like(p), weight))
        rest = 1 - weight
        if float(weight.sum()) < 1e-6 or float(rest.sum()) < 1e-6:
            break
        good, bad = (weight * p).sum() / weight.sum(), (rest * p).sum() / rest.sum()
        sd_good = max(float(((weight * (p - good)**2).sum() / weight.sum()).sqrt()), POTENTIAL_SD)
        sd_bad = max(float(((rest * (p - bad)**2).sum() / rest.sum()).sqrt()), POTENTIAL_SD)
        mixture = min(max(float(weight.mean()), 0.5), 0.99)
    made = torch.zeros_like(potentials)
    made[known] = weight.to(potentials.dtype)
    return made
