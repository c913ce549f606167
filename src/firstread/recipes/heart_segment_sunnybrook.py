"""Short-axis heart segmentation from random hearts and Sunnybrook's cavity contours (``heart-sax-sunnybrook``).

The members of ``heart-sax`` are trained on with four real slices beside twelve random ones in every batch. Sunnybrook
contours the left cavity alone: there the other classes count as one, "not the cavity".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from firstread.chains.trained import networks_of
from firstread.core.errors import SettingError
from firstread.learn.losses import dice_cross_entropy, partial_dice_cross_entropy
from firstread.recipes.heart_segment import SEED, RandomHearts, branch, save
from firstread.recipes.sunnybrook import Slice, SunnybrookPatches, read_slices
from firstread.zoo.store import load

NAME = "heart-sax-sunnybrook"
SUMMARY = "short-axis heart segmentation, from simulated slices and Sunnybrook's cavity contours (CC0)"
STEPS = 360
CAVITY = 1


class Mixed:
    """Batch number to a batch of random hearts and a batch of real patches."""

    def __init__(self, hearts: RandomHearts, patches: SunnybrookPatches) -> None:
        self.hearts, self.patches = hearts, patches

    def __call__(self, number: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        return self.hearts(number), self.patches(number)


def mixed(slices: list[Slice], *, seed: int) -> Mixed:
    """Twelve random slices of three hearts and four real ones."""
    return Mixed(RandomHearts(seed=seed, subjects=3), SunnybrookPatches(slices, seed=seed))


def loss(model: nn.Module, batch: Sequence[Sequence[Tensor]]) -> Tensor:
    """``L(random hearts) + 0.33 L(cavity against the rest, real slices)``, from one pass over both."""
    device = next(model.parameters()).device
    (images, labels), (real, cavity, known) = batch
    logits = model(torch.cat((images, real)).to(device))
    simulated, measured = logits[: len(images)], logits[len(images):]
    partial = partial_dice_cross_entropy(measured, cavity.to(device), known.to(device), label=CAVITY)
    return dice_cross_entropy(simulated, labels.to(device, torch.int64)) + 0.33 * partial


def train(out: Path, device: str, steps: int | None, data: Path | None) -> None:
    """Train every member of ``heart-sax`` on. Raises SettingError without Sunnybrook's folder."""
    if data is None:
        raise SettingError(f"no data for {NAME}", expected="the folder of Sunnybrook's patients", remedy="give --data")
    slices, count = read_slices(data, held_out=False), steps or STEPS
    members = [branch(start, out, device, member=member, batches=mixed(slices, seed=SEED + 100 + member), loss=loss,
                      steps=count, learning_rate=7e-4)
               for member, start in enumerate(networks_of(load("heart-sax")))]
    save(out, NAME, members, {"summary": SUMMARY, "recipe": "heart_segment_sunnybrook", "seed": SEED,
                              "data": f"random hearts; Sunnybrook (CC0), {len({s.patient for s in slices})} patients, "
                                      f"{len(slices)} slices, left cavity only"})
