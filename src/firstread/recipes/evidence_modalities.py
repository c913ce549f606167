"""Registration of images of different kinds: ``python -m firstread.recipes.evidence_modalities FOLDER [-o OUT]``.

FOLDER holds ``ct_mr_lesion`` (a CT of a lung and an MR of another person's brain, each with a lesion drawn). Here the
truth is known: the second kind is made of the first and moved by a known rigid map (real pairs without a truth:
:mod:`firstread.recipes.evidence_modalities_real`):

    other contrast   v -> (1 + sin(2 pi (a v + p))) / 2, neither rising nor falling, with noise
    PET-like         one random activity for each of six ranges of v, blurred to 7 mm, in voxels of 4 mm, with noise
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.analyze.register import Register, seen_on, unit_range
from firstread.core.errors import FirstreadError, InputError
from firstread.core.geometry import Grid, Transform
from firstread.core.records import Image
from firstread.ops.regions import dice
from firstread.ops.rigid import about
from firstread.ops.rigid import exponential as rigid
from firstread.ops.separable import resize, smooth
from firstread.ops.warp import apply, warp
from firstread.recipes.classical_lesions import read_lesion
from firstread.recipes.evidence_registration import spread
from firstread.recipes.files import write_text

CASES = {"CT of a lung": "lung1_crop", "MR of a brain": "brain1"}
KINDS = ("other contrast", "PET-like")
SEEDS, BLUR_MM, PET_MM = 3, 7.0, 4.0
Row = dict[str, float]


def other_contrast(image: Float[Tensor, "z y x"], seed: int) -> Float[Tensor, "z y x"]:
    """Another contrast in which two tissues that differed may look alike; noise 3 percent."""
    g = torch.Generator().manual_seed(seed)
    rate, phase = (0.8 + 0.6 * torch.rand((), generator=g)).item(), torch.rand((), generator=g).item()
    made = 0.5 + 0.5 * torch.sin(2 * math.pi * (rate * image + phase))
    return made + 0.03 * torch.randn(image.shape, generator=g)


def pet_like(image: Float[Tensor, "z y x"], grid: Grid, seed: int) -> tuple[Float[Tensor, "z y x"], Grid]:
    """Activities by range of brightness, blurred and in larger voxels; noise 5 percent."""
    g = torch.Generator().manual_seed(seed)
    activity = torch.rand(6, generator=g)[(image.clamp(0, 0.999) * 6).long()]
    spacing = grid.spacing_mm[0].tolist()
    sd = [BLUR_MM / 2.355 / mm for mm in spacing]
    z, y, x = (max(1, round(n * mm / max(PET_MM, mm))) for n, mm in zip(grid.shape, spacing, strict=True))
    coarse = resize(smooth(activity, (sd[0], sd[1], sd[2])), (z, y, x))
    return coarse + 0.05 * torch.randn(coarse.shape, generator=g), grid.resize((z, y, x))


def known_rigid(volume: Image, lesion: Bool[Tensor, "z y x"], seed: int, *, kind: str) -> Row:
    """One volume moved by a known rigid map, shown as another kind and registered: errors in mm, the lesion before and
    after."""
    g = torch.Generator().manual_seed(900 + seed)
    grid = volume.grid
    twist = torch.randn(6, generator=g, dtype=torch.float64) * torch.tensor([0.1] * 3 + [8.0] * 3)
    middle = grid.points_mm()[0].reshape(-1, 3).mean(dim=0)
    true = Transform(about(rigid(twist), middle)[None], None, grid, grid)
    image = unit_range(volume.data)
    moved, valid = seen_on(image, grid, true, grid)
    made, fixed_grid = (other_contrast(moved, seed), grid) if kind == KINDS[0] else pet_like(moved, grid, seed)
    fixed = replace(volume, data=made[None, None, None], grid=fixed_grid)
    started = time.process_time()
    found = Register(kind="rigid")(fixed, volume)
    seconds = time.process_time() - started
    places = grid.points_mm()[:, (valid > 0.99) & (moved > 0.1)][:, ::11]
    wanted = apply(true, places)
    error = (apply(found.forward, places) - wanted).norm(dim=-1)[0]
    row = {"before": float((places - wanted).norm(dim=-1).mean()), "error": float(error.mean()),
           "p95": float(error.quantile(0.95)), "seconds": seconds}
    mask = lesion[None, None].float()
    truth, start, end = (warp(mask, grid, t, grid, mode="nearest")[0, 0] > 0
                         for t in (true, Transform.identity(), found.forward))
    return row | {"dice before": float(dice(truth, start)), "dice": float(dice(truth, end))}


def page(rows: dict[str, list[Row]]) -> str:
    """The page in Markdown."""
    lines = ["# Registration of images of different kinds", "",
             "Made by `python -m firstread.recipes.evidence_modalities`, one thread; CPU seconds. Mutual information, "
             "rigid; nothing was trained.", "", "Here the truth is known, and the second kind of image made up: each "
             "image was moved by a known rigid map "
             f"(seeds 0 to {SEEDS - 1}) and shown as another kind of image, semi-simulated: with a contrast that "
             "neither rises nor falls with the first, or as PET might show it (six random activities, blurred to "
             f"{BLUR_MM:g} mm, voxels of {PET_MM:g} mm). Optimistic: one anatomy, no breathing, no distortion; "
             "[real pairs](registration-real-pairs.md) have no truth. Errors in the body, mm; Dice of the drawn "
             "lesion. Mean and, in brackets, least and most.", "",
             "| pair | mm before | error, mm | 95th percentile | lesion before | lesion after | s |",
             "|---|---|---|---|---|---|---|"]
    for name, found in rows.items():
        columns = [spread([row[key] for row in found], digits) for key, digits in
                   (("before", 2), ("error", 2), ("p95", 2), ("dice before", 3), ("dice", 3))]
        lines.append(f"| {name} | " + " | ".join(columns) + f" | {sum(r['seconds'] for r in found) / len(found):.1f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write ``registration-modalities.md``; 2 with one sentence where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="real data: ct_mr_lesion/")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/evidence"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        home = given.folder / "ct_mr_lesion"
        if not home.is_dir() or not given.output.is_dir():
            raise InputError(f"real data {given.folder}, output {given.output}", expected="folders that are there",
                             remedy="give the folder that holds ct_mr_lesion/")
        rows: dict[str, list[Row]] = {}
        for name, stem in CASES.items():
            volume, lesion = read_lesion(home, stem)
            for kind in KINDS:
                rows[f"{name}, {kind}"] = [known_rigid(volume, lesion, seed, kind=kind) for seed in range(SEEDS)]
                print(f"{name}, {kind}: {rows[f'{name}, {kind}']}", file=sys.stderr)
        write_text(given.output / "registration-modalities.md", page(rows))
    except FirstreadError as error:
        print(f"evidence_modalities: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
