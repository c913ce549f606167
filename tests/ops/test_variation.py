"""Temporal total variation: adjoint differences, the exact minimizer, descent."""

from itertools import pairwise

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from firstread.ops.variation import (
    clip_magnitude,
    difference,
    difference_adjoint,
    minimize_total_variation,
    total_variation,
)


def _problem(seed: int = 0, frames: int = 5, pixels: int = 3):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(frames, pixels + 1, pixels, generator=generator, dtype=torch.float64)
    y = torch.randn(frames, pixels + 1, generator=generator, dtype=torch.float64)
    gram = matrix.mT @ matrix
    rhs = torch.einsum("tij,ti->tj", matrix, y)[None]
    bound = float(torch.linalg.eigvalsh(gram).max())

    def objective(x, weight):
        misfit = torch.einsum("tij,btj->bti", matrix, x) - y
        return (0.5 * misfit.square().sum() + weight * total_variation(x).sum()).item()

    return (lambda x: torch.einsum("tij,btj->bti", gram, x)), rhs, bound, objective


@settings(deadline=None, max_examples=20)
@given(frames=st.integers(1, 7), seed=st.integers(0, 99))
def test_differences_are_adjoint(frames, seed):
    a, b = torch.randn(2, 2, frames, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))
    left = torch.vdot(b.flatten(), difference(a, 1).flatten())
    assert torch.allclose(left, torch.vdot(difference_adjoint(b, 1).flatten(), a.flatten()))


def test_reaches_the_minimum_that_a_quadratic_program_finds():
    """The same minimum as ``½‖E x - y‖² + λ Σ u`` under ``-u ≤ D x ≤ u`` (scipy, SLSQP)."""
    gram, rhs, bound, objective = _problem()
    weight, n = 0.3, rhs.numel()
    unit = torch.eye(n, dtype=torch.float64).reshape(n, *rhs.shape[1:])
    matrix = difference(unit, 1).reshape(n, n).T.numpy()
    both = numpy.block([[-matrix, numpy.eye(n)], [matrix, numpy.eye(n)]])

    def cost(v):
        x = torch.from_numpy(v[:n]).reshape(rhs.shape)
        slope = (gram(x) - rhs).flatten().numpy()
        return objective(x, 0.0) + weight * v[n:].sum(), numpy.concatenate([slope, numpy.full(n, weight)])

    found = minimize(cost, numpy.concatenate([numpy.zeros(n), numpy.ones(n)]), jac=True, method="SLSQP",
                     constraints={"type": "ineq", "fun": lambda v: both @ v, "jac": lambda v: both},
                     options={"maxiter": 500, "ftol": 1e-12})
    made = minimize_total_variation(gram, rhs, torch.tensor(weight).double(), bound=bound, iterations=2000)
    assert found.success and abs(objective(made, weight) - found.fun) < 1e-6
    assert numpy.allclose(made.flatten().numpy(), found.x[:n], atol=1e-3)


def test_satisfies_its_optimality_condition():
    """``Eᴴy - EᴴE x = Dᴴ p`` with ``p = λ sign(D x)`` wherever x changes; p is known up to a constant per pixel."""
    gram, rhs, bound, _ = _problem(2)
    weight = 0.4
    x = minimize_total_variation(gram, rhs, torch.tensor(weight).double(), bound=bound, iterations=3000)
    residual = (rhs - gram(x))[0]
    assert residual.sum(dim=0).abs().max() < 1e-6
    p = -residual.cumsum(dim=0)
    change = difference(x, 1)[0]
    checked = 0
    for pixel in range(p.shape[1]):
        moving = change[:, pixel].abs() > 1e-6
        constant = weight * change[moving, pixel].sign() - p[moving, pixel]
        assert (constant - constant.mean()).abs().max() < 1e-4
        checked += int(moving.sum())
    assert checked >= 6


def test_the_objective_goes_down():
    gram, rhs, bound, objective = _problem(1)
    values = []
    minimize_total_variation(gram, rhs, torch.tensor(0.2).double(), bound=bound, iterations=800,
                                report=lambda _, x: values.append(objective(x, 0.2)))
    gap = [values[i] - min(values) for i in (0, 10, 50, 200, 600)]
    assert all(later < 0.5 * earlier + 1e-9 for earlier, later in pairwise(gap))


def test_a_large_weight_stops_time_and_none_solves_least_squares():
    gram, rhs, bound, _ = _problem(3)
    still = minimize_total_variation(gram, rhs, torch.tensor(1e3).double(), bound=bound, iterations=3000)
    assert difference(still, 1).abs().max() < 1e-3
    plain = minimize_total_variation(gram, rhs, torch.tensor(0.0).double(), bound=bound, iterations=3000)
    assert torch.allclose(gram(plain), rhs, atol=1e-6)


def test_clipping_keeps_the_phase():
    p = torch.tensor([3 + 4j, 0.3j, 0j])
    assert torch.allclose(clip_magnitude(p, torch.tensor(1.0)), torch.tensor([0.6 + 0.8j, 0.3j, 0j]))
    assert torch.equal(clip_magnitude(p, torch.tensor(0.0)), torch.zeros(3) + 0j)


def test_gradient_through_the_iterations():
    gram, rhs, bound, _ = _problem(4, frames=3, pixels=2)
    weight = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda b, w: minimize_total_variation(gram, b, w, bound=bound, iterations=7), (rhs.requires_grad_(), weight))


def test_in_the_plane_it_is_isotropic_and_denoises_to_its_optimality_condition():
    """Denoising (E = 1): ``y - x = Dᴴ p`` with ``|p| ≤ λ``, so a flat image loses nothing and noise shrinks."""
    flat = torch.ones(1, 1, 1, 1, 8, 8, dtype=torch.float64)
    weight = torch.tensor(0.2).double()
    assert torch.allclose(minimize_total_variation(lambda v: v, flat, weight, bound=1.0, dims=(-2, -1)), flat)
    noisy = flat + 0.3 * torch.randn(flat.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = minimize_total_variation(lambda v: v, noisy, weight, bound=1.0, dims=(-2, -1), iterations=400)
    assert made.mean().item() == pytest.approx(noisy.mean().item())
    assert (made - 1).norm() < 0.5 * (noisy - 1).norm()
    turned = minimize_total_variation(lambda v: v, noisy.mT, weight, bound=1.0, dims=(-2, -1), iterations=400)
    assert torch.allclose(turned.mT, made, atol=1e-4)
