"""Bias and limits of agreement: hand-computed values, coverage of the bootstrap, subjects kept together."""

import pytest
import torch

from firstread.core.errors import SettingError
from firstread.trust.agreement import agreement


def test_values_by_hand():
    """Differences 2, 4, 6, 8: mean 5, sd sqrt(20 / 3) = 2.58199."""
    found = agreement(torch.tensor([2.0, 4.0, 6.0, 8.0]), torch.zeros(4), resamples=100)
    assert found.bias.value == 5
    assert found.low.value == pytest.approx(5 - 1.96 * 2.5819889)
    assert found.high.value == pytest.approx(5 + 1.96 * 2.5819889)
    assert found.absolute.value == 5


def test_bootstrap_interval_of_the_bias_agrees_with_theory():
    d = torch.randn(200, generator=torch.Generator().manual_seed(0))
    found = agreement(d + 3, torch.full((200,), 2.0))
    half = 1.96 * d.std().item() / 200**0.5
    assert found.bias.upper - found.bias.lower == pytest.approx(2 * half, rel=0.1)
    assert found.bias.lower < found.bias.value < found.bias.upper
    assert found.high.lower < found.high.value < found.high.upper


def test_copies_of_a_subject_do_not_narrow_the_interval():
    d = torch.randn(40, generator=torch.Generator().manual_seed(1))
    once = agreement(d, torch.zeros(40))
    copies = agreement(d.repeat(10), torch.zeros(400), subject=torch.arange(40).repeat(10))
    assert copies.subjects == 40
    width = once.bias.upper - once.bias.lower
    assert copies.bias.upper - copies.bias.lower == pytest.approx(width, rel=1e-6)


def test_the_seed_repeats_the_interval():
    d = torch.randn(30, generator=torch.Generator().manual_seed(2))
    assert agreement(d, torch.zeros(30)) == agreement(d, torch.zeros(30))
    assert agreement(d, torch.zeros(30), seed=1) != agreement(d, torch.zeros(30))


def test_too_few_or_missing_values_are_refused():
    with pytest.raises(SettingError, match="2 subjects"):
        agreement(torch.ones(2), torch.ones(2))
    with pytest.raises(SettingError, match="1 of them not finite"):
        agreement(torch.tensor([1.0, 2.0, 3.0, float("nan")]), torch.ones(4))
