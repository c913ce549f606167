"""The default denoising network (``denoise``), of complex images and magnitudes, from simulated objects alone.

Each example is a crop of an object that looks like no organ in particular, rendered twice as fine as it is sampled (64
to 128 pixels across), with white noise of a level drawn anew: complex, real, or Rician magnitudes. One network learns
all levels.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Generator, Tensor, nn

from firstread.acquire.mri import encode_lower
from firstread.acquire.textures import random_plane
from firstread.core.keys import Key
from firstread.learn.fit import fit
from firstread.nets.denoise import ScaledDenoiser
from firstread.ops.fourier import ifft
from firstread.recipes.files import refuse_data, write_array, write_text, write_weight

NAME = "denoise"
SUMMARY = "denoising of images of any anatomy at any noise level, from simulation alone"
SEED, STEPS, SCHEDULE, OBJECTS, SIZES = 0, 4500, 8000, 300, (64, 96, 128)
BATCH, CROP, NOISE = 8, 48, (0.01, 0.35)
Batch = tuple[Float[Tensor, "row 2 y x"], Float[Tensor, " row"], Float[Tensor, "row 2 y x"]]


def network() -> ScaledDenoiser:
    """The network of the weight."""
    return ScaledDenoiser(channels=2, width=48, depth=7)


def sampled(number: int) -> Complex[Tensor, "y x"]:
    """Object ``number``, its 99th percentile 1: a function of the number alone."""
    size = SIZES[number % len(SIZES)]
    fine = random_plane(Key(SEED, "denoise_object").generator(number), 2 * size)
    image = ifft(encode_lower(fine, (size, size)))
    return image / torch.quantile(image.abs(), 0.99).clamp(min=1e-3)


def store_all(folder: Path, *, count: int) -> Path:
    """The folder with objects 0 to ``count - 1``; resumable."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:05d}.npz"
        if not path.is_file():
            write_array(path, image=torch.view_as_real(sampled(number)).half().numpy())
    return folder


@lru_cache(maxsize=2000)
def _load(path: Path) -> Complex[Tensor, "y x"]:
    with np.load(path) as stored:
        return torch.view_as_complex(torch.from_numpy(stored["image"]).float())


class NoisyCrops:
    """Step number to (noisy, noise level, clean), as real and imaginary part; a function of seed and number alone."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self.files, self.key = sorted(folder.glob("*.npz")), Key(seed, "denoise")

    def __call__(self, number: int) -> Batch:
        made = [self._one(self.key.generator(number, row)) for row in range(BATCH)]
        noisy, noise, clean = (torch.stack(part) for part in zip(*made, strict=True))
        return noisy, noise, clean

    def _one(self, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        image = _load(self.files[int(torch.randint(len(self.files), (), generator=generator))])
        y, x = torch.randint(len(image) - CROP + 1, (2,), generator=generator).tolist()
        flip, turn, kind = torch.randint(4, (3,), generator=generator).tolist()
        clean = torch.rot90(image[y:y + CROP, x:x + CROP].flip([a for a in (0, 1) if flip >> a & 1]), turn)
        strength, level = torch.rand(2, generator=generator).tolist()
        low, high = (math.log(n) for n in NOISE)
        noise = torch.tensor(math.exp(low + (high - low) * level))
        clean = clean * (0.6 + 0.8 * strength)
        added = noise * torch.view_as_complex(torch.randn((CROP, CROP, 2), generator=generator))
        clean, noisy = pair(clean, added, kind)
        return torch.view_as_real(noisy).movedim(-1, 0), noise, torch.view_as_real(clean).movedim(-1, 0)


def pair(image: Complex[Tensor, "y x"], noise: Complex[Tensor, "y x"], kind: int
         ) -> tuple[Complex[Tensor, "y x"], Complex[Tensor, "y x"]]:
    """Clean and noisy: complex (kind 0, 1), Rician magnitudes (2), or real images with Gaussian noise (3).

    >>> clean, noisy = pair(torch.full((1, 1), 3j), torch.full((1, 1), 4.0 + 0j), 2)
    >>> clean.item(), noisy.item()
    ((3+0j), (5+0j))
    """
    if kind < 2:
        return image, image + noise
    clean = image.abs() if kind == 2 else image.abs() - 0.2 * image.real.mean()
    noisy = (image + noise).abs() if kind == 2 else clean + noise.real
    return clean + 0j, noisy + 0j


def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """Root mean square error over the noise: every level counts alike."""
    noisy, noise, clean = batch
    error = (model(noisy, noise) - clean).square().mean(dim=(1, 2, 3)) / noise.square()
    return (error + 1e-4).sqrt().mean()


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write weight and card; interrupted, the same call continues. data: refused.

    The default weight was ended after ``STEPS`` of a schedule of ``SCHEDULE`` steps; ``steps`` sets both.
    """
    refuse_data(data, NAME)
    count = steps or STEPS
    folder = store_all(output / "objects", count=min(OBJECTS, max(2, count // 4)))
    torch.manual_seed(SEED)
    net = fit(network().to(device), NoisyCrops(folder, seed=SEED),
              lambda model, batch: loss(model, tuple(part.to(device) for part in batch)), steps=steps or SCHEDULE,
              seed=SEED, stop=lambda done: done >= count,
              learning_rate=2e-3, checkpoint=output / "denoise.pt", weight_decay=1e-6, warmup=50, averaging=0.998,
              every=250)
    card = {"name": NAME, "summary": SUMMARY, "recipe": "denoise", "seed": SEED, "steps": count,
            "data": f"{len(list(folder.glob('*.npz')))} simulated objects of no anatomy in particular",
            "noise": f"white, {NOISE[0]} to {NOISE[1]} of the 99th percentile; complex, real, Rician magnitudes",
            "network": network().settings(), "licence": "Apache-2.0",
            "limits": "White noise only: not after zero filling, interpolation or parallel imaging with a strong "
                      "g-factor. Single planes: of a series MP-PCA, which uses all frames, is better. Trained for "
                      "minutes, never on a real image; it may smooth faint detail."}
    write_text(output / f"{NAME}.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    return write_weight(net, output / f"{NAME}.safetensors")
