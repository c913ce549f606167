"""The contract of every LinearOp: adjoint, Gram, linear, differentiable; a new operator joins ``OPERATORS``."""

import pytest
import torch
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.linear import LinearOp


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def _mask(*shape: int) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(3)) < 0.5).double()


def _encoding(mask: Tensor, coils: int, axes: tuple[str, ...], shape: tuple[int, int, int]) -> CartesianEncoding:
    maps = _random(2, 1, coils, *shape, seed=7) if coils else None
    return CartesianEncoding(mask=mask, sensitivities=maps, fourier_axes=axes)


IMAGE = (2, 3, 1, 2, 6, 5)
OPERATORS: dict[str, tuple[LinearOp, tuple[int, ...]]] = {
    "lines along y, four coils": (_encoding(_mask(2, 3, 1, 2, 6, 1), 4, ("y", "x"), IMAGE[3:]), IMAGE),
    "random points, three coils": (_encoding(_mask(2, 3, 1, 1, 6, 5), 3, ("y", "x"), IMAGE[3:]), IMAGE),
    "relaxed lines, one mask for all frames": (_encoding(torch.rand(1, 1, 1, 1, 6, 1).double(), 2, ("y", "x"),
                                                         IMAGE[3:]), IMAGE),
    "three Fourier axes": (_encoding(_mask(2, 3, 1, 2, 6, 1), 2, ("z", "y", "x"), IMAGE[3:]), IMAGE),
    "one coil without maps": (_encoding(_mask(2, 3, 1, 1, 6, 1), 0, ("y", "x"), IMAGE[3:]), IMAGE),
    "everything measured": (_encoding(torch.ones(1, 1, 1, 1, 1, 1).double(), 2, ("y", "x"), IMAGE[3:]), IMAGE),
    "lines along x": (_encoding(_mask(2, 3, 1, 1, 1, 5), 2, ("x",), IMAGE[3:]), IMAGE),
}
OPERATORS["composed with an adjoint"] = (
    OPERATORS["lines along y, four coils"][0].H @ OPERATORS["lines along y, four coils"][0], IMAGE)


@pytest.fixture(params=OPERATORS, ids=lambda name: name.replace(" ", "-"))
def operator(request) -> tuple[LinearOp, Tensor]:
    op, shape = OPERATORS[request.param]
    return op, _random(*shape, seed=1)


def test_adjointness(operator):
    op, x = operator
    y = _random(*op(x).shape, seed=2)
    left, right = torch.vdot(y.flatten(), op(x).flatten()), torch.vdot(op.adjoint(y).flatten(), x.flatten())
    assert torch.allclose(left, right, rtol=1e-12)


def test_gram_is_adjoint_after_forward(operator):
    op, x = operator
    assert torch.allclose(op.gram(x), op.adjoint(op(x)), atol=1e-12)


def test_linearity(operator):
    op, x = operator
    other = _random(*x.shape, seed=5)
    assert torch.allclose(op(2j * x + other), 2j * op(x) + op(other), atol=1e-12)


def test_double_adjoint_is_forward(operator):
    op, x = operator
    assert torch.equal(op.H.H(x), op(x))


def test_shape_comes_back(operator):
    op, x = operator
    assert op.adjoint(op(x)).shape == x.shape == op.gram(x).shape


@pytest.mark.parametrize("lines", [(1, 1, 1, 1, 4, 1), (1, 2, 1, 1, 4, 3)], ids=["lines", "points"])
@pytest.mark.parametrize("call", ["forward", "adjoint", "gram"])
def test_gradients_in_image_coils_and_mask(lines, call):
    image = _random(1, 2, 1, 1, 4, 3).requires_grad_()
    kspace = _random(1, 2, 2, 1, 4, 3).requires_grad_()
    maps = _random(1, 1, 2, 1, 4, 3, seed=4).requires_grad_()
    mask = torch.rand(lines, dtype=torch.float64).requires_grad_()

    def apply(data, maps, mask):
        return getattr(CartesianEncoding(mask=mask, sensitivities=maps), call)(data)

    assert torch.autograd.gradcheck(apply, (kspace if call == "adjoint" else image, maps, mask))


def test_bound_holds():
    op, x = OPERATORS["random points, three coils"]
    x = _random(*x)
    for _ in range(30):
        x = op.gram(x) / x.norm()
    assert x.norm() <= op.bound() * (1 + 1e-9)


def test_bool_mask_is_a_number_mask():
    mask = _mask(1, 1, 1, 1, 6, 1)
    maps = _random(1, 1, 2, 1, 6, 5)
    x = _random(1, 1, 1, 1, 6, 5)
    as_bool = CartesianEncoding(mask=mask.bool(), sensitivities=maps)
    assert torch.equal(as_bool.gram(x), CartesianEncoding(mask=mask, sensitivities=maps).gram(x))


def test_many_coils_need_sensitivities():
    with pytest.raises(SettingError, match="4 coils without sensitivities"):
        CartesianEncoding(mask=torch.ones(1, 1, 1, 1, 6, 1)).adjoint(torch.ones(1, 1, 4, 1, 6, 6) + 0j)
