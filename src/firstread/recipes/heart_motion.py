"""The recipe of ``heart-motion``: where the heart goes between two phases of a short-axis slice, and how surely.

Trained on the beating phantom alone, whose motion u is known (:mod:`firstread.recipes.heart_motion_pairs`). As
VoxelMorph with labels (Balakrishnan et al. 2019), and with the variance of its probabilistic form (Dalca et al. 2019)
learned from the error of the known way,

    L = mean |u - û|² + mean (½ (u - û)'² / σ² + log σ) + (1 - Dice(S_a, S_b ∘ û)) + α (1 - LNCC(a, b ∘ û))
        + β mean |∇v|²,

û the flow of the network's mean v, S the labels, ' outside the gradient: where the likelihood trains the mean too, the
spread grows at first and nothing moves for long. Afterwards one number makes σ wide enough: the factor that lets 90 %
intervals hold the known way in 90 % of the heart's pixels of other hearts, for the network alone and with a few steps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.analyze.register_deformable import Effort, displacement, find_velocity, rescale
from firstread.analyze.register_motion import AFTER_NETWORK
from firstread.learn.fit import fit
from firstread.nets.velocity import VelocityNet
from firstread.ops.similarity import LocalCorrelation
from firstread.ops.velocity import sample_at
from firstread.recipes.files import refuse_data, write_text, write_weight
from firstread.recipes.heart_motion_pairs import SPACING_MM, HeartPairs, Pair, store_all

NAME = "heart-motion"
SUMMARY = "motion between phases of short-axis heart slices, with its spread, from simulated hearts alone"
SEED, STEPS, ROWS, LEARNING_RATE = 0, 4500, 8, 2e-3
SUBJECTS, VALIDATION, EVERY, CHECKED = 64, 12, 200, 24
WIDTHS = (16, 32, 64, 96, 96)
ALIKE, SMOOTH, STILL = 0.5, 0.02, 0.2  # α, β, and how much a place that does not move counts
LEVEL, NORMAL = 0.9, 1.6448536


def network() -> VelocityNet:
    """The network of this weight, untrained."""
    return VelocityNet(widths=WIDTHS, dims=2, spacing_mm=SPACING_MM)


def predicted(model: nn.Module, fixed: Float[Tensor, "row 1 y x"], moving: Float[Tensor, "row 1 y x"]
              ) -> tuple[Float[Tensor, "row 3 1 hy hx"], Float[Tensor, "row 3 1 y x"], Float[Tensor, "row 2 y x"]]:
    """Velocity, displacement and its spread (x, y), in pixels of the images."""
    mean, log_variance = model(fixed, moving)
    shape = (1, fixed.shape[2], fixed.shape[3])
    return mean, displacement(mean, shape), rescale((log_variance / 2).exp(), shape)[:, :2, 0]


def likelihood(error: Float[Tensor, "row 2 y x"], spread: Float[Tensor, "row 2 y x"],
               weight: Float[Tensor, "row 1 y x"]) -> Float[Tensor, ""]:
    """``mean(½ (e / σ)² + log σ)`` with weights.

    >>> one = torch.ones(1, 2, 1, 1)
    >>> likelihood(2 * one, one, one[:, :1]).item()
    2.0
    """
    return averaged(0.5 * (error / spread).square() + spread.log(), weight)


def averaged(each: Float[Tensor, "row 2 y x"], weight: Float[Tensor, "row 1 y x"]) -> Float[Tensor, ""]:
    """The mean over both components, with weights."""
    return (each.mean(dim=1, keepdim=True) * weight).sum() / weight.sum().clamp_min(1)


def overlap(fixed: Float[Tensor, "row label y x"], warped: Float[Tensor, "row label y x"]) -> Float[Tensor, ""]:
    """Soft Dice of the labels that both have, ``2 sum(p q) / sum(p² + q²)``.

    >>> overlap(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)).item()
    1.0
    """
    both, all_ = (fixed * warped).sum(dim=(2, 3)), (fixed.square() + warped.square()).sum(dim=(2, 3))
    there = (fixed.sum(dim=(2, 3)) > 10) & (warped.sum(dim=(2, 3)) > 10)
    return torch.where(there, 2 * both / all_.clamp_min(1e-6), 1).mean()


def loss(model: nn.Module, pair: Pair) -> Float[Tensor, ""]:
    """All parts of the loss above."""
    velocity, moved, spread = predicted(model, pair.fixed, pair.moving)
    weight = pair.heart + STILL * (pair.known - pair.heart)
    warped = sample_at(torch.cat((pair.clean_moving, pair.moving_labels), dim=1)[:, :, None], moved)[:, :, 0]
    alike = LocalCorrelation(pair.clean_fixed, radius=3)(warped[:, :1]).mean()
    steep = sum(velocity.diff(dim=axis).square().mean() for axis in (3, 4))
    error = moved[:, :2, 0] - pair.moved
    return (averaged(error.square(), weight) + likelihood(error.detach(), spread, weight)
            + (1 - overlap(pair.fixed_labels, warped[:, 1:])) + ALIKE * (1 - alike) + SMOOTH * steep)


@torch.no_grad()
def widening(model: nn.Module, pairs: Sequence[Pair], effort: Effort | None) -> float:
    """The factor of the spread that lets 90 % intervals hold the known way in 90 % of the heart's pixels.

    effort: of the steps on the pair itself that follow the network.
    """
    ratios = []
    for pair in pairs:
        velocity, moved, spread = predicted(model, pair.fixed, pair.moving)
        if effort is not None:
            after = find_velocity(pair.fixed, pair.moving, spacing_mm=(8.0, SPACING_MM, SPACING_MM), effort=effort,
                                  start=velocity)
            moved = displacement(after, (1, moved.shape[3], moved.shape[4]))
        inside = (pair.heart > 0).expand(-1, 2, -1, -1)
        ratios.append((((moved[:, :2, 0] - pair.moved).abs() / spread)[inside])[::7])
    return float(torch.cat(ratios).quantile(LEVEL)) / NORMAL


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write weight and card; interrupted, the same call continues. data: refused."""
    refuse_data(data, NAME)
    output.mkdir(parents=True, exist_ok=True)
    count = steps or STEPS
    files = store_all(output / "hearts", count=max(1, SUBJECTS * min(count, STEPS) // STEPS))
    others = store_all(output / "hearts", count=max(1, VALIDATION * min(count, STEPS) // STEPS), family="calibration")
    torch.manual_seed(SEED)
    net = fit(network().to(device), HeartPairs(files, seed=SEED, rows=ROWS),
              lambda model, pair: loss(model, Pair(*(part.to(device) for part in pair))), steps=count, seed=SEED,
              learning_rate=LEARNING_RATE, checkpoint=output / f"{NAME}.pt", warmup=100, averaging=0.998, every=EVERY)
    net = net.cpu()
    check = HeartPairs(others, seed=SEED + 1, rows=ROWS)
    seen = [check(number) for number in range(CHECKED)]
    alone, after = (round(widening(net, seen, effort), 4) for effort in (None, AFTER_NETWORK))
    card = {"name": NAME, "summary": SUMMARY, "recipe": NAME, "seed": SEED, "steps": count,
            "data": f"pairs of phases of {len(files)} hearts of the beating phantom; the spread widened on "
                    f"{len(others)} others",
            "network": net.settings(), "spread_factor": alone, "spread_factor_after_steps": after,
            "licence": "Apache-2.0",
            "limits": "Short-axis slices of bright-blood cines, each in its own plane; what moves through it is not "
                      "seen. Steps of optimization must follow on real scans. The spread covers on simulated hearts."}
    write_text(output / f"{NAME}.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    return write_weight(net, output / f"{NAME}.safetensors")
