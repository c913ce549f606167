"""PSNR, SSIM, NRMSE: definitions applied by hand, symmetry and bounds."""

import math

import pytest
import torch
from scipy import ndimage

from firstread.core.errors import SettingError
from firstread.ops import quality


def planes(seed, shape=(3, 24, 20)):
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(shape, generator=generator, dtype=torch.float64)
    return first, first + 0.2 * torch.randn(shape, generator=generator, dtype=torch.float64)


def test_ssim_agrees_with_its_definition_at_every_pixel():
    first, second = planes(0)
    truncated = {"sigma": 1.5, "truncate": 3.5, "mode": "nearest"}  # radius 5, window 11
    expected = []
    for a, b in zip(first.numpy(), second.numpy(), strict=True):
        mean = [ndimage.gaussian_filter(v, **truncated) for v in (a, b, a * a, b * b, a * b)]
        c1, c2 = (0.01 * 1.3)**2, (0.03 * 1.3)**2
        variance = mean[2] - mean[0]**2 + mean[3] - mean[1]**2
        values = ((2 * mean[0] * mean[1] + c1) * (2 * (mean[4] - mean[0] * mean[1]) + c2)
                  / ((mean[0]**2 + mean[1]**2 + c1) * (variance + c2)))
        expected.append(values[5:-5, 5:-5].mean())
    assert quality.ssim(first, second, peak=1.3) == pytest.approx(sum(expected) / 3, rel=1e-9)


def test_ssim_is_symmetric_bounded_and_scale_free():
    first, second = planes(1)
    value = quality.ssim(first, second, peak=1.0)
    assert -1 < value < 1
    assert value == pytest.approx(quality.ssim(second, first, peak=1.0))
    assert value == pytest.approx(quality.ssim(5 * first, 5 * second, peak=5.0))
    assert quality.ssim(first, second) == pytest.approx(quality.ssim(first, second, peak=second.max().item()))


def test_psnr_and_nrmse_by_hand():
    reference = torch.tensor([[3.0, 4.0]])
    image = torch.tensor([[3.0, 3.0]])
    assert quality.psnr(image, reference) == pytest.approx(10 * math.log10(16 / 0.5))
    assert quality.psnr(image, reference, peak=1.0) == pytest.approx(10 * math.log10(1 / 0.5))
    assert quality.nrmse(image, reference) == pytest.approx(1 / 5)
    assert quality.psnr(image, image) == math.inf


def test_a_plane_smaller_than_the_window_is_refused():
    with pytest.raises(SettingError, match="pixels"):
        quality.ssim(torch.ones(8, 20), torch.ones(8, 20))
