"""The training loop: what it learns, and that being killed changes nothing."""

import math
import signal

import pytest
import torch
from torch import nn

from firstread.core.errors import FormatError, SettingError, SignalError
from firstread.learn.device import usable_device
from firstread.learn.fit import fit, learning_rate_at
from firstread.learn.prefetch import Prefetched


def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 3, generator=generator)
    return x, x @ torch.tensor([[1.0], [-2.0], [0.5]])


def loss(model: nn.Module, batch) -> torch.Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))


class Killed(Exception):
    pass


def test_a_killed_run_ends_at_the_same_weights(tmp_path):
    whole = fit(network(), batches, loss, steps=30, checkpoint=tmp_path / "whole.pt", every=10)

    def dies(step: int):
        if step == 17:
            raise Killed
        return batches(step)

    with pytest.raises(Killed):
        fit(network(), dies, loss, steps=30, checkpoint=tmp_path / "killed.pt", every=10)
    resumed = fit(network(), batches, loss, steps=30, checkpoint=tmp_path / "killed.pt", every=10)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert not list(tmp_path.glob("*.part"))


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    whole = fit(network(), batches, loss, steps=20, checkpoint=tmp_path / "whole.pt")
    fit(network(), batches, loss, steps=20, checkpoint=tmp_path / "stopped.pt", stop=lambda done: done == 7)
    resumed = fit(network(), batches, loss, steps=20, checkpoint=tmp_path / "stopped.pt")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_control_c_keeps_what_was_learned(tmp_path):
    whole = fit(network(), batches, loss, steps=20, checkpoint=tmp_path / "whole.pt")

    def interrupted(step: int):
        if step == 7:
            signal.raise_signal(signal.SIGINT)
        return batches(step)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), interrupted, loss, steps=20, checkpoint=tmp_path / "stopped.pt")
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(tmp_path / "stopped.pt", weights_only=True)["step"] == 8
    resumed = fit(network(), batches, loss, steps=20, checkpoint=tmp_path / "stopped.pt")
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("name", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(SettingError, match=name):
        usable_device(name)


def test_it_learns_a_line(tmp_path):
    torch.manual_seed(0)
    model = fit(nn.Linear(3, 1), batches, loss, steps=300, checkpoint=tmp_path / "line.pt", learning_rate=0.1,
                warmup=5, averaging=0.9)
    assert torch.allclose(model.weight, torch.tensor([[1.0, -2.0, 0.5]]), atol=0.02)


def test_the_random_state_outside_is_left_alone(tmp_path):
    model = network()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    fit(model, batches, loss, steps=2, checkpoint=tmp_path / "a.pt")
    assert torch.equal(before, torch.random.get_rng_state())


def test_learning_rate_rises_then_falls():
    rates = [learning_rate_at(k, steps=100, peak=2.0, warmup=10) for k in range(101)]
    assert rates[9] == 2.0 and rates == [*sorted(rates[:10]), *sorted(rates[10:], reverse=True)]
    assert math.isclose(rates[100], 0.02)


def test_ahead_gives_the_same_batches_also_after_a_jump():
    ahead = Prefetched(batches, last=6)
    for step in (2, 3, 4, 0, 1):
        assert torch.equal(ahead(step)[0], batches(step)[0])


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    fit(network(), batches, loss, steps=2, checkpoint=tmp_path / "a.pt")
    with pytest.raises(FormatError, match="same settings"):
        fit(network(), batches, loss, steps=3, checkpoint=tmp_path / "a.pt")
    with pytest.raises(FormatError, match="of another model"):
        fit(nn.Linear(3, 1), batches, loss, steps=2, checkpoint=tmp_path / "a.pt")


def test_a_damaged_checkpoint_is_refused(tmp_path):
    fit(network(), batches, loss, steps=2, checkpoint=tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for damaged in (b"no checkpoint", b"", whole[:100], whole[:-30], whole[: len(whole) // 2]):
        (tmp_path / "a.pt").write_bytes(damaged)
        with pytest.raises(FormatError, match=r"a\.pt, a damaged checkpoint.*remove that file") as said:
            fit(network(), batches, loss, steps=2, checkpoint=tmp_path / "a.pt")
        assert str(tmp_path / "a.pt") in str(said.value)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(SignalError, match="step 0"):
        fit(network(), batches, lambda m, b: loss(m, b) * math.nan, steps=2, checkpoint=tmp_path / "a.pt")
    with pytest.raises(SettingError):
        fit(network(), batches, loss, steps=0, checkpoint=tmp_path / "a.pt")
