"""The MRI scanner as a stage: image in, multi-coil k-space along a trajectory out."""

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
from firstread.acquire.trajectories import Radial, Trajectory
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace
from firstread.core.stage import Stage
from firstread.ops.encoding_noncartesian import NonCartesianEncoding


class EncodeTrajectory(Stage):
    """Image to k-space along a trajectory in the plane: ``y = F(k) S x + n``, slice by slice.

    trajectory: of every frame (``Radial``, ``Spiral``, or a trained ``LearnedTrajectory``).
    coils, snr, correlation, keep_sensitivities: as in ``Encode``; the SNR is that of a full Cartesian scan.
    matrix: (y, x) pixels that the trajectory is made for, where the image is rendered finer; the field of view stays.
    tolerance: of the non-uniform transform.

    Reads an Image, writes the KSpace "kspace" with its trajectory. Differentiable in image and trajectory.
    """

    result = "kspace"

    def __init__(self, *, trajectory: Trajectory | None = None, coils: Coils | None = None,
                 snr: float | int | None = 30, correlation: float | int = 0.3, matrix: tuple[int, int] | None = None,
                 keep_sensitivities: bool = False, tolerance: float = 1e-3):
        super().__init__()
        check_noise(snr, correlation)
        chosen = trajectory if trajectory is not None else Radial(shots=64)
        self.trained = chosen if isinstance(chosen, nn.Module) else None
        self._trajectory = None if self.trained is not None else chosen
        self.coils = coils if coils is not None else LoopCoils()
        self.snr, self.correlation, self.matrix = snr, correlation, matrix
        self.keep_sensitivities, self.tolerance = keep_sensitivities, tolerance

    def settings(self) -> str:
        """The constructor's arguments as they stand, with those of trajectory and coils."""
        return ", ".join([*settings_of(self._trajectory, self.coils), super().settings()])

    def forward(self, image: Image, key: Key) -> KSpace:
        data, (ny, nx) = object_of(image, self.matrix)
        table = table_of(image.rows)
        maps = coil_maps(self.coils, image.grid, table, key)[:, None].to(data)
        frames, _, z, y, x = data.shape[1:]
        source = self.trained if self.trained is not None else self._trajectory
        trajectory = source(frames, (ny, nx)).to(data.real.dtype)[None]
        encoding = NonCartesianEncoding(trajectory=trajectory, shape=(z, y, x), sensitivities=maps,
                                        tolerance=self.tolerance)
        kspace = encoding(data) * coarse_phase(trajectory, (y, x), (ny, nx))[:, :, None, None]
        covariance = None
        if self.snr is not None:
            noise, covariance = receiver_noise(data, table, kspace.shape[2:], key, self.snr, self.correlation)
            kspace = kspace + noise
        grid = image.grid if (ny, nx) == (y, x) else image.grid.resize((z, ny, nx))
        mask = torch.ones(len(table), 1, 1, 1, 1, 1, dtype=kspace.real.dtype, device=kspace.device)
        return KSpace(image.rows, kspace, grid, mask, lower_maps(maps[:, 0], grid) if self.keep_sensitivities else None,
                      covariance, times_s=image.times_s, cycle_s=image.cycle_s, source=image.source,
                      trajectory=trajectory.expand(len(table), *trajectory.shape[1:]), notes=image.notes)


def coarse_phase(trajectory: Float[Tensor, "batch time axis=2 shot sample"], fine: tuple[int, int],
                 matrix: tuple[int, int]) -> Complex[Tensor, "batch time shot sample"]:
    """What turns samples of a fine image into those of ``matrix`` (y, x) pixels: ``Π sqrt(M / N) exp(2πi k c / N)``.

    c is the distance, in fine pixels, between the centre pixels ``M // 2`` and ``N // 2``; outer edges stay.
    """
    angle = torch.zeros_like(trajectory[:, :, 0])
    scale = 1.0
    for axis, (size, coarse) in enumerate(zip(fine, matrix, strict=True)):
        middle = (0.5 - coarse / 2 + coarse // 2) * size / coarse - (0.5 - size / 2 + size // 2)
        angle = angle + 2 * torch.pi * middle / size * trajectory[:, :, axis]
        scale *= (coarse / size) ** 0.5
    return torch.polar(torch.full_like(angle, scale), angle)
