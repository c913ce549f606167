"""Blocks of low rank: as by a decomposition of every block, at every size; the norm they pay."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import SettingError
from firstread.ops.lowrank import nuclear_norm, shrink_rank, shrink_temporal_frequencies

WEIGHT = torch.tensor(0.8).double().reshape(1, 1, 1, 1, 1, 1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def by_decomposition(x: torch.Tensor, block: int, shift: tuple[int, int]) -> torch.Tensor:
    moved = x.roll(shift, (-2, -1))
    made = torch.empty_like(moved)
    for n in range(x.shape[0]):
        for z in range(x.shape[3]):
            for i in range(0, x.shape[-2], block):
                for j in range(0, x.shape[-1], block):
                    part = moved[n, :, 0, z, i:i + block, j:j + block]
                    u, s, v = torch.linalg.svd(part.flatten(1), full_matrices=False)
                    made[n, :, 0, z, i:i + block, j:j + block] = ((u * (s - 0.8).clamp_min(0)) @ v).reshape(part.shape)
    return made.roll((-shift[0], -shift[1]), (-2, -1))


@settings(deadline=None, max_examples=15)
@given(block=st.integers(1, 9), height=st.integers(1, 8), width=st.integers(1, 8), frames=st.integers(1, 5),
       shift=st.tuples(st.integers(0, 4), st.integers(0, 4)))
def test_it_is_the_decomposition_of_every_block(block, height, width, frames, shift):
    x = random(2, frames, 1, 2, height, width)
    made = shrink_rank(x, WEIGHT, block=block, shift=shift)
    assert torch.allclose(made, by_decomposition(x, block, shift), atol=1e-6)


def test_without_blocks_the_plane_is_one_matrix():
    x = random(2, 4, 1, 2, 5, 6)
    assert torch.allclose(shrink_rank(x, WEIGHT), by_decomposition(x, 6, (0, 0)), atol=1e-6)
    expected = torch.stack([sum(torch.linalg.svdvals(p.flatten(1)).sum() for p in row[:, 0].unbind(1)) for row in x])
    assert torch.allclose(nuclear_norm(x), expected)


def test_the_gradient_is_right_where_values_repeat():
    leaf = random(1, 3, 1, 1, 4, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: shrink_rank(v, WEIGHT, block=2, shift=(1, 0)), (leaf,))
    still = torch.ones(1, 3, 1, 1, 4, 4).requires_grad_()
    shrink_rank(still, WEIGHT.float(), block=2).sum().backward()
    assert torch.isfinite(still.grad).all()


def test_temporal_frequencies_shrink_one_by_one():
    wave = torch.exp(2j * torch.pi * torch.arange(8) / 8).reshape(1, 8, 1, 1, 1, 1).to(torch.complex128)
    made = shrink_temporal_frequencies(wave, WEIGHT)
    assert torch.allclose(made, wave * (1 - 0.8 / 8**0.5))


def test_refuses_an_empty_block():
    with pytest.raises(SettingError, match="blocks of 0"):
        shrink_rank(random(1, 2, 1, 1, 4, 4), WEIGHT, block=0)
