"""How well the brain's tissues are found: ``python -m firstread.recipes.evaluate_brain FOLDER [--maps M] [--brain F]``.

FOLDER holds ``brain-tissue.safetensors`` and its card; the figures are written into the card and ``brain-tissue.md``
is made of it. Simulated heads that no step of the training saw, and one real scan: T1 of a brain cut out, 1 mm, with
FreeSurfer's labels (.npz with ``vol`` and ``seg``, axes towards left, feet, front).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer, Shaped
from torch import Tensor

from firstread.analyze.trained import SegmentByPlan
from firstread.chains.trained import trained_network
from firstread.core.errors import FirstreadError, InputError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, Rows
from firstread.learn.losses import UNKNOWN
from firstread.recipes.brain_scenes import CLASSES, SHARES, Maps, draw_scene, load_maps, maps_folder
from firstread.recipes.brain_tissue import MAPS, NAME, PLAN
from firstread.recipes.files import write_text
from firstread.trust.segmentation import summarize

EACH, SIZE = 3, 64  # scenes of each contrast with and without what is around the brain
# FreeSurfer's numbers; brain stem, ventral diencephalon and vessels are mixed and not counted
FLUID = (4, 5, 14, 15, 24, 43, 44, 72)
GREY = (3, 8, 10, 11, 12, 13, 17, 18, 26, 42, 47, 49, 50, 51, 52, 53, 54, 58)
WHITE = (2, 7, 41, 46, 77, 85, 251, 252, 253, 254, 255)


def dice(found: Integer[Tensor, "z y x"], true: Integer[Tensor, "z y x"]) -> dict[str, float]:
    """Of each tissue over voxels whose truth is known; no number where neither has it.

    >>> dice(torch.tensor([[[1, 2, 2]]]), torch.tensor([[[1, 2, 0]]]))["grey matter"]
    0.6666666666666666
    """
    known = true != UNKNOWN
    scores = {}
    for value, name in enumerate(CLASSES):
        a, b = (found == value) & known, (true == value) & known
        if value and int(a.sum() + b.sum()):
            scores[name] = 2 * int((a & b).sum()) / int(a.sum() + b.sum())
    return scores


def simulated(stage: SegmentByPlan, maps: Maps) -> list[dict[str, Any]]:
    """Dice of every scene."""
    rows = []
    for contrast in SHARES:
        for stripped in (False, True):
            for number in range(EACH):
                key = Key(1, f"brain_tissue_test_{contrast}_{stripped}")
                data, label = draw_scene(maps, key, number, size=SIZE, contrast=contrast, stripped=stripped)
                grid = Grid.from_spacing((SIZE,) * 3, (2.0,) * 3)
                with torch.no_grad():
                    found = stage(Image(Rows.subjects(1), data[None, None], grid)).data[0, 0].argmax(dim=0)
                rows.append({"contrast": contrast, "brain cut out": stripped, **dice(found, label.long())})
    return rows


def tissues_of(labels: Shaped[Tensor, "z y x"]) -> Integer[Tensor, "z y x"]:
    """FreeSurfer's numbers as :data:`CLASSES`."""
    made = torch.full(labels.shape, UNKNOWN)
    made[labels == 0] = 0
    for value, numbers in enumerate((FLUID, GREY, WHITE), start=1):
        for number in numbers:
            made[labels == number] = value
    return made


def real(stage: SegmentByPlan, path: Path) -> dict[str, float]:
    """Dice on the scan; fluid found where nothing is labelled is not counted: FreeSurfer leaves out that of the sulci.
    """
    with np.load(path) as stored:
        volume, labels = (torch.from_numpy(stored[k]).float() for k in ("vol", "seg"))
    affine = torch.tensor([[[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]], dtype=torch.float64)
    grid = Grid(affine, (volume.shape[0], volume.shape[1], volume.shape[2]))
    with torch.no_grad():
        found = stage(Image(Rows.subjects(1), volume[None, None, None], grid)).data[0, 0].argmax(dim=0)
    true = tissues_of(labels)
    true[(true == 0) & (found == 1)] = UNKNOWN
    return dice(found, true)


def page(card: dict[str, Any]) -> str:
    """The card as a page."""
    found, scan = card["evaluation"]["simulated"], card["evaluation"].get("real")
    beside = ("; beside it one real scan (T1, brain cut out, 1 mm, FreeSurfer's labels; fluid outside what is "
              "labelled, brain stem and ventral diencephalon not counted)") if scan else ""
    lines = [f"# {NAME}", "", f"{card['summary'][0].upper()}{card['summary'][1:]}.", "",
             f"`firstread segment predict {NAME} SCAN -o OUT` (`--seg` for DICOM SEG)", "", "| | |", "|---|---|",
             f"| recipe | `firstread train {NAME} -o DIR`, seed {card['seed']}, {card['steps']} steps |",
             f"| network | residual U-Net 3D, widths {card['plan']['network']['widths']}, half precision |",
             "| data | simulated heads alone, one a step, from the maps below |", f"| licence | {card['licence']} |",
             "", f"Maps: {MAPS}", "", "## Figures", "",
             f"Dice, mean with 95 % bootstrap interval over {found['scenes']} simulated heads that were not trained on"
             f"{beside}.", "",
             "| | simulated |" + "".join(f" {name} |" for name in found["by contrast"]) + (" real |" if scan else ""),
             "|---|---|" + "---|" * (len(found["by contrast"]) + bool(scan))]
    for name in CLASSES[1:]:
        mean, low, high = found["all"][name]
        lines.append(f"| {name} | {mean:.3f} ({low:.3f} to {high:.3f}) |"
                     + "".join(f" {row[name]:.3f} |" for row in found["by contrast"].values())
                     + (f" {scan[name]:.3f} |" if scan else ""))
    return "\n".join([*lines, "", "## Limits", "", *(f"- {limit}" for limit in card["limits"]), ""])


LIMITS = (
    "Trained for minutes at 2 mm: sulci and thin blades of white matter are rounded off; not for volumes of small "
    "structures, thickness of the cortex or longitudinal change.",
    "Healthy adult anatomy of one averaged head, bent at random: no lesions, no surgery, no children, no oedema.",
    "Fluid means all of it inside the skull; other programs label the ventricles alone.",
    "Skull, face and neck are plain simulated solids; no scan with a skull was there to measure on.",
    "One real scan was measured, and looked at while this was made: no statement about people.")


def main(arguments: list[str] | None = None) -> int:
    """Measure and write; 2 with one sentence where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--maps", type=Path, help="nilearn/datasets/data")
    parser.add_argument("--brain", type=Path, help="the scan with labels, .npz")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        card_path = given.folder / f"{NAME}.json"
        if not card_path.is_file():
            raise InputError(f"no {card_path.name} in {given.folder.name}", expected="the folder of the weight",
                             remedy=f"train it: firstread train {NAME} -o DIR")
        stage = SegmentByPlan(networks=[trained_network(PLAN, given.folder / f"{NAME}.safetensors")], plan=PLAN).eval()
        rows = simulated(stage, load_maps(maps_folder(given.maps)))
        card = json.loads(card_path.read_text(encoding="utf-8"))
        card["evaluation"] = {"simulated": table(rows)}
        if given.brain is not None:
            card["evaluation"]["real"] = {name: round(v, 4) for name, v in real(stage, given.brain).items()}
        card["limits"] = list(LIMITS)
        write_text(card_path, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
        write_text(given.folder / f"{NAME}.md", page(card))
    except FirstreadError as error:
        print(f"evaluate_brain: {error}", file=sys.stderr)
        return 2
    return 0


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over scenes, all with intervals, and by contrast."""
    made: dict[str, Any] = {"scenes": len(rows), "all": {}, "by contrast": {}}
    for name in CLASSES[1:]:
        values = [float(row.get(name, float("nan"))) for row in rows]
        found = summarize(values, [str(number) for number in range(len(values))])
        made["all"][name] = [round(v, 4) for v in (found.mean, found.lower, found.upper)]
    for contrast in SHARES:
        chosen = [row for row in rows if row["contrast"] == contrast]
        made["by contrast"][contrast] = {name: round(float(np.nanmean([row.get(name, np.nan) for row in chosen])), 4)
                                         for name in CLASSES[1:]}
    return made


if __name__ == "__main__":
    sys.exit(main())
