"""The recipes of learned reconstruction: scans are functions of the step, losses learn, weights come back."""

from dataclasses import replace

import pytest
import torch

from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.learn.ssdu import keep_lines, split_lines
from firstread.nets.modl import ModelBased
from firstread.nets.varnet import VariationalNetwork
from firstread.recipes import (
    evaluate_varnet,
    heart_d5_c5_s,
    heart_d5_c10_s,
    heart_recurrent,
    modl,
    varnet,
    varnet_ssdu,
)
from firstread.recipes.heart_cascade import moving_texture
from firstread.recipes.registry import find, names
from firstread.reconstruct.direct import ZeroFilled
from firstread.reconstruct.varnet import VarNet
from firstread.zoo.store import load

KEY = Key(0, "varnet")


def small() -> VariationalNetwork:
    torch.manual_seed(0)
    return VariationalNetwork(cascades=1, widths=(4, 8), map_widths=(4, 4))


def test_examples_depend_on_the_step_alone():
    first, again, other = (varnet.example(KEY, step) for step in (3, 3, 4))
    assert torch.equal(first.problem.measured, again.problem.measured) and torch.equal(first.target, again.target)
    assert first.target.shape != other.target.shape or not torch.equal(first.target, other.target)


@pytest.mark.parametrize("step", range(4))
def test_the_target_is_what_full_sampling_without_noise_would_show(step):
    made = varnet.example(KEY, step)
    assert made.target.shape[-1] == varnet.COLUMNS and made.target.shape[-2] in varnet.LINES
    zero_filled = made.problem.rhs().abs()
    assert 0.2 < torch.corrcoef(torch.stack((zero_filled.flatten(), made.target.flatten())))[0, 1] <= 1
    assert made.problem.measured.shape[2] >= 4


def test_the_supervised_loss_learns_one_example():
    net, one = small(), varnet.example(KEY, 1)
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=3e-3), []
    for _ in range(6):
        optimizer.zero_grad()
        losses.append(varnet.loss(net, one))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_the_self_supervised_loss_sees_no_line_that_it_asks_for():
    """The prediction is the same whatever stood on the held-back lines; its loss is not."""
    kspace, _ = varnet_ssdu.batch(KEY, 2)
    split = split_lines(kspace, torch.Generator().manual_seed(0), centre=6)
    spoilt = replace(kspace, data=torch.where(split.wanted, 9 + kspace.data, kspace.data))
    net = small()
    with torch.no_grad():
        one, other = (varnet_ssdu.predict(net, keep_lines(k, split.given)) for k in (kspace, spoilt))
    assert torch.equal(one, other) and one.shape == kspace.data.shape


def test_the_self_supervised_loss_reaches_all_parameters():
    net = small()
    varnet_ssdu.loss(net, varnet_ssdu.batch(KEY, 2)).backward()
    reached = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"sensitivities", "corrections"} <= reached


def test_training_in_miniature_writes_a_weight_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(varnet, "network", small)
    monkeypatch.setattr(modl, "network", lambda: ModelBased(iterations=1, depth=2, width=4, steps=2))
    path = varnet.train(tmp_path, steps=2)
    net = VariationalNetwork.from_weight(small().settings(), load(path).state)
    assert net.cascades == 1
    assert modl.train(tmp_path, steps=1).is_file()


def test_the_evaluation_puts_all_methods_under_the_same_masks(monkeypatch):
    monkeypatch.setattr(evaluate_varnet, "ACCELERATIONS", (2.0,))
    stages = {"zero-filled": ZeroFilled(), "VarNet": VarNet(network=small())}
    cells = evaluate_varnet.measure("objects", "object 0", evaluate_varnet.simulated(0), stages, masks=2)
    assert [c["method"] for c in cells] == 2 * ["zero-filled", "VarNet"]
    assert cells[0]["psnr_db"] != cells[2]["psnr_db"] and all(5 < c["psnr_db"] < 60 for c in cells)


def test_recipes_refuse_real_data(tmp_path):
    for recipe in (varnet, varnet_ssdu, modl, heart_recurrent, heart_d5_c10_s, heart_d5_c5_s):
        with pytest.raises(SettingError, match="simulation"):
            recipe.train(tmp_path, data=tmp_path)


def test_the_strips_of_d5_c10_s_are_consistent(monkeypatch):
    textures = torch.Generator().manual_seed(1)
    monkeypatch.setattr(heart_d5_c10_s, "phantom", lambda number: moving_texture(textures)[None])
    made = heart_d5_c10_s.strip(KEY, 0)
    assert made.target.abs().max() <= 1.0001
    assert torch.equal(made.mask * made.measured, made.measured)


def test_the_smaller_d5_c10_s_learns_from_one_strip(monkeypatch, tmp_path):
    textures = torch.Generator().manual_seed(1)
    cine = moving_texture(textures)[None]
    monkeypatch.setattr(heart_d5_c10_s, "phantom", lambda number: cine)
    monkeypatch.setattr(heart_d5_c5_s, "COLUMNS", 4)
    heart_d5_c5_s.train(tmp_path, steps=2)
    net = heart_d5_c5_s.network()
    net.load_state_dict(load(tmp_path / "heart-d5-c5-s.safetensors").state)
    assert torch.isfinite(heart_d5_c5_s.loss(net, heart_d5_c10_s.strip(KEY, 0, 4)))


def test_all_recipes_are_registered():
    for name in names():
        assert find(name).SUMMARY
