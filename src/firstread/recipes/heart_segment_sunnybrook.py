"""Short-axis heart segmentation from random hearts and Sunnybrook's cavity contours (``heart-sax-sunnybrook``).

The members of ``heart-sax`` are trained on with four real slices beside twelve random ones in every batch. Sunnybrook
contours the left cavity alone: there the other classes count as one, "not the cavity".
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.learn.losses import dice_cross_entropy, partial_dice_cross_entropy
from firstread.recipes.heart_segment import SEED, RandomHearts, network, save, train_members
from firstread.recipes.sunnybrook import SunnybrookPatches, read_slices
from firstread.zoo.store import load

NAME = "heart-sax-sunnybrook"
SUMMARY = "short-axis heart segmentation, from simulated slices and Sunnybrook's cavity contours (CC0)"
STEPS = 300
CAVITY = 1


class Mixed:
    """Batch number to a batch of random hearts and a batch of real patches."""

    def __init__(self, hearts: RandomHearts, patches: SunnybrookPatches) -> None:
        self.hearts, self.patches = hearts, patches

    def __call__(self, number: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        return self.hearts(number), self.patches(number)


def loss(model: nn.Module, batch: Sequence[Sequence[Tensor]]) -> Tensor:
    """``L(random hearts) + 0.33 L(cavity against the rest, real slices)``, from one pass over both."""
    device = next(model.parameters()).device
    (images, labels), (real, cavity, known) = batch
    logits = model(torch.cat((images, real)).to(device))
    simulated, measured = logits[: len(images)], logits[len(images):]
    partial = partial_dice_cross_entropy(measured, cavity.to(device), known.to(device), label=CAVITY)
    return dice_cross_entropy(simulated, labels.to(device, torch.int64)) + 0.33 * partial


def train(out: Path, device: str, steps: int | None, data: Path | None) -> None:
    """Train ``heart-sax``'s first member on into three members. Raises SettingError without Sunnybrook's folder."""
    if data is None:
        raise SettingError(f"no data for {NAME}", expected="the folder of Sunnybrook's patients", remedy="give --data")
    slices, count = read_slices(data, held_out=False), steps or STEPS
    trunk = network().to(device)
    trunk.load_state_dict(load("heart-sax").part("member0"))

    def batches(member: int) -> Mixed:
        seed = SEED + 100 + member
        return Mixed(RandomHearts(seed=seed, subjects=3), SunnybrookPatches(slices, seed=seed))

    members = train_members(out, device, trunk=trunk, batches=batches, loss=loss, steps=count)
    save(out, NAME, members, {"summary": SUMMARY, "recipe": "heart_segment_sunnybrook", "seed": SEED,
                              "data": f"random hearts; Sunnybrook (CC0), {len({s.patient for s in slices})} patients, "
                                      f"{len(slices)} slices, left cavity only"})
