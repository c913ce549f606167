"""Small k-space records and their images, for the tests of raw formats."""

from __future__ import annotations

import torch
from torch import Tensor

from firstread.core.geometry import Grid
from firstread.core.records import KSpace, Rows


def centred_image(kspace: Tensor) -> Tensor:
    """Centred orthonormal inverse transform over (y, x)."""
    shifted = torch.fft.ifft2(torch.fft.ifftshift(kspace, (-2, -1)), norm="ortho")
    return torch.fft.fftshift(shifted, (-2, -1))


def centred_kspace(image: Tensor) -> Tensor:
    """Centred orthonormal transform over (y, x)."""
    shifted = torch.fft.fft2(torch.fft.ifftshift(image, (-2, -1)), norm="ortho")
    return torch.fft.fftshift(shifted, (-2, -1))


def root_sum_of_squares(kspace: KSpace) -> Tensor:
    """``[batch, time, z, y, x]``."""
    return centred_image(kspace.data).abs().square().sum(dim=2).sqrt()


def kspace_of(*, frames: int, coils: int, slices: int, shape: tuple[int, int], keep: float, seed: int = 1) -> KSpace:
    """Random k-space of which the share ``keep`` of lines was measured."""
    draw = torch.Generator().manual_seed(seed)
    data = torch.randn(1, frames, coils, slices, *shape, generator=draw, dtype=torch.complex64)
    mask = torch.rand(1, frames, 1, slices, shape[0], 1, generator=draw) <= keep
    mask[..., shape[0] // 2, :] = True
    root = torch.randn(coils, coils + 2, generator=draw, dtype=torch.complex64)
    grid = Grid.from_spacing((slices, *shape), (9.0, 1.5, 1.2))
    grid = Grid(grid.affine, grid.shape, torch.tensor([8.0]).double())
    times = (torch.arange(frames).double()[None, :, None] * 0.04 + 0.01).repeat(1, 1, slices)
    cycle = 0.8 + 0.05 * torch.arange(slices).double()[None]
    return KSpace(Rows.parts(1), data * mask, grid, mask, noise_covariance=(root @ root.mH)[None],
                  times_s=times if frames > 1 else None, cycle_s=cycle)


def point_kspace(place: tuple[int, int], shape: tuple[int, int], *, coils: int = 1) -> KSpace:
    """K-space of a single bright pixel of value 1."""
    image = torch.zeros(1, 1, coils, 1, *shape, dtype=torch.complex64)
    image[..., place[0], place[1]] = 1
    grid = Grid.from_spacing((1, *shape), (8.0, 1.5, 1.2))
    return KSpace(Rows.parts(1), centred_kspace(image), grid, torch.ones(1, 1, 1, 1, shape[0], 1))
