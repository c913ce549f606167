"""Agreement with SVRTK (Kuklisova-Murgasova 2012; Uus 2022) on its own simulated stacks: two programs, no truth."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import InputError
from firstread.core.records import HardLabels, Image, Rows
from firstread.core.slices import SliceVolume
from firstread.io.nifti import read
from firstread.ops.resample import sample
from firstread.recipes.files import write_text
from firstread.recipes.slices_cases import apart_mm, stack_poses
from firstread.recipes.slices_scores import fitted_psnr
from firstread.restore.slices import SliceToVolume
from firstread.restore.slices_input import join_stacks
from firstread.restore.slices_register import Level, Targets, refine, with_gradient

STACKS, MASK = "simulated_stack_d*.nii.gz", "mask_for_stack_d2.nii.gz"
EXPECTED, REGION, TABLE = ("expected_reconstructed_template.nii.gz", "expected_template_mask.nii.gz",
                           "expected_global_transformations.csv")
RESOLUTION_MM = 0.8
SAMPLES = 20_000


def mirtk_rigid(numbers: Float[np.ndarray, "6"]) -> Float[Tensor, "4 4"]:
    """MIRTK's rigid transformation (mm, degrees; RAS) as a motion of LPS+ millimetres."""
    a, b, c = np.radians(numbers[3:])
    (sa, sb, sc), (ca, cb, cc) = np.sin([a, b, c]), np.cos([a, b, c])
    matrix = np.array([[cb * cc, cb * sc, -sb, numbers[0]],
                       [sa * sb * cc - ca * sc, sa * sb * sc + ca * cc, sa * cb, numbers[1]],
                       [ca * sb * cc + sa * sc, ca * sb * sc - sa * cc, ca * cb, numbers[2]], [0, 0, 0, 1]])
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return torch.from_numpy(flip @ matrix @ flip)


@torch.no_grad()
def compared(folder: Path, cache: Path) -> dict[str, Any]:
    """Every number of the comparison; from the cache where it is there."""
    file = cache / "svrtk.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    stacks = sorted(folder.glob(STACKS))
    if len(stacks) != 6 or not (folder / EXPECTED).is_file():
        raise InputError(f"{folder} with {len(stacks)} stacks", expected="SVRTK's six simulated stacks and its results",
                         remedy="give the folder test/data of SVRTK")
    images = tuple(read(path) for path in stacks)
    drawn = read(folder / MASK)
    mask = HardLabels(Rows.subjects(1), (drawn.data > 0.5).to(torch.uint8), drawn.grid, ("background", "brain"))
    started = time.process_time()
    volume = SliceToVolume(resolution_mm=RESOLUTION_MM)(join_stacks(images), mask)
    seconds = time.process_time() - started
    theirs, region = read(folder / EXPECTED), read(folder / REGION).data[0, 0, 0] > 0.5
    numbers = np.loadtxt(folder / TABLE, delimiter=",", skiprows=1, usecols=range(1, 7))
    made = _agreement(volume, theirs, region)
    found = {"seconds": seconds, "used": volume.states.count("used"), "excluded": volume.states.count("excluded"),
             **made, **_poses(volume, images, torch.stack([mirtk_rigid(row) for row in numbers]))}
    write_text(file, json.dumps(found))
    return found


def _agreement(volume: SliceVolume, theirs: Image, region: Tensor) -> dict[str, float]:
    """NCC, PSNR and volume difference in SVRTK's mask, after the rigid motion that joins both volumes."""
    place = region.nonzero().flip(-1).double()
    points = theirs.grid.to_mm(place[None])[0]
    values = theirs.data[0, 0, 0][region].double()
    centre = points.mean(dim=0)
    pick = torch.linspace(0, len(points) - 1, SAMPLES).long()
    own = volume.grid.to_index(points[None])[0] * volume.grid.spacing_mm[0, 0]  # in the volume's own axes
    middle = (torch.tensor(volume.grid.shape[::-1]) - 1) / 2 * float(volume.grid.spacing_mm[0, 0])
    target = Targets(values[pick][None].float(), torch.ones(1, SAMPLES), (own[pick] - middle).float()[None],
                     torch.zeros(1, 1, 3), torch.ones(1))
    pose = torch.eye(4, dtype=torch.float64)[None]
    for level in (Level(3.0, 1, 30), Level(1.5, 1, 20), Level(0.8, 1, 20)):
        seen = with_gradient(volume.data[0, 0, 0].float(), RESOLUTION_MM, level.smooth_mm)
        pose, _ = refine(seen, RESOLUTION_MM, target, pose, level.iterations)
    moved = (own - middle) @ pose[0, :3, :3].T + pose[0, :3, 3] + middle
    made = sample(volume.data[:, 0].double(), (moved / RESOLUTION_MM)[None, None, None])[0, 0, 0, 0]
    assert volume.region is not None
    inside = sample(volume.region[:, 0].double(), (moved / RESOLUTION_MM)[None, None, None])[0, 0, 0, 0] > 0.5
    psnr, ncc = fitted_psnr(made[inside], values[inside])
    own_ml, their_ml = (float(count) * float(grid.voxel_ml[0]) for count, grid in
                        ((volume.region.sum(), volume.grid), (region.sum(), theirs.grid)))
    shift = float((pose[0, :3, :3] @ torch.zeros(3).double() + pose[0, :3, 3]).norm())
    return {"NCC": ncc, "PSNR": psnr, "shared": float(inside.double().mean()), "own ml": own_ml, "their ml": their_ml,
            "offset mm": shift, "centre": centre.tolist()}


def _poses(volume: SliceVolume, images: tuple[Image, ...], theirs: Tensor) -> dict[str, Any]:
    """Distances of the stacks' poses from SVRTK's, in the direction of its matrices that fits; and from no motion."""
    centre = volume.grid.to_mm(torch.tensor([[[(n - 1) / 2 for n in volume.grid.shape[::-1]]]]).double())[0, 0]
    own = stack_poses(volume, images)
    straight, _ = apart_mm(own, theirs, centre)
    inverted, _ = apart_mm(own, torch.linalg.inv(theirs), centre)
    still = torch.eye(4, dtype=torch.float64).repeat(len(images), 1, 1)
    return {"poses": straight.tolist(), "poses, their inverse": inverted.tolist(),
            "no motion": apart_mm(still, theirs, centre)[0].tolist()}


def svrtk_section(found: dict[str, Any]) -> str:
    """Markdown."""
    def row(values: list[float]) -> str:
        return " | ".join(f"{v:.2f}" for v in values) + f" | {sum(values) / len(values):.2f}"

    best = min(("poses", "poses, their inverse"), key=lambda k: sum(found[k]))
    lines = [
        "## Beside SVRTK, on its six simulated stacks", "",
        "SVRTK's test data: six **simulated** stacks of one fetal brain (1.25 mm), its mask, its template and its "
        "poses of whole stacks: agreement of two programs, not accuracy. The template is one stack as it came, its "
        "slices displaced, not a corrected volume: with it our volume can agree in place and size, not in detail. Both "
        "joined by one rigid motion.", "",
        "| | |", "|---|---|",
        f"| NCC with the template in SVRTK's mask | {found['NCC']:.3f} |",
        f"| PSNR after one factor (peak: SVRTK's largest value) | {found['PSNR']:.1f} dB |",
        f"| SVRTK's mask that our region holds | {100 * found['shared']:.1f} % |",
        f"| volume of the region | {found['own ml']:.0f} mL, SVRTK {found['their ml']:.0f} mL "
        f"({100 * (found['own ml'] / found['their ml'] - 1):+.1f} %) |",
        f"| slices used, excluded | {found['used']}, {found['excluded']} |",
        f"| time, one thread | {found['seconds']:.0f} s of processor time |", "",
        "Poses of whole stacks (ours: the rigid motion nearest to those of the used slices) from SVRTK's, one offset "
        f"of all removed, mean distance in mm of points 35 mm from the centre"
        f"{'' if best == 'poses' else '; its matrices taken as volume to stack, the direction that fits better'}:", "",
        "| | d0 | d1 | d2 | d3 | d4 | d5 | mean |", "|---" * 8 + "|",
        f"| ours from SVRTK's | {row(found[best])} |", f"| no motion from SVRTK's | {row(found['no motion'])} |", ""]
    return "\n".join(lines)
