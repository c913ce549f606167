"""The one transform of this package, for files: removing readout oversampling."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor


def remove_oversampling(kspace: Complex[Tensor, "*axes"], kept: int, *, axis: int) -> Complex[Tensor, "*cropped"]:
    """K-space of the middle ``kept`` pixels along a fully sampled axis: ``F_kept crop F⁻¹``.

    Both transforms are centred and orthonormal with zero frequency at ``N // 2``, so white noise keeps its variance.

    >>> remove_oversampling(torch.ones(1, 8, dtype=torch.complex64), 4, axis=-1).shape
    torch.Size([1, 4])
    """
    size = kspace.shape[axis]
    if kept == size:
        return kspace
    image = torch.fft.fftshift(torch.fft.ifft(torch.fft.ifftshift(kspace, axis), dim=axis, norm="ortho"), axis)
    image = image.narrow(axis, size // 2 - kept // 2, kept)
    return torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(image, axis), dim=axis, norm="ortho"), axis)


def shift_to_middle(count: int, centre: int, size: int) -> np.ndarray:
    """Where ``count`` samples with zero frequency at ``centre`` lie on an axis with zero frequency at ``size // 2``.

    >>> shift_to_middle(3, 1, 8)
    array([3, 4, 5])
    """
    return np.arange(count) - centre + size // 2
