"""The recipe of the prior on hearts: its examples, its resumption, and the weight that it leaves."""

import json

import pytest
import torch
from torch import nn

from firstread.chains.posterior import posterior
from firstread.core.errors import InputError, SettingError
from firstread.core.keys import Key
from firstread.nets.score import CineDenoiser
from firstread.recipes import heart_prior
from firstread.recipes.heart_cascade import moving_texture
from firstread.recipes.registry import find


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Textures in the place of hearts, which take seconds, and a network of fewer channels."""
    monkeypatch.setattr(heart_prior, "network", lambda: CineDenoiser(widths=(4, 8)))
    monkeypatch.setattr(heart_prior, "phantom",
                        lambda number: moving_texture(torch.Generator().manual_seed(number))[None])
    monkeypatch.setattr(heart_prior, "PATCH", 16)


def test_an_example_is_a_function_of_its_step():
    key = Key(0, "heart_prior")
    for one, other in zip(heart_prior.example(key, 3).noisy, heart_prior.example(key, 3).noisy, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(heart_prior.example(key, 3).noise, heart_prior.example(key, 4).noise)


def test_noise_has_the_level_that_it_states():
    key = Key(0, "heart_prior")
    share = []
    for step in range(8):
        made = heart_prior.example(key, step)
        share += [((n - c).abs().square().mean() / s**2).item()
                  for c, n, s in zip(made.clean, made.noisy, made.noise, strict=True)]
        assert all(0.01 <= s <= 0.8 for s in made.noise.tolist())
    assert sum(share) / len(share) == pytest.approx(1, abs=0.1)


class Shrinking(nn.Module):
    """The white prior's mean, with ``factor`` times its true mean square error as the variance."""

    def __init__(self, batch: heart_prior.Example, factor: float):
        super().__init__()
        self.batch, self.factor = batch, factor

    def forward(self, noisy: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        [clean] = [c for c, n in zip(self.batch.clean, self.batch.noisy, strict=True) if n is noisy]
        mean = 0.25 / (0.25 + noise**2) * noisy
        return mean, (self.factor * (mean - clean).abs().square().mean()).expand(noisy.shape)


def test_the_loss_is_least_for_the_right_variance():
    batch = heart_prior.example(Key(0, "heart_prior"), 1)
    low, right, high = (heart_prior.loss(Shrinking(batch, factor), batch).item() for factor in (0.7, 1.0, 1.4))
    assert right < min(low, high)


def test_interrupted_training_ends_at_the_same_weights(tmp_path):
    from firstread.learn.fit import fit

    whole = heart_prior.train(tmp_path / "whole", steps=3)
    torch.manual_seed(0)
    key, net = Key(0, "heart_prior"), heart_prior.network()
    fit(net, lambda step: heart_prior.example(key, step), heart_prior.loss, steps=3, seed=0,
        checkpoint=tmp_path / "parts" / "heart-prior.pt", learning_rate=2e-3, warmup=100, weight_decay=1e-5,
        averaging=0.995, stop=lambda done: done == 2)
    parts = heart_prior.train(tmp_path / "parts", steps=3)
    from safetensors.torch import load_file

    for name, value in load_file(whole).items():
        torch.testing.assert_close(load_file(parts)[name].float(), value.float(), rtol=2e-3, atol=1e-5)


def test_refuses_real_data(tmp_path):
    with pytest.raises(SettingError):
        find("heart-prior").train(tmp_path, "cpu", 1, tmp_path)


def test_a_weight_file_makes_a_posterior(tmp_path):
    path = heart_prior.train(tmp_path, steps=1)
    path.with_suffix(".json").write_text(json.dumps({"network": heart_prior.network().settings()}))
    stage = posterior(str(path))
    assert stage.random and stage.start.name == "temporal_tv"
    with pytest.raises(InputError):
        posterior(str(tmp_path / "none.safetensors"))
