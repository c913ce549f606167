"""Wavelets: orthonormal at every size, the published taps, vanishing moments, the proximal map's minimum."""

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import SettingError
from firstread.ops.wavelet import TAPS, coarse_block, inverse_wavelet, shrink_details, wavelet

FAMILIES = st.sampled_from(sorted(TAPS))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(shape=st.lists(st.integers(1, 9), min_size=3, max_size=3), levels=st.integers(1, 4), family=FAMILIES,
       dims=st.sampled_from([(2,), (1, 2), (0, 1, 2), (-1, -3)]))
def test_it_is_orthonormal_at_every_size(shape, levels, family, dims):
    x, y = random(*shape), random(*shape, seed=1)
    made = wavelet(x, dims, levels=levels, family=family)
    assert torch.allclose(inverse_wavelet(made, dims, levels=levels, family=family), x)
    assert torch.allclose(torch.vdot(y.flatten(), made.flatten()), torch.vdot(
        inverse_wavelet(y, dims, levels=levels, family=family).flatten(), x.flatten()))


def test_haar_of_a_block_is_its_sum_and_differences():
    x = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    assert torch.allclose(wavelet(x, levels=1), torch.tensor([[11.0, -3.0], [-5.0, 1.0]]) / 2)


def test_four_taps_of_daubechies_do_not_see_a_line():
    details = wavelet(torch.arange(16.0).double(), (0,), levels=1, family="daubechies4")[8:]
    assert details[:-1].abs().max() < 1e-12 < details[-1].abs()
    assert wavelet(torch.arange(16.0).double(), (0,), levels=1)[8:-1].abs().min() > 0.1


@pytest.mark.parametrize(("ours", "theirs"), [("haar", "haar"), ("daubechies4", "db2")])
def test_coefficients_are_those_of_pywavelets(ours, theirs):
    """Two levels in two dimensions, up to sign, a circular shift of the image and the order of the coefficients."""
    pywt = pytest.importorskip("pywt")
    x = random(24, 16)
    other = pywt.wavedec2(x.numpy(), theirs, mode="periodization", level=2)
    other = torch.from_numpy(numpy.concatenate([abs(band).ravel() for part in other for band in part])).sort().values
    found = [wavelet(x.roll((i, j), (0, 1)), levels=2, family=ours).abs().flatten().sort().values
             for i in range(4) for j in range(4)]
    assert min((f - other).abs().max().item() for f in found) < 1e-10


@pytest.mark.parametrize("family", sorted(TAPS))
def test_the_gradient_is_that_of_a_linear_map(family):
    assert torch.autograd.gradcheck(lambda v: wavelet(v, (0, 1), levels=2, family=family),
                                    (random(3, 4).requires_grad_(),))
    assert torch.autograd.gradgradcheck(lambda v: shrink_details(v, torch.tensor(0.3).double(), (0, 1), levels=2,
                                                                 family=family, shift=(1, 2)).abs().square(),
                                        (random(3, 2).requires_grad_(),))


@settings(deadline=None, max_examples=20)
@given(family=FAMILIES, shift=st.tuples(st.integers(0, 7), st.integers(0, 7)), seed=st.integers(0, 99))
def test_shrinking_minimizes_its_penalty(family, shift, seed):
    x, weight = random(6, 9, seed=seed), torch.tensor(0.4).double()

    def cost(u):
        c = wavelet(u.roll(shift, (-2, -1)), levels=2, family=family).clone()
        c[coarse_block(c.shape, (-2, -1), 2)] = 0
        return (0.5 * (u - x).abs().square().sum() + weight * c.abs().sum()).item()

    best = shrink_details(x, weight, levels=2, family=family, shift=shift)
    assert all(cost(best) < cost(best + 1e-3 * random(6, 9, seed=s)) for s in range(100, 110))


def test_refuses_impossible_settings():
    for wrong in ({"levels": 0}, {"family": "coiflet"}, {"dims": (5,)}, {"dims": (-1, 1)}):
        with pytest.raises((SettingError, TypeError)):
            wavelet(torch.ones(4, 4), **wrong)
