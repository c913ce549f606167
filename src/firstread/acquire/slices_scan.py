"""What the scanner adds to a random stack: coil shading, limited resolution, motion, undersampling, noise."""

from __future__ import annotations

import torch
from torch import Tensor

from firstread.acquire.slices_anatomy import Plane
from firstread.acquire.slices_draws import Draws


def shading(draws: Draws, plane: Plane) -> Tensor:
    """Smooth positive coil profile, brighter on one side."""
    x, y = plane.x / 80, plane.y / 80
    bias = draws.normal(0.35) * x + draws.normal(0.35) * y + draws.normal(0.12) * x * y + 0.08 * draws.smooth(3)
    bias = bias + draws.normal(0.12) * (x.square() + y.square())
    return torch.exp(bias.clamp(-1.5, 1.5) + draws.normal(0.08, per_slice=True))


def acquire(draws: Draws, image: Tensor, plane: Plane) -> Tensor:
    """Magnitude image after shading, k-space truncation, motion ghosts, missing lines and noise."""
    size = image.shape[-1]
    image = image * shading(draws, plane)
    ky = torch.fft.fftfreq(size).reshape(1, 1, -1, 1)
    kx = torch.fft.rfftfreq(size).reshape(1, 1, 1, -1)
    turned = draws.chance(0.5)
    line = torch.where(turned, ky, kx)
    spectrum = torch.fft.rfft2(image)
    # Resolution: a Gaussian, and a box that leaves Gibbs ringing; coarser along phase encoding.
    sigma_y, sigma_x = draws.uniform(0.15, 0.85), draws.uniform(0.15, 0.85)
    spectrum = spectrum * torch.exp(-2 * torch.pi ** 2 * ((sigma_y * ky).square() + (sigma_x * kx).square()))
    cut = torch.where(draws.chance(0.5), draws.uniform(0.27, 0.5), torch.full((1,), 0.5))
    spectrum = spectrum * torch.sigmoid((cut - line.abs()) * 60)
    # Undersampled reconstructions: lines that are wrong by a random factor, more so away from the centre.
    wrong = draws.chance(0.25) * draws.uniform(0.1, 1.0) * (line.abs() / 0.15).clamp(max=1)
    factor = torch.randn((draws.subjects, draws.slices, size), generator=draws.generator)
    factor = torch.where(turned, factor.unsqueeze(-1), factor[..., : kx.shape[-1]].unsqueeze(-2))
    spectrum = spectrum * (1 + wrong * factor)
    image = torch.fft.irfft2(spectrum, s=(size, size))
    # Ghosts of breathing and folding: shifted copies.
    ghost = draws.chance(0.2) * draws.uniform(0, 0.12)
    image = image + ghost * torch.where(turned, image.roll(size // 3, -2), image.roll(size // 3, -1))
    # Rician noise.
    level = torch.where(draws.chance(0.1), draws.uniform(0.03, 0.12), draws.uniform(0.0, 0.03))
    image = ((image + level * draws.noise()).square() + (level * draws.noise()).square()).sqrt()
    return image.clamp(min=0) ** torch.exp(draws.normal(0.18))
