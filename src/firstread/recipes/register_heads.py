"""The recipe of a registration network (``register``): phantom heads and themselves deformed, no labels.

Loss, after Dalca et al. (2019): the local correlation of the warped image for one draw of the velocity, and how far the
network's normal distribution is from a smooth prior of precision ``λ L`` (L the graph Laplacian of the voxels),

    KL = ½ (6 λ σ² - log σ² + λ Σ_neighbours (μ - μ')²)   per voxel, up to a constant.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.acquire.head import head_phantom
from firstread.analyze.register_deformable import displacement
from firstread.core.keys import Key
from firstread.learn.fit import fit
from firstread.nets.velocity import VelocityNet
from firstread.ops.separable import smooth
from firstread.ops.similarity import LocalCorrelation
from firstread.ops.velocity import exponential, sample_at
from firstread.recipes.files import refuse_data, write_text, write_weight

NAME = "register"
SUMMARY = "one image on another in one pass, from deformed phantom heads alone"
SEED, STEPS, HEADS, SPACING_MM, BATCH = 0, 2000, 24, 3.25, 2
PRIOR, KL_WEIGHT, LARGEST = 10.0, 1e-4, 4.0  # λ; weight beside LNCC; voxels
Batch = tuple[Float[Tensor, "row z y x"], Float[Tensor, "row z y x"]]


@lru_cache(maxsize=HEADS)
def head(number: int) -> Float[Tensor, "z y x"]:
    """Phantom head ``number``."""
    return head_phantom(seed=number, spacing_mm=SPACING_MM)[0]


def pairs(number: int) -> Batch:
    """Step number to fixed (deformed, of another contrast) and moving images: a function of the number alone."""
    made = [_pair(Key(SEED, "register_heads").generator(number, row)) for row in range(BATCH)]
    fixed, moving = (torch.stack(part) for part in zip(*made, strict=True))
    return fixed, moving


def _pair(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    image = head(int(torch.randint(HEADS, (), generator=generator)))
    velocity = smooth(torch.randn(1, 3, *image.shape, generator=generator), (4.0, 4.0, 4.0))
    size, gamma, noise = torch.rand(3, generator=generator).tolist()
    field = exponential(velocity * (LARGEST * size / velocity.norm(dim=1).amax()))
    seen = sample_at(image[None, None], field)[0, 0].clamp(0, 1) ** (0.6 + gamma)
    return seen + 0.05 * noise * torch.randn(image.shape, generator=generator), image


def divergence(mean: Float[Tensor, "row 3 z y x"], log_variance: Float[Tensor, "row 3 z y x"], *, prior: float
               ) -> Float[Tensor, ""]:
    """The mean over voxels of the KL divergence above.

    >>> flat = torch.zeros(1, 3, 4, 4, 4)
    >>> round(divergence(flat, flat, prior=1.0).item(), 3)
    3.0
    """
    rough = sum((mean.diff(dim=axis).square().sum() for axis in (2, 3, 4)), torch.zeros(())) / mean.numel()
    return 0.5 * ((6 * prior * log_variance.exp() - log_variance).mean() + prior * rough)


def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """Minus the local correlation of one draw, and the divergence."""
    fixed, moving = batch
    mean, log_variance = model(fixed, moving)
    drawn = mean + (log_variance / 2).exp() * torch.randn_like(mean)
    shape = (fixed.shape[1], fixed.shape[2], fixed.shape[3])
    warped = sample_at(moving[:, None], displacement(drawn, shape))[:, 0]
    return KL_WEIGHT * divergence(mean, log_variance, prior=PRIOR) - LocalCorrelation(fixed)(warped).mean()


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write weight and card; interrupted, the same call continues. data: refused."""
    refuse_data(data, NAME)
    output.mkdir(parents=True, exist_ok=True)
    count = steps or STEPS
    torch.manual_seed(SEED)
    net = fit(VelocityNet().to(device), pairs,
              lambda model, batch: loss(model, (batch[0].to(device), batch[1].to(device))), steps=count, seed=SEED,
              learning_rate=1e-3, checkpoint=output / "register.pt", warmup=50, averaging=0.99, every=200)
    card = {"name": NAME, "summary": SUMMARY, "recipe": "register", "seed": SEED, "steps": count,
            "data": f"{HEADS} phantom heads at {SPACING_MM} mm, deformed by up to {LARGEST} voxels",
            "network": VelocityNet().settings(), "licence": "Apache-2.0",
            "limits": "phantom heads only; the spread is the network's belief, not calibrated"}
    write_text(output / f"{NAME}.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    return write_weight(net, output / f"{NAME}.safetensors")
