"""Short-axis heart segmentation trained on simulated hearts alone (``heart-sax``).

A trunk is trained once, on random hearts. The members of the ensemble are branches of it, each trained on with other
random hearts and, as half of every batch, slices of the beating phantom, reconstructed as a scan would be; the
learning rate rises again first. They share the trunk, so their spread is smaller than that of independent networks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from firstread.acquire.slices import random_stacks
from firstread.core.keys import Key
from firstread.learn.fit import fit
from firstread.learn.losses import dice_cross_entropy
from firstread.learn.prefetch import Prefetched
from firstread.nets.unet import UNet
from firstread.ops.neighbours import with_neighbours
from firstread.recipes.files import refuse_data
from firstread.recipes.heart_cines import PhantomSlices, store_all

NAME = "heart-sax"
SUMMARY = "short-axis heart segmentation, from simulated slices alone"
CLASSES = ("background", "LV cavity", "LV myocardium", "RV cavity")
WIDTHS = (16, 32, 64, 128, 128)
SEED, MEMBERS, TRUNK_STEPS, BRANCH_STEPS = 1, 3, 4500, 1200
CINES = 48  # subjects of the beating phantom

Batches = Callable[[int], Any]
Loss = Callable[[nn.Module, Any], Tensor]


def network() -> UNet:
    """The network of every member: three neighbouring slices in, four classes out."""
    return UNet(channels_in=3, channels_out=len(CLASSES), widths=WIDTHS)


class RandomHearts:
    """Batch number to (images, labels) of 16 random slices of 4 hearts; a function of seed and number alone."""

    def __init__(self, *, seed: int, subjects: int = 4, slices: int = 4, size: int = 96) -> None:
        self.key, self.subjects, self.slices, self.size = Key(seed, "heart_segment"), subjects, slices, size

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        images, labels = random_stacks(self.key, number, subjects=self.subjects, slices=self.slices, size=self.size)
        coin = torch.rand((2, self.subjects), generator=self.key.generator(number, 1))
        return with_neighbours(images, keep=coin[0] > 0.25, turned=coin[1] > 0.5), labels.flatten(0, 1)


class HeartsAndCines:
    """Batch number to (images, labels): 8 slices of random hearts, 8 of the phantom's reconstructed cines."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self.parts = RandomHearts(seed=seed, subjects=2), PhantomSlices(folder, seed=seed)

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        images, labels = zip(*(part(number) for part in self.parts), strict=True)
        return torch.cat(images), torch.cat(labels)


def loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Cross entropy and soft Dice of one batch, on the device that the model is on."""
    device = next(model.parameters()).device
    images, labels = batch
    return dice_cross_entropy(model(images.to(device)), labels.to(device, torch.int64))


def branch(start: nn.Module, out: Path, device: str, *, member: int, batches: Batches, loss: Loss, steps: int,
           learning_rate: float = 1.2e-3) -> nn.Module:
    """A copy of ``start`` trained on as member number ``member``."""
    network_ = network().to(device)
    network_.load_state_dict(start.state_dict())
    return fit(network_, Prefetched(batches, last=steps), loss, steps=steps, seed=SEED + member,
               learning_rate=learning_rate, checkpoint=out / f"member{member}.pt")


def train(out: Path, device: str, steps: int | None, data: Path | None) -> None:
    """Train trunk and members into ``out``; interrupted and called again it goes on. ``steps`` is the trunk's.

    Raises SettingError when real data is given: this weight has seen none.
    """
    refuse_data(data, NAME)
    count = steps or TRUNK_STEPS
    torch.manual_seed(SEED)
    trunk = fit(network().to(device), Prefetched(RandomHearts(seed=SEED), last=count), loss, steps=count, seed=SEED,
                learning_rate=2e-3, checkpoint=out / "trunk.pt")
    after = max(1, count * BRANCH_STEPS // TRUNK_STEPS)
    cines = store_all(out / "cines", count=max(1, count * CINES // TRUNK_STEPS))
    members = [branch(trunk, out, device, member=member, batches=HeartsAndCines(cines, seed=SEED + 1 + member),
                      loss=loss, steps=after) for member in range(MEMBERS)]
    save(out, NAME, members, {"summary": SUMMARY, "recipe": "heart_segment", "seed": SEED,
                              "images_shown": 16 * (count + MEMBERS * after),
                              "data": "random hearts and the beating phantom alone"})


def save(out: Path, name: str, members: Sequence[nn.Module], card: dict[str, Any]) -> None:
    """Write ``name.safetensors`` (half precision, parameters ``member0.…``) and its card ``name.json`` into ``out``."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    state = {f"member{number}.{key}": value.detach().cpu().half().contiguous()
             for number, member in enumerate(members) for key, value in member.state_dict().items()}
    save_file(state, out / f"{name}.safetensors")
    about = {"name": name, **card, "network": {"channels_in": 3, "channels_out": len(CLASSES), "widths": list(WIDTHS)},
             "classes": list(CLASSES), "spacing_mm": 1.5, "members": len(members), "licence": "Apache-2.0"}
    (out / f"{name}.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
