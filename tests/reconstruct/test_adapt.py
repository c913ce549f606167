"""Adaptation at test time: helps where the scan can teach something, is undone where it cannot, and no more."""

from dataclasses import replace

import pytest
import torch
from samples import blob, kspace

from firstread.acquire.coils import GaussianCoils
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import FullySampled
from firstread.core.case import Case
from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.core.stage import Chain
from firstread.nets.cascade import DeepCascade
from firstread.reconstruct.adapt import AdaptedCascade, adapt, hold_out, line_errors
from firstread.reconstruct.cascade import Cascade
from firstread.reconstruct.problem import problem_of


def untrained(seed: int = 0) -> DeepCascade:
    """A network that has never seen a scan: it gives back what was measured, zeros elsewhere."""
    torch.manual_seed(seed)
    return DeepCascade(cascades=1, depth=2, width=8, sharing=(4,), consistency=0.05, steps=3).eval()


def distance(image: torch.Tensor) -> float:
    """From the true image, magnitudes, one scale for all."""
    one, true = image.abs(), blob(8).data.abs()
    one = one.detach()
    return float((one * (one * true).sum() / one.square().sum() - true).norm() / true.norm())


def test_adapting_helps_a_network_that_does_not_fit():
    stage = AdaptedCascade(network=untrained(), steps=40, learning_rate=1e-2, held=0.2)
    adapted, plain = stage(kspace(8), Key(0, "adapted_cascade")), Cascade(network=stage.network)(kspace(8))
    assert [note.code for note in adapted.notes] == ["adapted"]
    assert distance(adapted.data) < 0.9 * distance(plain.data)


def test_noise_alone_teaches_nothing_and_is_rolled_back():
    made = kspace(8)
    noise = torch.randn(made.data.shape, generator=torch.Generator().manual_seed(0), dtype=made.data.dtype)
    problem = problem_of(replace(made, data=(made.mask * noise)[:, :, :1], noise_covariance=None))
    network = untrained()
    after, found = adapt(network, problem, torch.Generator().manual_seed(1), steps=10, learning_rate=1e-3, held=0.2)
    assert found.rolled_back and found.steps == 0 and found.before == pytest.approx(1, abs=1e-5)
    for one, other in zip(network.state_dict().values(), after.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_steps_that_are_too_large_are_rolled_back_to_the_plain_reconstruction():
    stage = AdaptedCascade(network=untrained(), steps=10, learning_rate=100.0, held=0.2)
    done = Chain(stage)(Case({"kspace": kspace(8)}))
    assert [note.code for note in done.notes] == ["adaptation_rolled_back"]
    assert "10 steps did not help" in done.notes[0].text
    torch.testing.assert_close(done["reconstruction"].data, Cascade(network=untrained())(kspace(8)).data)


def test_the_network_given_stays_as_it_is_also_in_inference_mode():
    network = untrained()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stage = AdaptedCascade(network=network, steps=4, check_every=2, learning_rate=1e-2, held=0.2)
    with torch.inference_mode():
        first = stage(kspace(8), Key(3, "adapted_cascade"))
    second = stage(kspace(8), Key(3, "adapted_cascade"))
    assert torch.equal(first.data, second.data.detach()) and first.notes == second.notes
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_held_out_lines_are_measured_ones_off_the_centre():
    lines = problem_of(kspace(8)).encoding.mask != 0
    held = hold_out(lines, 0.5, torch.Generator().manual_seed(0))
    assert bool((lines | ~held).all()) and not bool(held[..., 8:16, :].any()) and bool(held.any())


def test_a_perfect_prediction_has_no_error():
    problem = problem_of(kspace(8))
    lines = problem.encoding.mask != 0
    assert float(line_errors(problem.measured, problem.measured, lines).max()) < 1e-6
    assert float(line_errors(0 * problem.measured, problem.measured, lines).mean()) == pytest.approx(1, abs=1e-4)


def test_too_few_lines_and_bad_settings_are_refused():
    generator = torch.Generator()
    with pytest.raises(SettingError, match="lines to hold out"):
        adapt(untrained(), problem_of(kspace(2)), generator, steps=5)
    image = AdaptedCascade(network=untrained(), steps=5)(kspace(2), Key(0, "adapted_cascade"))
    assert [n.code for n in image.notes] == ["adaptation_rolled_back"] and "8 or more are needed" in image.notes[0].text
    torch.testing.assert_close(image.data, Cascade(network=untrained())(kspace(2)).data)
    with pytest.raises(SettingError, match="held below"):
        adapt(untrained(), problem_of(kspace(8)), generator, steps=5, held=0.6)


def test_one_mask_for_all_frames_is_split_frame_by_frame():
    full = Encode(sampling=FullySampled(), coils=GaussianCoils(count=3), snr=50.0)(blob(8), Key(1, "encode"))
    problem = problem_of(replace(full, mask=full.mask[:, :1]))
    assert problem.encoding.mask.shape[1] == 1
    adapted, found = adapt(untrained(), problem, torch.Generator().manual_seed(0), steps=2, check_every=2)
    assert found.tried == 2 and isinstance(adapted, DeepCascade)
