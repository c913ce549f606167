"""Intensities that differ between slices: one factor each, and a smooth bias field."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

BIAS_MM = 20.0


def slice_scales(measured: Float[Tensor, "slice v u"], simulated: Float[Tensor, "slice v u"],
                 weights: Float[Tensor, "slice v u"]) -> Float[Tensor, " slice"]:
    """``s = Σ w y ŷ / Σ w y²``: brings each slice to what the volume would show; 1 where nothing is known."""
    above = (weights * measured * simulated).sum(dim=(1, 2))
    below = (weights * measured.square()).sum(dim=(1, 2))
    return torch.where((below > 0) & (above > 0), above / below.clamp_min(1e-30), torch.ones_like(above))


def log_bias(measured: Float[Tensor, "slice v u"], simulated: Float[Tensor, "slice v u"],
             weights: Float[Tensor, "slice v u"], pixel_mm: float) -> Float[Tensor, "slice v u"]:
    """Smooth ``log(y / ŷ)`` with a Gaussian of 20 mm, weighted, mean zero over each slice (Wells 1996)."""
    floor = 0.1 * simulated.clamp_min(0).sum() / (simulated > 0).sum().clamp_min(1)
    use = weights * ((measured > floor) & (simulated > floor))
    ratio = torch.log(measured.clamp_min(floor) / simulated.clamp_min(floor)).clamp(-1, 1)
    total = use.sum(dim=(1, 2), keepdim=True).clamp_min(1e-6)
    ratio = ratio - (use * ratio).sum(dim=(1, 2), keepdim=True) / total
    count = smooth_plane(use, BIAS_MM / pixel_mm)
    field = smooth_plane(use * ratio, BIAS_MM / pixel_mm) / (count + 0.02 * count.amax(dim=(1, 2), keepdim=True)
                                                             ).clamp_min(1e-9)
    return field - (use * field).sum(dim=(1, 2), keepdim=True) / total


def smooth_plane(images: Float[Tensor, "slice v u"], sd: float) -> Float[Tensor, "slice v u"]:
    """Gaussian of ``sd`` pixels along both axes, nothing outside: two products with a matrix."""
    if sd < 0.2:
        return images
    rows, columns = (_matrix(n, sd).to(images) for n in images.shape[1:])
    return rows @ images @ columns


def _matrix(count: int, sd: float) -> Tensor:
    place = torch.arange(count, dtype=torch.float64)
    taps = torch.exp(-0.5 * ((place[:, None] - place) / sd)**2)
    return taps / taps[count // 2].sum()
