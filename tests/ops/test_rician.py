"""Rice's distribution: its mean beside scipy's, the way back, and the noise level of magnitudes."""

import numpy as np
import pytest
import scipy.stats
import torch

from firstread.core.errors import SettingError
from firstread.ops.noise import noise_level
from firstread.ops.rician import rician_mean, rician_noise_level, signal_of_mean

ONE = torch.ones((), dtype=torch.float64)


def test_the_mean_is_that_of_scipy():
    signal = np.array([0.0, 0.1, 0.7, 1.5, 3.0, 10.0, 30.0])
    found = rician_mean(torch.from_numpy(2 * signal), 2 * ONE)
    np.testing.assert_allclose(found.numpy(), 2 * scipy.stats.rice.mean(signal), rtol=1e-12)


@pytest.mark.parametrize(("dtype", "worst"), [(torch.float64, 1e-6), (torch.float32, 2e-2)])
def test_the_signal_comes_back_from_its_mean(dtype, worst):
    signal = torch.tensor([0.1, 0.3, 1.0, 2.0, 5.0, 40.0, 1e4], dtype=dtype)
    for level in (1e-3, 1.0, 70.0):
        noise = torch.tensor(level, dtype=dtype)
        found = signal_of_mean(rician_mean(level * signal, noise), noise) / level
        torch.testing.assert_close(found, signal, rtol=worst, atol=worst)


def test_a_mean_that_noise_alone_explains_is_no_signal_and_no_noise_changes_nothing():
    mean = torch.tensor([0.0, 0.5, 1.2533, 3.0])
    assert signal_of_mean(mean, torch.tensor(1.0))[:3].tolist() == [0, 0, 0]
    torch.testing.assert_close(signal_of_mean(mean, torch.tensor(0.0)), mean)


def test_the_gradient_of_the_inverse_is_the_inverse_of_the_gradient():
    mean = rician_mean(torch.tensor([0.5, 2.0, 9.0], dtype=torch.float64), ONE).requires_grad_()
    assert torch.autograd.gradcheck(signal_of_mean, (mean, ONE.clone().requires_grad_()))


@pytest.mark.parametrize("radius", [0, 20, 40])
def test_the_noise_level_of_magnitudes_does_not_depend_on_how_much_is_air(radius):
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    body = ((y - 48) ** 2 + (x - 45) ** 2 < radius**2).float()
    noise = torch.view_as_complex(torch.randn(96, 96, 2, generator=torch.Generator().manual_seed(radius)))
    image = (body + 0.1 * noise).abs()[None]
    assert rician_noise_level(image).item() == pytest.approx(0.1, rel=0.05)
    assert noise_level(image).item() < 0.09


def test_a_plane_of_one_pixel_is_refused():
    with pytest.raises(SettingError, match="planes of"):
        rician_noise_level(torch.zeros(1, 1, 4))
