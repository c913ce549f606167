"""The recipe of the promptable network: scenes, users, a short training, its weight by file and by name."""

import json
from dataclasses import replace

import pytest
import torch

from firstread.analyze.prompt_channels import CHANNELS, SIZE
from firstread.analyze.prompt_network import PromptedNetwork
from firstread.analyze.random_walk import RandomWalker
from firstread.chains.prompted import open_promptable
from firstread.core.errors import FormatError, InputError, SettingError
from firstread.core.keys import Key
from firstread.learn.losses import UNKNOWN
from firstread.recipes import evaluate_prompt, prompt_network
from firstread.recipes.prompt_scenes import draw_scene
from firstread.recipes.prompt_users import draw_task, draw_tasks
from firstread.recipes.registry import find

KEY = Key(0, "test")


def test_a_scene_depends_on_its_number_alone():
    first, again, other = (draw_scene(KEY, n) for n in (3, 3, 4))
    assert torch.equal(first.images, again.images) and torch.equal(first.truth, again.truth)
    assert not torch.equal(first.images, other.images)


def test_scenes_are_finite_differ_in_size_and_neighbours_are_alike():
    sizes, overlaps, missing = [], [], 0
    for number in range(60):
        scene = draw_scene(KEY, number)
        assert torch.isfinite(scene.images).all() and float(scene.images.std()) > 0
        here, beside = scene.truth
        missing += not bool(here.any())
        sizes.append(int(beside.sum()))
        if here.any():
            overlaps.append(2 * float((here & beside).sum()) / float(here.sum() + beside.sum()))
    assert min(sizes) < 150 and max(sizes) > 2000 and 0 < missing < 20
    assert sorted(overlaps)[len(overlaps) // 2] > 0.6


def test_tasks_of_a_step_are_of_all_kinds_and_depend_on_its_number_alone():
    kinds = set()
    for step in range(12):
        tasks, again = draw_tasks(KEY, step), draw_tasks(KEY, step)
        assert len(tasks) == 8
        for task, same in zip(tasks, again, strict=True):
            assert torch.equal(task.input(), same.input()) and torch.equal(task.target(), same.target())
            assert task.input().shape == (CHANNELS, SIZE, SIZE) and torch.isfinite(task.input()).all()
            assert set(task.target().unique().tolist()) <= {0, 1, UNKNOWN}
            kinds.add((task.prompt.box is not None, task.prompt.before is not None, task.corrections > 0))
            assert task.prompt.said or task.prompt.before is not None
    assert len(kinds) >= 5


def test_clicks_of_a_user_lie_on_the_object_and_corrections_where_it_is_wrong():
    for number in range(12):
        scene = draw_scene(KEY, number)
        task = draw_task(scene, KEY.generator(number), "click")
        y, x = task.prompt.points[0].long().tolist()
        if task.prompt.before is None:
            assert task.truth[y, x] and task.prompt.positive.all()
        goal = task.target()
        for found in (torch.zeros_like(goal).bool(), torch.ones_like(goal).bool()):
            if int((found != (goal == 1))[goal != UNKNOWN].sum()) < 30:
                continue
            more = replace(task, corrections=1).corrected(found, KEY.generator(number))
            assert more.corrections == 0 and len(more.prompt.points) == len(task.prompt.points) + 1
            y, x = more.prompt.points[-1].long().tolist()
            assert bool(more.prompt.positive[-1]) == bool(task.truth[y, x])
            assert 0 <= y < task.truth.shape[0] and 0 <= x < task.truth.shape[1]
        assert task.corrected(goal == 1, KEY.generator(number)) is task


def test_a_few_steps_go_downhill():
    torch.manual_seed(0)
    network = prompt_network.network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    values = []
    for step in range(12):
        value = prompt_network.loss(network, prompt_network.batches(KEY, step % 2))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert sum(values[-4:]) < 0.9 * sum(values[:4])


def test_a_killed_training_ends_at_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_network, "WIDTHS", (4, 8))
    whole = prompt_network.train(tmp_path / "whole", steps=4)
    plain, calls = prompt_network.batches, []

    def breaking(key, step):
        calls.append(step)
        if step == 3 and calls.count(3) == 1:
            raise KeyboardInterrupt
        return plain(key, step)

    monkeypatch.setattr(prompt_network, "EVERY", 1)
    monkeypatch.setattr(prompt_network, "batches", breaking)
    with pytest.raises(KeyboardInterrupt):
        prompt_network.train(tmp_path / "killed", steps=4)
    again = prompt_network.train(tmp_path / "killed", steps=4)
    assert calls == [0, 1, 2, 3, 3] and whole.read_bytes() == again.read_bytes()
    method = open_promptable(again, reach_mm=20.0)
    assert isinstance(method, PromptedNetwork) and method.reach_mm == 20.0
    card = json.loads((tmp_path / "whole" / "prompt.json").read_text())
    assert card["steps"] == 4 and card["recipe"] == "prompt_network" and "person" in card["data"]
    about = again.with_suffix(".json")
    about.write_text(json.dumps({**card, "network": {"channels_in": CHANNELS, "widths": [4, 4]}}))
    with pytest.raises(FormatError, match="another network"):
        open_promptable(again)
    about.write_text("{")
    with pytest.raises(InputError, match="without its card"):
        open_promptable(again)
    again.write_bytes(again.read_bytes()[:200])
    with pytest.raises(FormatError, match="damaged"):
        open_promptable(again)


def test_the_recipe_is_registered_and_takes_no_data(tmp_path):
    assert find("prompt") is prompt_network
    with pytest.raises(SettingError, match="data"):
        prompt_network.train(tmp_path, data=tmp_path)


def test_methods_by_name():
    assert isinstance(open_promptable("walker", reach_mm=7.0), RandomWalker)
    assert isinstance(open_promptable(), PromptedNetwork) and isinstance(open_promptable("prompt", thin=True),
                                                                         PromptedNetwork)
    both = open_promptable(thin=True, reach_mm=7.0)
    assert isinstance(both.pointed, PromptedNetwork) and isinstance(both.carried, RandomWalker)
    assert both.points and both.channels == (1,) and both.carried.reach_mm == both.pointed.reach_mm == 7.0
    with pytest.raises(InputError, match="no weights at scribble"):
        open_promptable("scribble")


def test_measured_on_simulated_scenes_and_put_into_the_card(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate_prompt, "SCENES", 8)
    monkeypatch.setattr(evaluate_prompt, "HEARTS", 1)
    monkeypatch.setattr(prompt_network, "WIDTHS", (4, 8))
    prompt_network.train(tmp_path, steps=1)
    assert evaluate_prompt.main([str(tmp_path)]) == 0
    card = json.loads((tmp_path / "prompt.json").read_text())
    found = card["evaluation"]["random walker"]["shapes"]
    assert set(found) == {*evaluate_prompt.TOLD, "ended"} and found["box"].startswith("0.")
    text = (tmp_path / "prompt.md").read_text()
    assert "| shapes | network | " in text and "| hearts | random walker | " in text and "## Limits" in text
    assert evaluate_prompt.main([str(tmp_path / "nothing")]) == 2
    assert "train it" in capsys.readouterr().err
