"""Point distribution models of shapes whose variation is known."""

import math

import pytest
import torch

from firstread.core.errors import SettingError
from firstread.ops.shape_model import ShapeModel, align


def ellipses(count: int = 60, points: int = 24) -> torch.Tensor:
    """Ellipses of one varying half-axis, moved and turned at random."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.arange(points) * 2 * math.pi / points
    made = []
    for _ in range(count):
        width = 5 + torch.randn((), generator=generator)
        shape = torch.stack((width * angle.cos(), 3 * angle.sin()), dim=-1).double()
        turn = 0.5 * torch.randn((), generator=generator).double()
        rotation = torch.stack((torch.stack((turn.cos(), -turn.sin())), torch.stack((turn.sin(), turn.cos()))))
        made.append(shape @ rotation.T + 10 * torch.randn(2, generator=generator).double())
    return torch.stack(made)


def test_alignment_undoes_any_rigid_motion_and_makes_no_reflection():
    shape = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))[0]
    rotation = rotation * torch.sign(torch.linalg.det(rotation))
    moved = shape @ rotation + torch.tensor([3.0, -2.0, 9.0], dtype=torch.float64)
    torch.testing.assert_close(align(moved[None], shape)[0], shape)
    torch.testing.assert_close(align(4 * moved[None], shape, scale=True)[0], shape)
    mirrored = shape * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    assert (align(mirrored[None], shape)[0] - shape).norm() > 0.5


def test_one_cause_of_variation_is_one_mode_of_its_size():
    model = ShapeModel.fit(ellipses(), share=0.95)
    assert len(model.variance) == 1
    assert model.variance[0].sqrt().item() == pytest.approx(math.sqrt(12), rel=0.25)  # 24 points, cos squared: a half
    torch.testing.assert_close(torch.einsum("mpa,npa->mn", model.modes, model.modes), torch.eye(1).double())


def test_shapes_are_described_drawn_and_judged():
    model = ShapeModel.fit(ellipses(), share=0.999)
    weights = model.variance.sqrt()[None] * torch.tensor([[1.0] + [0.0] * (len(model.variance) - 1)]).double()
    shape = model.shapes(weights)
    torch.testing.assert_close(model.describe(shape), weights, rtol=0.02, atol=0.02)
    drawn = model.draw(50, torch.Generator().manual_seed(3))
    assert drawn.shape == (50, 24, 2)
    assert model.unlikeliness(model.mean[None]).item() == pytest.approx(0.0, abs=1e-9)
    strange = model.mean.clone()
    strange[0] += 20
    assert model.unlikeliness(strange[None]) > 10 * model.unlikeliness(shape)
    leaf = strange[None].clone().requires_grad_()
    model.unlikeliness(leaf).sum().backward()
    assert bool(torch.isfinite(leaf.grad).all()) and leaf.grad.abs().sum() > 0


def test_two_shapes_are_too_few():
    with pytest.raises(SettingError, match="2 shapes"):
        ShapeModel.fit(torch.randn(2, 5, 2))
