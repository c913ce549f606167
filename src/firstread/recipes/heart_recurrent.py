"""The recurrent network for cines (``heart-recurrent``): the scans of the recipe ``heart-cascade``."""

from __future__ import annotations

from pathlib import Path

import torch

from firstread.core.keys import Key
from firstread.learn.fit import fit
from firstread.nets.crnn import RecurrentNetwork
from firstread.recipes.files import refuse_data, write_weight
from firstread.recipes.heart_cascade import SEED, example, second_loss

SUMMARY = "convolutional recurrent network for undersampled heart cines"
STEPS = 800


def network() -> RecurrentNetwork:
    """Four iterations of four layers of 24 channels."""
    return RecurrentNetwork(iterations=4, depth=4, width=24, consistency=0.1, steps=3)


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write ``heart-recurrent.safetensors``; interrupted, the same call continues. data: refused."""
    refuse_data(data, "heart-recurrent")
    torch.manual_seed(SEED)
    key, net = Key(SEED, "heart_recurrent"), network().to(device)
    fit(net, lambda step: example(key, step).to(device), second_loss, steps=steps or STEPS, seed=SEED,
        checkpoint=output / "heart-recurrent.pt", learning_rate=1.5e-3, warmup=40, weight_decay=1e-5, averaging=0.98,
        every=25)
    return write_weight(net, output / "heart-recurrent.safetensors")
