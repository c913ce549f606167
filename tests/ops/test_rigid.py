"""Rigid motions: group laws, differentiability, agreement with scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from firstread.ops.rigid import about, angle_degrees, exponential, fit_rigid, inverse, logarithm

small = st.lists(st.floats(-1.5, 1.5), min_size=6, max_size=6).map(lambda v: torch.tensor(v, dtype=torch.float64))


@given(small)
def test_logarithm_undoes_the_exponential(twist):
    assert torch.allclose(logarithm(exponential(twist)), twist, atol=1e-8)


@given(small, small)
def test_a_motion_and_its_inverse_leave_everything(one, other):
    both = exponential(one) @ exponential(other)
    assert torch.allclose(inverse(both) @ both, torch.eye(4, dtype=torch.float64), atol=1e-12)


@given(small)
def test_rotation_is_scipys(twist):
    wanted = Rotation.from_rotvec(twist[:3].numpy())
    made = exponential(twist)
    assert np.allclose(made[:3, :3].numpy(), wanted.as_matrix(), atol=1e-12)
    assert angle_degrees(made).item() == pytest.approx(np.degrees(wanted.magnitude()), abs=1e-6)


def test_gradient_at_zero_and_elsewhere():
    twists = torch.stack((torch.zeros(6), torch.arange(6) / 10)).double().requires_grad_()
    assert torch.autograd.gradcheck(exponential, (twists,))
    assert torch.autograd.gradcheck(lambda t: logarithm(exponential(t)), (twists[1:].detach().requires_grad_(),))


def test_about_leaves_the_centre_where_it_is():
    motion = exponential(torch.tensor([0.3, -0.2, 0.5, 0, 0, 0], dtype=torch.float64))
    centre = torch.tensor([10.0, -4.0, 7.0], dtype=torch.float64)
    moved = about(motion, centre)
    assert torch.allclose(moved[:3, :3] @ centre + moved[:3, 3], centre)


def test_fit_finds_the_motion_of_points():
    motion = exponential(torch.tensor([0.3, -0.2, 2.5, 4, 5, 6], dtype=torch.float64))
    points = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(fit_rigid(points, points @ motion[:3, :3].T + motion[:3, 3]), motion, atol=1e-10)
