"""What a network sees of undersampled k-space: every frame, combined over the coils in phase with the time average.

No coil maps are needed: the time average of all measured lines gives the weights, however few lines a frame has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float, Num
from torch import Tensor

from firstread.nets.cascade import share_data
from firstread.ops.fourier import ifft


def time_average(measured: Complex[Tensor, "batch time coil z y x"], mask: Num[Tensor, "#batch mt 1 mz my mx"]
                 ) -> Complex[Tensor, "batch 1 coil z y x"]:
    """Every sample's mean over the frames that measured it, ``Σ_t y_t / Σ_t m_t``; zero where none did.

    >>> y = torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1, 1, 1) + 0j
    >>> time_average(y, y.real / 2).item()
    (2+0j)
    """
    count = mask.expand(-1, measured.shape[1], *[-1] * 4).sum(dim=1, keepdim=True)
    return measured.sum(dim=1, keepdim=True) / count.clamp_min(1)


def in_phase(coils: Complex[Tensor, "batch time coil z y x"], average: Complex[Tensor, "batch 1 coil z y x"]
             ) -> Complex[Tensor, "batch time 1 z y x"]:
    """Coil images combined with their time average ``a``, ``x_t = Σ_c a_c* I_ct / sqrt(Σ_c |a_c|²)``.

    What does not move becomes real and positive, the root sum of squares of the coils (Roemer et al. 1990 with the
    image itself for the maps).

    >>> still = torch.tensor([3.0, 4.0j]).reshape(1, 1, 2, 1, 1, 1)
    >>> in_phase(still, still).item()
    (5+0j)
    """
    energy = _energy(average)
    floor = 1e-12 * energy.detach().amax(dim=(1, 2, 3, 4, 5), keepdim=True)
    tiny = torch.finfo(energy.dtype).tiny ** 0.5
    return (average.conj() * coils).sum(dim=2, keepdim=True) * torch.maximum(energy, floor).clamp_min(tiny).rsqrt()


def views_of(measured: Complex[Tensor, "batch time coil z y x"], mask: Num[Tensor, "#batch mt 1 mz my mx"], *,
             distances: Sequence[int] = (), fourier_axes: Sequence[str] = ("y", "x")
             ) -> Float[Tensor, "batch time channel z y x"]:
    """The zero-filled frames and those with shared data, real and imaginary parts in turn, of brightness about 1.

    distances: each adds frames whose missing samples are the mean of the frames up to so many away
    (:func:`~firstread.nets.cascade.share_data`); half the number of frames or more fills with the time average.

    >>> y = torch.ones(1, 2, 1, 1, 4, 4, dtype=torch.complex64)
    >>> views_of(y, torch.ones(1, 1, 1, 1, 4, 1), distances=(1,)).shape
    torch.Size([1, 2, 4, 1, 4, 4])
    """
    average = ifft(time_average(measured, mask), fourier_axes)
    frames = [measured, *(share_data(measured, mask, distance) for distance in distances)]
    combined = [in_phase(ifft(part, fourier_axes), average)[:, :, 0] for part in frames]
    parts = torch.cat([torch.view_as_real(part).movedim(-1, 2) for part in combined], dim=2)
    return parts / brightness(average)


def views_of_image(image: Complex[Tensor, "batch time 1 z y x"]) -> Float[Tensor, "batch time 2 z y x"]:
    """The same of a reconstructed cine: real and imaginary part in phase with the time average, of brightness about 1.

    >>> views_of_image(torch.full((1, 2, 1, 1, 4, 4), 2j))[0, 0, :, 0, 0, 0].tolist()
    [1.0, 0.0]
    """
    average = image.mean(dim=1, keepdim=True)
    return torch.view_as_real(in_phase(image, average)[:, :, 0]).movedim(-1, 2) / brightness(average)


def brightness(average: Complex[Tensor, "batch 1 coil z y x"]) -> Float[Tensor, "batch 1 1 1 1 1"]:
    """The 99th percentile of the root sum of squares of the time average, per row; a constant of the gradient."""
    flat = _energy(average.detach()).sqrt().flatten(1)
    found = torch.quantile(flat[:, :: flat.shape[1] // 1_000_000 + 1], 0.99, dim=1)
    return found.clamp_min(torch.finfo(found.dtype).tiny ** 0.5)[:, None, None, None, None, None]


def _energy(coils: Tensor) -> Tensor:
    return torch.view_as_real(coils).square().sum(dim=-1).sum(dim=2, keepdim=True)
