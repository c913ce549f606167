"""CT reconstructions: line integrals in, Hounsfield units out."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SignalError
from firstread.core.records import Image
from firstread.core.sinogram import Sinogram
from firstread.core.stage import Stage
from firstread.ops.attenuation import WATER_PER_MM, hounsfield
from firstread.ops.backprojection import Window, filtered_backprojection, window_values
from firstread.ops.projection import plane_spacing_mm


class FilteredBackprojection(Stage):
    """Filtered backprojection of parallel and fan beams, short scans included (``ops.backprojection``).

    window, cutoff: over the ramp filter; cutoff is a share of the detector's Nyquist frequency.
    water_per_mm: attenuation of water, what HU refer to.

    Reads a Sinogram, writes the Image "reconstruction" in HU. Raises GeometryError for an arc that is too short.
    """

    result = "reconstruction"

    def __init__(self, *, window: Window = "hann", cutoff: float = 1.0, water_per_mm: float = WATER_PER_MM):
        super().__init__()
        window_values(window, torch.zeros(1), cutoff)
        self.window, self.cutoff, self.water_per_mm = window, cutoff, water_per_mm

    def forward(self, sinogram: Sinogram) -> Image:
        check_integrals(sinogram)
        made = filtered_backprojection(sinogram.data, sinogram.beam, sinogram.grid.shape[1:],
                                       plane_spacing_mm(sinogram.grid), window=self.window, cutoff=self.cutoff)
        return image_of(sinogram, made, self.water_per_mm)


def check_integrals(sinogram: Sinogram) -> None:
    """Refuse line integrals that no reconstruction can use."""
    if sinogram.data.is_complex() or not bool(torch.isfinite(sinogram.data.detach()).all()):
        raise SignalError("line integrals that are complex or have NaN", expected="finite real numbers",
                          remedy="take -ln(I / I₀) of counts above zero")


def image_of(sinogram: Sinogram, attenuation: Float[Tensor, "batch time channel z y x"], water_per_mm: float) -> Image:
    """The image in HU of attenuation per millimetre."""
    return Image(sinogram.rows, hounsfield(attenuation, water_per_mm), sinogram.grid, source=sinogram.source,
                 notes=sinogram.notes)
