"""Active acquisition: equal lines per frame, only what was measured, and policies that know what they should."""

from itertools import pairwise

import pytest
import torch
from samples import blob

from firstread.acquire.active import Policy, acquire_actively, add_lines, lines_of, measure_lines
from firstread.acquire.coils import GaussianCoils
from firstread.acquire.mri import Encode
from firstread.acquire.policies import (
    Disagreement,
    GreedyOracle,
    PlannedLines,
    RandomLines,
    ScoringNetwork,
    line_disagreement,
    line_features,
    line_gains,
)
from firstread.acquire.sampling import FullySampled, StoredMask, UniformLines, VariableDensity
from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.core.records import KSpace
from firstread.nets.lines import LineScorer
from firstread.ops.fourier import fft
from firstread.reconstruct.direct import ZeroFilled
from firstread.reconstruct.iterative import CGSense, TemporalTV

IMAGE = blob()
FULL = Encode(sampling=FullySampled(), coils=GaussianCoils(count=3), snr=None, keep_sensitivities=True)(
    IMAGE, Key(1, "encode"))
START = VariableDensity(acceleration=6, centre_lines=4)  # 4 of 24 lines


def error(kspace: KSpace) -> torch.Tensor:
    return (ZeroFilled()(kspace).data - IMAGE.data).abs().square().sum()


def policies() -> dict[str, Policy]:
    members = [TemporalTV(iterations=8), CGSense(iterations=4)]
    return {"random": RandomLines(), "planned": PlannedLines(ranking=torch.rand(1, 24)),
            "disagreement": Disagreement(members=members), "endpoint": Disagreement(
                members=members, endpoint=lambda image: image.data[..., 6:9, 6:9].abs().sum(dim=(1, 2, 3, 4, 5))),
            "network": ScoringNetwork(network=LineScorer(), reconstruct=CGSense(iterations=4)),
            "oracle": GreedyOracle(full=FULL, loss=error)}


@pytest.mark.parametrize("name", policies())
def test_every_frame_gets_its_budget_and_keeps_what_it_has(name):
    torch.manual_seed(0)
    policy, seen = policies()[name], []
    assert isinstance(policy, Policy)
    made = acquire_actively(FULL, policy, count=9, start=START, per_step=2, watch=seen.append)
    assert [int(lines_of(k)[0, 0, 0].sum()) for k in seen] == [4, 6, 8, 9]
    for before, after in pairwise(seen):
        assert (lines_of(after) >= lines_of(before)).all()
        assert (lines_of(after).sum(dim=-1) == lines_of(after)[0, 0, 0].sum()).all()
    mask = lines_of(made)[:, :, None, :, :, None]
    assert torch.equal(made.data, mask * FULL.data)
    torch.manual_seed(0)
    assert torch.equal(acquire_actively(FULL, policies()[name], count=9, start=START, per_step=2).mask, made.mask)


def test_rows_are_measured_each_for_itself():
    two = FULL.draws(2)
    made = lines_of(acquire_actively(two, RandomLines(), count=8, start=START))
    assert made.shape == (2, 3, 1, 24) and (made.sum(dim=-1) == 8).all() and not torch.equal(made[0], made[1])
    oracle = GreedyOracle(full=two, loss=error)
    same = lines_of(acquire_actively(two, oracle, count=8, start=StoredMask(mask=_centre())))
    assert torch.equal(same[0], same[1])


def _centre() -> torch.Tensor:
    return torch.zeros(3, 24).index_fill_(1, torch.arange(10, 14), 1.0)


def test_a_policy_sees_nothing_that_was_not_measured():
    def looks(measured, generator):
        hidden = (lines_of(measured) == 0)[:, :, None, :, :, None].expand_as(measured.data)
        assert (measured.data[hidden] == 0).all() and hidden.any()
        return torch.rand(lines_of(measured).shape, generator=generator)

    acquire_actively(FULL, looks, count=8, start=START)


def test_a_policy_that_uses_measured_data_does_not_depend_on_the_rest():
    """Two objects that agree on the lines measured so far get the same next lines."""
    policy = policies()["disagreement"]
    mask = lines_of(acquire_actively(FULL, RandomLines(), count=6, start=START))
    other = measure_lines(FULL, torch.ones_like(mask))
    changed = KSpace(other.rows, other.data * (1 + 3 * (mask == 0)[:, :, None, :, :, None]), other.grid, other.mask,
                     other.sensitivities)
    scores = [policy(measure_lines(k, mask), torch.Generator()) for k in (FULL, changed)]
    assert torch.equal(scores[0], scores[1])


def test_the_oracle_of_zero_filling_takes_the_lines_of_most_energy():
    mask = lines_of(measure_lines(FULL, torch.ones(1, 3, 1, 24)))
    start = StoredMask(mask=torch.eye(24)[:1])(3, 24, torch.Generator())[None, :, None]
    one_coil = KSpace(FULL.rows, fft(IMAGE.data), FULL.grid, FULL.mask)

    def zero_filled(kspace: KSpace) -> torch.Tensor:
        return (ZeroFilled()(kspace).data - IMAGE.data).abs().square().sum()

    gains = line_gains(one_coil, start, zero_filled)
    energy = fft(IMAGE.data).abs().square().sum(dim=-1)[:, :, 0]
    free = start == 0
    torch.testing.assert_close(gains[free], 2 * energy[free], rtol=1e-4, atol=1e-4)
    chosen = add_lines(start, gains, 3)
    assert (chosen.sum(dim=-1) == 4).all() and mask.shape == chosen.shape
    assert torch.equal(chosen[free].bool(), (energy >= energy.masked_fill(~free, 0).topk(3).values[..., -1:])[free])


def test_the_oracle_beats_random_lines():
    errors = {name: float(error(acquire_actively(FULL, policies()[name], count=8, start=START)))
              for name in ("random", "oracle")}
    assert errors["oracle"] < errors["random"]


def test_disagreement_is_the_variance_and_projects_onto_an_endpoint():
    images = torch.randn(4, 1, 2, 1, 1, 6, 5, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    lines = fft(images)
    plain = lines.var(dim=0, correction=0).sum(dim=-1)[:, :, 0]
    torch.testing.assert_close(line_disagreement(images), plain)
    toward = torch.randn(1, 2, 1, 1, 6, 5, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    shares = line_disagreement(images, toward)
    one_line = torch.zeros_like(toward)
    one_line[0, 1, 0, 0, 3] = 1
    only = fft(toward)[0, 1, 0, 0, 3].conj() @ lines[:, 0, 1, 0, 0, 3].T
    torch.testing.assert_close(shares[0, 1, 0, 3], only.real.var(correction=0))


def test_features_do_not_depend_on_brightness():
    mask = lines_of(acquire_actively(FULL, RandomLines(), count=6, start=START))
    one, other = (line_features(scale * IMAGE.data, mask) for scale in (1.0, 7.0))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    assert one.shape == (1, 5, 3, 1, 24) and torch.equal(one[:, 2], mask)


def test_spread_frames_choose_different_lines_and_keep_the_budget():
    mask, scores = torch.zeros(1, 8, 2, 20), torch.rand(1, 1, 2, 20).expand(1, 8, 2, 20)
    mask[..., 9:11] = 1
    together, apart = add_lines(mask, scores, 3), add_lines(mask, scores, 3, spread=3)
    for made in (together, apart):
        assert (made.sum(dim=-1) == 5).all() and (made >= mask).all()
    assert (together.amax(dim=1).sum(dim=-1) == 5).all() and (apart.amax(dim=1).sum(dim=-1) >= 12).all()
    assert torch.equal(add_lines(mask, scores, 3, spread=1e-3), together)


def test_planned_lines_come_in_their_order():
    ranking = torch.rand(3, 24, generator=torch.Generator().manual_seed(2))
    made = lines_of(acquire_actively(FULL, PlannedLines(ranking=ranking), count=7, start=START, per_step=3))
    start = lines_of(acquire_actively(FULL, PlannedLines(ranking=ranking), count=4, start=START))
    assert torch.equal(made, add_lines(start, ranking[None, :, None], 3))


@pytest.mark.parametrize("make", [
    lambda: acquire_actively(FULL, RandomLines(), count=3, start=START),
    lambda: acquire_actively(FULL, RandomLines(), count=30, start=START),
    lambda: acquire_actively(FULL, RandomLines(), count=8, start=START, per_step=0),
    lambda: acquire_actively(FULL, RandomLines(), count=12, start=UniformLines(acceleration=5, centre_lines=2)),
    lambda: acquire_actively(measure_lines(FULL, torch.eye(24)[:3][None, :, None]), RandomLines(), count=8,
                             start=START),
    lambda: acquire_actively(FULL, PlannedLines(ranking=torch.rand(1, 23)), count=8, start=START),
    lambda: acquire_actively(FULL, lambda measured, generator: torch.full((1, 3, 1, 24), torch.nan), count=8,
                             start=START),
    lambda: Disagreement(members=[CGSense()]),
])
def test_refuses_what_does_not_fit(make):
    with pytest.raises(SettingError, match="expected"):
        make()
