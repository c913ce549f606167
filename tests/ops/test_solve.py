"""Conjugate gradients against a dense solve; the implicit gradient against finite differences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import SettingError
from firstread.ops.solve import conjugate_gradient, inner, solve


def _definite(n: int, seed: int, systems: int = 1) -> torch.Tensor:
    root = torch.randn(systems, n, n, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))
    return root @ root.mH + 0.5 * torch.eye(n)


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 8), systems=st.integers(1, 3), seed=st.integers(0, 999))
def test_equals_the_dense_solution(n, systems, seed):
    matrix = _definite(n, seed, systems)
    b = torch.randn(systems, n, dtype=torch.complex128)
    x = conjugate_gradient(lambda v: torch.einsum("sij,sj->si", matrix, v), b, iterations=6 * n + 6,
                           tolerance=1e-13, systems=1)
    assert torch.allclose(x, torch.linalg.solve(matrix, b), atol=1e-7)


def test_systems_do_not_disturb_each_other():
    matrix, b = _definite(6, 1, 2), torch.randn(2, 6, dtype=torch.complex128)
    both = conjugate_gradient(lambda v: torch.einsum("sij,sj->si", matrix, v), b, iterations=3, systems=1)
    alone = conjugate_gradient(lambda v: matrix[1] @ v, b[1], iterations=3)
    assert torch.allclose(both[1], alone, atol=1e-10)


def test_a_zero_system_stays_zero_with_finite_gradients():
    b = torch.tensor([[0.0, 0.0], [3.0, 6.0]], requires_grad=True)
    x = conjugate_gradient(lambda v: 3 * v, b + 0, iterations=5, systems=1)
    x.sum().backward()
    assert torch.allclose(x, torch.tensor([[0.0, 0.0], [1.0, 2.0]])) and torch.isfinite(b.grad).all()


def test_start_at_the_solution_stays():
    matrix = _definite(5, 2)[0]
    x = torch.randn(5, dtype=torch.complex128)
    again = conjugate_gradient(lambda v: matrix @ v, matrix @ x, start=x, iterations=4, tolerance=1e-8)
    assert torch.allclose(again, x)


def test_unrolled_and_implicit_gradients_agree_with_finite_differences():
    root = torch.randn(4, 4, dtype=torch.complex128, generator=torch.Generator().manual_seed(5))

    def solution(scale, b, solver, **settings):
        matrix = scale * (root @ root.mH) + torch.eye(4)
        return solver(lambda v: matrix @ v, b, **settings)

    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    b = torch.randn(4, dtype=torch.complex128, requires_grad=True)
    implicit = {"iterations": 60, "tolerance": 1e-13}
    assert torch.autograd.gradcheck(lambda s, v: solution(s, v, solve, **implicit), (scale, b))
    assert torch.autograd.gradcheck(lambda s, v: solution(s, v, conjugate_gradient, iterations=3), (scale, b))


def test_inner_is_the_real_part_of_the_product():
    a, b = torch.randn(2, 3, 4, dtype=torch.complex128), torch.randn(2, 3, 4, dtype=torch.complex128)
    assert torch.allclose(inner(a, b, 1)[1, 0, 0], torch.vdot(a[1].flatten(), b[1].flatten()).real)


def test_refuses_no_iterations():
    with pytest.raises(SettingError, match="0 iterations"):
        conjugate_gradient(lambda v: v, torch.ones(1), iterations=0)
