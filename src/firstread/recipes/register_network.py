"""The recipe of the registration network (``register``): simulated pairs whose true velocity is known, no labels.

Loss: how likely the true velocity v is under the network's normal distribution, weighed as by Seitzer et al. (2022),
and how alike the images without noise are when warped by its mean,

    L = mean σ' (½ (v - μ)² / σ² + log σ) - LNCC(F, M ∘ exp μ),    σ' = σ outside the gradient,

so that the variance grows where the images do not tell the motion.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.analyze.register_deformable import displacement
from firstread.learn.fit import fit
from firstread.nets.velocity import VelocityNet
from firstread.ops.similarity import LocalCorrelation
from firstread.ops.velocity import sample_at
from firstread.recipes.files import refuse_data, write_text, write_weight
from firstread.recipes.register_pairs import HEADS, LARGE, SIZE, Pair, pairs

NAME = "register"
SUMMARY = "one volume on another in one pass, with its uncertainty, from simulated objects and heads alone"
SEED, STEPS, BATCH, LEARNING_RATE = 0, 4000, 1, 2e-3


def likelihood(mean: Float[Tensor, "row 3 z y x"], log_variance: Float[Tensor, "row 3 z y x"],
               velocity: Float[Tensor, "row 3 z y x"]) -> Float[Tensor, ""]:
    """The first part of the loss above.

    >>> zero, two = torch.zeros(1, 3, 2, 2, 2), torch.full((1, 3, 2, 2, 2), 2.0)
    >>> likelihood(zero, zero, two).item()
    2.0
    """
    weight = (log_variance / 2).exp().detach()
    return (weight * 0.5 * ((velocity - mean).square() * (-log_variance).exp() + log_variance)).mean()


def loss(model: nn.Module, pair: Pair) -> Float[Tensor, ""]:
    """Both parts of the loss above."""
    mean, log_variance = model(pair.fixed, pair.moving)
    shape = (pair.fixed.shape[1], pair.fixed.shape[2], pair.fixed.shape[3])
    warped = sample_at(pair.clean_moving[:, None], displacement(mean, shape))[:, 0]
    return likelihood(mean, log_variance, pair.velocity) - LocalCorrelation(pair.clean_fixed)(warped).mean()


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write weight and card; interrupted, the same call continues. data: refused."""
    refuse_data(data, NAME)
    output.mkdir(parents=True, exist_ok=True)
    count = steps or STEPS
    torch.manual_seed(SEED)
    net = fit(VelocityNet().to(device), lambda number: pairs(number, seed=SEED, rows=BATCH),
              lambda model, pair: loss(model, Pair(*(part.to(device) for part in pair))), steps=count, seed=SEED,
              learning_rate=LEARNING_RATE, checkpoint=output / "register.pt", warmup=50, averaging=0.995, every=200)
    card = {"name": NAME, "summary": SUMMARY, "recipe": NAME, "seed": SEED, "steps": count,
            "data": f"random objects and {HEADS} phantom heads of {SIZE}³ voxels, moved by flows of up to "
                    f"about {2 * LARGE:g} voxels, in one contrast or two",
            "network": VelocityNet().settings(), "licence": "Apache-2.0",
            "limits": "Volumes, aligned affinely before; motion of up to about five voxels; the spread is what it "
                      "believes on simulated pairs."}
    write_text(output / f"{NAME}.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    return write_weight(net, output / f"{NAME}.safetensors")
