"""The one FFT: against numpy, unitary, its own inverse's inverse."""

import itertools

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import SettingError
from firstread.ops.fourier import DIMENSION, fft, ifft

AXES = [axes for n in (1, 2, 3) for axes in itertools.combinations(("z", "y", "x"), n)]
SHAPES = st.tuples(*[st.integers(1, 9)] * 3)


@settings(deadline=None, max_examples=40)
@given(shape=SHAPES, axes=st.sampled_from(AXES), seed=st.integers(0, 999))
def test_equals_the_shifted_transform_of_numpy(shape, axes, seed):
    data = torch.randn(2, 1, *shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))
    dims = [DIMENSION[a] for a in axes]
    for ours, theirs in ((fft, numpy.fft.fftn), (ifft, numpy.fft.ifftn)):
        expected = numpy.fft.fftshift(
            theirs(numpy.fft.ifftshift(data.numpy(), axes=dims), axes=dims, norm="ortho"), axes=dims)
        numpy.testing.assert_allclose(ours(data, axes).numpy(), expected, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(shape=SHAPES, axes=st.sampled_from(AXES))
def test_is_unitary_and_inverts(shape, axes):
    data = torch.randn(1, *shape, dtype=torch.complex128)
    assert torch.allclose(ifft(fft(data, axes), axes), data, atol=1e-12)
    assert torch.allclose(fft(data, axes).norm(), data.norm())


def test_zero_frequency_lies_at_half():
    for n in (6, 7):
        spectrum = fft(torch.ones(n, n, dtype=torch.complex64)).abs()
        assert int(spectrum.argmax()) == (n // 2) * n + n // 2


def test_real_data_keeps_its_precision():
    assert fft(torch.ones(4, 4, dtype=torch.float64)).dtype == torch.complex128


def test_does_not_change_its_input():
    data = torch.randn(4, 6, dtype=torch.complex64)
    kept = data.clone()
    fft(data)
    assert torch.equal(data, kept)


@pytest.mark.parametrize("axes", [("w",), ("x", "x")])
def test_refuses_unknown_axes(axes):
    with pytest.raises(SettingError, match="different ones"):
        fft(torch.ones(2, 2, dtype=torch.complex64), axes)
