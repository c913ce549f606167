"""Classical vision on real images: ``python -m firstread.recipes.evidence_classical FOLDER -o docs/evidence``.

FOLDER holds ``fundus_drive`` (vessels: tubeness, a threshold) and ``ct_mr_lesion`` (two lesions, from a click). One
row is learned; the few settings are chosen on other images than those they are tested on. Writes ``classical.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from firstread.analyze.vessels import Tubeness, filled_outside
from firstread.core.errors import FirstreadError, InputError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.ops.regions import dice
from firstread.ops.skeleton import centreline_dice
from firstread.recipes.classical_lesions import CIRCLE, CLICKS, SEED, LesionTable, lesions, read_lesion
from firstread.recipes.files import write_text
from firstread.trust.segmentation import summarize

VESSELS: dict[str, tuple[tuple[float, ...], ...]] = {
    "frangi": ((2.0,), (1.5, 2.5)), "tophat": ((1.0, 2.5), (1.0, 3.0)), "lines": ((2.5,), (3.0,))}
TITLES = {"frangi": "Frangi", "tophat": "black top-hat", "lines": "line detector (Nguyen)"}
SHARES = tuple(np.round(np.arange(0.09, 0.155, 0.01), 3).tolist())
SMALLEST = (0, 30, 80)
PUBLISHED = (
    "Dice of the second observer 0.788 (documentation of bob.ip.binseg)",
    "of trained networks 0.817 (R2U-Net) and 0.820 (LadderNet), as their papers state")

@dataclass(frozen=True)
class Fundus:
    """name; tubeness by method and scales, within the field of view; the vessels of the first observer."""

    name: str
    inside: Bool[Tensor, "y x"]
    truth: Bool[Tensor, "y x"]
    tubeness: dict[tuple[str, tuple[float, ...]], Float[Tensor, "y x"]] = field(default_factory=dict)


def read_fundus(folder: Path, name: str) -> Fundus:
    """Picture NAME of DRIVE: tubeness of its green channel by every method, the field of view filled to the outside."""
    from PIL import Image as Pillow

    green = np.asarray(Pillow.open(folder / f"{name}_image.png"))[..., 1].astype(np.float32)
    inside, truth = (np.asarray(Pillow.open(folder / f"{name}_{kind}.png")) > 0
                     for kind in ("field_of_view", "vessels_observer1"))
    plane = torch.from_numpy(filled_outside(green, inside))[None, None, None, None]
    image = Image(Rows.subjects(1), plane, Grid.pixels((1, *green.shape)))
    found = Fundus(name, torch.from_numpy(inside), torch.from_numpy(truth & inside))
    for method, choices in VESSELS.items():
        for scales in choices:
            stage = Tubeness(method=method, scales_px=scales)  # type: ignore[arg-type]
            found.tubeness[method, scales] = stage(image).data[0, 0, 0, 0]
    return found


def without_small(mask: Bool[Tensor, "y x"], smallest: int) -> Bool[Tensor, "y x"]:
    """The mask without pieces of fewer than ``smallest`` pixels (that touch by a corner at least)."""
    pieces, _ = ndimage.label(mask.numpy(), np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return torch.from_numpy(sizes[pieces] >= max(smallest, 1))


def vessel_mask(tubeness: Float[Tensor, "y x"], inside: Bool[Tensor, "y x"], share: float, smallest: int
                ) -> Bool[Tensor, "y x"]:
    """The ``share`` of the field of view with the highest values, pieces of fewer than ``smallest`` pixels left out."""
    return without_small((tubeness > torch.quantile(tubeness[inside], 1 - share)) & inside, smallest)


def dice_by_setting(fundus: Fundus, method: str) -> dict[tuple[tuple[float, ...], float, int], float]:
    """Dice under every choice of scales, share and smallest piece."""
    found = {}
    for scales in VESSELS[method]:
        values = fundus.tubeness[method, scales]
        limits = torch.quantile(values[fundus.inside], 1 - torch.tensor(SHARES, dtype=values.dtype))
        for share, limit in zip(SHARES, limits, strict=True):
            mask = (values > limit) & fundus.inside
            for smallest in SMALLEST:
                kept = without_small(mask, smallest) if smallest else mask
                found[scales, share, smallest] = float(dice(kept[None], fundus.truth[None]))
    return found


def auc(values: Float[Tensor, " n"], truth: Bool[Tensor, " n"]) -> float:
    """Share of pairs of a true and a false pixel that are in the right order, ties counted half.

    >>> auc(torch.tensor([0.1, 0.9, 0.9, 0.2]), torch.tensor([False, True, False, False]))
    0.8333333333333334
    """
    from scipy.stats import rankdata

    ranks, count = rankdata(values.numpy()), int(truth.sum())
    return float((ranks[truth.numpy()].sum() - count * (count + 1) / 2) / (count * (len(truth) - count)))


def vessels(images: Sequence[Fundus]) -> dict[str, dict[str, list[float]]]:
    """Dice, clDice and AUC of each image by method, with the settings that were best on the other half of the images.

    The halves are the first and the second in order of name.
    """
    middle = len(images) // 2
    halves = (images[:middle], images[middle:])
    table: dict[str, dict[str, list[float]]] = {}
    for method in VESSELS:
        tried = {fundus.name: dice_by_setting(fundus, method) for fundus in images}
        rows: dict[str, list[float]] = {"Dice": [], "clDice": [], "AUC": []}
        for tuning, testing in (halves[::-1], halves):
            options = list(tried[tuning[0].name])
            scales, share, smallest = max(options, key=lambda o: np.mean([tried[f.name][o] for f in tuning]))
            for fundus in testing:
                values = fundus.tubeness[method, scales]
                made = vessel_mask(values, fundus.inside, share, smallest)
                rows["Dice"].append(float(dice(made[None], fundus.truth[None])))
                rows["clDice"].append(centreline_dice(made, fundus.truth))
                rows["AUC"].append(auc(values[fundus.inside], fundus.truth[fundus.inside]))
        table[method] = rows
    return table


def page(fundus: Mapping[str, Mapping[str, Sequence[float]]], names: Sequence[str],
         found: LesionTable) -> str:
    """The page in Markdown."""
    lines = ["# Classical vision, real images", "",
             "Made by `python -m firstread.recipes.evidence_classical FOLDER`. Nothing here is learned but the last "
             "method: rows to stand beside learned ones.", "", "## Vessels of the retina", "",
             f"{len(names)} training images of DRIVE ({names[0]} to {names[-1]}), green channel, first observer, "
             "within the field of view. Scales, share of pixels and smallest piece are chosen for the best Dice on one "
             "half of the images (in order of number) and tested on the other, both ways. Mean over images, 95 % "
             "bootstrap interval over images.", "", "| method | Dice | clDice | AUC |", "|---|---|---|---|"]
    for method, rows in fundus.items():
        cells = [summarize(values, names) for values in rows.values()]
        lines.append(f"| {TITLES[method]} | " + " | ".join(f"{c.mean:.3f} [{c.lower:.3f}, {c.upper:.3f}]"
                                                           for c in cells) + " |")
    lines += ["", "Published, of DRIVE's 20 test images, for orientation only: " + "; ".join(PUBLISHED) + ".", "",
              "## Lesions from a click", "",
              "Two cases (a lung nodule in CT, a brain tumour in contrast MR; of each the largest piece of its mask). "
              f"{CLICKS} clicks each, drawn from the "
              f"half of the lesion farthest from its border (seed {SEED}), and with each a circle (a ball) about it "
              f"that holds the lesion, {CIRCLE:g} times as wide as need be. The user is supposed to draw it; here it "
              "is known from the truth, and what it is worth by itself stands as `the circle itself`. Settings are "
              "those that did best on the other case; the circle and the settings tried were revised after a first "
              "look at these two cases. `segment prompt` is told how far the circle reaches, within slices, and has no "
              "settings; its network is the one learned row here, from [simulated scenes alone](../prompt.md). Mean "
              "over clicks, "
              "smallest and largest in brackets; two cases give no interval.",
              "",
              "| method | case | Dice | HD95, mm | settings |", "|---|---|---|---|---|"]
    for method, cases in found.items():
        for name, (overlap, far, settings) in cases.items():
            lines.append(f"| {method} | {name} | {np.mean(overlap):.2f} ({min(overlap):.2f} to {max(overlap):.2f}) | "
                         f"{np.mean(far):.1f} ({min(far):.1f} to {max(far):.1f}) | {settings} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_classical", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with fundus_drive and ct_mr_lesion")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/evidence"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    try:
        names = sorted(path.name.partition("_")[0] for path in (given.folder / "fundus_drive").glob("*_image.png"))
        if not given.output.is_dir() or len(names) < 6:
            raise InputError(f"{len(names)} images in {given.folder.name}/fundus_drive, output {given.output}",
                             expected="six images or more, and a folder that is there", remedy="check both")
        images = []
        for name in names:
            images.append(read_fundus(given.folder / "fundus_drive", name))
            say(f"vessels {name}")
        table = vessels(images)
        cases = {title: read_lesion(given.folder / "ct_mr_lesion", stem) for title, stem in
                 (("lung nodule, CT", "lung1_crop"), ("brain tumour, MR", "brain1"))}
        say("lesions")
        write_text(given.output / "classical.md", page(table, names, lesions(cases)))
    except (FirstreadError, FileNotFoundError) as error:
        print(f"evidence_classical: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
