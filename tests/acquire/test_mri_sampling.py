"""Masks: an exact number of lines, the centre always on, the learned one binary and with a gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.acquire.sampling import (
    FullySampled,
    LearnedMask,
    UniformLines,
    VariableDensity,
    centre,
    line_probability,
)
from firstread.core.errors import SettingError


@settings(deadline=None, max_examples=60)
@given(lines=st.integers(24, 256), acceleration=st.floats(1, 12), centre_lines=st.integers(0, 12),
       frames=st.integers(1, 4), seed=st.integers(0, 999))
def test_variable_density_has_its_budget_in_every_frame(lines, acceleration, centre_lines, frames, seed):
    sampling = VariableDensity(acceleration=acceleration, centre_lines=centre_lines)
    generator = torch.Generator().manual_seed(seed)
    if int(lines / acceleration) < centre_lines:
        with pytest.raises(SettingError):
            sampling(frames, lines, generator)
        return
    mask = sampling(frames, lines, generator)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert (mask.sum(dim=1) == int(lines / acceleration)).all()
    assert (mask[:, centre(lines, centre_lines)] == 1).all()


def test_variable_density_follows_its_density():
    sampling = VariableDensity(acceleration=8, centre_lines=0)
    drawn = sampling(4000, 64, torch.Generator().manual_seed(0)).mean(dim=0)
    assert drawn[28:37].min() > 3 * drawn[:16].max()
    assert abs(float(drawn[:16].mean() - drawn[-16:].mean())) < 0.02


def test_density_is_the_published_one():
    p = line_probability(256, 6.0)
    for k in (0, 100, 128, 200):
        expected = torch.exp(torch.tensor(-0.5 * ((k - 128) / 25.6) ** 2)) + 1 / 12
        assert p[k].item() == pytest.approx(expected.item())


def test_frames_differ_and_seeds_repeat():
    sampling = VariableDensity(acceleration=4)
    first, again = (sampling(2, 96, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first[0], first[1])


@settings(deadline=None, max_examples=30)
@given(lines=st.integers(16, 128), acceleration=st.integers(1, 8), centre_lines=st.integers(0, 16))
def test_uniform_lines_are_a_comb_with_a_centre(lines, acceleration, centre_lines):
    sampling = UniformLines(acceleration=acceleration, centre_lines=centre_lines)
    mask = sampling(acceleration, lines, torch.Generator())
    assert (mask.sum(dim=0) >= 1).all()  # the comb shifts through all lines in R frames
    outside = torch.ones(lines, dtype=torch.bool)
    outside[centre(lines, centre_lines)] = False
    assert mask[0, outside].sum() <= -(-lines // acceleration)


def test_fully_sampled():
    assert FullySampled()(2, 5, torch.Generator()).sum() == 10


@settings(deadline=None, max_examples=40)
@given(lines=st.integers(8, 128), data=st.data())
def test_learned_mask_is_binary_with_an_exact_budget(lines, data):
    count = data.draw(st.integers(1, lines))
    kept = data.draw(st.integers(0, count))
    made = LearnedMask(lines=lines, count=count, centre_lines=kept)
    torch.nn.init.normal_(made.logits, std=5.0)
    mask = made(3, lines, torch.Generator())
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert (mask.sum(dim=1) == count).all()
    assert (mask[:, centre(lines, kept)] == 1).all()


def test_learned_mask_has_a_gradient_and_learns_the_lines_that_matter():
    wanted = torch.zeros(32)
    wanted[[2, 5, 11, 29]] = 1.0
    made = LearnedMask(lines=32, count=6, centre_lines=2)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.2)
    for _ in range(80):
        optimizer.zero_grad()
        (-(made(1, 32, torch.Generator())[0] * wanted).sum()).backward()
        optimizer.step()
    assert (made(1, 32, torch.Generator())[0] * wanted).sum() == 4


@pytest.mark.parametrize("make", [lambda: VariableDensity(acceleration=0.5)(1, 64, torch.Generator()),
                                  lambda: LearnedMask(lines=8, count=9),
                                  lambda: LearnedMask(lines=8, count=4)(1, 9, torch.Generator()),
                                  lambda: VariableDensity(acceleration=float("nan"))(1, 64, torch.Generator()),
                                  lambda: LearnedMask(lines=8, count=4, temperature=0),
                                  lambda: LearnedMask(lines=8, count=4, temperature=float("nan")),
                                  lambda: LearnedMask(lines=8, count=4, frames=0),
                                  lambda: UniformLines(acceleration=0), lambda: UniformLines(centre_lines=-1),
                                  lambda: UniformLines(centre_lines=9)(1, 8, torch.Generator())])
def test_refuses_what_does_not_fit(make):
    with pytest.raises(SettingError, match="expected"):
        make()
