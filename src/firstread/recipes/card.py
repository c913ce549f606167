"""The figures of a heart segmentation weight, measured on real scans and written into its card.

    python -m firstread.recipes.card heart-sax --acdc FOLDER --sunnybrook FOLDER

puts them into ``heart-sax.json`` beside the weight and renders ``heart-sax.md`` from it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from firstread.chains.trained import networks_of
from firstread.core.errors import FirstreadError
from firstread.recipes.evaluate_acdc import dice_table, failures, interval, segment_folder
from firstread.recipes.evaluate_sunnybrook import cavity_dice
from firstread.zoo import store


def evaluation(weight: store.Weight, acdc: Path, sunnybrook: Path) -> dict[str, Any]:
    """Dice on ACDC's development patients and on the held-out patients of Sunnybrook."""
    networks = networks_of(weight)
    scans, cavity = segment_folder(acdc, networks), cavity_dice(sunnybrook, networks)
    values = np.array(list(cavity.values()))
    return {"acdc": {"patients": len(scans) // 2, "spacing_assumed_mm": [9, 1.5, 1.5], "dice": dice_table(scans),
                     "failures": failures(scans)},
            "sunnybrook": {"patients": len(cavity), "spacing_assumed_mm": 1.37, "interval_95": interval(values),
                           "left_cavity_dice": round(float(values.mean()), 4),
                           "per_patient": {name: round(value, 3) for name, value in cavity.items()}}}


def render(card: dict[str, Any]) -> str:
    """The card as a page of Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(loader=PackageLoader("firstread.recipes", "."), undefined=StrictUndefined, autoescape=False,
                       trim_blocks=True, keep_trailing_newline=True).get_template("card.md.jinja").render(card=card)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.card", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="a default weight's name or a .safetensors file")
    parser.add_argument("--acdc", type=Path, required=True)
    parser.add_argument("--sunnybrook", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        weight = store.load(given.weights)
        card = weight.card | {"evaluation": evaluation(weight, given.acdc, given.sunnybrook)}
    except FirstreadError as error:
        print(f"card: {error}", file=sys.stderr)
        return 2
    own = Path(given.weights)
    place = own if own.suffix == ".safetensors" else store.asset(f"{given.weights}.safetensors")
    place.with_suffix(".json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    place.with_suffix(".md").write_text(render(card), encoding="utf-8")
    print(place.with_suffix(".md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
