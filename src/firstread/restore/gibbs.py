"""Gibbs ringing, as a stage."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Num
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import Image, Note
from firstread.core.stage import Stage
from firstread.ops.gibbs import remove_ringing
from firstread.restore.denoise import check_finite

ZERO_FILLED = Note("zero_filled", "The highest frequencies of the image are empty (it was interpolated, or acquired by "
                   "partial Fourier): its ringing has another period than unringing assumes, and stays in part.")


class RemoveRinging(Stage):
    """Gibbs ringing removed by local subvoxel shifts, in plane (:func:`~firstread.ops.gibbs.remove_ringing`).

    For images on the grid they were acquired on, without zero filling: a note says where the highest frequencies are
    empty. Partial Fourier leaves ringing of longer periods along its axis, which stays in part (Lee, Novikov and
    Fieremans 2021). Before any other filter; where noise matters, after denoising.

    shifts: tried on either side, in steps of half a pixel over shifts; window: pixels from and to which oscillation is
    looked at. Reads an Image, writes the Image "unringed". Differentiable.
    """

    result = "unringed"

    def __init__(self, *, shifts: int = 20, window: tuple[int, int] = (1, 3)):
        super().__init__()
        if shifts < 1 or not 1 <= window[0] <= window[1]:
            raise SettingError(f"{shifts} shifts, window {window}", expected="one or more, 1 ≤ first ≤ last",
                               remedy="correct the setting")
        self.shifts, self.window = shifts, window

    def forward(self, image: Image) -> Image:
        check_finite(image)
        made = replace(image, data=remove_ringing(image.data, shifts=self.shifts, window=self.window))
        return made.noted(ZERO_FILLED) if highest_share(image.data.detach()) < 1e-5 else made


def highest_share(data: Num[Tensor, "*lead y x"]) -> float:
    """Energy per frequency of the outermost eighth of k-space, along y or x, over the mean of all.

    Without zero filling noise alone makes it some ten thousandths or more.
    """
    energy = torch.fft.fftshift(torch.fft.fft2(data.reshape(-1, *data.shape[-2:])), dim=(-2, -1)).abs().square().sum(0)
    shares = []
    for dim in (0, 1):
        size = energy.shape[dim]
        line = energy.sum(dim=1 - dim)
        edge = max(1, size // 16)
        outer = torch.cat((line[:edge], line[-edge:])).mean()
        shares.append(float(outer / line.mean().clamp(min=1e-30)))
    return min(shares)
