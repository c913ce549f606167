"""How well long-axis planes are segmented: ``python -m firstread.recipes.evaluate_long_axis FOLDER``.

FOLDER holds ``heart-lax.safetensors`` and its card; the figures, on simulated planes that no step of the training saw,
are written into the card and ``heart-lax.md`` is made of it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from firstread.acquire.long_axis import NAMES
from firstread.chains.trained import trained_network
from firstread.core.errors import FirstreadError, InputError
from firstread.core.keys import Key
from firstread.recipes.files import write_text
from firstread.recipes.heart_long_axis import NAME, PLAN, SIZE, VIEWS, planes
from firstread.trust.segmentation import summarize

SUBJECTS = 32  # of each view


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
    return "\n".join([*lines, "", "## Limits", "", *(f"- {limit}" for limit in card["limits"]), ""])


def main(arguments: list[str] | None = None) -> int:
    """Measure and write; 2 with one sentence where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        path = given.folder / f"{NAME}.json"
        if not path.is_file():
            raise InputError(f"no {path.name} in {given.folder.name}", expected="the folder of the weight",
                             remedy=f"train it: firstread train {NAME} -o DIR")
        card = json.loads(path.read_text(encoding="utf-8"))
        card["evaluation"] = simulated(trained_network(PLAN, given.folder / f"{NAME}.safetensors"))
        write_text(path, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
        write_text(given.folder / f"{NAME}.md", page(card))
    except FirstreadError as error:
        print(f"evaluate_long_axis: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
