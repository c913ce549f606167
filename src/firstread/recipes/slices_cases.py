"""Heads whose slices moved, with the truth of every slice: what slice-to-volume reconstruction is judged on."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.acquire.head import head_phantom
from firstread.acquire.head_stacks import MILD, SEVERE, Motion, Protocol, Stacks, acquire_stacks, mask_on
from firstread.core.errors import InputError
from firstread.core.records import HardLabels, Image, Rows
from firstread.core.slices import SliceVolume
from firstread.ops.resample import resample
from firstread.ops.rigid import fit_rigid
from firstread.recipes.slices_scores import brain_points, fitted_psnr, on_truth, pose_error, slice_points
from firstread.restore.slices import SliceToVolume
from firstread.restore.slices_input import join_stacks

SPACING_MM = 0.6
SEVERITIES = {"mild": MILD, "severe": SEVERE}
SHOWN = 150  # pixels (1 mm) of brain that a slice must show to be counted
SLAB_MM = 1.0  # the truth on every millimetre


@dataclass(frozen=True, eq=False)
class Head:
    """A volume whose centre is the origin, and where its brain is."""

    image: Float[Tensor, "z y x"]
    brain: Bool[Tensor, "z y x"]


def phantom(seed: int) -> Head:
    """The phantom head of ``seed``."""
    return Head(*head_phantom(seed=seed, spacing_mm=SPACING_MM))


def real_brain(path: Path) -> Head:
    """A T1 scan of an adult (.npz with ``vol``, 1 mm, and ``seg``), shrunk to half its size: that of a fetal brain."""
    with np.load(path, allow_pickle=False) as file:
        if "vol" not in file or "seg" not in file:
            raise InputError(f"{path.name} without vol and seg", expected="an .npz file of a scan and its labels",
                             remedy="give the file of the brain")
        image, labels = torch.from_numpy(file["vol"]).float(), torch.from_numpy(file["seg"].astype(np.int32))
    return Head(image / image.max(), labels > 0)


def moving(head: Head, severity: str, seed: int, protocol: Protocol) -> tuple[Stacks, HardLabels]:
    """Its stacks, and the mask of the brain as it lies in the middle slice of the first one."""
    motion: Motion = SEVERITIES[severity]
    stacks = acquire_stacks(head.image, SPACING_MM, motion=motion, protocol=protocol, seed=seed)
    grid = stacks.images[0].grid
    middle = grid.shape[0] // 2
    inside = mask_on(head.brain, SPACING_MM, grid, stacks.poses[middle:middle + 1])
    return stacks, HardLabels(Rows.subjects(1), inside[None, None, None].to(torch.uint8), grid, ("background", "brain"))


def shown(head: Head, stacks: Stacks) -> Bool[Tensor, " slice"]:
    """Slices that really show the brain."""
    found, first = [], 0
    for image in stacks.images:
        count = image.grid.shape[0]
        inside = mask_on(head.brain, SPACING_MM, image.grid, stacks.poses[first:first + count])
        found.append(inside.sum(dim=(1, 2)) > SHOWN / image.grid.spacing_mm[0, 1:].prod())
        first += count
    return torch.cat(found)


@torch.no_grad()
def scores(head: Head, stacks: Stacks, mask: HardLabels, stage: SliceToVolume) -> dict[str, float]:
    """Every number of one reconstruction.

    Poses: of slices that show the brain and are not spoilt, one rigid offset of all removed. PSNR in the brain after
    one factor. Exclusion: true and false positives and false negatives among slices that show the brain.
    """
    started = time.process_time()
    volume = stage(join_stacks(stacks.images), mask)
    seconds = time.process_time() - started
    assert volume.poses is not None
    points = slice_points([image.grid for image in stacks.images])
    seen, bad = shown(head, stacks), torch.tensor([fault != "" for fault in stacks.faults])
    before = pose_error(torch.eye(4).double().repeat(len(bad), 1, 1), stacks.poses, points, seen & ~bad)
    after = pose_error(volume.poses[0], stacks.poses, points, seen & ~bad)
    places, index = brain_points(head.brain, SPACING_MM, every_mm=SLAB_MM)
    truth = head.image[tuple(index.long().flip(-1).T)].double()
    found = {"seconds": seconds, "mm before": before.mean_mm, "degrees before": before.mean_deg,
             "mm": after.mean_mm, "mm median": after.median_mm, "mm p90": after.p90_mm, "degrees": after.mean_deg}
    for name, image, offset in (("template", _resampled(stacks, volume, (volume.template,)), before.offset),
                                ("average", _resampled(stacks, volume, range(len(stacks.images))), before.offset),
                                ("volume", volume, after.offset)):
        made, inside = on_truth(image, offset, places)
        found[f"PSNR {name}"], found[f"NCC {name}"] = fitted_psnr(made[inside], truth[inside])
    out = torch.tensor([state == "excluded" for state in volume.states])
    return found | {"excluded rightly": int((out & bad & seen).sum()),
                    "excluded wrongly": int((out & ~bad & seen).sum()),
                    "faults kept": int((~out & bad & seen).sum()), "slices": int(seen.sum())}


def _resampled(stacks: Stacks, like: SliceVolume, which: range | tuple[int, ...]) -> SliceVolume:
    """The mean of stacks as they came on the volume's grid: no motion correction, no super-resolution."""
    made = [resample(stacks.images[row].data[:, 0], stacks.images[row].grid, like.grid) for row in which]
    level = [m / m[m > 0].mean() for m in made]
    return replace(like, data=torch.stack(level).mean(dim=0)[:, None])


def stack_poses(volume: SliceVolume, images: tuple[Image, ...]) -> Float[Tensor, "stack 4 4"]:
    """One pose per stack: the rigid motion closest to those of its used slices."""
    assert volume.poses is not None
    points = slice_points([image.grid for image in images])
    poses = volume.poses[0]
    moved = points @ poses[:, :3, :3].transpose(1, 2) + poses[:, None, :3, 3]
    used = torch.tensor([state == "used" for state in volume.states])
    stack = torch.tensor(volume.stack)
    chosen = [used & (stack == row) for row in range(len(images))]
    return torch.stack([fit_rigid(points[own].flatten(0, 1), moved[own].flatten(0, 1)) for own in chosen])


def apart_mm(one: Float[Tensor, "stack 4 4"], other: Float[Tensor, "stack 4 4"], centre: Float[Tensor, "3"],
             radius_mm: float = 35.0) -> tuple[Float[Tensor, " stack"], Float[Tensor, "4 4"]]:
    """Mean distance of six points about ``centre`` under two sets of poses, one offset removed; and that offset."""
    points = centre + radius_mm * torch.cat((torch.eye(3), -torch.eye(3))).double()
    a, b = (points @ poses[:, :3, :3].transpose(1, 2) + poses[:, None, :3, 3] for poses in (one, other))
    offset = fit_rigid(a.flatten(0, 1), b.flatten(0, 1))
    return (a @ offset[:3, :3].T + offset[:3, 3] - b).norm(dim=-1).mean(dim=1), offset
