"""Super-resolution of thick short-axis stacks on simulated hearts: ``python -m firstread.recipes.evidence_superres``.

    python -m firstread.recipes.evidence_superres --cache FOLDER [-o docs/evidence] [--subjects 12]

Hearts of the test family in slices of 1 mm are scanned with 8 mm slices and 2 mm gaps (a slice profile that the methods
do not know, noise, breath-holds that differ) and in three long-axis views; every method restores 2 mm. Each subject is
stored in the cache: kill it, run it again, and it goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from firstread.analyze.consensus import clean_up
from firstread.analyze.segment import Segment
from firstread.chains.heart import SEGMENTATION
from firstread.chains.trained import networks_of
from firstread.core.errors import FirstreadError, InputError
from firstread.core.keys import Key
from firstread.core.provenance import weights_hash
from firstread.core.records import Image, Rows, SoftLabels
from firstread.nets.superres import SuperResolution
from firstread.ops.quality import psnr, ssim
from firstread.ops.regions import dice, volume_ml
from firstread.ops.slice_profile import Profile
from firstread.recipes.files import write_text
from firstread.recipes.heart_tables import mean_of
from firstread.recipes.superres_hearts import (
    FineHeart,
    average,
    fine_heart,
    moved,
    rician,
    section_grid,
    section_of,
    stack_grid,
    target,
    target_labels,
)
from firstread.restore.superres import LearnedSuperResolution, ModelSuperResolution, Upsample, finer
from firstread.zoo.store import Weight, load

FIRST_SEED, FACTOR = 45_000, 5
STEP_MM, THICKNESS_MM, SNR, BREATH_MM = 10.0, 8.0, 30.0, 1.0
ANGLES = (0.2, 1.25, 2.3)
PROFILES: tuple[Profile, ...] = ("box", "trapezoid", "gaussian")
CLASSES = {"LV cavity": 1, "LV myocardium": 2, "RV cavity": 3}
Method = Callable[[Image, Image], Image]
Reader = Callable[[Image], SoftLabels]


def methods(weights: Sequence[Weight] = ()) -> dict[str, Method]:
    """What is compared; those that end in "+ views" also get the long-axis views. A network for each of ``weights``."""
    model = ModelSuperResolution(factor=FACTOR)
    made: dict[str, Method] = {
        "linear": lambda stack, _: Upsample(factor=FACTOR, order=1)(stack),
        "cubic B-spline": lambda stack, _: Upsample(factor=FACTOR, order=3)(stack),
        "least squares, bending": lambda stack, _: model(stack),
        "least squares, TV": lambda stack, _: ModelSuperResolution(
            factor=FACTOR, regularizer="tv", regularization=5e-3)(stack),
        "least squares, bending + views": model.forward}
    for weight in weights:
        learned = LearnedSuperResolution(network=SuperResolution.from_weight(weight.card["network"], weight.state))
        made[weight.name] = partial(_stack_alone, learned)
        made[f"{weight.name} + views"] = learned.forward
    return made


def _stack_alone(learned: LearnedSuperResolution, stack: Image, _: Image) -> Image:
    return learned(stack)


def scans(heart: FineHeart, seed: int) -> tuple[Image, Image]:
    """The thick stack and the three long-axis views of one heart: magnitudes with noise."""
    key, fine = Key(seed, "evidence superres"), heart.image.grid
    generator = key.generator()
    profile = PROFILES[seed % len(PROFILES)]
    count = int((fine.shape[0] - 1) // STEP_MM)
    first = float(torch.rand((), generator=generator)) * (fine.shape[0] - 1 - STEP_MM * count) + STEP_MM / 2
    grid = stack_grid(fine, first_mm=first, step_mm=STEP_MM, count=count, thickness_mm=THICKNESS_MM)
    clean = average(heart.image.data, fine, grid, profile=profile, thickness_mm=THICKNESS_MM).abs()
    spacing = float(fine.spacing_mm[0, 2])
    held = moved(clean, BREATH_MM / spacing * torch.randn((count, 2), generator=generator)).clamp(min=0)
    sd = float(clean[clean > 0.1 * clean.max()].mean()) / SNR
    stack = Image(heart.image.rows, rician(held, sd, generator), grid)
    views, grids = [], []
    for angle in ANGLES:
        section = section_grid(fine, angle_rad=angle, through_mm=heart.axis_mm, half_mm=52.0, pixel_mm=spacing,
                               low_mm=1.0, high_mm=fine.shape[0] - 2.0, thickness_mm=THICKNESS_MM)
        offset = BREATH_MM * float(torch.randn((), generator=generator))
        seen = section_of(heart.image.data.abs(), fine, section, profile=profile, offset_mm=offset)
        views.append(rician(seen, sd, generator))
        grids.append(section)
    rows = Rows(torch.zeros(3, dtype=torch.int64), torch.arange(3), torch.zeros(3, dtype=torch.int64))
    thickness = torch.full((3,), THICKNESS_MM, dtype=torch.float64)
    together = replace(grids[0], affine=torch.cat([g.affine for g in grids]), thickness_mm=thickness)
    return stack, Image(rows, torch.cat(views), together)


def segmented(segment: Reader, volume: Image) -> Tensor:
    """Class indices ``[1, time, z, y, x]``: every ``FACTOR``-th slice is one stack, as far apart as scans are."""
    slices = volume.grid.shape[0]
    out = torch.zeros(volume.data.shape[:2] + volume.grid.shape, dtype=torch.int64)
    for first in range(FACTOR):
        count = len(range(first, slices, FACTOR))
        grid = volume.grid.crop((first, 0, 0), (count, *volume.grid.shape[1:]))
        affine = grid.affine.clone()
        affine[:, :3, 2] *= FACTOR
        part = Image(volume.rows, volume.data[:, :, :, first::FACTOR], replace(grid, affine=affine))
        out[:, :, first::FACTOR] = segment(part).data.mean(dim=0, keepdim=True).argmax(dim=2)
    return clean_up(out)


def region(labels: Tensor) -> tuple[slice, slice, slice]:
    """The box (z, y, x) around the heart in any phase, 10 mm (5 voxels) wider on all sides."""
    places = torch.nonzero((labels > 0).any(dim=0))
    low, high = places.amin(dim=0) - 5, places.amax(dim=0) + 6
    z, y, x = (slice(max(0, int(a)), int(b)) for a, b in zip(low, high, strict=True))
    return z, y, x


@torch.no_grad()
def measured(heart: FineHeart, seed: int, chosen: Mapping[str, Method], segment: Reader) -> dict[str, dict[str, float]]:
    """Every number of one subject by method; "true volume" segments the truth itself."""
    stack, views = scans(heart, seed)
    grid = finer(stack.grid, FACTOR)
    truth, labels = target(heart, grid), target_labels(heart, grid).data[0, :, 0]
    box = (0, slice(None), 0, *region(labels))
    found = {}
    for name, method in {**chosen, "true volume": lambda *_: Image(stack.rows, truth, grid)}.items():
        volume = method(stack, views)
        classes = segmented(segment, volume)[0]
        found[name] = image_errors(volume.data[box], truth[box]) | label_errors(classes, labels, grid.voxel_ml)
    found["thick slices' labels, repeated"] = label_errors(thick_labels(segment, stack), labels, grid.voxel_ml)
    return found


def thick_labels(segment: Reader, stack: Image) -> Tensor:
    """The stack segmented as it is, each slice's labels for all its voxels (what a slice summation assumes)."""
    classes = clean_up(segment(stack).data.mean(dim=0, keepdim=True).argmax(dim=2))[0]
    return classes.repeat_interleave(FACTOR, dim=1)


def image_errors(image: Tensor, truth: Tensor) -> dict[str, float]:
    """PSNR (peak: the largest true value) and SSIM (mean of the planes along y and along x, which show z)."""
    peak = float(truth.max())
    sagittal = [ssim(image.movedim(axis, 1).contiguous(), truth.movedim(axis, 1).contiguous(), peak=peak)
                for axis in (2, 3)]
    return {"PSNR": psnr(image, truth, peak=peak), "SSIM": sum(sagittal) / 2}


def label_errors(classes: Tensor, truth: Tensor, voxel_ml: Tensor) -> dict[str, float]:
    """Dice by class, mean of both phases; absolute errors of LV volumes and mass (mL) and of EF (points)."""
    found = {name: float(dice(classes == c, truth == c).mean()) for name, c in CLASSES.items()}
    cavity, true = (volume_ml((v == 1)[None], voxel_ml)[0] for v in (classes, truth))
    muscle, true_muscle = (volume_ml((v == 2)[None], voxel_ml)[0, 0] for v in (classes, truth))
    ef, true_ef = (100 * float(1 - v[1] / v[0].clamp(min=1e-6)) for v in (cavity, true))
    return found | {"LVEDV": float((cavity[0] - true[0]).abs()), "LVESV": float((cavity[1] - true[1]).abs()),
                    "wall": float((muscle - true_muscle).abs()), "LVEF": abs(ef - true_ef)}


COLUMNS = (("PSNR", "PSNR dB", 2), ("SSIM", "SSIM", 3), ("LV cavity", "Dice LV", 3), ("LV myocardium", "Dice wall", 3),
           ("RV cavity", "Dice RV", 3), ("LVEDV", "LVEDV mL", 1), ("LVESV", "LVESV mL", 1), ("wall", "wall mL", 1),
           ("LVEF", "LVEF points", 1))


def table(found: Sequence[dict[str, dict[str, float]]], against: str | None = None) -> str:
    """Markdown: methods down, mean and 95 % bootstrap interval over subjects; against: paired differences from it."""
    lines = ["| method | " + " | ".join(head for _, head, _ in COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in found[0]:
        if name == against:
            continue
        cells = []
        for key, _, digits in COLUMNS:
            if not math.isfinite(found[0][name].get(key, math.inf)):  # labels have no image error, the truth none
                cells.append("–")
                continue
            values = torch.tensor([rows[name][key] - (rows[against][key] if against else 0.0) for rows in found],
                                  dtype=torch.float64)
            cells.append(mean_of(values).text(digits))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(found: Sequence[dict[str, dict[str, float]]], weights: Sequence[Weight], segmentation: str | None,
         command: str) -> str:
    """The page."""
    networks = " ".join(f"Network `{weight.name}`: {weight.card['steps']} steps on {weight.card['hearts']} hearts of "
                        "the training family (one run)." for weight in weights) or "No network was compared."
    paired = [{n: v for n, v in rows.items() if "PSNR" in v} for rows in found]
    return "\n".join((
        "# Super-resolution of thick slices, on simulated hearts", "",
        "All data are **simulated**: "
        f"{len(found)} hearts of the phantom's test family at end-diastole and end-systole, rendered in slices of 1 mm "
        f"and scanned with slices of {THICKNESS_MM:g} mm every {STEP_MM:g} mm (profile box, trapezoid or Gaussian in "
        f"turn; all methods assume a trapezoid), SNR {SNR:g}, breath-hold offsets of {BREATH_MM:g} mm (sd) in plane, "
        "and three long-axis views. Every method gives voxels of 2 mm; the truth is the same rendering in 2 mm "
        "boxes. Averages are of complex signals, so that magnitudes do not obey the profile exactly.", "",
        "PSNR (peak: largest true value) and SSIM (planes that contain z) in the box around the heart, 10 mm wider. "
        f"Segmentation: one member of `{SEGMENTATION}` ({segmentation}), every fifth slice as one stack. Dice and "
        "absolute errors against the rendered labels; cells: mean [95 % bootstrap interval over subjects]. "
        f"{networks}", "", table(found), "", "## Paired differences from the cubic B-spline", "",
        table(paired, "cubic B-spline"), "", "```", command, "```", ""))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_superres", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of what is stored per subject")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/evidence"))
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--weight", action="append", default=[], help="a trained .safetensors file, once for each "
                        "network that is compared (`firstread train heart-superres`, `heart-superres-shape`)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        if given.subjects < 3:
            raise InputError(f"{given.subjects} subjects", expected="three or more", remedy="ask for more")
        for folder in (given.cache, given.output):
            folder.mkdir(parents=True, exist_ok=True)
        weights = [load(name) for name in given.weight]
        segment = Segment(networks=networks_of(load(SEGMENTATION))[:1], patch=96, search=96)
        chosen = methods(weights)
        networks = [SuperResolution.from_weight(weight.card["network"], weight.state) for weight in weights]
        label = "-".join(str(weights_hash(made)) for made in (segment, *networks))
        found = []
        for index in range(given.subjects):
            file = given.cache / f"{index:03d}-{label}.json"
            if not file.is_file():
                heart = fine_heart(seed=FIRST_SEED + index, family="test")
                write_text(file, json.dumps(measured(heart, index, chosen, segment)))
            found.append(json.loads(file.read_text(encoding="utf-8")))
            print(f"\r{index + 1} of {given.subjects} subjects", end="", file=sys.stderr)
        print(file=sys.stderr)
        command = ("python -m firstread.recipes.evidence_superres --cache FOLDER -o docs/evidence --subjects "
                   f"{given.subjects}") + "".join(
            f" --weight {Path(name).name}" for name in given.weight)
        write_text(given.output / "superres.md", page(found, weights, weights_hash(segment), command))
    except FirstreadError as error:
        print(f"evidence_superres: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
