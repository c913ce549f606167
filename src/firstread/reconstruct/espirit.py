"""ESPIRiT coil maps for every reconstruction, as a stage that adds them to k-space."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError
from firstread.core.records import KSpace
from firstread.core.stage import Stage
from firstread.ops.espirit import Size, espirit
from firstread.ops.fourier import DIMENSION, ifft
from firstread.reconstruct.calibration import central_region, time_mean
from firstread.reconstruct.problem import check


class Espirit(Stage):
    """Coil maps by ESPIRiT, one set or several (*soft* sensitivities), from the fully sampled centre of k-space.

    sets: of maps. Two resolve a field of view smaller than the object, where one pixel holds two places: iterative
        stages then solve for one image per set and join them.
    kernel: samples along each Fourier axis of the windows of the calibration matrix.
    threshold: singular vectors of the calibration matrix under this share of the largest count as noise.
    crop: maps are zero where their eigenvalue is below it; 0 keeps them everywhere.
    keep: share of the energy of the low-resolution image that the crop leaves inside the first set; with few
        calibration lines eigenvalues sink within the object too, and its crop is lowered as far as this asks. 0 never.
    calibration_lines: the longest side of the calibration region. The region is found by itself: the largest box
        around the zero frequency in which every sample was measured in at least one frame.

    Reads a KSpace, writes the same with sensitivities, KSpace "espirit". The gradient passes through the data; maps are
    constant to it. Raises SignalError for no measured centre, SettingError for a kernel larger than the region or a
    single coil. After Uecker et al. 2014.

    >>> from firstread.core.stage import Chain
    >>> from firstread.reconstruct.iterative import CGSense
    >>> print(Chain(Espirit(sets=2), CGSense()).describe())
    espirit(kspace: KSpace) -> espirit
    cgsense(kspace: KSpace) -> reconstruction
    """

    result = "espirit"

    def __init__(self, *, sets: int = 1, kernel: int = 6, threshold: float | int = 0.02, crop: float | int = 0.8,
                 keep: float | int = 0.999, calibration_lines: int = 24):
        super().__init__()
        if sets < 1 or not 2 <= kernel <= calibration_lines or any(not 0 <= v < 1 for v in (threshold, crop, keep)):
            raise SettingError(f"{sets} sets, kernel {kernel}, threshold {threshold}, crop {crop}, keep {keep}, "
                               f"{calibration_lines} calibration lines",
                               expected="one set or more, a kernel from 2 to the calibration lines, "
                               "threshold, crop and keep from 0 to below 1", remedy="correct the setting")
        self.sets, self.kernel, self.threshold, self.crop, self.keep = sets, kernel, threshold, crop, keep
        self.calibration_lines = calibration_lines

    def forward(self, kspace: KSpace) -> KSpace:
        kspace.require_cartesian("ESPIRiT")
        check(kspace)
        if kspace.data.shape[2] < 2:
            raise SettingError("one coil for ESPIRiT", expected="two coils or more",
                               remedy="reconstruct without coil maps")
        mean, measured = time_mean(kspace)
        shape = kspace.data.shape[-3:]
        box = central_region(measured, (shape[0], shape[1], shape[2]), kspace.fourier_axes,
                             widest=self.calibration_lines)
        centre = mean[:, 0, :, box[0], box[1], box[2]].detach()
        if "z" in kspace.fourier_axes:
            rows = [self._maps(row, (shape[0], shape[1], shape[2]), kspace.fourier_axes) for row in centre]
        else:
            flat = (1, shape[1], shape[2])
            rows = [torch.cat([self._maps(one, flat, kspace.fourier_axes) for one in row.split(1, dim=1)], dim=-3)
                    for row in centre]
        maps = torch.stack(rows)
        if bool((maps[:, 0].flatten(1).abs().amax(dim=1) == 0).any()):
            raise SignalError(f"no eigenvalue of {self.crop} or more", expected="coil maps at some pixel",
                              remedy="lower `crop` or `threshold`, or acquire more centre lines")
        return replace(kspace, sensitivities=maps)

    def _maps(self, centre: Complex[Tensor, "coil cz cy cx"], shape: Size, axes: tuple[str, ...]
              ) -> Complex[Tensor, "set coil z y x"]:
        """Cropped maps of one volume, or of one slice."""
        kernel = [self.kernel if axis in axes and n > 1 else 1 for axis, n in zip(("z", "y", "x"), shape, strict=True)]
        maps, values = espirit(centre, shape, kernel=(kernel[0], kernel[1], kernel[2]), sets=self.sets,
                               threshold=self.threshold)
        levels = torch.full_like(values[:, :1, :1, :1], self.crop)
        levels[0] = min(self.crop, level_keeping(values[0], low_resolution(centre, shape, axes), self.keep))
        return maps * (values >= levels)[:, None]


def low_resolution(centre: Complex[Tensor, "coil cz cy cx"], shape: Size, axes: tuple[str, ...]
                   ) -> Float[Tensor, "z y x"]:
    """``Σ_c |I_c|²`` of the Hann-windowed centre of k-space along ``axes``, at the voxels of ``shape``."""
    padding: list[int] = []
    for axis, size in zip(("x", "y", "z"), shape[::-1], strict=True):
        dim = DIMENSION[axis]
        cut = centre.shape[dim]
        if axis in axes and size > 1:
            window = torch.hann_window(cut + 2, periodic=False, dtype=centre.real.dtype, device=centre.device)[1:-1]
            centre = centre * window.reshape(-1, *[1] * (-dim - 1))
        first = size // 2 - cut // 2
        padding += [first, size - cut - first]
    return ifft(torch.nn.functional.pad(centre, padding), axes).abs().square().sum(dim=0)


def level_keeping(values: Float[Tensor, "z y x"], energy: Float[Tensor, "z y x"], share: float | int) -> float:
    """The highest level that leaves this share of the energy at voxels whose value reaches it.

    >>> values, energy = torch.tensor([0.9, 0.6, 0.2]), torch.tensor([5.0, 4.0, 1.0])
    >>> round(level_keeping(values.reshape(1, 1, 3), energy.reshape(1, 1, 3), 0.8), 3)
    0.6
    """
    order = values.flatten().argsort(descending=True)
    kept = energy.flatten()[order].cumsum(dim=0)
    last = int((kept < share * kept[-1]).sum().clamp_max(kept.shape[0] - 1))
    return float(values.flatten()[order[last]])
