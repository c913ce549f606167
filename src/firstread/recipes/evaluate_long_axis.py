"""How well long-axis planes are segmented: ``python -m firstread.recipes.evaluate_long_axis FOLDER [--echoes DATA]``.

FOLDER holds ``heart-lax.safetensors`` and its card; the figures, on simulated planes that no step of the training saw,
are written into the card and ``heart-lax.md`` is made of it. DATA holds real 4-chamber planes without contours, each
seen at several echo times (``*_ch4_*.npz`` with complex ``images [echo, y, x]``, 340 mm along x): one plane looks
different in each echo, and its labels should not.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from firstread.acquire.long_axis import NAMES
from firstread.chains.models import open_segmenter
from firstread.chains.trained import trained_network
from firstread.core.errors import FirstreadError, InputError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, Rows
from firstread.core.stage import Stage
from firstread.ops.regions import largest_component
from firstread.recipes.files import write_text
from firstread.recipes.heart_long_axis import NAME, PLAN, SIZE, VIEWS, planes
from firstread.trust.segmentation import summarize

SUBJECTS, WIDTH_MM = 32, 340.0  # of each view; of the real planes


@torch.no_grad()
def simulated(network: nn.Module) -> dict[str, dict[str, list[float]]]:
    """By view and class: mean Dice over hearts with the lower and upper end of its 95 % interval."""
    found: dict[str, dict[str, list[float]]] = {}
    for number, view in enumerate(VIEWS):
        images, labels = planes(Key(1, "long_axis_test"), number, views=(view,), subjects=SUBJECTS, size=SIZE)
        made = torch.cat([network(part).argmax(dim=1) for part in images.split(8)])
        found[view] = {}
        for value, name in enumerate(NAMES):
            a, b = (made == value).flatten(1), (labels == value).flatten(1)
            total = (a.sum(1) + b.sum(1)).tolist()
            dice = [2 * int((p & q).sum()) / t if t else math.nan for p, q, t in zip(a, b, total, strict=True)]
            seen = bool(b.any())
            if value and seen:
                over = summarize(dice, [str(n) for n in range(len(dice))])
                found[view][name] = [round(v, 4) for v in (over.mean, over.lower, over.upper)]
            elif value:
                found[view][name] = []
    return found


@torch.no_grad()
def agreeing(stage: Stage, folder: Path) -> dict[str, Any]:
    """By class: Dice between the labels of two echoes of one plane, mean over pairs and planes; and the mean share of a
    class that lies beside its largest piece. Raises InputError where no plane is found."""
    files = sorted(folder.glob("*_ch4_*.npz"))
    if not files:
        raise InputError(f"no planes in {folder.name}", expected="files *_ch4_*.npz", remedy="give their folder")
    dice: dict[str, list[float]] = {name: [] for name in NAMES[1:]}
    stray: dict[str, list[float]] = {name: [] for name in NAMES[1:]}
    count = 0
    for file in files:
        with np.load(file) as stored:
            echoes = torch.from_numpy(np.abs(stored["images"]).astype(np.float32))
        count += len(echoes)
        pixel = WIDTH_MM / echoes.shape[2]
        grid = Grid.from_spacing((1, *echoes.shape[1:]), (6.0, pixel, pixel), frame="detector")
        made = stage(Image(Rows.subjects(1), echoes[None, :, None, None], grid)).data[0, :, :, 0].argmax(dim=1)
        for value, name in enumerate(NAMES[1:], start=1):
            masks = [plane == value for plane in made]
            dice[name] += [2 * int((a & b).sum()) / total for a, b in combinations(masks, 2)
                           if (total := int(a.sum() + b.sum()))]
            stray[name] += [1 - int(largest_component(mask, axes=2).sum()) / int(mask.sum())
                            for mask in masks if bool(mask.any())]
    return {"planes": len(files), "images": count,
            **{key: {name: round(sum(v) / len(v), 3) if v else None for name, v in found.items()}
               for key, found in (("dice_between_echoes", dice), ("beside_the_largest_piece", stray))}}


def page(card: dict[str, Any]) -> str:
    """The card as a page."""
    lines = [f"# {NAME}", "", f"{card['summary'][0].upper()}{card['summary'][1:]}.", "",
             f"`firstread segment predict {NAME} CINE -o OUT` (`--seg` for DICOM SEG)", "", "| | |", "|---|---|",
             f"| recipe | `firstread train {NAME} -o DIR`, seed {card['seed']}, {card['steps']} steps |",
             f"| network | residual U-Net 2D, widths {card['plan']['network']['widths']}, half precision |",
             f"| data | {card['data']} |", f"| licence | {card['licence']} |", "", "## Figures", "",
             f"Simulated, {SUBJECTS} hearts of each view that were not trained on: Dice, mean with 95 % bootstrap "
             "interval over hearts. The same simulation as in training: optimistic.", "",
             "| | " + " | ".join(card["evaluation"]) + " |", "|---|" + "---|" * len(card["evaluation"])]
    for name in NAMES[1:]:
        each = [row[name] for row in card["evaluation"].values()]
        lines.append(f"| {name} | " + " | ".join(f"{v[0]:.3f} ({v[1]:.3f} to {v[2]:.3f})" if v else "not in this view"
                                                 for v in each) + " |")
    if real := card.get("real"):
        lines += ["", f"Real, without contours: {real['planes']} 4-chamber planes of one person, each at several echo "
                  f"times ({real['images']} gradient-echo images). Dice between the labels of two echoes of a plane, "
                  "which shows whether the same is found again, not whether it is right; and the share of a label that "
                  "lies beside its largest piece.", "", "| | between echoes | beside the largest piece |",
                  "|---|---|---|",
                  *(f"| {name} | {_number(real['dice_between_echoes'][name])} | "
                    f"{_number(real['beside_the_largest_piece'][name])} |" for name in NAMES[1:])]
    return "\n".join([*lines, "", "## Limits", "", *(f"- {limit}" for limit in card["limits"]), ""])


def _number(value: float | None) -> str:
    return "never found" if value is None else f"{value:.2f}"


def main(arguments: list[str] | None = None) -> int:
    """Measure and write; 2 with one sentence where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--echoes", type=Path, metavar="DATA", help="real planes at several echo times")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        path = given.folder / f"{NAME}.json"
        if not path.is_file():
            raise InputError(f"no {path.name} in {given.folder.name}", expected="the folder of the weight",
                             remedy=f"train it: firstread train {NAME} -o DIR")
        card = json.loads(path.read_text(encoding="utf-8"))
        card["evaluation"] = simulated(trained_network(PLAN, given.folder / f"{NAME}.safetensors"))
        if given.echoes is not None:
            card["real"] = agreeing(open_segmenter(given.folder / f"{NAME}.safetensors"), given.echoes)
        write_text(path, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
        write_text(given.folder / f"{NAME}.md", page(card))
    except FirstreadError as error:
        print(f"evaluate_long_axis: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
