"""Line choice: exact budgets, a relaxation with the right gradient, learned k-t patterns, stored masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import blob

from firstread.acquire.lines import budgeted_density, straight_through, top_lines
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import LearnedMask, StoredMask, VariableDensity, centre
from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.reconstruct.direct import ZeroFilled


def _draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@settings(deadline=None, max_examples=60)
@given(lines=st.integers(2, 64), frames=st.integers(1, 4), data=st.data())
def test_top_lines_has_its_budget_and_keeps_what_is_kept(lines, frames, data):
    count = data.draw(st.integers(1, lines))
    kept = torch.zeros(lines, dtype=torch.bool)
    kept[data.draw(st.lists(st.integers(0, lines - 1), max_size=count, unique=True))] = True
    scores = torch.randn(frames, lines, generator=_draw())
    mask = top_lines(scores, count, kept=kept)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert (mask.sum(dim=1) == count).all() and (mask[:, kept] == 1).all()
    chosen, left = scores.masked_fill(mask == 0, torch.inf).amin(1), scores.masked_fill(mask == 1, -torch.inf).amax(1)
    assert kept.any() or (chosen >= left).all()


@settings(deadline=None, max_examples=40)
@given(lines=st.integers(2, 40), temperature=st.floats(0.05, 4), scale=st.floats(0, 8), data=st.data())
def test_density_sums_to_the_budget_and_orders_as_the_logits(lines, temperature, scale, data):
    count = data.draw(st.integers(1, lines))
    kept = torch.zeros(lines, dtype=torch.bool)
    kept[data.draw(st.lists(st.integers(0, lines - 1), max_size=count, unique=True))] = True
    logits = scale * torch.randn(3, lines, dtype=torch.float64, generator=_draw())
    p = budgeted_density(logits, count, kept=kept, temperature=temperature)
    assert torch.allclose(p.sum(dim=1), torch.full((3,), float(count), dtype=torch.float64), atol=1e-6)
    assert (p[:, kept] == 1).all() and (p >= 0).all() and (p <= 1).all()
    free = ~kept
    order = logits[0, free].argsort()
    assert (p[0, free][order].diff() >= -1e-12).all()


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_density_has_the_gradient_of_finite_differences(count):
    kept = torch.tensor([False, True, False, False, True, False, False, False])
    logits = torch.randn(2, 8, dtype=torch.float64, generator=_draw()).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: budgeted_density(x, count, kept=kept, temperature=0.7), logits)


def test_what_all_lines_have_in_common_moves_nothing():
    logits = torch.randn(2, 9, dtype=torch.float64, generator=_draw()).requires_grad_()
    weight = torch.randn(2, 9, dtype=torch.float64, generator=_draw())
    (budgeted_density(logits, 4) * weight).sum().backward()
    assert logits.grad.sum(dim=1).abs().max() < 1e-12 and logits.grad.abs().max() > 1e-3


def test_straight_through_gives_hard_values_and_the_soft_gradient():
    soft = torch.tensor([0.3, 0.7], requires_grad=True)
    hard = torch.tensor([0.0, 1.0])
    out = straight_through(hard, soft * 2)
    out.backward(torch.tensor([1.0, 3.0]))
    assert torch.equal(out, hard) and soft.grad.tolist() == [2.0, 6.0]


@pytest.mark.parametrize("relaxation", ["sigmoid", "budget"])
def test_learned_pattern_has_lines_of_its_own_in_every_frame(relaxation):
    start = VariableDensity(acceleration=4, centre_lines=2)(5, 32, _draw())
    made = LearnedMask(lines=32, count=8, centre_lines=2, frames=5, relaxation=relaxation, start=start)
    mask = made(5, 32, _draw())
    assert torch.equal(mask, start) and not torch.equal(mask[0], mask[1])
    assert (mask.sum(dim=1) == 8).all() and (mask[:, centre(32, 2)] == 1).all()
    mask.square().sum().backward()
    assert made.logits.grad.shape == (5, 32)


def test_learned_pattern_finds_the_lines_that_the_images_need():
    """All energy of the blob lies in few lines; a start without them is left behind through the straight-through."""
    image, wrong = blob(), torch.zeros(3, 24)
    wrong[:, [0, 1, 2, 3, 11, 12, 20, 21]] = 1
    made = LearnedMask(lines=24, count=8, centre_lines=2, frames=3, relaxation="budget", start=wrong)
    assert torch.equal(made(3, 24, _draw()), wrong)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.3)
    errors = []
    for _ in range(30):
        kspace = Encode(sampling=made, snr=None, keep_sensitivities=True)(image, Key(0, "encode"))
        error = (ZeroFilled()(kspace).data - image.data).abs().square().sum()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    mask = made(3, 24, _draw())
    assert errors[-1] < 0.25 * errors[0] and (mask[:, 9:16].sum(dim=1) >= 6).all()


def test_state_survives_a_round_trip():
    made = LearnedMask(lines=32, count=8, frames=2, relaxation="budget")
    torch.nn.init.normal_(made.logits, generator=_draw())
    again = LearnedMask(lines=32, count=8, frames=2, relaxation="budget")
    again.load_state_dict(made.state_dict())
    assert torch.equal(made(2, 32, _draw()), again(2, 32, _draw()))
    stored, other = StoredMask(mask=made(2, 32, _draw())), StoredMask(mask=torch.ones(2, 32))
    other.load_state_dict(stored.state_dict())
    assert torch.equal(other(2, 32, _draw()), stored(2, 32, _draw()))


def test_stored_mask_scans_exactly_its_lines_in_all_slices():
    mask = VariableDensity(acceleration=3, centre_lines=4)(3, 24, _draw())
    kspace = Encode(sampling=StoredMask(mask=mask))(blob(), Key(0, "encode"))
    assert torch.equal(kspace.mask[0, :, 0, 0, :, 0], mask)


@pytest.mark.parametrize("make", [
    lambda: StoredMask(mask=torch.tensor([[0.5, 1.0]])),
    lambda: StoredMask(mask=torch.tensor([[1.0, 1.0], [0.0, 0.0]])),
    lambda: StoredMask(mask=torch.ones(2, 8))(2, 9, _draw()),
    lambda: StoredMask(mask=torch.ones(2, 8))(3, 8, _draw()),
    lambda: top_lines(torch.zeros(1, 8), 2, kept=torch.arange(8) < 3),
    lambda: budgeted_density(torch.zeros(1, 8), 9),
    lambda: LearnedMask(lines=8, count=2, centre_lines=4),
    lambda: LearnedMask(lines=8, count=4, start=torch.ones(2, 8)),
])
def test_refuses_what_does_not_fit(make):
    with pytest.raises(SettingError, match="expected"):
        make()
