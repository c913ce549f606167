"""D5-C10(S) as published (``heart-d5-c10-s``): one combined coil, no noise in training, strips of a cine.

After Schlemper et al. 2018 on simulated cines: all lines, all frames, 24 readout columns, mean squared error, Adam. One
step of this network costs minutes on one CPU thread: it is meant for a GPU (``--device cuda``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from firstread.acquire.sampling import VariableDensity
from firstread.core.keys import Key
from firstread.learn.fit import fit
from firstread.nets.cascade import d5_c10_s
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.fourier import fft
from firstread.recipes.files import refuse_data, write_weight
from firstread.recipes.heart_cascade import COLUMNS, SIZE, moving_texture, phantom

SUMMARY = "D5-C10(S) of Schlemper 2018 on simulated cines (for a GPU)"
SEED, STEPS = 0, 20_000


@dataclass(frozen=True)
class Strip:
    """Some columns of a cine, in hybrid space: k-space along y, positions along x."""

    measured: Complex[Tensor, "1 time 1 1 y x"]
    mask: Float[Tensor, "1 time 1 1 y 1"]
    target: Complex[Tensor, "1 time 1 1 y x"]

    def to(self, device: str) -> Strip:
        return Strip(self.measured.to(device), self.mask.to(device), self.target.to(device))


def strip(key: Key, step: int, columns: int = COLUMNS) -> Strip:
    """The strip of one step: a function of the step alone. columns: of the readout, how many."""
    generator = key.generator(step)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    if uniform(0, 1) < 0.7:
        pool = phantom(int(uniform(0, 14)))
        cine = pool[int(uniform(0, len(pool)))]
    else:
        cine = moving_texture(generator)
    first = int(uniform(0, SIZE - columns + 1))
    target = (cine / cine.abs().max())[None, :, None, None, :, first : first + columns]
    sampling = VariableDensity(acceleration=uniform(2, 11), centre_lines=8)
    mask = sampling(len(cine), SIZE, generator)[None, :, None, None, :, None]
    return Strip(mask * fft(target, ("y",)), mask, target)


def loss(net: nn.Module, batch: Strip) -> Float[Tensor, ""]:
    """Mean squared error of the complex image."""
    error = net(batch.measured, CartesianEncoding(mask=batch.mask, fourier_axes=("y",))) - batch.target
    return torch.view_as_real(error).square().mean()


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write ``heart-d5-c10-s.safetensors``; interrupted, the same call continues. data: refused."""
    refuse_data(data, "heart-d5-c10-s")
    torch.manual_seed(SEED)
    key, net = Key(SEED, "heart_d5_c10_s"), d5_c10_s().to(device)
    fit(net, lambda step: strip(key, step).to(device), loss, steps=steps or STEPS, seed=SEED,
        checkpoint=output / "heart-d5-c10-s.pt", learning_rate=1e-3, warmup=100, weight_decay=1e-6, averaging=0.995,
        every=100)
    return write_weight(net, output / "heart-d5-c10-s.safetensors")
