"""Conformal risk control: the expected loss by simulation, its link to split conformal, losses by hand, refusal."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import SettingError, SignalError
from firstread.trust import risk_control as rc
from firstread.trust.conformal import conformal_quantile

LADDER = torch.linspace(0, 1, 201)


def misses(u):
    """Loss that falls linearly to zero at λ = u: ``max(0, 1 - λ / u)``."""
    return (1 - LADDER / u[:, None]).clamp_min(0)


def test_the_expected_loss_of_a_new_case_is_at_most_the_risk_and_close_to_it():
    draw = torch.Generator().manual_seed(0)
    found = []
    for _ in range(1500):
        chosen = rc.controlled_setting(misses(0.05 + 0.9 * torch.rand(60, generator=draw)), LADDER, 0.1)
        found.append((1 - chosen / (0.05 + 0.9 * torch.rand(20, generator=draw))).clamp_min(0).mean().item())
    assert 0.08 < sum(found) / 1500 <= 0.1  # Angelopoulos 2024, theorem 2: not below risk - 2 B / (n + 1) = 0.067


@settings(max_examples=60, deadline=None)
@given(st.integers(10, 90), st.integers(0, 999), st.sampled_from([0.1, 0.2, 0.5]))
def test_losses_of_zero_and_one_are_split_conformal(n, seed, risk):
    scores = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ladder = torch.cat((scores, torch.tensor([0.0, 1.0]).double())).unique()
    found = rc.controlled_setting((scores[:, None] > ladder).double(), ladder, risk)
    assert found == conformal_quantile(scores, 1 - risk)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999))
def test_mask_losses_fall_as_the_band_widens(seed):
    draw = torch.Generator().manual_seed(seed)
    field, truth = torch.randn(6, 7, generator=draw), torch.rand(6, 7, generator=draw) < 0.4
    margins = torch.linspace(0, 3, 9)[:, None, None]
    outer, inner = field <= margins, field < -margins
    for losses in (rc.missed_share(truth, outer), rc.claimed_share(truth, inner, field <= 0),
                   rc.band_dice_loss(truth, inner, outer)):
        assert bool((losses.diff() <= 1e-12).all()) and losses.min() >= 0 and losses.max() <= 1
    everything, nothing = torch.ones(1, 6, 7).bool(), torch.zeros(1, 6, 7).bool()
    assert rc.missed_share(truth, everything).item() == rc.claimed_share(truth, nothing, field <= 0).item() == 0
    assert rc.band_dice_loss(truth, nothing, everything).item() == 0


def test_no_band_is_the_plain_dice_loss():
    from firstread.ops.regions import dice

    draw = torch.Generator().manual_seed(0)
    truth, mask = torch.rand(2, 5, 6, generator=draw) < 0.5, torch.rand(2, 5, 6, generator=draw) < 0.5
    assert rc.band_dice_loss(truth, mask[None], mask[None]).item() == pytest.approx(1 - dice(truth, mask).item())


def test_empty_masks_lose_nothing():
    none, some = torch.zeros(4, 4).bool(), torch.ones(1, 4, 4).bool()
    assert rc.missed_share(none, some).item() == 0
    assert rc.band_dice_loss(none, none[None], none[None]).item() == 0
    assert rc.distant_share(torch.zeros(0), torch.tensor([1.0])).tolist() == [0]


def test_monotone_losses_are_the_least_that_lie_above():
    losses = torch.rand(20, 30, generator=torch.Generator().manual_seed(2))
    made = rc.monotone_losses(losses)
    assert bool((made >= losses).all()) and bool((made.diff(dim=1) <= 0).all())
    assert torch.equal(rc.monotone_losses(made), made)


def test_what_cannot_be_controlled_is_refused():
    with pytest.raises(SettingError, match=r"18 calibration cases for a risk of 0\.05; expected 19 or more"):
        rc.controlled_setting(torch.zeros(18, 1), torch.zeros(1), 0.05)
    with pytest.raises(SettingError, match=r"mean loss of 0\.9"):
        rc.controlled_setting(torch.full((100, 1), 0.9), torch.zeros(1), 0.05)
    with pytest.raises(SettingError, match="rises"):
        rc.controlled_setting(torch.tensor([[0.0, 1.0]]).expand(30, 2), torch.tensor([0.0, 1.0]), 0.05)
    with pytest.raises(SettingError, match="ascend"):
        rc.controlled_setting(torch.zeros(30, 2), torch.tensor([1.0, 0.0]), 0.05)
    for bad in (float("nan"), 1.5, -0.5):
        with pytest.raises(SignalError):
            rc.controlled_setting(torch.full((30, 1), bad), torch.zeros(1), 0.05)
    for risk in (0.0, 1.0, 5.0):
        with pytest.raises(SettingError, match="risk"):
            rc.smallest_risk_set(risk)
