"""D5-C10(S) at a size that one CPU thread can train (``heart-d5-c5-s``): half the blocks, half the channels.

Otherwise as published (Schlemper et al. 2018): 3 x 3 x 3 kernels, data sharing before every block, one combined coil,
no noise, strips of simulated cines (those of ``heart-d5-c10-s``). The loss is the logarithm of the mean squared error,
so that strips of 2-fold and of 11-fold weigh alike in a short training.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.keys import Key
from firstread.learn.fit import fit
from firstread.nets.cascade import DeepCascade
from firstread.recipes.files import refuse_data, write_weight
from firstread.recipes.heart_d5_c10_s import Strip, strip
from firstread.recipes.heart_d5_c10_s import loss as squared_error

SUMMARY = "a smaller D5-C10(S) of Schlemper 2018 on simulated cines"
SEED, STEPS, COLUMNS = 0, 1600, 12


def network() -> DeepCascade:
    """Five blocks of five 3 x 3 x 3 convolutions of 32 channels, data sharing before each; 0.47 million parameters."""
    return DeepCascade(cascades=5, depth=5, width=32, kernel="tyx", sharing=(1, 2, 3, 4), resharing=True)


def loss(net: nn.Module, batch: Strip) -> Float[Tensor, ""]:
    """Half the logarithm of the mean squared error: the PSNR but for constants."""
    return 0.5 * squared_error(net, batch).log()


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write ``heart-d5-c5-s.safetensors``; interrupted, the same call continues. data: refused."""
    refuse_data(data, "heart-d5-c5-s")
    torch.manual_seed(SEED)
    key, net = Key(SEED, "heart_d5_c5_s"), network().to(device)
    fit(net, lambda step: strip(key, step, COLUMNS).to(device), loss, steps=steps or STEPS, seed=SEED,
        checkpoint=output / "heart-d5-c5-s.pt", learning_rate=1e-3, warmup=50, weight_decay=1e-6, averaging=0.99,
        every=50)
    return write_weight(net, output / "heart-d5-c5-s.safetensors")
