"""The default weight of promptable segmentation (``prompt``), from simulated scenes and simulated users alone.

After ScribblePrompt (Wong 2024) and SynthSeg (Billot 2023): each step sees scenes that never come again
(recipes/prompt_scenes.py) and hearts (:func:`~firstread.acquire.slices.random_stacks`), users who point at one object
in them (recipes/prompt_users.py), and, of some, a click or two where the network itself is wrong.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from firstread.analyze.prompt_channels import CHANNELS
from firstread.core.keys import Key
from firstread.learn.fit import fit
from firstread.learn.losses import dice_cross_entropy
from firstread.nets.resunet import ResUNet
from firstread.recipes.files import refuse_data, write_text, write_weight
from firstread.recipes.prompt_users import Task, draw_tasks

NAME = "prompt"
SUMMARY = "a mask of what a click, a box or the mask of a neighbouring slice points at; simulated scenes alone"
SEED, STEPS, SCHEDULE, CORRECTING = 0, 6250, 7500, 2  # every second step has clicks where the network is wrong
WIDTHS, EVERY = (24, 48, 96, 192), 250
LIMITS = (
    "Trained for a quarter of an hour of one core on shapes of no anatomy and on simulated hearts, never on a real "
    "image: what is bounded by anatomy alone and not by what is seen is not found.",
    "One click does not say whether the object is meant or a part of it: a box or a second click says more.",
    "Carried through many thin slices the mask drifts, and it does not end where the object does: a box over the "
    "slices bounds it, best where the object fills it.",
    "Planes one by one, one channel of grey values; objects of 6 to some 100 pixels.",
    "Not for clinical use; look at every mask.")


def network() -> ResUNet:
    """The network of the weight, untrained."""
    return ResUNet(channels_in=CHANNELS, channels_out=2, widths=WIDTHS, strides=((2, 2),) * len(WIDTHS),
                   blocks=(1,) * len(WIDTHS))


def correct(model: nn.Module, tasks: list[Task], g: Generator, *, rounds: int) -> list[Task]:
    """The tasks with the clicks that their users would set next, having seen what the network makes of them."""
    device = next(model.parameters()).device
    for _ in range(rounds):
        open_ = [n for n, task in enumerate(tasks) if task.corrections > 0]
        if not open_:
            break
        with torch.no_grad():
            logits = model(torch.stack([tasks[n].input() for n in open_]).to(device)).cpu()
        tasks = list(tasks)
        for n, mask in zip(open_, logits[:, 1] > logits[:, 0], strict=True):
            tasks[n] = tasks[n].corrected(mask, g)
    return tasks


def loss(model: nn.Module, batch: tuple[list[Task], Generator, int]) -> Float[Tensor, ""]:
    """Cross entropy and soft Dice, the mean of the tasks, each by itself."""
    tasks, g, rounds = batch
    tasks = correct(model, tasks, g, rounds=rounds)
    device = next(model.parameters()).device
    logits = model(torch.stack([task.input() for task in tasks]).to(device))
    target = torch.stack([task.target() for task in tasks]).to(device, torch.int64)
    return torch.stack([dice_cross_entropy(row[None], goal[None])
                        for row, goal in zip(logits, target, strict=True)]).mean()


def batches(key: Key, step: int) -> tuple[list[Task], Generator, int]:
    """Tasks of a step, where their clicks are drawn from, and how many rounds of them come."""
    return draw_tasks(key, step), key.generator(step, -1), 2 if step % CORRECTING == 0 else 0


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write weight and card; interrupted, the same call continues. data: refused.

    The default weight was ended after ``STEPS`` of a schedule of ``SCHEDULE`` steps; ``steps`` sets both.
    """
    refuse_data(data, NAME)
    count, key = steps or STEPS, Key(SEED, "prompt")
    torch.manual_seed(SEED)
    net = fit(network().to(device), lambda step: batches(key, step), loss, steps=steps or SCHEDULE, seed=SEED,
              stop=lambda done: done >= count, learning_rate=2e-3, warmup=100, averaging=0.998,
              checkpoint=output / "prompt.pt", every=EVERY)
    card = {"name": NAME, "summary": SUMMARY, "recipe": "prompt_network", "seed": SEED, "steps": count,
            "data": f"{count} steps of eight tasks: six of three simulated scenes, two of a simulated heart; no image "
                    "of a person", "network": {"channels_in": CHANNELS, "widths": list(WIDTHS)},
            "licence": "Apache-2.0", "limits": list(LIMITS)}
    write_text(output / f"{NAME}.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    return write_weight(net, output / f"{NAME}.safetensors")
