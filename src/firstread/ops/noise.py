"""Noise out of data alone: its level, and what of a series rises above it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Num
from torch import Tensor

from firstread.core.errors import SettingError


def noise_level(images: Num[Tensor, "rows y x"]) -> Float[Tensor, " rows"]:
    """Standard deviation of white noise (of each part of complex images), from the finest diagonal differences.

    ``σ = median |d| / 0.6745`` of ``d = (x_00 - x_01 - x_10 + x_11) / 2`` (Donoho 1995). Raises SettingError for planes
    of fewer than 2 x 2 pixels.

    >>> noise_level(torch.zeros(1, 4, 4)).item()
    0.0
    """
    parts = torch.view_as_real(images).movedim(-1, 1) if images.is_complex() else images[:, None]
    return diagonal_differences(parts).abs().flatten(1).median(dim=1).values / 0.6745


def diagonal_differences(planes: Float[Tensor, "*lead y x"]) -> Float[Tensor, "*lead y1 x1"]:
    """``(x_00 - x_01 - x_10 + x_11) / 2``, whose noise is that of the pixels. SettingError as ``noise_level``."""
    if min(planes.shape[-2:]) < 2:
        raise SettingError(f"planes of {tuple(planes.shape[-2:])} pixels", expected="2 or more along y and x",
                           remedy="give whole images")
    return (planes[..., :-1, :-1] - planes[..., :-1, 1:] - planes[..., 1:, :-1] + planes[..., 1:, 1:]) / 2


def noise_components(values: Float[Tensor, "patch m"], longer: int) -> tuple[Tensor, Tensor]:
    """How many eigenvalues are signal, and the noise variance, by the Marchenko-Pastur law (Veraart 2016).

    values: eigenvalues of ``X Xᴴ / n`` of matrices ``m x n`` with m ≤ n, largest first; longer: n. The smallest p with
    ``(λ_{p+1} - λ_m) / (4 sqrt((m - p) / n)) ≤ mean(λ_{p+1}, …, λ_m)``, which is σ².

    >>> count, variance = noise_components(torch.tensor([[9.0, 1.0, 1.0, 1.0]]), 100)
    >>> count.item(), variance.item()
    (1, 1.0)
    """
    size = values.shape[1]
    left = torch.arange(size, 0, -1, dtype=values.dtype, device=values.device)
    mean = values.flip(1).cumsum(1).flip(1) / left
    width = (values - values[:, -1:]) / (4 * (left / longer).sqrt())
    count = (width <= mean * (1 + 1e-6)).int().argmax(dim=1)
    return count, mean.gather(1, count[:, None].long())[:, 0]


def local_pca(series: Num[Tensor, "time y x"], *, window: int) -> tuple[Num[Tensor, "time y x"], Float[Tensor, "y x"]]:
    """A series with the noise components of every window of pixels left out, and the noise level (MP-PCA).

    Each ``window x window`` of pixels by frames is a matrix; its components below the Marchenko-Pastur edge are noise.
    Overlapping windows are averaged. Raises SettingError for a single frame or a window that does not fit.
    """
    frames, height, width = series.shape
    if frames < 2 or not 2 <= window <= min(height, width):
        raise SettingError(f"{frames} frames of {height} x {width} with a window of {window}",
                           expected="two frames or more and a window of 2 pixels or more that fits",
                           remedy="use total variation or a network for single images")
    total = torch.zeros_like(series)
    level = torch.zeros(height, width, dtype=series.real.dtype, device=series.device)
    count = torch.zeros_like(level)
    across = width - window + 1
    for top in range(height - window + 1):  # one row of windows at a time: the memory of one
        windows = series[:, top:top + window].unfold(2, window, 1)
        made, variance = without_noise(windows.permute(2, 0, 1, 3).flatten(2))
        made, sd = made.unflatten(2, (window, window)).movedim(0, -1), variance.clamp(min=0).sqrt()
        for column in range(window):
            place = (..., slice(top, top + window), slice(column, column + across))
            total[place] += made[:, :, column]
            level[place] += sd
            count[place] += 1
    return total / count, level / count


def without_noise(matrices: Num[Tensor, "window m n"]) -> tuple[Num[Tensor, "window m n"], Float[Tensor, " window"]]:
    """Matrices without their noise components, and the noise variance of each (MP-PCA)."""
    tall = matrices.shape[1] > matrices.shape[2]
    flat = matrices.mT if tall else matrices
    values, vectors = torch.linalg.eigh(flat @ flat.mH / flat.shape[2])
    values, vectors = values.flip(1), vectors.flip(2)
    count, variance = noise_components(values, flat.shape[2])
    keep = torch.arange(values.shape[1], device=values.device) < count[:, None]
    made = (vectors * keep[:, None].to(vectors.dtype)) @ (vectors.mH @ flat)
    return made.mT if tall else made, variance
