"""Rigid and affine registration: several starts, coarse to fine, of one pair of volumes or slices.

The transform is ``M = T(c) exp(sum_k p_k B_k) T(-c) M_0``: a start ``M_0`` and a motion about the centre c of what lies
there; the parameters p are scaled so that each moves the image by about a millimetre.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import GeometryError
from firstread.core.geometry import Grid
from firstread.ops.resample import sample
from firstread.ops.rigid import about, exponential
from firstread.ops.separable import resize, smooth
from firstread.ops.similarity import (
    LocalCorrelation,
    joint_histogram,
    mutual_information,
    normalized_gradient_fields,
)

Kind = Literal["rigid", "affine"]
Metric = Literal["mi", "lncc", "ngf"]
ANGLES = (-40.0, -20.0, 20.0, 40.0)  # degrees about each axis that are tried at the start
POINTS = (6000, 20000, 40000)  # that mutual information looks at; the others see every voxel
SHRINK = {"mi": (8, 4, 1), "lncc": (8, 4, 2), "ngf": (8, 4, 2)}
STEPS, KEPT = (40, 40, 60), (8, 3, 1)
COARSEST = 24  # voxels that the longest side keeps
LEAST_OVERLAP = 0.1  # of the fixed field of view
HOPELESS = 0.8  # share of the best similarity of a level below which a pose goes no further
AS_ALIKE, APART = 0.95, 0.05  # share of the best similarity, and of the longest side, from which on a pose is a rival


@dataclass(frozen=True, eq=False)
class Placement:
    """A matrix (millimetres of fixed to those of moving) and its rival: how far away (mm, mean over the fixed field of
    view) another pose lies that is as alike, if there is one."""

    matrix: Float[Tensor, "4 4"]
    rival_mm: float | None = None


@dataclass(frozen=True, eq=False)
class Level:
    """An image of unit range at one resolution."""

    data: Float[Tensor, "z y x"]
    grid: Grid


def level(data: Float[Tensor, "z y x"], grid: Grid, spacing_mm: float) -> Level:
    """The image smoothed and resized to voxels of about ``spacing_mm``; axes that are coarser stay."""
    factor = [max(1.0, spacing_mm / float(s)) for s in grid.spacing_mm[0]]
    z, y, x = (max(min(n, 4), round(n / f)) for n, f in zip(grid.shape, factor, strict=True))
    shape = (z, y, x)
    sd_z, sd_y, sd_x = (0.5 * math.sqrt(f * f - 1) for f in factor)
    made = resize(smooth(data, (sd_z, sd_y, sd_x)), shape)
    return Level(made, grid.resize(shape))


def register_linear(fixed: Float[Tensor, "z y x"], fixed_grid: Grid, moving: Float[Tensor, "z y x"],
                    moving_grid: Grid, *, kind: Kind, metric: Metric = "mi",
                    progress: Callable[[str], None] = lambda text: None) -> Placement:
    """How two images of unit range are most alike.

    Starts: the header's own placement, the centres and the centres of mass on each other, and turns of 20 and 40
    degrees about each axis; the best go on to finer resolutions. Affine begins at the second: on the coarsest, a
    stretch is easily taken for a shift or a turn. What is much less alike than the best of its level goes no further:
    at the finest, little overlap may be more alike than the right one. No random draws. Raises GeometryError where
    hardly any of the images overlaps in the end.
    """
    bases = [generators(fixed_grid, "rigid"), generators(fixed_grid, kind)]
    base = min(float(s) for s, n in zip(fixed_grid.spacing_mm[0], fixed_grid.shape, strict=True) if n > 1)
    poses, rival = starts(Level(fixed, fixed_grid), Level(moving, moving_grid)), None
    for number, (shrink, points, steps, kept) in enumerate(zip(SHRINK[metric], POINTS, STEPS, KEPT, strict=True)):
        spacing = min(base * shrink, max(base, _extent(fixed_grid) / COARSEST))
        one, two = level(fixed, fixed_grid, spacing), level(moving, moving_grid, spacing)
        measure = _measure(one, two, metric, points)
        poses = _best(measure, poses, kept, fixed_grid, apart_mm=spacing / 2)
        basis = bases[min(number, 1)]
        progress(f"{kind}: voxels of {spacing:.3g} mm, {len(poses)} {'start' if len(poses) == 1 else 'starts'}")
        poses, score = _climb(measure, poses, basis, _middle(fixed_grid), size_mm=spacing / 2, steps=steps)
        rival = _rival(poses, score, fixed_grid) if len(poses) > 1 else rival
        poses = poses[score >= HOPELESS * score.max()]
    if overlap(fixed_grid, moving_grid, poses[0]) < LEAST_OVERLAP:
        raise GeometryError("two images that hardly overlap", expected="images of the same part of the body",
                            remedy="check that these are the right images")
    return Placement(poses[0], rival)


def _rival(poses: Float[Tensor, "start 4 4"], score: Float[Tensor, " start"], grid: Grid) -> float | None:
    """How far from the best pose the farthest lies that is as alike; None where all those are close to it."""
    apart = _apart(poses, poses[score.argmax()], grid)
    far = apart[(score >= AS_ALIKE * score.max()) & (apart > APART * _extent(grid))]
    return float(far.max()) if len(far) else None


def _apart(poses: Float[Tensor, "start 4 4"], other: Float[Tensor, "4 4"], grid: Grid) -> Float[Tensor, " start"]:
    """How far from ``other`` each pose takes what lies in the grid, on average, in millimetres."""
    places = _homogeneous(grid.to_mm(_spread(grid, 200)[None])[0])
    return torch.einsum("sij,nj->sni", (poses - other)[:, :3], places).norm(dim=-1).mean(dim=1)


def generators(grid: Grid, kind: Kind) -> Float[Tensor, "parameter 4 4"]:
    """The directions B_k in which a transform may change, in the frame of the grid, scaled to a millimetre at its rim.

    A single slice stays in its plane.
    """
    axes = grid.affine[0, :3, :3] / grid.affine[0, :3, :3].norm(dim=0)
    active = [k for k in range(3) if grid.shape[2 - k] > 1]
    radius = _extent(grid) / 4
    found = []
    for i in active:
        shift = torch.zeros(4, 4, dtype=torch.float64)
        shift[:3, 3] = axes[:, i]
        found.append(shift)
    for i in active:
        for j in active:
            if kind == "rigid" and j <= i:
                continue
            turn = torch.zeros(4, 4, dtype=torch.float64)
            outer = torch.outer(axes[:, i], axes[:, j])
            turn[:3, :3] = (outer - outer.T if kind == "rigid" else outer) / radius
            found.append(turn)
    return torch.stack(found)


def starts(fixed: Level, moving: Level) -> Float[Tensor, "start 4 4"]:
    """The header's placement, centres on centres, masses on masses; the last two also turned."""
    eye = torch.eye(4, dtype=torch.float64)
    found = [eye]
    flat = 1 in fixed.grid.shape
    normal = [2 - k for k in range(3) if fixed.grid.shape[k] == 1]
    for one, two in ((_middle(fixed.grid), _middle(moving.grid)), (_mass(fixed), _mass(moving))):
        shift = eye.clone()
        shift[:3, 3] = two - one
        found.append(shift)
        for axis in (normal if flat else range(3)):
            direction = fixed.grid.affine[0, :3, axis] / fixed.grid.affine[0, :3, axis].norm()
            for angle in ANGLES:
                twist = torch.cat((direction * math.radians(angle), torch.zeros(3, dtype=torch.float64)))
                found.append(about(exponential(twist), two) @ shift)
    return torch.stack(found)


def overlap(fixed: Grid, moving: Grid, matrix: Float[Tensor, "4 4"]) -> float:
    """The share of the fixed field of view that lies in the moving one."""
    index = moving.to_index(torch.einsum("ij,nj->ni", matrix, _homogeneous(fixed.to_mm(_spread(fixed, 2000)[None])[0])
                                         )[None, :, :3])[0]
    return float(_inside(index, moving).double().mean())


Measure = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Poses ``[start, 4, 4]`` to similarity and overlap, each ``[start]``."""


def _measure(fixed: Level, moving: Level, metric: Metric, points: int) -> Measure:
    if metric == "mi":
        index = _spread(fixed.grid, points)
        values = sample(fixed.data[None, None], _plane(index, fixed.data)[None].float(), outside="border")
        values = values.reshape(1, -1).clamp(0, 1)
        places = fixed.grid.to_mm(index[None])[0]
    else:
        places = fixed.grid.points_mm()[0].reshape(-1, 3)
        values = fixed.data.reshape(1, -1)
    homogeneous = _homogeneous(places)
    to_index = torch.linalg.inv(moving.grid.affine[0])
    local = LocalCorrelation(fixed.data[None]) if metric == "lncc" else None
    spacing = tuple(fixed.grid.spacing_mm[0].tolist())

    def measure(poses: Tensor) -> tuple[Tensor, Tensor]:
        index = torch.einsum("sij,nj->sni", (to_index @ poses)[:, :3], homogeneous).float()
        seen = torch.cat([sample(moving.data[None, None], _plane(one, moving.data)[None], outside="border")
                          for one in index]).reshape(len(poses), -1)
        inside = _inside(index.detach(), moving.grid).float()
        shared = inside.mean(dim=1)
        if metric == "mi":
            joint = joint_histogram(values.expand(len(poses), -1), seen.clamp(0, 1), weights=inside)
            return mutual_information(joint), shared
        image = (seen * inside).reshape(-1, *fixed.data.shape)
        if local is not None:
            return torch.cat([local(one[None]) for one in image]), shared
        return normalized_gradient_fields(fixed.data[None].expand_as(image), image, spacing_mm=spacing), shared

    return measure


def _climb(measure: Measure, poses: Tensor, basis: Tensor, centre: Tensor, *, size_mm: float, steps: int
           ) -> tuple[Tensor, Tensor]:
    """Adam on the parameters of every pose at once, with steps that shrink from ``size_mm`` to a fiftieth: the best
    pose of each way, and its score."""
    about_centre = torch.einsum("sij,j->si", poses, torch.cat((centre, centre.new_ones(1))))[:, :3]
    parameters = torch.zeros(len(poses), len(basis), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([parameters], lr=size_mm, betas=(0.8, 0.95))
    best, score = poses, torch.full((len(poses),), -math.inf, dtype=torch.float64)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = size_mm * 50 ** (-step / max(1, steps - 1))
        motion = torch.linalg.matrix_exp(torch.einsum("sk,kij->sij", parameters, basis))
        now = about(motion, about_centre) @ poses
        value, shared = measure(now)
        with torch.no_grad():
            found = _score(value, shared)
            better = found > score
            best = torch.where(better[:, None, None], now, best)
            score = torch.where(better, found, score)
        optimizer.zero_grad()
        (-value).sum().backward()
        optimizer.step()
    return best.detach(), score


def _best(measure: Measure, poses: Tensor, count: int, grid: Grid, *, apart_mm: float) -> Tensor:
    """The best poses, best first, of which no two are the same to ``apart_mm``."""
    with torch.no_grad():
        score = torch.cat([_score(*measure(part)) for part in poses.split(4)])
    left = poses[score.argsort(descending=True, stable=True)]
    kept: list[Tensor] = []
    while len(left) and len(kept) < count:
        kept.append(left[0])
        left = left[_apart(left, left[0], grid) > apart_mm]
    return torch.stack(kept)


def _score(value: Tensor, shared: Tensor) -> Tensor:
    """Similarity, less where not half of the fixed image is covered: little overlap is easily alike."""
    return value.double() * (shared.double() / 0.5).clamp(max=1)


def _spread(grid: Grid, count: int) -> Float[Tensor, "n 3"]:
    """Indices (x, y, z) spread evenly off the grid's own points (Roberts' additive recurrence)."""
    ratio = 1.2207440846057596
    step = torch.tensor([ratio**-1, ratio**-2, ratio**-3], dtype=torch.float64)
    unit = (0.5 + torch.arange(1, count + 1, dtype=torch.float64)[:, None] * step) % 1
    sizes = torch.tensor(grid.shape[::-1], dtype=torch.float64)
    return torch.where(sizes > 1, unit * sizes - 0.5, torch.zeros_like(unit))


def _inside(index: Tensor, grid: Grid) -> Tensor:
    """Which indices (x, y, z) lie in the grid's field of view; a single slice has all depths."""
    sizes = torch.tensor(grid.shape[::-1], dtype=index.dtype)
    within = ((index >= -0.5) & (index <= sizes - 0.5)) | (sizes == 1)
    return within.all(dim=-1)


def _plane(index: Tensor, data: Tensor) -> Tensor:
    """The index as ``sample`` wants it for a volume; a single slice is read in its own plane."""
    if data.shape[0] == 1:
        index = torch.cat((index[..., :2], torch.zeros_like(index[..., :1])), dim=-1)
    return index[:, None, None]


def _homogeneous(points: Tensor) -> Tensor:
    return torch.cat((points, torch.ones_like(points[:, :1])), dim=1)


def _middle(grid: Grid) -> Tensor:
    sizes = torch.tensor(grid.shape[::-1], dtype=torch.float64)
    return grid.to_mm(((sizes - 1) / 2)[None])[0]


def _mass(image: Level) -> Tensor:
    """The centre of mass of what is brighter than the mean, in millimetres."""
    weight = (image.data - image.data.mean()).clamp_min(0).double()
    total = weight.sum()
    index = torch.stack([(weight.sum(dim=[d for d in range(3) if d != axis]) * torch.arange(n)).sum() / total
                         for axis, n in ((2, image.data.shape[2]), (1, image.data.shape[1]), (0, image.data.shape[0]))])
    return image.grid.to_mm(index[None])[0]


def _extent(grid: Grid) -> float:
    """The longest side in millimetres."""
    return float((grid.spacing_mm[0] * torch.tensor(grid.shape)).max())
