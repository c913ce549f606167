"""The endpoint recipe in miniature: it learns, it resumes, its arms differ only in where gradients go."""

import json
from pathlib import Path

import pytest
import torch

from firstread.acquire.coils import LoopCoils
from firstread.chains.heart import heart_chain
from firstread.core.errors import SettingError
from firstread.core.provenance import weights_hash
from firstread.learn.joint import accumulate, freeze
from firstread.recipes import endpoint
from firstread.recipes.endpoint import (
    ARMS,
    Setting,
    chain_of,
    first_parts,
    load_parts,
    numbers_of,
    objective_of,
    train_arm,
)
from firstread.recipes.endpoint_pool import Stack, case_of, store_all
from firstread.zoo.store import load

TINY = Setting(stack=Stack(lines=48, columns=24, frames=4, slices=2, spacing_mm=5.0), subjects=1, acceleration=4.0,
               coils=3, iterations=3, patch=64)


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> list[Path]:
    return store_all(tmp_path_factory.mktemp("pool"), TINY.stack, "train", 2)


def test_subjects_are_stored_once_and_hold_their_truth(pool):
    before = pool[0].stat().st_mtime_ns
    assert store_all(pool[0].parent, TINY.stack, "train", 1) == pool[:1] and pool[0].stat().st_mtime_ns == before
    case = case_of(pool[0], seed=3)
    assert case["truth.image"].data.shape == (1, 4, 1, 2, 48, 24) and case["truth.image"].data.is_complex()
    labels = case["truth.labels"].data
    assert set(labels.unique().tolist()) == {0, 1, 2, 3} and (labels[0, 0, 0] == 1).flatten(1).any(dim=1).all()
    curve = (labels == 1).flatten(2).sum(dim=2)[0].double()
    assert case["truth.phenotypes"]["LVEF"].value.item() == pytest.approx((100 * (1 - curve.min() / curve[0])).item())
    assert 10 < case["truth.whole"]["LVEF"].value.item() < 85
    blood = case["truth.image"].data.abs()[labels == 1].mean()
    assert blood > 1.3 * case["truth.image"].data.abs()[labels == 2].mean(), "labels lie where the image's heart is"


def test_the_first_mask_is_random_with_the_exact_budget():
    lines = first_parts(TINY, seed=1).lines()
    assert [len(row) for row in lines] == [12] * 4 and all({22, 23, 24, 25} <= set(row) for row in lines)
    assert lines[0] != lines[1] and first_parts(TINY, seed=1).lines() == lines != first_parts(TINY, seed=2).lines()


@pytest.mark.parametrize("arm", sorted(ARMS))
def test_gradients_of_an_arm_go_where_they_should(arm, pool):
    parts = first_parts(TINY, seed=0)
    chain = chain_of(parts, TINY, sees=ARMS[arm].sees)
    if not ARMS[arm].learned:
        freeze(chain, "kspace")
    case, both = case_of(pool[0], seed=0), objective_of(TINY)
    for net in (parts.cascade, parts.segmenter):
        net.zero_grad()
    accumulate(chain, [case], both)
    assert (parts.mask.logits.grad is not None) == ARMS[arm].learned
    whole = parts.cascade.blocks[0].layers[0].weight.grad.clone()
    assert parts.segmenter.logits.weight.grad.abs().sum() > 0
    parts.cascade.zero_grad()
    both.parts([chain(case)])[0].backward()
    alone = parts.cascade.blocks[0].layers[0].weight.grad
    same = torch.allclose(whole, alone, rtol=1e-3, atol=1e-6 * whole.abs().max().item())
    assert same == (ARMS[arm].sees != "reconstruction"), "contours train the cascade in the joint arms alone"


@pytest.mark.slow
def test_joint_training_lowers_its_loss_and_resumes(pool, tmp_path):
    before = endpoint.batches_of(pool[:1], seed=5, device="cpu")(0)
    start = chain_of(first_parts(TINY, seed=0), TINY)
    with torch.no_grad():
        first = objective_of(TINY)([start(before[0])]).item()
    arguments = {"arm": "joint", "setting": TINY, "pool": pool[:1], "steps": 8, "seed": 0}

    class Killed(Exception):
        pass

    def dies(step: int, _: float) -> None:
        if step == 5:
            raise Killed

    whole = train_arm(tmp_path / "whole", **arguments)
    with pytest.raises(Killed):
        train_arm(tmp_path / "killed", **arguments, report=dies)
    train_arm(tmp_path / "killed", **arguments)
    one, other = ((tmp_path / n / "joint.safetensors").read_bytes() for n in ("whole", "killed"))
    assert one == other
    with torch.no_grad():
        last = objective_of(TINY)([chain_of(whole, TINY)(before[0])]).item()
    assert last < 0.9 * first
    parts, setting = load_parts(tmp_path / "whole" / "joint.safetensors")
    assert setting == TINY and parts.lines() == whole.lines()
    case = case_of(pool[1], seed=9)
    found = numbers_of(parts, setting, case, coils=LoopCoils(count=3))
    assert found == numbers_of(whole, TINY, case, coils=LoopCoils(count=3))
    assert set(found) >= {"NRMSE", "Dice LV cavity", "LVEF", "LVEF true"} and found["NRMSE"] < 0.6


@pytest.mark.slow
def test_the_command_s_function_writes_weights_and_card(tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "Setting", lambda: TINY)
    endpoint.train(tmp_path, "cpu", 1, None)
    card = json.loads((tmp_path / "endpoint.json").read_text())
    weights = str(tmp_path / "endpoint.safetensors")
    monkeypatch.undo()
    chain, made = heart_chain(raw=True, weights=weights), load_parts(Path(weights))[0]
    for found, trained in ((chain.stage("image").network, made.cascade),
                           (chain.stage("labels.members").networks[0], made.segmenter)):
        assert weights_hash(found) == weights_hash(trained), "`read` takes both networks out of the file"
    assert [len(row) for row in card["lines"]] == [12] * 4 and card["arm"] == "joint" and card["steps"] == 1
    assert {name.split(".")[0] for name in load(tmp_path / "endpoint.safetensors").state} == {
        "mask", "cascade", "segmenter"}


def test_bad_input(tmp_path):
    with pytest.raises(SettingError, match="one of separate, fine-tuned"):
        train_arm(tmp_path, arm="both", setting=TINY, pool=[], steps=1)
    with pytest.raises(SettingError, match="simulation alone"):
        endpoint.train(tmp_path, "cpu", 1, tmp_path)
    with pytest.raises(SettingError, match="centre lines"):
        first_parts(Setting(stack=TINY.stack, acceleration=16.0), seed=0)
