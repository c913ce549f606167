"""Image errors against a reference: PSNR, SSIM, normalized RMSE. Magnitudes; the peak is always stated."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError


def psnr_db(image: Float[Tensor, "*lead y x"], reference: Float[Tensor, "*lead y x"],
            peak: Float[Tensor, "*lead"] | float) -> Float[Tensor, "*lead"]:
    """Peak signal-to-noise ratio in dB per plane, ``10 log10(peak² / mean((x - y)²))``; infinite for equal images.

    >>> psnr_db(torch.zeros(2, 2), torch.full((2, 2), 0.1), 1.0).round().item()
    20.0
    """
    error = (image - reference).square().mean(dim=(-2, -1))
    return 10 * torch.log10(torch.as_tensor(peak, dtype=error.dtype, device=error.device)**2 / error)


def nrmse(image: Float[Tensor, "*lead y x"], reference: Float[Tensor, "*lead y x"]) -> Float[Tensor, "*lead"]:
    """Root of the squared error over the reference's energy, per plane, ``||x - y|| / ||y||``.

    >>> nrmse(torch.full((2, 2), 1.1), torch.ones(2, 2)).item()
    0.10000002384185791
    """
    return (image - reference).square().sum(dim=(-2, -1)).sqrt() / reference.square().sum(dim=(-2, -1)).sqrt()


def ssim(image: Float[Tensor, "*lead y x"], reference: Float[Tensor, "*lead y x"], peak: Float[Tensor, "*lead"] | float,
         *, k1: float = 0.01, k2: float = 0.03, sigma: float = 1.5, window: int = 11) -> Float[Tensor, "*lead"]:
    """Structural similarity per plane, averaged over all places where the whole window fits.

        (2 mx my + c1) (2 sxy + c2) / ((mx² + my² + c1) (sx² + sy² + c2)),  c = (k * peak)²

    Means and (co)variances under a Gaussian window of 11 x 11 pixels, sigma 1.5, weights summing to one (so without
    the n / (n - 1) correction). Source: Wang 2004. Raises SettingError for planes smaller than the window.

    >>> plane = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    >>> round(ssim(plane, plane, 1.0).item(), 6)
    1.0
    """
    if min(image.shape[-2:]) < window:
        raise SettingError(f"planes of {tuple(image.shape[-2:])} pixels", expected=f"{window} or more along each axis",
                           remedy="use a smaller odd window")
    lead = image.shape[:-2]
    x, y = (plane.reshape(-1, 1, *plane.shape[-2:]) for plane in (image, reference))
    offset = torch.arange(window, dtype=x.dtype, device=x.device) - (window - 1) / 2
    weight = torch.exp(-offset**2 / (2 * sigma**2))
    weight = weight / weight.sum()

    def mean(values: Tensor) -> Tensor:
        rows = torch.nn.functional.conv2d(values, weight.reshape(1, 1, -1, 1))
        return torch.nn.functional.conv2d(rows, weight.reshape(1, 1, 1, -1))

    height = torch.as_tensor(peak, dtype=x.dtype, device=x.device).expand(lead).reshape(-1, 1, 1, 1)
    c1, c2 = (k1 * height)**2, (k2 * height)**2
    mx, my = mean(x), mean(y)
    sxx, syy, sxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    similarity = (2 * mx * my + c1) * (2 * sxy + c2) / ((mx**2 + my**2 + c1) * (sxx + syy + c2))
    return similarity.mean(dim=(1, 2, 3)).reshape(lead)
