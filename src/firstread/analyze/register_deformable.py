"""Diffeomorphic registration of pairs on one grid: stationary velocities found by instance optimization.

Velocities live on a grid of half the resolution, in its voxels. Each step takes the gradient of the similarity with
respect to a small motion put before the present one (compositional: the warped image's own gradient), smooths it, adds
momentum, and moves the velocity by at most ``step`` voxels (the log-demons of Vercauteren et al. 2008 with other
similarities).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.register_discrete import discrete_displacement
from firstread.core.errors import SettingError
from firstread.ops.separable import resize, resize_adjoint, smooth
from firstread.ops.similarity import (
    LocalCorrelation,
    mutual_information_gradient,
    negative_ssd_gradient,
    normalized_gradient_fields_gradient,
)
from firstread.ops.velocity import exponential, identity_index, logarithm, sample_at

Metric = Literal["lncc", "mi", "ngf", "ssd"]
Shape = tuple[int, int, int]
Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Warped images ``[batch, z, y, x]`` to their similarity and the derivative of it."""
Couple = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Effort:
    """How a velocity is looked for.

    shrink: of the image at each level; iterations: at each level; fluid, elastic: sd of the Gaussians on each step and
    on the whole velocity, in its voxels; step: longest step in its voxels; radius: of LNCC's windows;
    momentum: the share of earlier steps; discrete: whether large motion is searched first.
    """

    shrink: tuple[int, ...] = (4, 2, 1)
    iterations: tuple[int, ...] = (60, 40, 15)
    fluid: float = 1.5
    elastic: float = 0.4
    step: float = 0.5
    radius: int = 2
    momentum: float = 0.7
    discrete: bool = True

    def __post_init__(self):
        if not self.shrink or len(self.shrink) != len(self.iterations) or min(*self.shrink, *self.iterations) < 1:
            raise SettingError(f"levels {self.shrink} with iterations {self.iterations}", remedy="correct the effort",
                               expected="as many of one as of the other, all of one or more")


def find_velocity(fixed: Float[Tensor, "batch z y x"], moving: Float[Tensor, "batch z y x"], *,
                  spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0), metric: Metric = "lncc",
                  effort: Effort | None = None, valid: Float[Tensor, "batch z y x"] | None = None,
                  start: Float[Tensor, "batch 3 vz vy vx"] | None = None, couple: Couple | None = None,
                  progress: Callable[[str], None] = lambda text: None) -> Float[Tensor, "batch 3 hz hy hx"]:
    """The velocities v (in voxels of their own, coarser grid) under which ``moving(exp(v)(x))`` is most like ``fixed``.

    fixed, moving: of unit range, on one grid; valid: where ``moving`` was seen at all (0 to 1); start: velocities to
    begin with, of any resolution; couple: what ties the rows together, applied to the velocities after each step.
    """
    effort = effort or Effort()
    size = (fixed.shape[1], fixed.shape[2], fixed.shape[3])
    velocity = start
    for shrink, iterations in zip(effort.shrink, effort.iterations, strict=True):
        shape, coarse = (level_shape(size, spacing_mm, by) for by in (shrink, 2 * shrink))
        one, two = (at_level(image, shape) for image in (fixed, moving))
        seen = None if valid is None else at_level(valid, shape)
        if velocity is None:
            velocity = torch.zeros(len(fixed), 3, *coarse)
            if effort.discrete:
                progress("search for large motion")
                velocity = torch.cat([_discrete(a, b, shape, coarse, effort.radius)
                                      for a, b in zip(one, two, strict=True)])
        measure = measure_for(one, metric, effort.radius, _spacing(size, spacing_mm, shape))
        progress(f"deformation: {' x '.join(map(str, shape))} voxels, {iterations} iterations")
        velocity = _climb(measure, two, rescale(velocity, coarse), _spacing(size, spacing_mm, coarse), iterations,
                          effort, seen, couple)
    assert velocity is not None
    return velocity


def _spacing(size: Shape, spacing_mm: Sequence[float], shape: Shape) -> tuple[float, float, float]:
    z, y, x = (n / m * s for n, m, s in zip(size, shape, spacing_mm, strict=True))
    return z, y, x


def displacement(velocity: Float[Tensor, "batch 3 hz hy hx"], shape: Shape) -> Float[Tensor, "batch 3 z y x"]:
    """The flow of a velocity, in voxels of the finer grid of ``shape``."""
    return rescale(exponential(velocity), shape)


def rescale(field: Float[Tensor, "batch 3 z y x"], shape: Shape) -> Float[Tensor, "batch 3 Z Y X"]:
    """A field in voxels on another grid of the same field of view, in voxels of that one."""
    old = field.shape[2:]
    if tuple(old) == shape:
        return field
    factor = torch.tensor([shape[2] / old[2], shape[1] / old[1], shape[0] / old[0]]).to(field)
    return resize(field, shape) * factor[:, None, None, None]


def level_shape(shape: Shape, spacing_mm: Sequence[float], shrink: float) -> Shape:
    """The matrix of voxels ``shrink`` times the finest spacing; axes already coarser stay, none has less than four."""
    base = min(s for s, n in zip(spacing_mm, shape, strict=True) if n > 1)
    z, y, x = (max(min(n, 4), round(n / max(1.0, shrink * base / s))) for n, s in zip(shape, spacing_mm, strict=True))
    return z, y, x


def at_level(image: Float[Tensor, "*lead z y x"], shape: Shape) -> Float[Tensor, "*lead Z Y X"]:
    """The image smoothed as its coarser matrix needs, and resized."""
    z, y, x = (0.5 * math.sqrt(max(0.0, (n / m) ** 2 - 1)) for n, m in zip(image.shape[-3:], shape, strict=True))
    return resize(smooth(image, (z, y, x)), shape)


def measure_for(fixed: Float[Tensor, "batch z y x"], metric: Metric, radius: int,
                spacing_mm: tuple[float, ...]) -> Gradient:
    """The similarity with this fixed image and its derivative."""
    if metric == "lncc":
        return LocalCorrelation(fixed, radius=radius).gradient
    if metric == "mi":
        limited = fixed.clamp(0, 1)
        return lambda moving: mutual_information_gradient(limited, moving.clamp(0, 1))
    if metric == "ngf":
        z, y, x = spacing_mm
        return lambda moving: normalized_gradient_fields_gradient(fixed, moving, spacing_mm=(z, y, x))
    return lambda moving: negative_ssd_gradient(fixed, moving)


def _climb(measure: Gradient, moving: Tensor, velocity: Tensor, spacing: Sequence[float], iterations: int,
           effort: Effort, seen: Tensor | None, couple: Couple | None) -> Tensor:
    """``spacing``: of the velocity's grid (z, y, x), so that steps and smoothing are round in millimetres."""
    shape, coarse = (moving.shape[1], moving.shape[2], moving.shape[3]), tuple(velocity.shape[2:])
    base = min(s for s, n in zip(spacing, coarse, strict=True) if n > 1)
    relative = [s / base for s in spacing]
    unit = torch.tensor(relative[::-1]).to(velocity)[:, None, None, None]
    fluid_z, fluid_y, fluid_x = (effort.fluid / r for r in relative)
    elastic_z, elastic_y, elastic_x = (effort.elastic / r for r in relative)
    where = identity_index(torch.empty(1, 3, *shape))
    ahead = torch.zeros_like(velocity)
    best, score = velocity, torch.full((len(velocity),), -math.inf).to(velocity)
    for number in range(iterations):
        warped = sample_at(moving[:, None], displacement(velocity, shape), where)[:, 0]
        value, slope = measure(warped)
        better = value > score
        best, score = torch.where(_per_row(better), velocity, best), torch.where(better, value, score)
        force = _gradient(warped) * slope[:, None]
        if seen is not None:
            force = force * (seen > 0.99)[:, None]
        step = smooth(resize_adjoint(force, coarse), (fluid_z, fluid_y, fluid_x)) / unit.square()
        ahead = effort.momentum * ahead + (1 - effort.momentum) * step
        longest = (ahead * unit).norm(dim=1).flatten(1).amax(dim=1).clamp_min(torch.finfo(ahead.dtype).tiny)
        reach = effort.step * (1 - 0.8 * number / iterations)
        velocity = velocity + ahead * _per_row(reach / longest)
        velocity = smooth(velocity, (elastic_z, elastic_y, elastic_x))
        if couple is not None:
            velocity = couple(velocity)
    return best


def _per_row(values: Tensor) -> Tensor:
    return values[:, None, None, None, None]


def _gradient(image: Float[Tensor, "batch z y x"]) -> Float[Tensor, "batch 3 z y x"]:
    """Central differences along (x, y, z) per voxel; zero along an axis of one voxel."""
    return torch.stack([torch.gradient(image, dim=axis)[0] if image.shape[axis] > 1 else torch.zeros_like(image)
                        for axis in (3, 2, 1)], dim=1)


def _discrete(fixed: Tensor, moving: Tensor, shape: Shape, coarse: Shape, radius: int) -> Tensor:
    """A first velocity from a search over all displacements, or zero where that makes the images no more alike."""
    found = logarithm(rescale(discrete_displacement(fixed, moving), coarse))
    measure = LocalCorrelation(fixed[None], radius=radius)
    before = measure(moving[None])
    after = measure(sample_at(moving[None, None], displacement(found, shape))[:, 0])
    return found if bool(after > before) else torch.zeros_like(found)
