"""The non-uniform discrete Fourier transform by its definition: exact and slow, the oracle of ``nufft``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.ops.nufft_plan import check_trajectory

_BLOCK = 1024  # samples at a time


def dft(image: Complex[Tensor, "..."], trajectory: Float[Tensor, "axis *samples"]) -> Complex[Tensor, "..."]:
    """``y_m = N^(-1/2) Σ_n x_n exp(-2πi k_m · (n - N//2) / N)``, N the number of pixels: ``[*lead, *samples]``.

    image: ``[*lead, *shape]``; trajectory: cycles per field of view, axes in the order of shape. Differentiable in both
    by autograd through the sums.

    >>> dft(torch.ones(4, dtype=torch.complex64), torch.tensor([[0.0, 1.0]])).abs().round(decimals=5).tolist()
    [2.0, 0.0]
    """
    axes = trajectory.shape[0]
    shape, lead = image.shape[image.ndim - axes :], image.shape[: image.ndim - axes]
    check_trajectory(trajectory, shape)
    flat = image.reshape(-1, *shape)
    blocks = []
    for block in trajectory.flatten(1).split(_BLOCK, dim=1):
        *others, last = _phases(block, shape, image.dtype, -1)
        made = flat @ last
        for phase in reversed(others):
            made = (made * phase).sum(dim=-2)
        blocks.append(made)
    return torch.cat(blocks, dim=-1).reshape(*lead, *trajectory.shape[1:])


def dft_adjoint(samples: Complex[Tensor, "..."], trajectory: Float[Tensor, "axis *samples"], shape: Sequence[int]
                ) -> Complex[Tensor, "..."]:
    """``x_n = N^(-1/2) Σ_m y_m exp(2πi k_m · (n - N//2) / N)``, the adjoint of ``dft``: ``[*lead, *shape]``."""
    check_trajectory(trajectory, shape)
    lead = samples.shape[: samples.ndim - trajectory.ndim + 1]
    blocks = zip(samples.reshape(math.prod(lead), -1).split(_BLOCK, dim=1),
                 trajectory.flatten(1).split(_BLOCK, dim=1), strict=True)
    image = samples.new_zeros(math.prod(lead), *shape)
    for values, block in blocks:
        *others, last = _phases(block, shape, samples.dtype, 1)
        for phase in others:
            values = values.unsqueeze(-2) * phase
        image = image + values @ last.transpose(0, 1)
    return image.reshape(*lead, *shape)


def _phases(trajectory: Tensor, shape: Sequence[int], dtype: torch.dtype, sign: int) -> list[Tensor]:
    """``n^(-1/2) exp(± 2πi k r / n)`` for every axis, ``[n, sample]``, angles in float64."""
    made = []
    for k, n in zip(trajectory.double(), shape, strict=True):
        r = (torch.arange(n, dtype=k.dtype, device=k.device) - n // 2) / n
        angle = sign * 2 * math.pi * r[:, None] * k
        made.append(torch.polar(torch.full_like(angle, n**-0.5), angle).to(dtype))
    return made
