"""Somebody's own segmentation network in the study of joint training: trained with the scanner, stored apart."""

import json
from dataclasses import replace

import pytest
import torch

from firstread.core.errors import InputError
from firstread.learn.joint import accumulate
from firstread.recipes.endpoint import Setting, chain_of, first_parts, load_parts, numbers_of, objective_of, train_arm
from firstread.recipes.endpoint_pool import Stack, case_of, store_all
from firstread.recipes.own_network import open_network
from firstread.recipes.study_endpoint import label_of

NETWORK = """
import torch
def build():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
def wrong():
    return 3
"""
TINY = Setting(stack=Stack(lines=48, columns=24, frames=4, slices=2, spacing_mm=5.0), subjects=1, acceleration=4.0,
               coils=3, iterations=3, patch=64)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return store_all(tmp_path_factory.mktemp("pool"), TINY.stack, "train", 2)


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> dict[str, str]:
    """A file with a function, and a network that was trained elsewhere with what it says of itself."""
    home = tmp_path_factory.mktemp("own")
    (home / "mine.py").write_text(NETWORK)
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
    torch.jit.script(net).save(str(home / "mine.ts"))
    (home / "mine.json").write_text(json.dumps(
        {"axes": "yx", "spacing_mm": [2.0, 2.0], "window": [64, 64], "intensity": [{"scheme": "zscore"}],
         "classes": ["background", "RV", "MYO", "LV"]}))
    return {"function": f"{home / 'mine.py'}:build", "model": str(home / "mine.ts")}


@pytest.mark.parametrize("kind", ["function", "model"])
def test_own_network_is_trained_with_mask_and_reconstruction(kind, own, pool, tmp_path):
    setting = replace(TINY, network=own[kind])
    assert label_of(setting, 1) == label_of(setting, 1) != label_of(TINY, 1)
    parts = first_parts(setting, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(parts.segmenter.state_dict().values(),
                                                 first_parts(setting, seed=1).segmenter.state_dict().values()))
    accumulate(chain_of(parts, setting), [case_of(pool[0], seed=0)], objective_of(setting))
    for part in (parts.mask, parts.cascade, parts.segmenter):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())
    train_arm(tmp_path, arm="joint", setting=setting, pool=pool[:1], steps=1)
    trained, again = load_parts(tmp_path / "joint.safetensors")
    assert again == setting
    moved = zip(trained.segmenter.parameters(), first_parts(setting, seed=0).segmenter.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in moved)
    assert set(numbers_of(trained, setting, case_of(pool[1], seed=1))) >= {"NRMSE", "LVEF", "Dice RV cavity"}


def test_bad_input(own, tmp_path):
    file = own["function"].split(":")[0]
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_like_it")
    for given, said in ((f"{file}:wrong", "no torch module"), (f"{file}:absent", "no torch module"),
                        (f"{tmp_path / 'no.py'}:build", "no file"), (f"{broken}:build", "ModuleNotFoundError"),
                        (str(tmp_path / "model.ts"), "nothing at model.ts")):
        with pytest.raises(InputError, match=said):
            open_network(given)
