"""Image errors against a reference: PSNR, SSIM, normalized RMSE, over all planes of real (magnitude) images.

The peak is the reference's largest value unless it is stated.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError


def psnr(image: Float[Tensor, "*lead y x"], reference: Float[Tensor, "*lead y x"], *,
         peak: float | None = None) -> float:
    """Peak signal-to-noise ratio in dB, ``10 log10(peak² / mean((x - y)²))`` over all pixels; infinite if equal.

    >>> round(psnr(torch.zeros(2, 2), torch.full((2, 2), 0.1), peak=1.0), 3)
    20.0
    """
    error = (image - reference).double().square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(_peak(reference, peak)**2 / error)


def nrmse(image: Float[Tensor, "*lead y x"], reference: Float[Tensor, "*lead y x"]) -> float:
    """Root of the squared error over the reference's energy, ``||x - y|| / ||y||``.

    >>> round(nrmse(torch.full((2, 2), 1.1), torch.ones(2, 2)), 6)
    0.1
    """
    return ((image - reference).double().norm() / reference.double().norm()).item()


def nmse(image: Float[Tensor, "*lead y x"], reference: Float[Tensor, "*lead y x"]) -> float:
    """Squared error over the reference's energy, ``||x - y||² / ||y||²``, as the fastMRI challenge has it.

    >>> round(nmse(torch.full((2, 2), 1.1), torch.ones(2, 2)), 6)
    0.01
    """
    return nrmse(image, reference)**2


def ssim_uniform(image: Float[Tensor, "*lead y x"], reference: Float[Tensor, "*lead y x"], *,
                 peak: float | None = None, k1: float = 0.01, k2: float = 0.03, window: int = 7) -> float:
    """Structural similarity under a flat window, (co)variances with the ``n / (n - 1)`` correction.

    The definition of the fastMRI and CMRxRecon challenges (the defaults of scikit-image), averaged over planes.
    Raises SettingError for planes smaller than the window.

    >>> plane = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    >>> round(ssim_uniform(plane, plane), 6)
    1.0
    """
    _check_window(image, window)
    x, y = (plane.reshape(-1, 1, *plane.shape[-2:]).double() for plane in (image, reference))

    def mean(values: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(values, window, stride=1)

    height, correction = _peak(reference, peak), window**2 / (window**2 - 1)
    c1, c2 = (k1 * height)**2, (k2 * height)**2
    mx, my = mean(x), mean(y)
    sxx, syy, sxy = (correction * (mean(a * b) - mean(a) * mean(b)) for a, b in ((x, x), (y, y), (x, y)))
    return ((2 * mx * my + c1) * (2 * sxy + c2) / ((mx**2 + my**2 + c1) * (sxx + syy + c2))).mean().item()


def ssim(image: Float[Tensor, "*lead y x"], reference: Float[Tensor, "*lead y x"], *, peak: float | None = None,
         k1: float = 0.01, k2: float = 0.03, sigma: float = 1.5, window: int = 11) -> float:
    """Structural similarity, averaged over the planes and all places where the whole window fits.

        (2 mx my + c1) (2 sxy + c2) / ((mx² + my² + c1) (sx² + sy² + c2)),  c = (k * peak)²

    Means and (co)variances under a Gaussian window of 11 x 11 pixels, sigma 1.5, weights summing to one (so without
    the n / (n - 1) correction). Source: Wang 2004. Raises SettingError for planes smaller than the window.

    >>> plane = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    >>> round(ssim(plane, plane), 6)
    1.0
    """
    _check_window(image, window)
    x, y = (plane.reshape(-1, 1, *plane.shape[-2:]) for plane in (image, reference))
    offset = torch.arange(window, dtype=x.dtype, device=x.device) - (window - 1) / 2
    weight = torch.exp(-offset**2 / (2 * sigma**2))
    weight = weight / weight.sum()

    def mean(values: Tensor) -> Tensor:
        rows = torch.nn.functional.conv2d(values, weight.reshape(1, 1, -1, 1))
        return torch.nn.functional.conv2d(rows, weight.reshape(1, 1, 1, -1))

    height = _peak(reference, peak)
    c1, c2 = (k1 * height)**2, (k2 * height)**2
    mx, my = mean(x), mean(y)
    sxx, syy, sxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    similarity = (2 * mx * my + c1) * (2 * sxy + c2) / ((mx**2 + my**2 + c1) * (sxx + syy + c2))
    return similarity.mean().item()


def _peak(reference: Tensor, stated: float | None) -> float:
    return float(reference.max()) if stated is None else float(stated)


def _check_window(image: Tensor, window: int) -> None:
    if min(image.shape[-2:]) < window:
        raise SettingError(f"planes of {tuple(image.shape[-2:])} pixels", expected=f"{window} or more along each axis",
                           remedy="use a smaller odd window")
