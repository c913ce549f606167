"""ESPIRiT: coil maps as eigenvectors of what the calibration data says about neighbouring samples (Uecker 2014).

Every window of ``k`` neighbouring samples of all coils lies in a small space of signals. Projecting all windows of
k-space onto it and averaging the overlaps is a convolution, in image space one Hermitian matrix ``G(r)`` over the coils
per voxel. True signals are left as they are: coil maps are the eigenvectors of ``G(r)`` of eigenvalue one; a voxel that
carries several signals (aliasing within the field of view, fat shift) has several.
"""

from __future__ import annotations

from itertools import product

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError

Size = tuple[int, int, int]
CHUNK = 1 << 16  # voxels whose matrices are held at once


def windows(calibration: Complex[Tensor, "coil z y x"], kernel: Size) -> Complex[Tensor, "window n"]:
    """All windows of ``kernel`` (z, y, x) samples, each a row of ``n = coils · kz · ky · kx`` (the calibration matrix).

    Raises SettingError for a kernel larger than the calibration region.

    >>> windows(torch.zeros(2, 1, 5, 5, dtype=torch.complex64), (1, 3, 3)).shape
    torch.Size([9, 18])
    """
    if any(k < 1 or k > n for k, n in zip(kernel, calibration.shape[1:], strict=True)):
        raise SettingError(f"a kernel of {kernel} samples (z, y, x)",
                           expected=f"at most the calibration region, {tuple(calibration.shape[1:])}",
                           remedy="lower `kernel`, or acquire more centre lines")
    cut = calibration
    for dim, size in zip((1, 2, 3), kernel, strict=True):
        cut = cut.unfold(dim, size, 1)
    return cut.permute(1, 2, 3, 0, 4, 5, 6).flatten(3).flatten(0, 2)


def signal_projector(rows: Complex[Tensor, "window n"], threshold: float) -> Complex[Tensor, "n n"]:
    """The projector ``V Vᴴ`` onto singular vectors of the windows with ``σ > threshold · σ_max``.

    Raises SignalError for windows of zero energy.
    """
    values, vectors = torch.linalg.eigh(rows.T @ rows.conj())
    if not bool(values[-1] > 0):
        raise SignalError("a calibration region of zero energy", expected="signal at low frequencies",
                          remedy="check that the zero frequency lies at N // 2")
    kept = vectors[:, values > threshold**2 * values[-1]]
    return kept @ kept.mH


def lag_kernel(projector: Complex[Tensor, "n n"], coils: int, kernel: Size) -> Complex[Tensor, "coil coil lz ly lx"]:
    """The convolution of averaged projections, ``g_{cd}(m) = 1/K Σ_{j - i = m} P[(c, i), (d, j)]``, ``|m| < k``.

    It maps k-space by ``(W y)_c(k) = Σ_{d, m} g_{cd}(m) y_d(k + m)``.
    """
    parts = projector.reshape(coils, *kernel, coils, *kernel)
    lags = projector.new_zeros(coils, coils, *(2 * k - 1 for k in kernel))
    for place in product(*(range(k) for k in kernel)):
        z, y, x = (slice(k - 1 - i, 2 * k - 1 - i) for k, i in zip(kernel, place, strict=True))
        lags[:, :, z, y, x] += parts[:, *place]
    return lags / (kernel[0] * kernel[1] * kernel[2])


def phases(size: int, lags: int, like: Tensor) -> Complex[Tensor, "size lags"]:
    """``exp(-2πi m (r - N//2) / N)`` for voxels r and lags ``m = -(lags // 2) …``."""
    r = torch.arange(size, dtype=torch.float64, device=like.device) - size // 2
    m = torch.arange(lags, dtype=torch.float64, device=like.device) - lags // 2
    turn = -2 * torch.pi * r[:, None] * m / size
    return torch.polar(torch.ones_like(turn), turn).to(like.dtype)


def espirit(calibration: Complex[Tensor, "coil cz cy cx"], shape: Size, *, kernel: Size, sets: int = 1,
            threshold: float | int = 0.02) -> tuple[Complex[Tensor, "set coil z y x"], Float[Tensor, "set z y x"]]:
    """Coil maps of a volume of ``shape`` and their eigenvalues, largest first, from the centre of its k-space.

    Maps are orthonormal over the coils; the phase is that relative to the dominant virtual coil. Where the eigenvalue
    lies clearly under one, nothing is there (or the kernel is too small): crop.

    threshold: singular vectors of the calibration matrix under this share of the largest are noise.
    Constant in backward passes: no gradient goes through the eigenvectors.

    After Uecker et al. 2014. Raises SettingError for kernels larger than the region, SignalError for no signal in it.
    """
    coils = calibration.shape[0]
    if not 1 <= sets <= coils or not 0 <= threshold < 1:
        raise SettingError(f"{sets} sets of maps of {coils} coils, threshold {threshold}",
                           expected="one set to as many as coils, threshold from 0 to below 1",
                           remedy="correct the setting")
    with torch.no_grad():
        projector = signal_projector(windows(calibration, kernel), threshold)
        lags = lag_kernel(projector, coils, kernel)
        virtual = dominant(calibration)
        maps, values = eigenmaps(lags, shape, sets)
        phase = torch.einsum("c,sczyx->szyx", virtual.conj(), maps)[:, None]
        maps = maps * (phase.conj() / phase.abs().clamp_min(torch.finfo(values.dtype).tiny))
    return maps, values


def eigenmaps(lags: Complex[Tensor, "coil coil lz ly lx"], shape: Size, sets: int
              ) -> tuple[Complex[Tensor, "set coil z y x"], Float[Tensor, "set z y x"]]:
    """Eigenvectors and eigenvalues of ``G(r) = Σ_m g(m) exp(-2πi m r / N)`` at every voxel."""
    coils = lags.shape[0]
    lower = torch.tril_indices(coils, coils)
    ez, ey, ex = (phases(n, m, lags) for n, m in zip(shape, lags.shape[2:], strict=True))
    half = torch.einsum("plmn,xn->plmx", lags[lower[0], lower[1]], ex)
    rows = max(1, CHUNK // shape[2])
    maps = lags.new_empty(sets, coils, *shape)
    values = lags.real.new_empty(sets, *shape)
    for z in range(shape[0]):
        plane = torch.einsum("plmx,l->pmx", half, ez[z])
        for start in range(0, shape[1], rows):
            y = slice(start, min(start + rows, shape[1]))
            entries = torch.einsum("pmx,ym->yxp", plane, ey[y])
            matrices = entries.new_zeros(*entries.shape[:2], coils, coils)
            matrices[..., lower[0], lower[1]] = entries
            found = torch.linalg.eigh(matrices, UPLO="L")
            maps[:, :, z, y] = found.eigenvectors[..., -sets:].flip(-1).permute(3, 2, 0, 1)
            values[:, z, y] = found.eigenvalues[..., -sets:].flip(-1).permute(2, 0, 1)
    return maps, values


def dominant(samples: Complex[Tensor, "coil *n"]) -> Complex[Tensor, " coil"]:
    """The coil combination of most energy: the first eigenvector of the coils' covariance."""
    flat = samples.flatten(1)
    return torch.linalg.eigh(flat @ flat.mH).eigenvectors[:, -1]
