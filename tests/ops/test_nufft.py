"""Non-uniform Fourier transform: error against the sum itself, adjoint, gradients, other programs, bad input."""

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import SettingError, SignalError
from firstread.ops.fourier import fft
from firstread.ops.nufft import nufft, nufft_adjoint
from firstread.ops.nufft_exact import dft, dft_adjoint
from firstread.ops.nufft_plan import NufftPlan
from firstread.ops.nufft_window import Window, kaiser_bessel, kaiser_bessel_transform, taps

SHAPES = ((37,), (32, 27), (9, 12, 10))


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def _places(shape: tuple[int, ...], samples: int = 400, *, reach: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Places over ``reach`` times the band, in float64."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(len(shape), samples, dtype=torch.float64, generator=generator) - 0.5
    return reach * spread * torch.tensor(shape)[:, None]


def _error(made: torch.Tensor, exact: torch.Tensor) -> float:
    return ((made - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("kind", "tolerance"), [
    (torch.complex64, 1e-1), (torch.complex64, 1e-2), (torch.complex64, 1e-3), (torch.complex64, 1e-4),
    (torch.complex64, 1e-5), (torch.complex128, 1e-3), (torch.complex128, 1e-6), (torch.complex128, 1e-8),
    (torch.complex128, 1e-10), (torch.complex128, 1e-12)], ids=str)
def test_measured_error_is_below_three_tolerances(shape, kind, tolerance):
    places = _places(shape).to(kind.to_real())
    image, samples = _random(2, *shape), _random(2, 400, seed=1)
    forward = nufft(image.to(kind), places, tolerance=tolerance)
    back = nufft_adjoint(samples.to(kind), places, shape, tolerance=tolerance)
    assert _error(forward, dft(image, places)) <= 3 * tolerance
    assert _error(back, dft_adjoint(samples, places, shape)) <= 3 * tolerance


@settings(max_examples=25, deadline=None)
@given(shape=st.lists(st.integers(1, 14), min_size=1, max_size=3), tolerance=st.sampled_from([1e-2, 1e-4, 1e-9]),
       seed=st.integers(0, 1000))
def test_any_shape_keeps_its_tolerance_and_the_adjoint_is_one(shape, tolerance, seed):
    shape = tuple(shape)
    places = _places(shape, 60, reach=2.5, seed=seed)
    image, samples = _random(*shape, seed=seed), _random(60, seed=seed + 1)
    plan = NufftPlan(places, shape, tolerance=tolerance, dtype=torch.float64)
    forward, back = plan.forward(image), plan.adjoint(samples)
    left, right = torch.vdot(samples, forward), torch.vdot(back.flatten(), image.flatten())
    assert abs(left - right) <= 1e-12 * samples.norm() * forward.norm()
    exact = dft(image, places)
    assert (forward - exact).norm() <= 5 * tolerance * max(exact.norm(), image.norm())


def test_whole_frequencies_are_the_fast_transform():
    image = _random(3, 8, 7)
    y, x = torch.meshgrid(torch.arange(8.0) - 4, torch.arange(7.0) - 3, indexing="ij")
    places = torch.stack((y, x)).double()
    assert torch.allclose(dft(image, places), fft(image), atol=1e-12)
    assert _error(nufft(image, places, tolerance=1e-10), fft(image)) < 3e-10


def test_frequencies_repeat_with_the_number_of_pixels():
    image, places = _random(12, 10), _places((12, 10), 30)
    moved = places + torch.tensor([[12.0], [-20.0]])
    assert torch.allclose(nufft(image, places, tolerance=1e-9), nufft(image, moved, tolerance=1e-9), atol=1e-7)


def test_many_images_are_each_alone():
    image, places = _random(5, 9, 12, 10), _places((12, 10), 50)
    together = nufft(image, places)
    assert torch.allclose(together[3, 7], nufft(image[3, 7], places), atol=1e-12)
    back = nufft_adjoint(together, places, (12, 10))
    assert torch.allclose(back[3, 7], nufft_adjoint(together[3, 7], places, (12, 10)), atol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 2)], ids=str)
def test_gradients_in_image_samples_and_trajectory(shape):
    places = _places(shape, 3).requires_grad_()
    image, samples = _random(*shape).requires_grad_(), _random(2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, k: nufft(x, k, tolerance=1e-12), (image, places))
    assert torch.autograd.gradcheck(lambda y, k: nufft_adjoint(y, k, shape, tolerance=1e-12), (samples, places))


def test_second_derivatives():
    places, image = _places((3, 2), 2).requires_grad_(), _random(3, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, k: nufft(x, k, tolerance=1e-12), (image, places))


def test_the_gradient_of_the_trajectory_is_that_of_the_exact_sum_in_single_precision():
    shape, target = (32, 27), _random(300, seed=3)
    image = _random(*shape)
    gradients = []
    for transform, kind in ((dft, torch.complex128), (lambda x, k: nufft(x, k, tolerance=1e-4), torch.complex64)):
        places = _places(shape, 300).to(kind.to_real()).requires_grad_()
        (transform(image.to(kind), places) - target.to(kind)).abs().square().sum().backward()
        gradients.append(places.grad)
    assert _error(gradients[1], gradients[0]) < 3e-4


def test_nothing_of_the_interpolation_is_kept_for_the_backward_pass():
    image, places = _random(64, 64).to(torch.complex64).requires_grad_(), _places((64, 64), 3000).float()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        nufft(image, places)
    assert sum(kept) == image.numel() + places.numel()


def test_the_window_and_its_transform_are_a_pair():
    window = Window(6, 2.0)
    u = torch.linspace(-3, 3, 20001, dtype=torch.float64)
    for position in (0.0, 0.1, 0.25):
        integral = torch.trapezoid(kaiser_bessel(u, window) * torch.cos(2 * math.pi * u * position), u)
        made = kaiser_bessel_transform(torch.tensor(position, dtype=torch.float64), window)
        assert made.item() == pytest.approx(integral.item(), rel=1e-6)


@pytest.mark.parametrize(("width", "oversampling", "tolerance"), [(2, 1.25, 0.1), (5, 1.25, 1e-3), (7, 1.5, 1e-5),
                                                                  (11, 2.0, 1e-10), (13, 2.0, 1e-12)])
def test_taps_are_the_window_to_a_tenth_of_the_tolerance(width, oversampling, tolerance):
    window, fraction = Window(width, oversampling), torch.linspace(0, 0.9999, 400, dtype=torch.float64)
    steps = width / 2 - torch.arange(width, dtype=torch.float64) - fraction[:, None]
    assert (taps(fraction, window, tolerance) - kaiser_bessel(steps, window)).abs().max() < 0.1 * tolerance


@pytest.mark.parametrize("shape", [(24, 20), (8, 9, 10)], ids=str)
def test_the_sum_is_that_of_sigpy(shape):
    sigpy = pytest.importorskip("sigpy")
    image, places = _random(*shape), _places(shape, 200)
    theirs = sigpy.nufft(image.numpy(), places.T.numpy(), oversamp=2.0, width=8)
    numpy.testing.assert_allclose(nufft(image, places, tolerance=1e-9).numpy(), theirs, atol=2e-5)


def test_bad_input_is_refused_in_one_sentence():
    image, places = _random(1, 8, 8), _places((8, 8), 12)
    with pytest.raises(SettingError, match=r"11.*trajectory of shape"):
        nufft_adjoint(_random(11), places, (8, 8))
    with pytest.raises(SettingError, match="trajectory of 3 axes"):
        nufft(image[0], _places((8, 8, 8), 12))
    with pytest.raises(SignalError, match="NaN"):
        nufft(image, places * math.nan)
    with pytest.raises(SignalError, match="empty"):
        nufft(image, places[:, :0])
    with pytest.raises(SettingError, match="complex64"):
        nufft(image.to(torch.complex64), places.float(), tolerance=1e-7)
    with pytest.raises(SettingError, match="tolerance"):
        nufft(image, places, tolerance=1e-15)
    with pytest.raises(SettingError, match="plan for 12 samples"):
        nufft(image, places[:, :5], plan=NufftPlan(places, (8, 8), dtype=torch.float64))
    with pytest.raises(SettingError, match="complex128"):
        nufft(image, places, plan=NufftPlan(places, (8, 8)))
