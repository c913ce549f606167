"""The solver layer: all solvers find the minimum that sigpy and the optimality conditions say, and say why they end."""

import numpy
import pytest
import torch

from firstread.core.errors import SettingError, SignalError
from firstread.ops.linear import LinearOp
from firstread.ops.minimize import (
    LeastSquares,
    admm,
    fista,
    largest_eigenvalue,
    least_squares,
    primal_dual,
)
from firstread.ops.proximal import conjugate, soft_threshold
from firstread.ops.wavelet import WaveletTransform


class Matrix(LinearOp):
    """Rows of the batch times one matrix."""

    def __init__(self, matrix: torch.Tensor):
        self.matrix = matrix

    def forward(self, x):
        return x @ self.matrix.mT

    def adjoint(self, y):
        return y @ self.matrix.conj()


@pytest.fixture(scope="module")
def setting():
    generator = torch.Generator().manual_seed(0)
    operator = Matrix(torch.randn(9, 6, dtype=torch.complex128, generator=generator))
    y = torch.randn(2, 9, dtype=torch.complex128, generator=generator)
    return operator, y, least_squares(operator, y)


WEIGHT = 2.0


def shrink(v, step):
    return soft_threshold(v, torch.tensor(step * WEIGHT).double())


def test_power_iteration_finds_the_norm(setting):
    operator, _, problem = setting
    norm = torch.linalg.matrix_norm(operator.matrix, 2).item() ** 2
    assert norm <= problem.bound <= 1.06 * norm
    assert largest_eigenvalue(operator.gram, problem.rhs, iterations=100, margin=1.0) == pytest.approx(norm, rel=1e-4)
    assert largest_eigenvalue(lambda v: 0 * v, problem.rhs) == 0


SOLVERS = {
    "fista": lambda p, **k: fista(p, shrink, **k),
    "fista without restart": lambda p, **k: fista(p, shrink, restart=False, **k),
    "primal-dual, penalty of x": lambda p, **k: primal_dual(
        p, lambda v, step: 0 * v, WaveletTransform(dims=(1,)), norm=1.0, proximal=shrink, **k),
    "primal-dual, penalty of K x": lambda p, **k: primal_dual(p, conjugate(shrink), Identity(), norm=1.0, **k),
    "admm": lambda p, **k: admm(p, shrink, inner_iterations=6, **k),
    "admm with an operator": lambda p, **k: admm(p, shrink, Identity(), inner_iterations=6, **k),
}


class Identity(LinearOp):
    def forward(self, x):
        return x

    def adjoint(self, y):
        return y


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_meets_the_optimality_condition(name, setting):
    """``Aᴴ(y − A x) = λ x / |x|`` where x is not 0, and at most λ in size where it is."""
    operator, y, problem = setting
    solution = SOLVERS[name](problem, iterations=4000, tolerance=1e-9)
    assert solution.converged and solution.iterations < 4000 and "reached" in solution.reason
    x, slope = solution.x, operator.adjoint(y - operator(solution.x))
    alive = x.abs() > 1e-5
    assert 0 < int(alive.sum()) < x.numel()
    assert torch.allclose(slope[alive], WEIGHT * x[alive] / x[alive].abs(), atol=1e-5)
    assert (slope[~alive].abs() <= WEIGHT * (1 + 1e-4)).all()


def test_a_lasso_is_that_of_sigpy(setting):
    sigpy = pytest.importorskip("sigpy")
    operator, y, problem = setting
    theirs = sigpy.app.LinearLeastSquares(
        sigpy.linop.MatMul((6, 1), operator.matrix.numpy()), y[0].numpy()[:, None],
        proxg=sigpy.prox.L1Reg((6, 1), WEIGHT), max_iter=600, tol=1e-12, show_pbar=False).run()
    ours = fista(problem, shrink, iterations=5000, tolerance=1e-12).x[0]
    numpy.testing.assert_allclose(ours.numpy(), theirs[:, 0], atol=1e-6)


def test_restart_is_faster_on_a_curved_problem():
    scale = torch.logspace(0, -2, 20, dtype=torch.float64)
    problem = LeastSquares(lambda v: scale * v, (scale * torch.ones(20).double())[None], 1.0)
    count = [fista(problem, lambda v, step: v, iterations=5000, tolerance=1e-9, restart=r).iterations
             for r in (True, False)]
    assert count[0] < 0.5 * count[1]


def test_it_says_that_the_iterations_ran_out(setting):
    _, _, problem = setting
    seen = []
    solution = fista(problem, shrink, iterations=3, tolerance=0.0, report=lambda i, x: seen.append(i))
    assert solution.iterations == 3 and not solution.converged and "not reached" in solution.reason
    assert seen == [1, 2, 3]


def test_a_start_at_the_solution_ends_at_once(setting):
    _, _, problem = setting
    found = fista(problem, shrink, iterations=4000, tolerance=1e-10).x
    assert fista(problem, shrink, start=found, tolerance=1e-6).iterations == 1


@pytest.mark.parametrize("name", SOLVERS)
def test_the_gradient_of_the_solution_through_the_iterations(name, setting):
    """Unrolled, converged: the same as finite differences of the converged solution."""
    operator, y, _ = setting
    bound = torch.linalg.matrix_norm(operator.matrix, 2).item() ** 2
    leaf = y.clone().requires_grad_()

    def value(data):
        problem = LeastSquares(operator.gram, operator.adjoint(data), bound)
        return SOLVERS[name](problem, iterations=100, tolerance=0.0).x.abs().square().sum()

    value(leaf).backward()
    direction = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(4))
    slope = (leaf.grad.conj() * direction).sum().real.item()
    with torch.no_grad():
        measured = (value(y + 1e-5 * direction) - value(y - 1e-5 * direction)).item() / 2e-5
    assert slope == pytest.approx(measured, rel=1e-3)


def test_refuses_what_cannot_be_solved(setting):
    _, _, problem = setting
    with pytest.raises(SettingError, match="0 iterations"):
        fista(problem, shrink, iterations=0)
    with pytest.raises(SettingError, match="tolerance -1"):
        admm(problem, shrink, tolerance=-1)
    with pytest.raises(SettingError, match="norm of 0"):
        primal_dual(problem, conjugate(shrink), Identity(), norm=0.0)
    with pytest.raises(SignalError, match="norm 0"):
        least_squares(Matrix(torch.zeros(3, 3).double()), torch.ones(1, 3).double())
