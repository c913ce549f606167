"""The same operator and the same solution as sigpy, where it is installed."""

import numpy
import pytest
import torch

from firstread.core.geometry import Grid
from firstread.core.records import KSpace, Rows
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.variation import minimize_total_variation
from firstread.reconstruct.iterative import CGSense

sigpy = pytest.importorskip("sigpy")
SHAPE, COILS = (12, 10), 4


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 1, COILS, 1, *SHAPE, dtype=torch.complex128, generator=generator)
    image = torch.randn(1, 3, 1, 1, *SHAPE, dtype=torch.complex128, generator=generator)
    mask = (torch.rand(1, 3, 1, 1, SHAPE[0], 1, generator=generator) < 0.6).double()
    mask[..., 5:8, :] = 1
    return image, maps, mask


def theirs(maps, mask, frames: int = 3):
    shape = (frames, 1, *SHAPE)
    encode = sigpy.linop.Multiply(shape, maps[0, :, :, 0].numpy())
    encode = sigpy.linop.FFT(encode.oshape, axes=(-2, -1)) * encode
    return sigpy.linop.Multiply(encode.oshape, mask[0, :, :, 0].numpy()) * encode


def test_the_operator_is_theirs(data):
    image, maps, mask = data
    ours, other = CartesianEncoding(mask=mask, sensitivities=maps), theirs(maps, mask)
    kspace = ours(image)
    numpy.testing.assert_allclose(kspace[0, :, :, 0].numpy(), other(image[0, :, :, 0].numpy()), atol=1e-12)
    back = ours.adjoint(kspace)[0, :, :, 0].numpy()
    numpy.testing.assert_allclose(back, other.H(kspace[0, :, :, 0].numpy()), atol=1e-11)


def test_cg_sense_is_theirs(data):
    image, maps, mask = data
    encoding = CartesianEncoding(mask=mask, sensitivities=maps)
    kspace = KSpace(Rows.subjects(1), encoding(image), Grid.pixels((1, *SHAPE)), mask, maps)
    made = CGSense(regularization=1e-2, iterations=300, tolerance=1e-12)(kspace).data[0, :, :, 0].numpy()
    expected = sigpy.app.LinearLeastSquares(theirs(maps, mask), kspace.data[0, :, :, 0].numpy(), max_iter=300,
                                            lamda=1e-2 * encoding.bound(), tol=1e-14, show_pbar=False).run()
    numpy.testing.assert_allclose(made, expected, atol=1e-6)


def test_temporal_tv_is_theirs(data):
    image, maps, mask = data
    encoding = CartesianEncoding(mask=mask, sensitivities=maps)
    kspace = encoding(image)
    made = minimize_total_variation(encoding.gram, encoding.adjoint(kspace), torch.tensor(0.5).double(),
                                    bound=encoding.bound(), iterations=1000)[0, :, :, 0].numpy()
    other = theirs(maps, mask)
    difference = sigpy.linop.FiniteDifference(other.ishape, axes=(0,))
    penalty = sigpy.prox.L1Reg(difference.oshape, 0.5)
    expected = sigpy.app.LinearLeastSquares(other, kspace[0, :, :, 0].numpy(), proxg=penalty, G=difference,
                                            max_iter=600, show_pbar=False).run()
    assert numpy.linalg.norm(made - expected) < 0.01 * numpy.linalg.norm(expected)
