"""Proximal maps: each minimizes its definition, the nuclear norm as by a singular value decomposition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.ops.proximal import (
    conjugate,
    denoise_total_variation,
    group_soft_threshold,
    singular_value_threshold,
    soft_threshold,
)
from firstread.ops.variation import clip_magnitude, total_variation


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


WEIGHT = torch.tensor(0.7).double()
PENALTIES = {
    "l1": (lambda v: soft_threshold(v, WEIGHT), lambda v: v.abs().sum()),
    "group": (lambda v: group_soft_threshold(v, WEIGHT, (0, 2)), lambda v: v.norm(dim=(0, 2)).sum()),
    "nuclear": (lambda v: singular_value_threshold(v, WEIGHT), lambda v: torch.linalg.svdvals(v).sum()),
    "total variation": (lambda v: denoise_total_variation(v, WEIGHT, dims=(-1,), iterations=400),
                        lambda v: total_variation(v, (-1,)).sum())}


@pytest.mark.parametrize("name", PENALTIES)
@settings(deadline=None, max_examples=3)
@given(seed=st.integers(0, 99))
def test_it_minimizes_its_definition(name, seed):
    proximal, penalty = PENALTIES[name]
    x = random(2, 4, 3, seed=seed)
    best = proximal(x)

    def cost(u):
        return (0.5 * (u - x).abs().square().sum() + WEIGHT * penalty(u)).item()

    others = [best + size * random(2, 4, 3, seed=s) for s, size in enumerate((0.3, 1e-2, 1e-3), 100)]
    others += [best * 0.99, best * 1.01, x, x * 0]
    assert all(cost(best) <= cost(u) + 1e-6 for u in others)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_singular_values_shrink_as_by_their_decomposition(shape):
    x = random(2, *shape)
    level = torch.tensor([0.5, 1.5]).double()[:, None, None]
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    expected = (u * (s - level[..., 0]).clamp_min(0)[:, None]) @ v
    assert torch.allclose(singular_value_threshold(x, level), expected)


def test_gradients_stay_finite_and_right():
    x, level = random(2, 5, 3).requires_grad_(), torch.tensor(0.8).double().requires_grad_()
    assert torch.autograd.gradcheck(singular_value_threshold, (x, level))
    assert torch.autograd.gradcheck(lambda a, b: singular_value_threshold(a.mT, b), (x, level))
    assert torch.autograd.gradcheck(soft_threshold, (x, level))
    assert torch.autograd.gradcheck(lambda a, b: group_soft_threshold(a, b, (1,)), (x, level))
    for degenerate in (torch.zeros(4, 3), torch.eye(4, 3), torch.ones(4, 3)):
        leaf = degenerate.clone().requires_grad_()
        singular_value_threshold(leaf, torch.tensor(0.5)).sum().backward()
        assert torch.isfinite(leaf.grad).all()
        leaf = degenerate.clone().requires_grad_()
        soft_threshold(leaf, torch.tensor(0.5)).sum().backward()
        assert torch.isfinite(leaf.grad).all()


def test_the_conjugate_of_a_norm_is_the_projection_on_its_ball():
    x = random(6)
    made = conjugate(lambda v, step: soft_threshold(v, 0.7 * torch.tensor(step).double()))(x, 3.0)
    assert torch.allclose(made, clip_magnitude(x, torch.tensor(0.7).double()))


def test_a_weight_of_zero_changes_nothing():
    x, none = random(2, 4, 3), torch.tensor(0.0).double()
    for made in (soft_threshold(x, none), group_soft_threshold(x, none, (1,)), singular_value_threshold(x, none)):
        assert torch.allclose(made, x)
