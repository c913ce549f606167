"""Where stacks and slices lie in the volume: starts to try, levels from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from firstread.ops.resample import sample
from firstread.ops.rigid import about, angle_degrees, exponential, fit_rigid
from firstread.restore.slices_input import SliceSet
from firstread.restore.slices_intensity import smooth_plane
from firstread.restore.slices_register import (
    COARSE,
    MIDDLE,
    Level,
    Targets,
    best_of,
    refine,
    refine_starts,
    with_gradient,
)

GROUP_PIXELS = 3000
TURN_DEG = 25.0
TILT, SHIFT = 0.2, 4.0  # rad, mm: other starts of a slice
FAR = (45.0, 25.0)  # degrees and mm from where its stack lies: no slice moves further


def align_stacks(volume: Float[Tensor, "z y x"], spacing_mm: float, slices: SliceSet, mask: Bool[Tensor, "z y x"],
                 poses: Float[Tensor, "stack 4 4"], template: int) -> Float[Tensor, "stack 4 4"]:
    """Poses of whole stacks, from starts turned by 25 degrees about each axis, at their place or with centres joined.

    The template's stays the identity.
    """
    for level, starts in ((Level(4.0, 3, 6), True), (COARSE, False), (MIDDLE, False)):
        made = with_gradient(volume, spacing_mm, level.smooth_mm)
        slice_poses = poses[slices.stack]
        targets = _grouped(targets_of(slices, level, mask_weights(slices, mask, spacing_mm, slice_poses, 4.0)),
                           slices.stack, slice_poses)
        start = torch.eye(4, dtype=torch.float64).repeat(len(poses), 1, 1)
        if starts:
            moved = _from_starts(made, spacing_mm, targets, start, level.iterations)
        else:
            moved, _ = refine(made, spacing_mm, targets, start, level.iterations)
        moved[template] = torch.eye(4, dtype=torch.float64)
        poses = moved @ poses
    return poses


def align_groups(volume: Float[Tensor, "z y x"], spacing_mm: float, slices: SliceSet, mask: Bool[Tensor, "z y x"],
                 poses: Float[Tensor, "slice 4 4"], size: int) -> Float[Tensor, "slice 4 4"]:
    """Poses after a common motion of every ``size`` slices that were taken one after the other (even, then odd)."""
    group = _in_time(slices, size)
    level = Level(3.0, 3, 6)
    made = with_gradient(volume, spacing_mm, level.smooth_mm)
    targets = _grouped(targets_of(slices, level, mask_weights(slices, mask, spacing_mm, poses, 3.0)), group, poses)
    start = torch.eye(4, dtype=torch.float64).repeat(int(group.max()) + 1, 1, 1)
    moved, _ = refine(made, spacing_mm, targets, start, level.iterations)
    return moved[group] @ poses


def _in_time(slices: SliceSet, size: int) -> Int[Tensor, " slice"]:
    """The group of every slice: as even a cut as ``size`` allows of each interleave of each stack."""
    group, made = torch.zeros(len(slices), dtype=torch.long), 0
    for stack in torch.unique(slices.stack).tolist():
        for odd in (0, 1):
            own = ((slices.stack == stack) & (slices.number % 2 == odd)).nonzero()[:, 0]
            if len(own) == 0:
                continue
            count = max(1, round(len(own) / size))
            group[own] = made + torch.arange(len(own)) * count // len(own)
            made += count
    return group


def align_slices(volume: Float[Tensor, "z y x"], spacing_mm: float, slices: SliceSet, mask: Bool[Tensor, "z y x"],
                 poses: Float[Tensor, "slice 4 4"], home: Float[Tensor, "slice 4 4"], levels: Sequence[Level],
                 search: bool = False) -> tuple[Float[Tensor, "slice 4 4"], Float[Tensor, " slice"]]:
    """Poses of single slices and their NCC.

    search: try nine starts of each. Before each level a slice may take the pose of a neighbour in its stack.
    home: the stack's pose; a slice that ends 45 degrees or 25 mm from it goes back there.
    """
    ncc = torch.zeros(len(slices))
    for level in levels:
        made = with_gradient(volume, spacing_mm, level.smooth_mm)
        targets = targets_of(slices, level, mask_weights(slices, mask, spacing_mm, poses, 2.0))
        poses, _ = best_of(made, spacing_mm, targets, [poses, *(_neighbours(slices, poses, k) for k in (-2, -1, 1, 2)),
                                                       home])
        if search:
            poses = _searched(made, spacing_mm, slices, targets, poses)
        poses, ncc = refine(made, spacing_mm, targets, poses, level.iterations)
        moved = torch.linalg.solve(home, poses)
        centre = slices.points().flatten(1, 2).mean(dim=1).double()
        shift = ((moved[:, :3, :3] @ centre[..., None])[..., 0] + moved[:, :3, 3] - centre).norm(dim=1)
        lost = (angle_degrees(moved) > FAR[0]) | (shift > FAR[1]) | (ncc <= 0)
        poses = torch.where(lost[:, None, None], home, poses)
    return poses, ncc


def stack_motion(slices: SliceSet, poses: Float[Tensor, "slice 4 4"]) -> Float[Tensor, "slice 4 4"]:
    """Of every slice, the rigid motion nearest to those of its whole stack; the third that is furthest off left out."""
    corners = slices.points()[:, ::max(1, slices.plane[0] - 1), ::max(1, slices.plane[1] - 1)].flatten(1, 2).double()
    moved = corners @ poses[:, :3, :3].transpose(1, 2) + poses[:, None, :3, 3]
    made = torch.empty_like(poses)
    for stack in torch.unique(slices.stack).tolist():
        own = slices.stack == stack
        used = torch.ones(int(own.sum()), dtype=torch.bool)
        for _ in range(4):
            whole = fit_rigid(corners[own][used].flatten(0, 1), moved[own][used].flatten(0, 1))
            away = (corners[own] @ whole[:3, :3].T + whole[:3, 3] - moved[own]).norm(dim=-1).mean(dim=1)
            used = away <= torch.quantile(away, 0.67)
        made[own] = whole
    return made


def mask_weights(slices: SliceSet, mask: Bool[Tensor, "z y x"], spacing_mm: float, poses: Float[Tensor, "slice 4 4"],
                 soft_mm: float) -> Float[Tensor, "slice v u"]:
    """How much each pixel counts: its share, where the mask (grown softly by about ``soft_mm``) is at its pose."""
    wide = _grown(mask, soft_mm / spacing_mm)
    pose = poses.float()
    places = slices.points() @ pose[:, None, :3, :3].transpose(2, 3) + pose[:, None, None, :3, 3]
    middle = torch.tensor([(n - 1) / 2 for n in mask.shape[::-1]])
    return slices.share * sample(wide[None, None], (places / spacing_mm + middle)[None])[0, 0]


def targets_of(slices: SliceSet, level: Level, weights: Float[Tensor, "slice v u"]) -> Targets:
    """Every ``stride``-th pixel of smoothed slices, with three nodes through a slice that is thicker than smooth."""
    pixel = float(slices.affine[:, :3, 0].norm(dim=1).mean())
    sd = level.smooth_mm / pixel
    stride = max(1, min(level.stride, round(level.stride / max(pixel, 0.5))))
    weighted = smooth_plane(slices.values * slices.share, sd) / smooth_plane(slices.share, sd).clamp_min(1e-3)
    pick = (slice(None), slice(stride // 2, None, stride), slice(stride // 2, None, stride))
    normal = slices.affine[:, :3, 2] / slices.affine[:, :3, 2].norm(dim=1, keepdim=True)
    rest = (slices.sigma_mm[:, 1].double()**2 - slices.sigma_mm[:, 0].double()**2).clamp_min(0).sqrt()
    if float(rest.max()) > max(0.5, level.smooth_mm):
        places, shares = torch.tensor([-1.0, 0.0, 1.0]).double() * 3**0.5, torch.tensor([1.0, 4.0, 1.0]) / 6
    else:
        places, shares = torch.zeros(1).double(), torch.ones(1)
    nodes = (rest[:, None, None] * places[None, :, None] * normal[:, None]).float()
    return Targets(weighted[pick].flatten(1), weights[pick].flatten(1), slices.points()[pick].flatten(1, 2), nodes,
                   shares).compact()


def _grouped(targets: Targets, group: Int[Tensor, " slice"], poses: Float[Tensor, "slice 4 4"]) -> Targets:
    """One target per group of slices, each at its pose: GROUP_PIXELS pixels at most, drawn evenly of those counted."""
    pose = poses.float()
    points = targets.points @ pose[:, :3, :3].transpose(1, 2) + pose[:, None, :3, 3]
    nodes = targets.nodes @ pose[:, :3, :3].transpose(1, 2)
    made = []
    counted = (targets.weights > 0).sum(dim=1)
    most = int(torch.zeros(int(group.max()) + 1, dtype=torch.long).index_add(0, group, counted).max())
    count = max(1, min(GROUP_PIXELS, most))
    for number in range(int(group.max()) + 1):
        own = group == number
        weights = targets.weights[own].flatten()
        some = weights.nonzero()[:, 0]
        some = some[torch.linspace(0, len(some) - 1, count).long()] if len(some) else torch.zeros(
            count, dtype=torch.long)
        made.append((targets.values[own].flatten()[some], weights[some], points[own].flatten(0, 1)[some],
                     nodes[own][0]))
    values, weights, points, nodes = (torch.stack(column) for column in zip(*made, strict=True))
    return Targets(values, weights, points, nodes, targets.node_weights)


def _from_starts(volume: Tensor, spacing_mm: float, targets: Targets, poses: Tensor, iterations: int) -> Tensor:
    """The best of 14 starts of each stack after a few steps."""
    bright = volume[0].clamp_min(0)
    size = [(n - 1) / 2 for n in volume.shape[1:]]
    axes = [(torch.arange(n) - m) * spacing_mm for n, m in zip(volume.shape[1:], size, strict=True)]
    total = bright.sum().clamp_min(1e-9)
    middle = torch.stack([(bright.sum(dim=(0, 1)) * axes[2]).sum(), (bright.sum(dim=(0, 2)) * axes[1]).sum(),
                          (bright.sum(dim=(1, 2)) * axes[0]).sum()]).double() / total
    share = targets.weights * targets.values.clamp_min(0)
    own = (share[..., None] * targets.points).sum(dim=1).double() / share.sum(dim=1).clamp_min(1e-9)[:, None]
    own = (poses[:, :3, :3] @ own[..., None])[..., 0] + poses[:, :3, 3]
    turns = torch.cat((torch.zeros(1, 3), torch.eye(3), -torch.eye(3))) * TURN_DEG * torch.pi / 180
    starts = []
    for turn in turns.double():
        for move in (torch.zeros_like(own), middle - own):
            twist = torch.cat((turn.expand(len(own), 3), torch.zeros_like(own)), dim=1)
            start = about(exponential(twist), own)
            start[:, :3, 3] += move
            starts.append(start @ poses)
    return refine_starts(volume, spacing_mm, targets, torch.stack(starts), iterations)


def _searched(volume: Tensor, spacing_mm: float, slices: SliceSet, targets: Targets, poses: Tensor) -> Tensor:
    """The best of nine starts of each slice after three steps: as it is, turned about axes, moved along its normal."""
    pose = poses @ slices.affine
    centre = pose[:, :3, 3] + (pose[:, :3, :2] @ torch.tensor([slices.plane[1] / 2, slices.plane[0] / 2]).double())
    axes = pose[:, :3, :3] / pose[:, :3, :3].norm(dim=1, keepdim=True)
    starts = [poses]
    for axis, size in ((0, TILT), (0, -TILT), (1, TILT), (1, -TILT), (2, TILT), (2, -TILT), (3, SHIFT), (3, -SHIFT)):
        direction = axes[:, :, min(axis, 2)] * size
        zero = torch.zeros_like(direction)
        twist = torch.cat((zero, direction) if axis == 3 else (direction, zero), dim=1)
        starts.append(about(exponential(twist), centre) @ poses)
    return refine_starts(volume, spacing_mm, targets, torch.stack(starts), 3, margin=0.005)


def _neighbours(slices: SliceSet, poses: Tensor, step: int) -> Tensor:
    """The pose of the slice ``step`` further on in the same stack; its own at the ends and for patches elsewhere."""
    other = (torch.arange(len(slices)) + step).clamp(0, len(slices) - 1)
    same = slices.stack[other] == slices.stack
    return torch.where(same[:, None, None], poses[other], poses)


def _grown(mask: Tensor, voxels: float) -> Tensor:
    """Grown by a cube of ``voxels`` to each side."""
    reach = max(0, round(voxels))
    grown = mask.float()[None, None]
    for axis in range(3):
        size, padding = [1, 1, 1], [0, 0, 0]
        size[axis], padding[axis] = 2 * reach + 1, reach
        grown = torch.nn.functional.max_pool3d(grown, size, 1, padding)
    return grown[0, 0]
