"""Partial Fourier: lines beyond one end of k-space from the conjugate symmetry of an image of slowly varying phase."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.ops.fourier import fft, ifft

AXIS = ("y",)  # the partial axis, second to last in every function here


def symmetric_window(lines: int, first: int, last: int, like: Tensor) -> Float[Tensor, " line"]:
    """A Hann window over the centre measured on both sides, for measured lines ``first … last`` of ``lines``.

    >>> [round(w, 3) for w in symmetric_window(8, 0, 5, torch.ones(1)).tolist()[2:7]]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    half = symmetric_reach(lines, first, last) + 1
    k = (torch.arange(lines, dtype=like.real.dtype, device=like.device) - lines // 2).abs()
    return torch.where(k < half, torch.cos(0.5 * torch.pi * k / half).square(), torch.zeros_like(k))


def symmetric_reach(lines: int, first: int, last: int) -> int:
    """How many lines on both sides of ``N // 2`` are measured."""
    return min(lines // 2 - first, last - lines // 2)


def homodyne_weights(lines: int, first: int, last: int, like: Tensor) -> Float[Tensor, " line"]:
    """Weights that count every pair of conjugate lines once: 2 where only one of them was measured, a ramp between.

    The first line of an even number is its own conjugate: weight 1.

    >>> homodyne_weights(8, 0, 5, torch.ones(1)).tolist()
    [1.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0]
    """
    reach = symmetric_reach(lines, first, last)
    k = torch.arange(lines, dtype=like.real.dtype, device=like.device) - lines // 2
    side = -1.0 if lines // 2 - first > last - lines // 2 else 1.0
    ramp = torch.where(k == -lines / 2, torch.ones_like(k), 1 + (side * k / (reach + 1)).clamp(-1, 1))
    measured = (k >= first - lines // 2) & (k <= last - lines // 2)
    return torch.where(measured, ramp, torch.zeros_like(ramp))


def low_resolution_phase(kspace: Complex[Tensor, "*batch line sample"], first: int, last: int
                         ) -> Complex[Tensor, "*batch line sample"]:
    """``exp(iφ)`` of the image of the symmetric centre."""
    image = ifft(kspace * symmetric_window(kspace.shape[-2], first, last, kspace)[:, None], AXIS)
    size = image.abs()
    tiny = torch.finfo(size.dtype).tiny
    return torch.where(size > tiny, image / size.clamp_min(tiny), torch.ones_like(image))


def homodyne(kspace: Complex[Tensor, "*batch line sample"], first: int, last: int
             ) -> Complex[Tensor, "*batch line sample"]:
    """Images ``Re(e^{-iφ} F⁻¹ W y) e^{iφ}`` (Noll, Nishimura and Macovski 1991), lines ``first … last`` measured.

    Samples are along the line axis only in k-space (the other axis is already an image). W are ``homodyne_weights``,
    φ the phase of the symmetric centre.
    """
    phase = low_resolution_phase(kspace, first, last)
    weighted = ifft(kspace * homodyne_weights(kspace.shape[-2], first, last, kspace)[:, None], AXIS)
    return (weighted * phase.conj()).real * phase


def pocs(kspace: Complex[Tensor, "*batch line sample"], first: int, last: int, *, iterations: int = 20,
         tolerance: float = 1e-4) -> Complex[Tensor, "*batch line sample"]:
    """Images by projection onto convex sets (Haacke, Lindskog and Lin 1991), phase φ and measured lines in turn::

        x = |F⁻¹ k| e^{iφ};   k = F x with lines first … last as measured

    Begins at the zero-filled image; stops when the image changes by less than ``tolerance`` of its norm, or after
    ``iterations``. The last step puts the measured lines in. Autograd runs through the iterations.
    """
    phase = low_resolution_phase(kspace, first, last)
    line = torch.arange(kspace.shape[-2], device=kspace.device)
    missing = ((line < first) | (line > last)).to(kspace.real.dtype)[:, None]
    image = ifft(kspace, AXIS)
    for _ in range(iterations):
        before = image
        image = ifft(kspace + missing * fft(image.abs() * phase, AXIS), AXIS)
        if bool((image - before).detach().norm() <= tolerance * image.detach().norm()):
            break
    return image
