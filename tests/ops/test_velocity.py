"""Flows of velocities: inverse, group property, formulas."""

import pytest
import torch

from firstread.ops.separable import smooth
from firstread.ops.velocity import exponential, jacobian_determinant, logarithm, sample_at


def velocity(size: float, seed: int = 0, shape=(24, 26, 28)) -> torch.Tensor:
    """A smooth random field that vanishes at the edges, of a largest vector of ``size`` voxels."""
    made = smooth(torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(seed)), (5.0, 5.0, 5.0))
    edge = torch.zeros(shape)
    edge[5:-5, 5:-5, 5:-5] = 1
    made = made * smooth(edge, (2.0, 2.0, 2.0))
    return made * (size / made.norm(dim=1).max())


def after(second: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    return first + sample_at(second, first)


def test_minus_the_velocity_flows_back():
    v = velocity(3.0)
    assert exponential(v).abs().max() > 1.5
    assert after(exponential(-v), exponential(v)).abs().max() < 0.3


def test_twice_the_time_is_the_flow_twice():
    v = velocity(1.5)
    assert (exponential(2 * v) - after(exponential(v), exponential(v))).abs().max() < 0.05


def test_a_linear_velocity_flows_as_the_matrix_exponential():
    rate = 0.1
    v = torch.zeros(1, 3, 1, 1, 41)
    v[0, 0, 0, 0] = rate * (torch.arange(41.0) - 20)
    u = exponential(v, longest=0.05)
    wanted = (torch.tensor(rate).exp() - 1) * (torch.arange(41.0) - 20)
    assert (u[0, 0, 0, 0, 8:-8] - wanted[8:-8]).abs().max() < 0.02


@pytest.mark.parametrize("size", [2.0, 5.0])
def test_flows_do_not_fold(size):
    assert jacobian_determinant(exponential(velocity(size))).min() > 0


def test_the_logarithm_leads_back():
    u = exponential(velocity(1.5))
    assert (exponential(logarithm(u)) - u).abs().max() < 0.15


def test_gradients_pass():
    v = (torch.randn(1, 3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.3)
    assert torch.autograd.gradcheck(exponential, v.requires_grad_())
