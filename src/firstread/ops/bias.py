"""Slow shading of an image, found by sharpening its histogram and smoothing what is left with B-splines (N4)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError

BINS = 200


def otsu(values: Float[Tensor, " n"]) -> float:
    """The threshold that parts values into two classes of greatest variance between them (Otsu 1979).

    >>> 1.0 <= otsu(torch.tensor([1.0] * 9 + [5.0] * 9)) < 5.0
    True
    """
    low, high = values.aminmax()
    if not bool(high > low):
        return float(low)
    counts = torch.histc(values, BINS, float(low), float(high))
    centres = low + (torch.arange(BINS, dtype=values.dtype, device=values.device) + 0.5) * (high - low) / BINS
    below, mass = counts.cumsum(0), (counts * centres).cumsum(0)
    above = below[-1] - below
    apart = mass / below.clamp(min=1) - (mass[-1] - mass) / above.clamp(min=1)
    return float(centres[(below * above * apart.square()).argmax()])


def sharpened(values: Float[Tensor, " n"], *, width: float = 0.15, noise: float = 0.01) -> Float[Tensor, " n"]:
    """``E[u | v]``: what log intensities would be without a field that blurs their histogram with a Gaussian.

    The histogram V is deconvolved, ``U = F⁻¹ (F̂* V̂ / (|F̂|² + Z))``, and ``E[u | v] = F * (u U) / F * U``.

    width: full width at half maximum of F; noise: Z. Source: Sled, Zijdenbos and Evans 1998.
    """
    low, high = values.aminmax()
    step = (high - low) / (BINS - 1)
    if not bool(step > 0):
        return values
    place = ((values - low) / step).clamp(0, BINS - 1)
    left = place.long().clamp(max=BINS - 2)
    share = place - left
    counts = torch.zeros(4 * BINS, dtype=values.dtype, device=values.device)
    counts.index_add_(0, left + BINS, 1 - share).index_add_(0, left + BINS + 1, share)
    size = len(counts)
    apart = torch.arange(size, dtype=values.dtype, device=values.device)
    apart = torch.minimum(apart, size - apart) * step
    kernel = torch.exp(-4 * math.log(2) * (apart / width) ** 2)
    blur = torch.fft.rfft(kernel / kernel.sum())
    sharp = torch.fft.irfft(blur.conj() * torch.fft.rfft(counts) / (blur.abs() ** 2 + noise), size).clamp(min=0)
    level = low + (torch.arange(size, dtype=values.dtype, device=values.device) - BINS) * step
    top, bottom = (torch.fft.irfft(blur * torch.fft.rfft(part), size) for part in (level * sharp, sharp))
    mean = torch.where(bottom > 1e-6 * bottom.max(), top / bottom.clamp(min=1e-30), level)[BINS:2 * BINS]
    return mean[left] + share * (mean[left + 1] - mean[left])


def spline_basis(places: Float[Tensor, " n"], mesh: int) -> Float[Tensor, "n control"]:
    """Values at ``places`` (0 to 1) of the ``mesh + 3`` cubic B-splines on a uniform mesh.

    >>> spline_basis(torch.linspace(0, 1, 5), 2).sum(dim=1).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    far = (places[:, None] * mesh - (torch.arange(mesh + 3, dtype=places.dtype, device=places.device) - 1)).abs()
    return torch.where(far < 1, 2 / 3 - far.square() + far**3 / 2, (2 - far).clamp(min=0) ** 3 / 6)


def spline_fit(values: Float[Tensor, "z y x"], weight: Float[Tensor, "z y x"], bases: list[Tensor]
               ) -> Float[Tensor, "cz cy cx"]:
    """Control points near scattered values: every value asks for ``w v / Σ w²`` at its control points, weighted by w².

    bases: of z, y and x (:func:`spline_basis`). Source: Lee, Wolberg and Shin 1997.
    """
    norm = _spread(values.new_ones(1, 1, 1), [b.square().sum(1, keepdim=True) for b in bases])
    asked = _spread(weight * values / norm, [b.pow(3).mT for b in bases])
    count = _spread(weight, [b.square().mT for b in bases])
    return asked / count.clamp(min=1e-12) * (count > 1e-12)


def bias_field(image: Float[Tensor, "z y x"], mask: Bool[Tensor, "z y x"], *, levels: int = 4, iterations: int = 50,
               tolerance: float = 1e-3, points: int = 64) -> Float[Tensor, "z y x"]:
    """The multiplicative field of an image, of geometric mean 1 in the mask (N4, Tustison et al. 2010).

    On each level the mesh of B-splines is twice as fine as before. An iteration takes ``v - E[u | v]`` of the corrected
    log intensities (:func:`sharpened`), smooths it (:func:`spline_fit`) and adds it to the log field; a level ends when
    the field's change varies by less than ``tolerance``. points: the most voxels along an axis that are used.

    Raises SettingError for settings out of range, SignalError for a mask with fewer than 64 positive voxels.
    """
    if min(levels, iterations) < 1 or tolerance < 0 or points < 8:
        raise SettingError(f"{levels} levels, {iterations} iterations, tolerance {tolerance}, {points} points",
                           expected="one or more, tolerance ≥ 0, 8 points or more", remedy="correct the setting")
    steps = [math.ceil(n / points) for n in image.shape]
    thin = tuple(slice(step // 2 if n > step else 0, None, step) for n, step in zip(image.shape, steps, strict=True))
    small, inside = image[thin].double(), mask[thin] & (image[thin] > 0)
    if int(inside.sum()) < 64:
        raise SignalError(f"a mask with {int(inside.sum())} voxels above zero", expected="64 or more",
                          remedy="give a mask of the body")
    where = [torch.arange(n, dtype=torch.float64, device=image.device) / max(1, n - 1) for n in image.shape]
    log, weight = torch.zeros_like(small), inside.double()
    log[inside] = small[inside].log()
    field, whole = torch.zeros_like(log), torch.zeros(image.shape, dtype=torch.float64, device=image.device)
    for level in range(levels):
        bases = [torch.ones_like(w)[:, None] if len(w) == 1 else spline_basis(w, 2**level) for w in where]
        few = [b[part] for b, part in zip(bases, thin, strict=True)]
        control = torch.zeros([b.shape[1] for b in bases], dtype=torch.float64, device=image.device)
        for _ in range(iterations):
            residual = torch.zeros_like(log)
            now = (log - field)[inside]
            residual[inside] = now - sharpened(now)
            added = spline_fit(residual, weight, few)
            change = _spread(added, few)
            control, field = control + added, field + change
            ratio = change[inside].exp()
            if float(ratio.std() / ratio.mean()) < tolerance:
                break
        whole = whole + _spread(control, bases)
    return (whole - field[inside].mean()).exp().to(image.dtype)


def _spread(data: Tensor, matrices: list[Tensor]) -> Tensor:
    """``data`` with a matrix applied along each of z, y and x."""
    for matrix in matrices:
        data = torch.tensordot(data, matrix, dims=([0], [1]))  # the next axis comes first
    return data
