"""The variational network without a single fully sampled scan (``varnet-ssdu``; Yaman et al. 2020).

The scans of the recipe ``varnet``, but nothing of them beyond their measured lines: a random part of these is given,
the rest must be predicted (``learn.ssdu``). With one's own undersampled scans the same loss applies; put them in
``scan``'s place.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from firstread.core.keys import Key
from firstread.core.records import KSpace
from firstread.learn.fit import fit
from firstread.learn.ssdu import self_supervised_loss
from firstread.nets.varnet import VariationalNetwork
from firstread.ops.encoding import expand
from firstread.ops.fourier import fft, ifft
from firstread.recipes.files import refuse_data, write_weight
from firstread.recipes.varnet import SEED, network, scan
from firstread.reconstruct.problem import problem_of

SUMMARY = "variational network trained without fully sampled scans"
STEPS = 1100


def columns_of(kspace: KSpace, columns: slice) -> KSpace:
    """Some readout columns of a scan whose readout is fully sampled: positions, no longer frequencies, along x."""
    data = ifft(kspace.data, ("x",))[..., columns]
    grid = kspace.grid.crop((0, 0, columns.start), (*kspace.grid.shape[:2], columns.stop - columns.start))
    return replace(kspace, data=data, grid=grid, fourier_axes=("y",))


def predict(net: VariationalNetwork, kspace: KSpace) -> Complex[Tensor, "batch time coil z y x"]:
    """``F S x`` on every line, sensitivities, brightness and image from the lines of ``kspace`` alone."""
    problem = problem_of(kspace)
    brightness, encoding = problem.brightness(), problem.encoding
    scaled = problem.measured / brightness
    image = brightness * net(scaled, encoding)
    return fft(expand(net.maps(scaled, encoding), image), kspace.fourier_axes)


def loss(net: nn.Module, batch: tuple[KSpace, torch.Generator]) -> Float[Tensor, ""]:
    """The error on the lines held back from one scan."""
    kspace, generator = batch
    return self_supervised_loss(lambda given: predict(net, given), kspace, generator, centre=6)


def batch(key: Key, step: int) -> tuple[KSpace, torch.Generator]:
    """One undersampled scan and the generator of its split: functions of the step alone."""
    kspace, _, columns = scan(key, step)
    return columns_of(kspace, columns), Key(key.seed, "varnet_ssdu_split").generator(step)


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write ``varnet-ssdu.safetensors``; interrupted, the same call continues. data: refused."""
    refuse_data(data, "varnet-ssdu")
    torch.manual_seed(SEED)
    key, net = Key(SEED, "varnet_ssdu"), network().to(device)

    def on_device(step: int) -> tuple[KSpace, torch.Generator]:
        kspace, generator = batch(key, step)
        return kspace.map(lambda tensor: tensor.to(device)), generator

    fit(net, on_device, loss, steps=steps or STEPS, seed=SEED, checkpoint=output / "varnet-ssdu.pt",
        learning_rate=1.5e-3, warmup=50, weight_decay=1e-5, averaging=0.99, every=25)
    return write_weight(net, output / "varnet-ssdu.safetensors")
