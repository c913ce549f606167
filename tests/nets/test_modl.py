"""MoDL and the fixed point: the implicit gradient equals the unrolled one, at the memory of one step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import SettingError
from firstread.nets.modl import ModelBased, modl_step
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.fixed_point import fixed_point, iterate


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def _encoding(coils: int | None = 3, frames: int = 1) -> CartesianEncoding:
    mask = (torch.rand(1, frames, 1, 1, 8, 1, generator=torch.Generator().manual_seed(1)) < 0.6).double()
    mask[..., 3:6, :] = 1
    return CartesianEncoding(mask=mask, sensitivities=None if coils is None else _random(1, 1, coils, 1, 8, 6, seed=9))


def _network(**given) -> ModelBased:
    torch.manual_seed(0)
    net = ModelBased(**{"iterations": 200, "depth": 2, "width": 4, "consistency": 0.3, "steps": 60} | given).double()
    torch.nn.init.normal_(net.block.layers[-1].weight, std=0.05)
    return net


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), rate=st.floats(0.05, 0.9))
def test_fixed_point_of_a_linear_contraction_is_its_solution(seed, rate):
    """``x = A x + b``: value ``(1 - A)⁻¹ b``, gradient ``(1 - A)⁻ᵀ g`` at b."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    a = rate * a / torch.linalg.matrix_norm(a, 2)
    b = torch.randn(4, dtype=torch.float64, generator=generator).requires_grad_()
    x = fixed_point(lambda v: a @ v + b, torch.zeros(4).double(), iterations=400, tolerance=1e-13)
    inverse = torch.linalg.inv(torch.eye(4).double() - a)
    assert torch.allclose(x, inverse @ b, atol=1e-8)
    weight = torch.randn(4, dtype=torch.float64, generator=generator)
    (x * weight).sum().backward()
    assert torch.allclose(b.grad, inverse.T @ weight, atol=1e-8)


def test_iterating_stops_where_told():
    _, steps, change = iterate(lambda v: v / 2 + 1, torch.zeros(1), iterations=5, tolerance=0.0)
    assert steps == 5 and change > 0
    with pytest.raises(SettingError, match="iterations"):
        iterate(lambda v: v, torch.zeros(1), iterations=0, tolerance=0.0)


def test_a_step_solves_the_regularized_problem():
    encoding, weight = _encoding(), torch.tensor(0.3).double()
    measured, z = encoding(_random(1, 1, 1, 1, 8, 6)), _random(1, 1, 1, 1, 8, 6, seed=2)
    rhs = encoding.adjoint(measured)
    x = modl_step(z, rhs, encoding, lambda v: 2 * v, weight, steps=200, tolerance=1e-13)
    assert torch.allclose(encoding.gram(x) + weight * x, rhs + weight * 2 * z, atol=1e-9)


def gradients(net: ModelBased, encoding: CartesianEncoding) -> list[torch.Tensor]:
    measured = encoding(_random(1, 1, 1, 1, 8, 6)).requires_grad_()
    net.zero_grad()
    made = net(measured, encoding)
    (made * _random(*made.shape, seed=5)).real.sum().backward()
    return [made.detach(), measured.grad, *(p.grad for p in net.parameters())]


def test_the_implicit_gradient_equals_the_unrolled_one():
    encoding, net = _encoding(), _network(tolerance=1e-11)
    unrolled = gradients(net, encoding)
    net.implicit = True
    implicit = gradients(net, encoding)
    for one, other in zip(unrolled, implicit, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_memory_does_not_grow_with_the_iterations():
    """Bytes that autograd keeps for the backward pass."""
    encoding = _encoding()

    def kept(implicit: bool, iterations: int) -> int:
        net, sizes = _network(implicit=implicit, iterations=iterations, tolerance=0.0), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            net(encoding(_random(1, 1, 1, 1, 8, 6)), encoding)
        return sum(sizes)

    assert kept(True, 12) == kept(True, 3)
    assert kept(False, 12) > 3 * kept(False, 3)


def test_a_denoiser_that_does_nothing_leaves_least_squares():
    """``D(x) = x``: the fixed point solves ``EᴴE x = Eᴴ y``."""
    encoding = _encoding()
    truth = _random(1, 1, 1, 1, 8, 6)
    net = ModelBased(iterations=3000, implicit=True, tolerance=1e-10, depth=2, width=4, consistency=0.3,
                     steps=60).double()
    with torch.no_grad():
        made = net(encoding(truth), encoding)
    assert torch.allclose(encoding.gram(made), encoding.adjoint(encoding(truth)), atol=1e-4)


def test_a_weight_file_brings_the_network_back():
    net, encoding = _network(iterations=3, steps=4), _encoding()
    again = ModelBased.from_weight(net.settings(), net.state_dict()).double()
    measured = encoding(_random(1, 1, 1, 1, 8, 6))
    assert torch.allclose(net(measured, encoding), again(measured, encoding), atol=1e-5)


def test_refuses_impossible_sizes():
    with pytest.raises(SettingError, match="consistency"):
        ModelBased(consistency=0.0)
