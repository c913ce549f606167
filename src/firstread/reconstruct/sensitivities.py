"""Coil sensitivities from the data itself: low-resolution images of the fully sampled centre, averaged over time."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Complex
from torch import Tensor

from firstread.core.errors import SettingError, SignalError
from firstread.core.records import KSpace
from firstread.ops.fourier import DIMENSION, ifft


def estimate_sensitivities(kspace: KSpace, *, calibration_lines: int = 32) -> Complex[Tensor, "batch 1 coil z y x"]:
    """Low-resolution coil maps ``S_c = I_c / sqrt(Σ_d |I_d|²)``, phase relative to the dominant virtual coil.

    ``I_c`` is the Hann-windowed image of the central samples that were measured in at least one frame, each the mean
    over the frames that measured it. calibration_lines: the widest centre used along each axis.

    Raises SignalError where the centre was not measured.
    """
    kspace.require_cartesian("coil maps from centre lines")
    if calibration_lines < 2:
        raise SettingError(f"{calibration_lines} calibration lines", expected="2 or more", remedy="raise it")
    mask = (kspace.mask != 0).expand(-1, kspace.data.shape[1], *[-1] * 4)
    times = mask.sum(dim=1, keepdim=True)
    mean = kspace.data.sum(dim=1, keepdim=True) / times.clamp_min(1)
    for axis in kspace.fourier_axes:
        through = _through_centre(times > 0, [a for a in kspace.fourier_axes if a != axis])
        mean = mean * _window(through, axis, kspace.data.shape[DIMENSION[axis]], calibration_lines, mean)
    return relative_maps(ifft(mean, kspace.fourier_axes))


def relative_maps(low: Complex[Tensor, "batch 1 coil z y x"]) -> Complex[Tensor, "batch 1 coil z y x"]:
    """Coil maps from low-resolution coil images: ``I_c / sqrt(Σ_d |I_d|²)``, phase relative to the dominant coil.

    Raises SignalError where the images are zero.
    """
    magnitude = low.abs().square().sum(dim=2, keepdim=True).sqrt()
    if not bool((magnitude.detach().flatten(1).amax(dim=1) > 0).all()):
        raise SignalError("centre lines of zero energy", expected="signal at low frequencies",
                          remedy="check that the zero frequency lies at N // 2")
    floor = 1e-6 * magnitude.detach().amax(dim=(1, 2, 3, 4, 5), keepdim=True)
    virtual = (_dominant_coil(low).conj()[:, None, :, None, None, None] * low).sum(dim=2, keepdim=True)
    phase = virtual / virtual.abs().clamp_min(torch.finfo(magnitude.dtype).tiny)
    return low * phase.conj() / magnitude.clamp_min(floor)


def _window(measured: Bool[Tensor, "batch 1 1 mz my mx"], axis: str, size: int, widest: int, like: Tensor) -> Tensor:
    """A Hann window over the contiguous measured centre of one axis, as wide as it reaches on both sides."""
    dim = DIMENSION[axis]
    if measured.shape[dim] == 1:
        reach = size // 2
    else:
        others = [d for d in range(-6, 0) if d != dim]
        line = measured.movedim(dim, -1).flatten(0, -2).all(dim=0) if others else measured
        reach = _reach(line)
    if size == 1:
        return torch.ones((), dtype=like.real.dtype, device=like.device)
    if reach < 1:
        raise SignalError(f"no fully sampled centre along {axis}", expected="3 or more measured centre lines",
                          remedy="acquire centre lines, or give the coil sensitivities")
    half = min(reach + 1, widest // 2)
    k = (torch.arange(size, dtype=like.real.dtype, device=like.device) - size // 2).abs()
    window = torch.where(k < half, torch.cos(0.5 * torch.pi * k / half).square(), torch.zeros_like(k))
    return window.reshape(-1, *[1] * (-dim - 1))


def _through_centre(measured: Bool[Tensor, "batch 1 1 mz my mx"], axes: list[str]) -> Bool[Tensor, "batch 1 1 _ _ _"]:
    """The samples whose frequency along ``axes`` is zero."""
    for axis in axes:
        dim = DIMENSION[axis]
        measured = measured.narrow(dim, measured.shape[dim] // 2, 1)
    return measured


def _reach(line: Bool[Tensor, " n"]) -> int:
    """How many lines are measured on both sides of ``N // 2`` without a gap; -1 where the centre itself is not."""
    middle = line.shape[0] // 2
    up, down = line[middle:], line[: middle + 1].flip(0)
    reached = [int(side.long().cumprod(0).sum()) - 1 for side in (up, down)]
    return min(reached)


def _dominant_coil(low: Complex[Tensor, "batch 1 coil z y x"]) -> Complex[Tensor, "batch coil"]:
    """The coil combination of most energy: the first eigenvector of the coils' covariance."""
    flat = low.detach().movedim(2, 1).flatten(2)
    vectors = torch.linalg.eigh(flat @ flat.mH).eigenvectors
    return vectors[:, :, -1]
