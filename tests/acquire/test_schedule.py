"""A budget in heartbeats: what fits, and what irregular R-R intervals do to it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.acquire.sampling import VariableDensity
from firstread.acquire.schedule import (
    centre_out,
    frame_times_s,
    lines_per_frame,
    require_equal_lines,
    triggered_scan,
    views_per_segment,
)
from firstread.core.errors import SettingError


@settings(deadline=None, max_examples=80)
@given(beats=st.integers(2, 20), rr=st.floats(0.4, 1.5), tr=st.floats(0.002, 0.005), frames=st.integers(1, 30))
def test_the_budget_fits_into_its_heartbeats_and_one_line_more_does_not(beats, rr, tr, frames):
    room = 0.9 * rr
    if frames * tr > room:
        with pytest.raises(SettingError):
            lines_per_frame(beats, rr, tr, frames)
        return
    views = views_per_segment(rr, tr, frames)
    assert views * frames * tr <= room + 1e-6 < (views + 1) * frames * tr + 2e-6
    assert lines_per_frame(beats, rr, tr, frames) == (beats - 1) * views


def test_times_of_frames():
    times = frame_times_s(4, 5, 0.01, delay_s=0.02)
    assert torch.allclose(times, torch.tensor([0.045, 0.095, 0.145, 0.195], dtype=torch.float64))


def test_lines_next_to_the_centre_come_first():
    mask = VariableDensity(acceleration=4, centre_lines=4)(3, 33, torch.Generator().manual_seed(0))
    order = centre_out(mask)
    distance = (order - 16).abs()
    assert (distance.diff(dim=1) >= 0).all() and order.shape == (3, 8)
    assert torch.equal(torch.zeros(3, 33).scatter_(1, order, 1.0), mask)


def _mask(frames: int, lines: int, count: int, seed: int) -> torch.Tensor:
    order = torch.rand(frames, lines, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    return torch.zeros(frames, lines).scatter_(1, order[:, :count], 1.0)


@settings(deadline=None, max_examples=80)
@given(frames=st.integers(1, 12), count=st.integers(1, 20), views=st.integers(1, 6), seed=st.integers(0, 99),
       rr=st.lists(st.floats(0.05, 2.0), min_size=1, max_size=12))
def test_whatever_the_rhythm_no_line_twice_none_invented_none_after_the_next_r_wave(frames, count, views, seed, rr):
    mask, tr = _mask(frames, 20, count, seed), 0.01
    scan = triggered_scan(mask, rr, tr_s=tr, views=views)
    missing = torch.zeros_like(mask)
    missing[scan.missing[:, 0], scan.missing[:, 1]] = 1
    assert torch.equal(scan.mask + missing, mask)
    assert len(scan.order) == int(scan.mask.sum()) and scan.beats <= len(rr)
    assert (scan.after_r_s + tr <= torch.tensor(rr, dtype=torch.float64)[scan.order[:, 0]] + 1e-6).all()
    assert torch.equal(scan.after_r_s.div(views * tr).add(1e-6).floor().long(), scan.order[:, 1])  # always its frame
    per_beat = torch.zeros(len(rr), frames).index_put_((scan.order[:, 0], scan.order[:, 1]),
                                                       torch.ones(len(scan.order)), accumulate=True)
    assert per_beat.max() <= views if len(scan.order) else True
    assert bool(scan.notes) == bool(len(scan.missing))


@settings(deadline=None, max_examples=40)
@given(frames=st.integers(1, 20), beats=st.integers(1, 8), seed=st.integers(0, 99),
       shorter=st.floats(0, 0.099), rr=st.floats(0.5, 1.2))
def test_beats_shorter_within_the_margin_lose_nothing(frames, beats, seed, shorter, rr):
    tr = 0.003
    views = views_per_segment(rr, tr, frames)
    count = min(60, lines_per_frame(beats + 1, rr, tr, frames))
    mask = _mask(frames, 60, count, seed)
    scan = triggered_scan(mask, [rr * (1 - shorter)] * beats, tr_s=tr, views=views)
    assert torch.equal(scan.mask, mask) and not len(scan.missing) and not scan.notes
    assert scan.beats == math.ceil(count / views) <= beats


def test_a_short_beat_cuts_late_frames_off_and_a_spare_beat_repeats_them():
    mask, tr = _mask(4, 16, 4, 0), 0.05
    planned = {"tr_s": tr, "views": 2}  # 4 frames of 2 x 50 ms: 400 ms; in 250 ms the last line of frame 3 is lost
    cut = triggered_scan(mask, [0.45, 0.25], **planned)
    assert cut.mask.sum(dim=1).tolist() == [4, 4, 3, 2]
    assert [note.code for note in cut.notes] == ["short_beats"] and "3 lines of frame 3, 4 of 4" in cut.notes[0].text
    outermost = centre_out(mask)[3, -2:].tolist()
    assert cut.missing[cut.missing[:, 0] == 3, 1].tolist() == outermost
    whole = triggered_scan(mask, [0.45, 0.25, 0.45], **planned)
    assert torch.equal(whole.mask, mask) and whole.beats == 3 and not whole.notes


@pytest.mark.parametrize("make", [
    lambda: views_per_segment(0.8, 0.01, 100), lambda: views_per_segment(0.8, 0.0, 10),
    lambda: lines_per_frame(1, 0.8, 0.003, 20), lambda: lines_per_frame(4, 0.8, 0.003, 20, spare_beats=3),
    lambda: require_equal_lines(torch.tensor([[0.5, 1.0], [0.5, 1.0]])),
    lambda: require_equal_lines(torch.tensor([[1, 1], [1, 0]])), lambda: require_equal_lines(torch.zeros(2, 4)),
    lambda: triggered_scan(torch.ones(2, 4), [], tr_s=0.01, views=1),
    lambda: triggered_scan(torch.ones(2, 4), [1.0], tr_s=0.01, views=0),
    lambda: triggered_scan(torch.ones(2, 4), [1.0, float("nan")], tr_s=0.01, views=1),
])
def test_refuses_what_cannot_be_scanned(make):
    with pytest.raises(SettingError, match="expected"):
        make()
