"""``Aᴴ W A`` of a non-uniform transform as a convolution: no interpolation in each iteration, only Fourier transforms.

After Fessler et al., IEEE Trans. Signal Process. 53:3393 (2005).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.ops.nufft import nufft_adjoint


def toeplitz_kernel(weights: Float[Tensor, " sample"], trajectory: Float[Tensor, "axis sample"], shape: Sequence[int],
                    *, tolerance: float = 1e-3) -> Float[Tensor, "part ..."]:
    """Eigenvalues ``λ`` of the circulant of twice the size that holds ``Aᴴ W A``: ``[2^d, *shape]``.

    ``(Aᴴ W A)(r, r') = t(r - r')`` with ``t(s) = 1/N Σ_m w_m exp(2πi k_m · s / N)``; λ is the transform of t. Part
    ``(a, b, …)`` holds every second value along each axis, from a, b … on. They are real, as t is Hermitian.
    """
    axes = len(shape)
    double = tuple(2 * n for n in shape)
    point = nufft_adjoint(torch.complex(weights, torch.zeros_like(weights)), 2 * trajectory, double,
                          tolerance=tolerance)
    for dim in range(axes):
        point = torch.cat((torch.zeros_like(point.narrow(dim, 0, 1)), point.narrow(dim, 1, point.shape[dim] - 1)), dim)
    dims = tuple(range(axes))
    spectrum = torch.fft.fftn(torch.fft.ifftshift(point, dim=dims), dim=dims).real
    spectrum = spectrum * (math.sqrt(math.prod(double)) / math.prod(shape))
    return torch.stack([spectrum[tuple(slice(s, None, 2) for s in part)] for part in product((0, 1), repeat=axes)])


def ramps(shape: Sequence[int], like: Tensor) -> Complex[Tensor, "part ..."]:
    """``2^(-d/2) exp(-πi Σ_j s_j n_j / N_j)`` for s in {0, 1}^d: the half steps of frequency between the parts."""
    made = []
    for part in product((0, 1), repeat=len(shape)):
        angle = torch.zeros((), dtype=torch.float64, device=like.device)
        for s, n in zip(part, shape, strict=True):
            angle = angle[..., None] - math.pi * s * torch.arange(n, dtype=torch.float64, device=like.device) / n
        made.append(torch.polar(torch.full_like(angle, 2 ** (-len(shape) / 2)), angle))
    return torch.stack(made).to(like)


def toeplitz_gram(image: Complex[Tensor, "set z y x"], kernel: Float[Tensor, "part ..."], ramp: Complex[Tensor, "..."],
                  maps: Complex[Tensor, "set coil z y x"] | None = None) -> Complex[Tensor, "set z y x"]:
    """``Σ_c S_c* T S_c x`` with ``T = Σ_s D_s* F⁻¹ Λ_s F D_s``: circulants of the image's own size, nothing padded.

    The double-size transform of a zero-padded image at the even (odd) frequencies is the transform of the image (times
    a half-step ramp D), so each part of λ acts alone, and the ramp is applied once for all coils.

    kernel: ``toeplitz_kernel``; ramp: ``ramps`` of the same shape; the axes not transformed are a batch.
    """
    dims = tuple(range(1 - kernel.ndim, 0))
    made = torch.zeros_like(image)
    for spectrum, step in zip(kernel, ramp, strict=True):
        moved = step * image
        coils = moved if maps is None else (maps * moved[:, None]).sum(dim=0) if len(maps) > 1 else maps[0] * moved
        coils = torch.fft.ifftn(torch.fft.fftn(coils, dim=dims).mul_(spectrum), dim=dims)
        if maps is not None:
            coils = torch.stack([(coils * part.conj()).sum(dim=0) for part in maps])
        made = made + step.conj() * coils
    return made
