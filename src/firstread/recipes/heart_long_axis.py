"""Long-axis heart segmentation, 2- and 4-chamber views (``heart-lax``), from simulated planes alone.

The weight carries a plan: ``firstread segment predict heart-lax CINE -o OUT``. Atria are plain ellipses in the
simulation, so their outlines are the least to be believed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.acquire.long_axis import NAMES, View, random_long_axis
from firstread.core.keys import Key
from firstread.learn.fit import fit
from firstread.learn.losses import dice_cross_entropy
from firstread.nets.build import build_network
from firstread.nets.plan import ClassPlan, NetworkPlan, Normalization, Plan
from firstread.recipes.files import refuse_data, write_text, write_weight

NAME = "heart-lax"
SUMMARY = "2- and 4-chamber heart segmentation, from simulated planes alone"
SEED, STEPS, SUBJECTS, SIZE, SPACING_MM = 0, 2000, 6, 128, 1.6
VIEWS: tuple[View, View] = ("4-chamber", "2-chamber")
PLAN = Plan(classes=tuple(ClassPlan(name, value) for value, name in enumerate(NAMES)), mode="2d",
            spacing_mm=(None, SPACING_MM, SPACING_MM), patch=(192, 192),
            normalization=(Normalization(kind="percentiles"),),
            network=NetworkPlan(widths=(16, 32, 64, 96, 96), strides=((2, 2),) * 5, blocks=(1,) * 5), overlap=0.5)
LIMITS = (
    "Trained on simulated planes alone; never measured on a patient: no labelled long-axis scan was there. Looked at "
    "on 15 real 4-chamber images of one person (gradient echo with little contrast between blood and muscle) it "
    "fails: cavity and muscle run into each other, most of the atria is missed, pieces lie in the chest wall.",
    "Atria are ellipses in the simulation: without appendage, veins and septum; 3-chamber views were not simulated.",
    "Bright-blood cine (balanced steady state) of adults, pixels of about 1 to 2.5 mm.",
    "Contours follow the convention of the short-axis weight: blurred edge pixels belong to the blood.")


def planes(key: Key, number: int, *, views: tuple[View, ...] = VIEWS, subjects: int = SUBJECTS, size: int = SIZE
           ) -> tuple[Float[Tensor, "row 1 y x"], Tensor]:
    """Images of random brightness and labels of batch ``number``: ``subjects`` hearts, as many of each view.

    Every batch holds all views: one without a right ventricle would teach that there is none.
    """
    made = [random_long_axis(key, number, view=view, subjects=subjects // len(views), size=size, spacing_mm=SPACING_MM)
            for view in views]
    images, labels = (torch.cat(parts) for parts in zip(*made, strict=True))
    gain = 0.7 + 0.6 * torch.rand((len(images), 1, 1), generator=key.generator(number, 7))
    return (images * gain)[:, None], labels


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
    """Cross entropy and soft Dice of one batch."""
    images, labels = batch
    device = next(model.parameters()).device
    return dice_cross_entropy(model(images.to(device)), labels.to(device, torch.int64))


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write weight and card; interrupted, the same call continues. data: refused."""
    refuse_data(data, NAME)
    count = steps or STEPS
    key = Key(SEED, "heart_long_axis")
    torch.manual_seed(SEED)
    net = fit(build_network(PLAN).to(device), lambda number: planes(key, number), loss, steps=count, seed=SEED,
              learning_rate=3e-3, warmup=25, averaging=0.98, checkpoint=output / "heart-lax.pt", every=25)
    write_text(output / f"{NAME}.json", json.dumps(card(count), indent=1, ensure_ascii=False) + "\n")
    return write_weight(net, output / f"{NAME}.safetensors")


def card(steps: int) -> dict[str, Any]:
    """What is known before anything is measured."""
    return {"name": NAME, "summary": SUMMARY, "recipe": "heart_long_axis", "seed": SEED, "steps": steps,
            "data": f"{steps * SUBJECTS} planes of random hearts, no patient", "plan": PLAN.as_dict(),
            "limits": list(LIMITS), "licence": "Apache-2.0"}
