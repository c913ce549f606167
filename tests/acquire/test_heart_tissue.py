"""bSSFP signal: limits in closed form, pass bands, order of the tissues."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from firstread.acquire.heart_tissue import BINS, CODE, TISSUES, Sequence, bins_of, bssfp_signal, signal_table

ONE = torch.ones(1, dtype=torch.float64)


@given(st.floats(200, 3000), st.floats(20, 400), st.floats(5, 85), st.floats(2, 6))
def test_on_resonance_it_is_the_textbook_formula(t1, t2, flip, tr):
    t2 = min(t1, t2)
    e1, e2, a = math.exp(-tr / t1), math.exp(-tr / t2), math.radians(flip)
    wanted = math.sin(a) * (1 - e1) / (1 - (e1 - e2) * math.cos(a) - e1 * e2) * math.exp(-tr / 2 / t2)
    signal = bssfp_signal(t1 * ONE, t2 * ONE, 0 * ONE, flip_deg=flip, tr_ms=tr)
    assert signal.real.item() == pytest.approx(wanted, rel=1e-9)
    assert abs(signal.imag.item()) < 1e-12


def test_for_short_repetition_it_depends_on_the_ratio_of_t1_and_t2_alone():
    """TR << T2: sin a / (1 + cos a + (1 - cos a) T1 / T2)."""
    signal = bssfp_signal(1000 * ONE, 50 * ONE, 0 * ONE, flip_deg=40.0, tr_ms=1e-3).real.item()
    a = math.radians(40)
    assert signal == pytest.approx(math.sin(a) / (1 + math.cos(a) + (1 - math.cos(a)) * 20), rel=1e-4)


def test_neighbouring_pass_bands_are_opposed_and_parted_by_a_dark_band():
    tr = 4.0
    hz = torch.tensor([0.0, 60.0, 125.0, 190.0, 250.0], dtype=torch.float64)
    signal = bssfp_signal(1000 + 0 * hz, 200 + 0 * hz, hz, flip_deg=50.0, tr_ms=tr)
    assert bool((signal.real[:2] > 0).all()) and bool((signal.real[3:] < 0).all())
    assert signal[2].abs() < 0.1 * signal[0].abs()
    assert signal[4].abs().item() == pytest.approx(signal[0].abs().item(), rel=1e-9)


@pytest.mark.parametrize("field", ["1.5T", "3T"])
def test_blood_is_brighter_than_muscle_and_fat_is_opposed_to_water(field):
    table = signal_table(Sequence(field, 50.0, 3.0), TISSUES[field], inflow=1.2, trabecular_muscle=0.5)
    middle = table[:, BINS // 2]
    assert middle[CODE["blood"]] == 1 and middle[CODE["air"]] == 0
    assert 2 < 1 / middle[CODE["myocardium"]] < 5
    assert middle[CODE["fat"]] < -0.4
    assert middle[CODE["myocardium"]] < middle[CODE["trabeculae"]] < 1
    assert 0 < middle[CODE["lung"]] < 0.1


def test_bins_go_back_to_the_frequency():
    assert bins_of(torch.tensor([0.0, 4.0, -8.0, 1e6])).tolist() == [BINS // 2, BINS // 2 + 1, BINS // 2 - 2, BINS - 1]
