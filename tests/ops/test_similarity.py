"""Similarities: what they do not see, their gradients against autograd, numbers against scipy."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from firstread.core.errors import SettingError
from firstread.ops.separable import box_sum, resize, resize_adjoint, smooth
from firstread.ops.similarity import (
    LocalCorrelation,
    joint_histogram,
    mutual_information,
    mutual_information_gradient,
    negative_ssd,
    negative_ssd_gradient,
    normalized_gradient_fields,
    normalized_gradient_fields_gradient,
)


@pytest.fixture
def pair():
    random = torch.Generator().manual_seed(0)
    fixed = torch.rand(2, 7, 8, 9, dtype=torch.float64, generator=random)
    return fixed, 0.5 * fixed + 0.5 * torch.rand(fixed.shape, dtype=torch.float64, generator=random)


def by_autograd(similarity, moving):
    leaf = moving.clone().requires_grad_()
    value = similarity(leaf)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_local_correlation_gradient_is_autograd_s(pair, radius):
    measure = LocalCorrelation(pair[0], radius=radius)
    for one, two in zip(measure.gradient(pair[1]), by_autograd(measure, pair[1]), strict=True):
        torch.testing.assert_close(one, two)


def test_mutual_information_gradient_is_autograd_s(pair):
    fixed, moving = pair
    wanted = by_autograd(lambda m: mutual_information(joint_histogram(fixed.flatten(1), m.flatten(1))), moving)
    for one, two in zip(mutual_information_gradient(fixed, moving), wanted, strict=True):
        torch.testing.assert_close(one, two)


def test_the_other_gradients_are_autograd_s(pair):
    fixed, moving = pair
    for one, two in zip(negative_ssd_gradient(fixed, moving), by_autograd(lambda m: negative_ssd(fixed, m), moving),
                        strict=True):
        torch.testing.assert_close(one, two)
    spacing = (2.0, 1.0, 0.5)
    wanted = by_autograd(lambda m: normalized_gradient_fields(fixed, m, spacing_mm=spacing), moving)
    found = normalized_gradient_fields_gradient(fixed, moving, spacing_mm=spacing)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two)


def test_local_correlation_does_not_see_contrast(pair):
    measure = LocalCorrelation(pair[0], radius=2, floor=0.0)
    torch.testing.assert_close(measure(pair[1]), measure(3 - 2 * pair[1]))
    torch.testing.assert_close(measure(pair[0]), torch.ones(2, dtype=torch.float64))


def test_mutual_information_of_independent_values_is_small_and_does_not_see_order():
    random = torch.Generator().manual_seed(1)
    one, two = (torch.rand(1, 50000, generator=random) for _ in range(2))
    assert mutual_information(joint_histogram(one, two, bins=16)).item() < 0.01
    same = mutual_information(joint_histogram(one, one, bins=16))
    torch.testing.assert_close(same, mutual_information(joint_histogram(one, 1 - one, bins=16)), rtol=1e-3, atol=0)


def test_box_sums_and_smoothing_are_scipy_s():
    x = torch.rand(2, 9, 10, 11, dtype=torch.float64)
    for radius in (1, 2, 4):
        size = 2 * radius + 1
        wanted = np.stack([ndimage.uniform_filter(v.numpy(), size, mode="constant") * size**3 for v in x])
        np.testing.assert_allclose(box_sum(x, radius).numpy(), wanted, atol=1e-10)
    middle = torch.zeros(21, 21, 21)
    middle[10, 10, 10] = 1
    wanted = ndimage.gaussian_filter(middle.numpy(), 1.5, mode="constant")
    np.testing.assert_allclose(smooth(middle, (1.5, 1.5, 1.5)).numpy(), wanted, atol=2e-4)


def test_resizing_and_its_adjoint():
    x, y = torch.rand(2, 5, 6, 7, dtype=torch.float64), torch.rand(2, 10, 9, 14, dtype=torch.float64)
    one, two = (resize(x, (10, 9, 14)) * y).sum(), (x * resize_adjoint(y, (5, 6, 7))).sum()
    torch.testing.assert_close(one, two, rtol=1e-6, atol=0)
    wanted = torch.nn.functional.interpolate(x[None], size=(10, 9, 14), mode="trilinear")[0]
    torch.testing.assert_close(resize(x, (10, 9, 14)), wanted, rtol=0, atol=1e-6)


def test_windows_without_width_are_refused():
    with pytest.raises(SettingError):
        LocalCorrelation(torch.rand(1, 4, 4, 4), radius=0)
