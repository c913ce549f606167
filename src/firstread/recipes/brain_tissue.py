"""Fluid, grey and white matter of the brain in scans of any contrast (``brain-tissue``), from tissue maps alone.

SynthSeg (Billot 2023) at 2 mm: no scan of a person is trained on, every step sees a new simulated head of another
contrast (recipes/brain_scenes.py). The weight carries a plan, so it is used as a trained folder is:
``firstread segment predict brain-tissue SCAN -o OUT``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.keys import Key
from firstread.learn.fit import fit
from firstread.learn.losses import dice_cross_entropy
from firstread.nets.build import build_network
from firstread.nets.plan import ClassPlan, NetworkPlan, Normalization, Plan
from firstread.recipes.brain_scenes import CLASSES, SPACING_MM, draw_scene, load_maps, maps_folder
from firstread.recipes.files import write_text, write_weight

NAME = "brain-tissue"
SUMMARY = "fluid, grey and white matter of the brain at 2 mm, any MR contrast, with or without skull"
SEED, STEPS, SIZE = 0, 3000, 48
PLAN = Plan(classes=tuple(ClassPlan(name, value) for value, name in enumerate(CLASSES)), mode="3d",
            spacing_mm=(SPACING_MM,) * 3, patch=(96, 96, 96), normalization=(Normalization(kind="percentiles"),),
            network=NetworkPlan(widths=(24, 48, 96, 128), strides=((2, 2, 2),) * 4, blocks=(1,) * 4), overlap=0.25)
MAPS = ("MNI152 tissue probability maps and T1 (ICBM 2009a, nonlinear, symmetric), as shipped with nilearn. "
        "Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, "
        "McGill University. Permission to use, copy, modify, and distribute this software and its documentation for "
        "any purpose and without fee is hereby granted, provided that the above copyright notice appear in all copies. "
        "(nilearn's own description says: licence unknown.)")


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
    """Cross entropy and soft Dice of one scene."""
    image, label = batch
    device = next(model.parameters()).device
    return dice_cross_entropy(model(image[None].to(device)), label[None].to(device, torch.int64))


def train(output: Path, device: str = "cpu", steps: int | None = None, data: Path | None = None) -> Path:
    """Train and write weight and card; interrupted, the same call continues. data: the folder of the MNI152 maps.

    Raises InputError where the maps are not found.
    """
    maps = load_maps(maps_folder(data))
    count = steps or STEPS
    key = Key(SEED, "brain_tissue")
    torch.manual_seed(SEED)
    net = fit(build_network(PLAN).to(device), lambda number: draw_scene(maps, key, number, size=SIZE), loss,
              steps=count, seed=SEED, learning_rate=3e-3, warmup=25, averaging=0.98,
              checkpoint=output / "brain-tissue.pt", every=25)
    write_text(output / f"{NAME}.json", json.dumps(card(count), indent=1, ensure_ascii=False) + "\n")
    return write_weight(net, output / f"{NAME}.safetensors")


def card(steps: int) -> dict[str, Any]:
    """What is known before anything is measured."""
    return {"name": NAME, "summary": SUMMARY, "recipe": "brain_tissue", "seed": SEED, "steps": steps,
            "data": f"{steps} simulated heads, one a step; no scan of a person. {MAPS}",
            "plan": PLAN.as_dict(), "licence": "Apache-2.0; the notice of the maps above stays with it"}
