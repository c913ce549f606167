"""The MRI scanner as a stage: image in, Cartesian multi-coil k-space out."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from firstread.acquire.coils import Coils, LoopCoils
from firstread.acquire.receiver import (
    check_noise,
    coil_maps,
    lower_maps,
    object_of,
    receiver_noise,
    settings_of,
    table_of,
)
from firstread.acquire.sampling import Sampling, VariableDensity
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace
from firstread.core.stage import Stage
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.fourier import fft

__all__ = ["CartesianEncoding", "Encode", "encode_lower"]

MASK = 1  # stream of randomness of one row, beside those of receiver.py


class Encode(Stage):
    """Image to k-space: ``y = M (F S x + n)``, phase encoding along y, readout along x, slice by slice.

    sampling: draws the lines of every frame and slice (``VariableDensity`` …, or a trained ``LearnedMask``).
    coils: draws the coil maps, one set per subject.
    snr: mean magnitude of the object over the standard deviation of the complex noise in a fully sampled image; None
        adds no noise. correlation: of the noise of neighbouring coils; the k-space carries the covariance that a noise
        scan of 4096 samples gives.
    matrix: (y, x) lines and samples to acquire of a finer image, so that the object is rendered finer than it is
        sampled; the field of view stays.
    keep_sensitivities: hand the true coil maps on; by default a reconstruction has to estimate them, as on real input.

    Reads an Image, writes the KSpace "kspace". Differentiable in the image and in a trained mask.
    """

    result = "kspace"

    def __init__(self, *, sampling: Sampling | None = None, coils: Coils | None = None, snr: float | int | None = 30,
                 correlation: float | int = 0.3, matrix: tuple[int, int] | None = None,
                 keep_sensitivities: bool = False):
        super().__init__()
        check_noise(snr, correlation)
        chosen = sampling if sampling is not None else VariableDensity()
        self.trained = chosen if isinstance(chosen, nn.Module) else None
        self._sampling = None if self.trained is not None else chosen
        self.coils = coils if coils is not None else LoopCoils()
        self.snr, self.correlation, self.matrix, self.keep_sensitivities = snr, correlation, matrix, keep_sensitivities

    def settings(self) -> str:
        """The constructor's arguments as they stand, with those of sampling and coils."""
        return ", ".join([*settings_of(self._sampling, self.coils), super().settings()])

    def forward(self, image: Image, key: Key) -> KSpace:
        data, (ny, nx) = object_of(image, self.matrix)
        table = table_of(image.rows)
        maps = coil_maps(self.coils, image.grid, table, key)[:, None].to(data)
        frames, _, z, y, x = data.shape[1:]
        mask = torch.stack([self._mask(frames, z, ny, key.generator(*row, MASK)) for row in table]).to(data.device)
        kspace = torch.cat([encode_lower(maps * frame, (ny, nx)) for frame in data.split(1, dim=1)], dim=1)
        covariance = None
        if self.snr is not None:
            noise, covariance = receiver_noise(data, table, kspace.shape[2:], key, self.snr, self.correlation)
            kspace = kspace + noise
        grid = image.grid if (ny, nx) == (y, x) else image.grid.resize((z, ny, nx))
        true_maps = lower_maps(maps[:, 0], grid) if self.keep_sensitivities else None
        return KSpace(image.rows, mask * kspace, grid, mask, true_maps, covariance, times_s=image.times_s,
                      cycle_s=image.cycle_s, source=image.source, notes=image.notes)

    def _mask(self, frames: int, slices: int, lines: int, generator: torch.Generator) -> Float[Tensor, "t 1 z y 1"]:
        """One pattern per frame and slice; a trained mask is the same in all slices."""
        if self.trained is not None:
            drawn = self.trained(frames, lines, generator)[:, None].expand(frames, slices, lines)
        else:
            drawn = self._sampling(frames * slices, lines, generator).reshape(frames, slices, lines)
        return drawn[:, None, :, :, None]


def encode_lower(image: Complex[Tensor, "*batch y x"], matrix: tuple[int, int]) -> Complex[Tensor, "*batch m n"]:
    """K-space of the central ``matrix`` (y, x) frequencies of a finer image, scaled so that intensities stay.

    ``X[k] = sqrt(M / N) F x`` on ``k = -M/2 … M/2 - 1``, times the phase that puts voxel m of the coarse image at the
    middle of the fine voxels that it covers (outer edges stay, as in ``Grid.resize``).

    >>> encode_lower(torch.ones(6, 6, dtype=torch.complex128), (2, 2))[1, 1].abs().float().item()
    2.0
    """
    for axis, dim, size in zip(("y", "x"), (-2, -1), matrix, strict=True):
        fine = image.shape[dim]
        image = fft(image, (axis,))
        if size == fine:
            continue
        k = torch.arange(size, dtype=torch.float64) - size // 2
        middle = (0.5 - size / 2 + size // 2) * fine / size - (0.5 - fine / 2 + fine // 2)
        phase = torch.polar(torch.full_like(k, (size / fine) ** 0.5), 2 * torch.pi * k * middle / fine).to(image)
        image = image.narrow(dim, fine // 2 - size // 2, size) * phase.reshape(-1, *[1] * (-dim - 1))
    return image
