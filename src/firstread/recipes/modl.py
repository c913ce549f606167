"""MoDL for multi-coil images (``modl``): the scans of the recipe ``varnet``, one denoiser for all iterations."""

from __future__ import annotations

from pathlib import Path

import torch

from firstread.core.keys import Key
from firstread.learn.fit import fit
from firstread.nets.modl import ModelBased
from firstread.recipes.files import refuse_data, write_weight
from firstread.recipes.varnet import SEED, example, loss

SUMMARY = "MoDL for multi-coil images, any anatomy"
STEPS = 800


def network() -> ModelBased:
    """Six iterations, each gradient step of conjugate gradients implicit."""
    return ModelBased(iterations=6, depth=5, width=32, consistency=0.05, steps=6)


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write ``modl.safetensors``; interrupted, the same call continues. data: refused."""
    refuse_data(data, "modl")
    torch.manual_seed(SEED)
    key, net = Key(SEED, "modl"), network().to(device)
    fit(net, lambda step: example(key, step).to(device), loss, steps=steps or STEPS, seed=SEED,
        checkpoint=output / "modl.pt", learning_rate=1e-3, warmup=50, weight_decay=1e-5, averaging=0.99, every=25)
    return write_weight(net, output / "modl.safetensors")
