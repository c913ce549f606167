"""What every reconstruction needs first: checked, whitened k-space and its encoding operator; and last: the crop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SignalError
from firstread.core.records import Image, KSpace
from firstread.ops.encoding import CartesianEncoding, combine, join_sets
from firstread.ops.encoding_noncartesian import NonCartesianEncoding
from firstread.ops.fourier import DIMENSION, dimensions, ifft
from firstread.ops.whitening import combine_coils, whitening_matrix
from firstread.reconstruct.sensitivities import estimate_sensitivities


@dataclass(frozen=True)
class Problem:
    """``y ≈ E x``: decorrelated measurements and the operator that explains them.

    Axes that were sampled at every position are already images: only the others are left to ``encoding``.
    """

    measured: Complex[Tensor, "batch time coil z y x"]
    encoding: CartesianEncoding

    def rhs(self) -> Complex[Tensor, "batch time set z y x"]:
        """``Eᴴ y``, the zero-filled image (one channel per set of coil maps)."""
        return self.encoding.adjoint(self.measured)

    def to(self, device: str) -> Problem:
        """The same on another device."""
        encoding, maps = self.encoding, self.encoding.sensitivities
        there = CartesianEncoding(mask=encoding.mask.to(device), fourier_axes=encoding.fourier_axes,
                                  sensitivities=None if maps is None else maps.to(device))
        return Problem(self.measured.to(device), there)

    def brightness(self) -> Float[Tensor, "batch 1 1 1 1 1"]:
        """What a regularization is relative to: the 99th percentile of the time-averaged image, per batch row."""
        mask = self.encoding.mask.detach().expand(-1, self.measured.shape[1], *[-1] * 4)
        mean = self.measured.detach().sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp_min(1)
        image = join_sets(combine(mean, self.encoding)).abs().flatten(1)
        every = image.shape[1] // 1_000_000 + 1
        return torch.quantile(image[:, ::every], 0.99, dim=1).clamp_min(1e-30)[:, None, None, None, None, None]


def problem_of(kspace: KSpace, *, calibration_lines: int = 32) -> Problem:
    """Check, whiten by the noise covariance where it is known, and estimate the coils where they are not given.

    The maps are scaled so that ``Σ_c |S_c|² = 1`` before whitening: intensities are those of the root sum of squares
    of the coils as they came.

    Raises SignalError for NaN, nothing sampled, or a coil without signal.
    """
    kspace.require_cartesian("this reconstruction")
    check(kspace)
    data, maps = kspace.data, kspace.sensitivities
    if maps is None and data.shape[2] > 1:
        maps = estimate_sensitivities(kspace, calibration_lines=calibration_lines)
    if kspace.noise_covariance is not None and data.shape[2] > 1:
        matrix = whitening_matrix(kspace.noise_covariance.to(data.dtype))
        data = combine_coils(matrix, data)
        maps = None if maps is None else combine_coils(matrix, maps)
    mask = _shortest(kspace.mask, kspace.fourier_axes)
    full = tuple(a for a in kspace.fourier_axes if mask.shape[DIMENSION[a]] == 1)
    left = tuple(a for a in kspace.fourier_axes if a not in full)
    return Problem(ifft(data, full), CartesianEncoding(mask=mask, sensitivities=maps, fourier_axes=left))


def check(kspace: KSpace) -> None:
    """Refuse k-space that no reconstruction can use."""
    data = kspace.data.detach()
    if not bool(torch.isfinite(torch.view_as_real(data)).all()):
        raise SignalError("NaN or infinite values in k-space", expected="finite samples",
                          remedy="check the raw file for damaged readouts")
    sampled = kspace.mask.detach() != 0
    empty = ~sampled.flatten(3).any(dim=-1)
    if bool(empty.any()):
        frame = int(empty.flatten(2).any(dim=-1).any(dim=0).nonzero()[0, 0])
        raise SignalError(f"no measured sample in frame {frame + 1}", expected="one line or more in every frame",
                          remedy="check the mask, or merge frames")
    energy = torch.view_as_real(data).square().sum(dim=(3, 4, 5, 6))
    dead = energy <= 1e-12 * energy.mean(dim=(1, 2), keepdim=True)
    if bool(dead.any()):
        coil = next((int(c) for c in dead.all(dim=1).any(dim=0).nonzero()[:1, 0]), None)
        if coil is not None:
            raise SignalError(f"coil {coil + 1} of {data.shape[2]} without signal", expected="signal in every coil",
                              remedy="leave that coil out")
        frame, coil = dead.any(dim=0).nonzero()[0].tolist()
        raise SignalError(f"coil {coil + 1} of {data.shape[2]} without signal in frame {frame + 1}, with signal in "
                          "others", expected="signal of every coil in every frame", remedy="leave that coil or that "
                          "frame out, or read its readouts again")


def image_from(kspace: KSpace, data: Complex[Tensor, "batch time set z y x"]) -> Image:
    """The reconstructed image, sets joined, cropped about its centre voxel ``N // 2`` to ``kspace.image_shape``."""
    grid, data = kspace.grid, join_sets(data)
    if kspace.image_shape is not None and kspace.image_shape != tuple(data.shape[-3:]):
        start = tuple(n // 2 - m // 2 for n, m in zip(data.shape[-3:], kspace.image_shape, strict=True))
        grid = grid.crop(start, kspace.image_shape)
        for dim, first, size in zip((-3, -2, -1), start, kspace.image_shape, strict=True):
            data = data.narrow(dim, first, size)
    return Image(kspace.rows, data.contiguous(), grid, kspace.times_s, kspace.cycle_s, kspace.source,
                 notes=kspace.notes)


def independent_axes(encoding: CartesianEncoding | NonCartesianEncoding) -> int:
    """How many leading axes of an image number systems that encoding does not couple: batch, time, perhaps slices."""
    return 6 + min(dimensions(encoding.fourier_axes), default=-3)


def _shortest(mask: Tensor, fourier_axes: tuple[str, ...]) -> Tensor:
    """The mask with length 1 on every axis along which it is constant (left as it is where a gradient flows)."""
    if mask.requires_grad:
        return mask
    for axis in fourier_axes:
        dim = DIMENSION[axis]
        first = mask.narrow(dim, 0, 1)
        if mask.shape[dim] > 1 and bool((mask == first).all()):
            mask = first
    return mask
