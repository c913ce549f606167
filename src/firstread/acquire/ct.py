"""The CT scanner as a stage: image in, line integrals with the noise of a dose out."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError
from firstread.core.keys import Key
from firstread.core.records import Image, Rows
from firstread.core.sinogram import Beam, Sinogram
from firstread.core.stage import Stage
from firstread.ops.attenuation import WATER_PER_MM, attenuation_per_mm, integrals_of, transmitted
from firstread.ops.projection import Projection


class ScanCT(Stage):
    """Image in Hounsfield units to line integrals: ``p = -ln((Poisson(I₀ exp(-A μ)) + n) / I₀)``, slice by slice.

    beam: the geometry. photons: I₀, per ray without an object, or None for no noise; electronic: standard deviation
    of n, the electronics' noise, in photons. water_per_mm: attenuation of water, what HU refer to.

    Reads an Image, writes the Sinogram "sinogram", weights: the counts behind each ray where there is noise.
    Differentiable in the image; noise counts as constant.

    Raises SignalError for NaN or complex images, GeometryError for a grid without millimetres.
    """

    result = "sinogram"

    def __init__(self, *, beam: Beam, photons: float | None = 1e5, electronic: float = 5.0,
                 water_per_mm: float = WATER_PER_MM):
        super().__init__()
        if (photons is not None and not photons > 0) or electronic < 0 or not water_per_mm > 0:
            raise SettingError(f"{photons} photons, electronic noise {electronic}, water {water_per_mm} per mm",
                               expected="photons and attenuation above zero, noise of zero or more",
                               remedy="use None for no noise")
        self.beam, self.photons, self.electronic, self.water_per_mm = beam, photons, electronic, water_per_mm

    def settings(self) -> str:
        """The geometry and the constructor's other arguments."""
        return f"{self.beam.summary}, {super().settings()}"

    def forward(self, image: Image, key: Key) -> Sinogram:
        if image.data.is_complex() or not bool(torch.isfinite(image.data.detach()).all()):
            raise SignalError("an image that is complex or has NaN", expected="finite Hounsfield units",
                              remedy="give the scanner a CT image")
        clean = Projection.of(self.beam, image.grid)(attenuation_per_mm(image.data, self.water_per_mm))
        if self.photons is None:
            return Sinogram(image.rows, clean, image.grid, self.beam, None, image.source, notes=image.notes)
        data, weights = low_dose(clean, image.rows, key, self.photons, self.electronic)
        return Sinogram(image.rows, data, image.grid, self.beam, weights, image.source, notes=image.notes)


def low_dose(clean: Float[Tensor, "batch time channel z view bin"], rows: Rows, key: Key, photons: float,
             electronic: float) -> tuple[Float[Tensor, "batch time channel z view bin"],
                                         Float[Tensor, "batch time channel z view bin"]]:
    """Noisy line integrals and the inverse of their variance, ``I² / (I + σ²)`` at the counts I that were seen.

    The gradient is that of ``clean``.
    """
    expected = transmitted(clean.detach(), photons)
    seen = []
    for row, generator in zip(expected, key.generators(rows), strict=True):
        counts = torch.poisson(row.cpu(), generator=generator)
        seen.append(counts + electronic * torch.randn(row.shape, generator=generator, dtype=row.dtype))
    counts = torch.stack(seen).to(expected).clamp_min(0.5)
    noisy = integrals_of(counts, photons)
    return clean + (noisy - clean.detach()), counts.square() / (counts + electronic**2)
