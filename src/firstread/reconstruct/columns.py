"""A part of a scan that can be reconstructed by itself: some columns of a fully sampled readout."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Complex
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import KSpace
from firstread.ops.encoding import combine
from firstread.ops.fourier import ifft
from firstread.reconstruct.problem import problem_of
from firstread.reconstruct.sensitivities import estimate_sensitivities


def columns(kspace: KSpace, first: int, count: int, *, calibration_lines: int = 32) -> KSpace:
    """The scan of ``count`` image columns from ``first`` on: along x positions, coil maps of the whole scan.

    With a mask that does not vary along x, the columns do not meet in ``y = M F S x``; white noise stays white. Raises
    SettingError where the columns are coupled or not there.
    """
    kspace.require_cartesian("a choice of columns")
    width = kspace.data.shape[-1]
    shown = width if kspace.image_shape is None else kspace.image_shape[2]
    if kspace.mask.shape[-1] != 1 or not set(kspace.fourier_axes) - {"x"} or not 0 <= first < first + count <= shown:
        raise SettingError(f"columns {first} to {first + count} of {shown}, Fourier axes {kspace.fourier_axes}, a mask "
                           f"of {kspace.mask.shape[-1]} along x", remedy="take the whole scan",
                           expected="columns of a scan undersampled along y or z alone")
    maps = kspace.sensitivities
    if maps is None and kspace.data.shape[2] > 1:
        maps = estimate_sensitivities(kspace, calibration_lines=calibration_lines)
    start = width // 2 - shown // 2 + first
    axes = tuple(axis for axis in kspace.fourier_axes if axis != "x")
    parts = [(ifft(frame, ("x",)) if "x" in kspace.fourier_axes else frame).narrow(-1, start, count)
             for frame in kspace.data.split(1, dim=1)]
    shape = None if kspace.image_shape is None else (*kspace.image_shape[:2], count)
    return replace(kspace, data=torch.cat(parts, dim=1), fourier_axes=axes, image_shape=shape,
                   sensitivities=None if maps is None else maps.narrow(-1, start, count).contiguous(),
                   grid=kspace.grid.crop((0, 0, start), (*kspace.grid.shape[:2], count)))


def mean_over_time(kspace: KSpace) -> Complex[Tensor, "batch 1 1 z y x"]:
    """The coil-combined image of every sample's mean over the frames that measured it, on the image's matrix."""
    problem = problem_of(kspace)
    times = problem.encoding.mask.expand(-1, kspace.data.shape[1], *[-1] * 4).sum(dim=1, keepdim=True)
    image = combine(problem.measured.sum(dim=1, keepdim=True) / times.clamp_min(1), problem.encoding)
    for dim, size in zip((-3, -2, -1), kspace.image_shape or (), strict=False):
        image = image.narrow(dim, image.shape[dim] // 2 - size // 2, size)
    return image
