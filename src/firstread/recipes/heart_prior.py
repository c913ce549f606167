"""The default prior on heart cines (``heart-prior``): a noise-conditional denoiser, from simulated images alone.

Each step draws moving images (beating-heart phantoms of the training family, in one of five random moving textures),
adds white complex noise of 0.01 to 0.8 of their brightness, and asks for the noiseless image and for its own error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from firstread.acquire.heart import heart_subject
from firstread.acquire.textures import smooth_field
from firstread.core.keys import Key
from firstread.learn.fit import fit
from firstread.nets.score import CineDenoiser, posterior_variance
from firstread.recipes.files import refuse_data, write_weight
from firstread.recipes.heart_cascade import moving_texture

SUMMARY = "noise-conditional denoiser of heart cines, the prior of posterior samples"
SEED, STEPS = 0, 1600
SIZE, PATCH, SUBJECTS, FRAMES = 96, 48, 16, 12
NOISE = (0.01, 0.8)
CINES = 2  # of one step


@dataclass(frozen=True)
class Example:
    """Cines of brightness about 1, the same with white noise, and its standard deviation ``E|n|² = σ²``."""

    clean: list[Complex[Tensor, "_time y x"]]
    noisy: list[Complex[Tensor, "_time y x"]]
    noise: Float[Tensor, " cine"]

    def to(self, device: str) -> Example:
        return Example([c.to(device) for c in self.clean], [c.to(device) for c in self.noisy], self.noise.to(device))


def network() -> CineDenoiser:
    """140 000 parameters; 0.5 GFLOP for a frame of 96 x 96."""
    return CineDenoiser(widths=(16, 32, 64))


@lru_cache(maxsize=SUBJECTS)
def phantom(number: int) -> Complex[Tensor, "slice time y x"]:
    """Cines of one subject of the training family from base to apex; pixels of 1.6 to 2.4 mm."""
    subject = heart_subject(seed=number, family="train", matrix=(SIZE, SIZE), spacing_mm=1.6 + 0.1 * (number % 9),
                            gap_mm=8.0, frames=FRAMES)
    return subject.image.data[0, :, 0].movedim(1, 0).contiguous()


def cine_of(generator: torch.Generator) -> Complex[Tensor, "time y x"]:
    """A random cine of 12 or 6 frames (one in eight: a single image), turned, shaded, cut, of brightness about 1."""
    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    if uniform(0, 1) < 0.8:
        pool = phantom(int(uniform(0, SUBJECTS)))
        cine = pool[int(uniform(0, len(pool)))]
    else:
        cine = moving_texture(generator)
    cine = cine if uniform(0, 1) < 0.5 else cine[::2]
    cine = cine * torch.polar(torch.exp(0.25 * smooth_field(generator, SIZE, 3)), smooth_field(generator, SIZE, 3))
    cine = cine / torch.quantile(cine.mean(dim=0).abs(), 0.99) * math.exp(uniform(-0.25, 0.25))
    cine = torch.rot90(cine, int(uniform(0, 4)), dims=(1, 2))
    cine = cine.flip(2) if uniform(0, 1) < 0.5 else cine
    cine = cine.flip(0) if uniform(0, 1) < 0.5 else cine
    cine = cine[int(uniform(0, len(cine)))][None] if uniform(0, 1) < 0.125 else cine
    y, x = (int(uniform(0, SIZE - PATCH + 1)) for _ in range(2))
    return cine[:, y : y + PATCH, x : x + PATCH]


def example(key: Key, step: int) -> Example:
    """The example of one step: a function of the step alone."""
    generator = key.generator(step)
    clean = [cine_of(generator) for _ in range(CINES)]
    low, high = (math.log(level) for level in NOISE)
    noise = torch.exp(low + (high - low) * torch.rand(CINES, generator=generator))
    noisy = [c + s * torch.randn(c.shape, dtype=c.dtype, generator=generator)
             for c, s in zip(clean, noise, strict=True)]
    return Example(clean, noisy, noise)


def loss(net: nn.Module, batch: Example) -> Float[Tensor, ""]:
    """``|D - x₀|² / r²`` with the r of white images, plus the variance's own ``e² / v + log (v / r²)``, e held fixed.

    The first gives the posterior mean, the second, without a say in the mean, its variance: v = E[e²].
    """
    total = torch.zeros((), device=batch.noise.device)
    for clean, noisy, noise in zip(batch.clean, batch.noisy, batch.noise, strict=True):
        mean, variance = net(noisy, noise)
        error, unit = torch.view_as_real(mean - clean).square().sum(dim=-1), posterior_variance(noise)
        fit_of_variance = error.detach() / variance + (variance / unit).log()
        total = total + (error / unit).mean() + 0.02 * fit_of_variance.mean()
    return total / len(batch.clean)


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write ``heart-prior.safetensors``; interrupted, the same call continues. data: refused."""
    refuse_data(data, "heart-prior")
    torch.manual_seed(SEED)
    key, net = Key(SEED, "heart_prior"), network().to(device, memory_format=torch.channels_last)
    fit(net, lambda step: example(key, step).to(device), loss, steps=steps or STEPS, seed=SEED,
        checkpoint=output / "heart-prior.pt", learning_rate=2e-3, warmup=100, weight_decay=1e-5, averaging=0.995,
        every=100)
    return write_weight(net, output / "heart-prior.safetensors")
