"""Dice of the left cavity on held-out Sunnybrook patients.

``python -m firstread.recipes.evaluate_sunnybrook FOLDER --weights heart-sax-sunnybrook``. Slices are single (their
order is not in the files) and their pixels are taken as 1.37 mm wide; every fifth patient was held out of training.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from firstread.analyze.consensus import Consensus
from firstread.analyze.segment import Segment
from firstread.chains.trained import networks_of
from firstread.core.errors import FirstreadError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.core.stage import Chain
from firstread.recipes.evaluate_acdc import interval
from firstread.recipes.sunnybrook import read_slices
from firstread.zoo.store import load

SPACING_MM = (8.0, 1.37, 1.37)
CAVITY = 1


def cavity_dice(folder: Path, networks: Sequence[nn.Module], *, held_out: bool = True) -> dict[str, float]:
    """Per patient, Dice of the cavity over all contoured slices together."""
    chain = Chain(Segment(networks=networks), Consensus())
    counts: dict[str, np.ndarray] = {}
    for slice_ in read_slices(folder, held_out=held_out):
        grid = Grid.from_spacing((1, *slice_.image.shape), SPACING_MM, frame="detector")
        with torch.no_grad():
            found = chain(Image(Rows.subjects(1), slice_.image[None, None, None, None], grid))["labels"].data.squeeze()
        mask = found == CAVITY
        pair = np.array([2 * int((mask & slice_.cavity).sum()), int(mask.sum() + slice_.cavity.sum())])
        counts[slice_.patient] = counts.get(slice_.patient, np.zeros(2)) + pair
    return {patient: float(both / max(1, total)) for patient, (both, total) in counts.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: one line per patient, then the mean."""
    import argparse

    parser = argparse.ArgumentParser(description="Dice of the left cavity on held-out Sunnybrook patients")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", default="heart-sax-sunnybrook")
    given = parser.parse_args(arguments)
    try:
        dice = cavity_dice(given.folder, networks_of(load(given.weights)))
    except FirstreadError as error:
        print(f"evaluate_sunnybrook: {error}", file=sys.stderr)
        return 2
    for patient, value in dice.items():
        print(f"{patient:14s} {value:.3f}")
    low, high = interval(np.array(list(dice.values())))
    print(f"{'mean':14s} {np.mean(list(dice.values())):.3f} [{low:.3f}, {high:.3f}], {len(dice)} patients")
    return 0


if __name__ == "__main__":
    sys.exit(main())
