"""FINUFFT in the place of our own transform: the same numbers, the same gradients."""

import pytest
import torch

from firstread.core.errors import SettingError
from firstread.ops.encoding_noncartesian import NonCartesianEncoding
from firstread.ops.nufft import nufft, nufft_adjoint

pytest.importorskip("finufft")
from firstread.ops.nufft_finufft import FinufftPlan


@pytest.mark.parametrize("shape", [(9,), (8, 7), (5, 6, 4)], ids=str)
def test_it_is_our_transform(shape):
    generator = torch.Generator().manual_seed(0)
    places = (torch.rand(len(shape), 40, dtype=torch.float64, generator=generator) - 0.5) * torch.tensor(shape)[:, None]
    image = torch.randn(3, *shape, dtype=torch.complex128, generator=generator)
    plan = FinufftPlan(places, shape, tolerance=1e-9, dtype=torch.float64)
    made = nufft(image, places, plan=plan)
    assert torch.allclose(made, nufft(image, places, tolerance=1e-9), atol=1e-7)
    assert torch.allclose(nufft(image[0], places, plan=plan), made[0], atol=1e-7)
    assert torch.allclose(nufft_adjoint(made, places, shape, plan=plan),
                          nufft_adjoint(made, places, shape, tolerance=1e-9), atol=1e-6)


def test_gradients_go_through_it():
    places = torch.tensor([[-1.2, 0.3, 1.6], [0.4, -0.9, 0.1]], dtype=torch.float64).requires_grad_()
    image = torch.randn(4, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def transform(x, k):
        return nufft(x, k, plan=FinufftPlan(k, (4, 3), tolerance=1e-12, dtype=torch.float64))

    assert torch.autograd.gradcheck(transform, (image, places))


def test_an_encoding_takes_it():
    places = 6 * torch.rand(1, 1, 2, 3, 5, generator=torch.Generator().manual_seed(2)) - 3
    x = torch.randn(1, 1, 1, 1, 6, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(3))
    ours, theirs = (NonCartesianEncoding(trajectory=places, shape=(1, 6, 6), tolerance=1e-5, **more)
                    for more in ({}, {"prepare": FinufftPlan}))
    assert torch.allclose(ours(x), theirs(x), atol=1e-4)


def test_it_refuses_the_tolerances_that_ours_refuses():
    with pytest.raises(SettingError, match="complex64"):
        FinufftPlan(torch.zeros(2, 3), (8, 8), tolerance=1e-8)
