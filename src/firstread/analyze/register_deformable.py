"""Diffeomorphic registration of one pair on one grid: a stationary velocity found by instance optimization.

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
"""A warped image ``[1, z, y, x]`` to its similarity and the derivative of it."""


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


def find_velocity(fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], *,
                  spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0), metric: Metric = "lncc",
                  effort: Effort | None = None, valid: Float[Tensor, "z y x"] | None = None,
                  start: Float[Tensor, "1 3 vz vy vx"] | None = None,
                  progress: Callable[[str], None] = lambda text: None) -> Float[Tensor, "1 3 hz hy hx"]:
    """The velocity v (in voxels of its own, coarser grid) under which ``moving(exp(v)(x))`` is most like ``fixed``.

    fixed, moving: of unit range, on one grid; valid: where ``moving`` was seen at all (0 to 1); start: a velocity to
    begin with, of any resolution.
    """
    effort = effort or Effort()
    velocity = start
    for shrink, iterations in zip(effort.shrink, effort.iterations, strict=True):
        shape = level_shape(tuple(fixed.shape), spacing_mm, shrink)
        coarse = level_shape(tuple(fixed.shape), spacing_mm, 2 * shrink)
        one, two = (at_level(image, shape) for image in (fixed, moving))
        seen = None if valid is None else at_level(valid, shape)
        ratio = [n / m * s for n, m, s in zip(fixed.shape, coarse, spacing_mm, strict=True)]
        if velocity is None:
            velocity = torch.zeros(1, 3, *coarse)
            if effort.discrete:
                progress("search for large motion")
                velocity = _discrete(one, two, shape, coarse, effort.radius)
        velocity = rescale(velocity, coarse)
        measure = measure_for(one[None], metric, effort.radius, tuple(n / m * s for n, m, s in zip(
            fixed.shape, shape, spacing_mm, strict=True)))
        progress(f"deformation: {' x '.join(map(str, shape))} voxels, {iterations} iterations")
        velocity = _climb(measure, two, velocity, ratio, iterations, effort, seen)
    assert velocity is not None
    return velocity


def displacement(velocity: Float[Tensor, "1 3 hz hy hx"], shape: Shape) -> Float[Tensor, "1 3 z y x"]:
    """The flow of a velocity, in voxels of the finer grid of ``shape``."""
    return rescale(exponential(velocity), shape)


def rescale(field: Float[Tensor, "1 3 z y x"], shape: Shape) -> Float[Tensor, "1 3 Z Y X"]:
    """A field in voxels on another grid of the same field of view, in voxels of that one."""
    old = field.shape[2:]
    factor = torch.tensor([shape[2] / old[2], shape[1] / old[1], shape[0] / old[0]]).to(field)
    return resize(field, shape) * factor[:, None, None, None]


def level_shape(shape: Shape, spacing_mm: Sequence[float], shrink: float) -> Shape:
    """The matrix of voxels ``shrink`` times the finest spacing; axes already coarser stay, none has less than four."""
    base = min(s for s, n in zip(spacing_mm, shape, strict=True) if n > 1)
    z, y, x = (max(min(n, 4), round(n / max(1.0, shrink * base / s))) for n, s in zip(shape, spacing_mm, strict=True))
    return z, y, x


def at_level(image: Float[Tensor, "z y x"], shape: Shape) -> Float[Tensor, "Z Y X"]:
    """The image smoothed as its coarser matrix needs, and resized."""
    z, y, x = (0.5 * math.sqrt(max(0.0, (n / m) ** 2 - 1)) for n, m in zip(image.shape, shape, strict=True))
    return resize(smooth(image, (z, y, x)), shape)


def measure_for(fixed: Float[Tensor, "1 z y x"], metric: Metric, radius: int,
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
           effort: Effort, seen: Tensor | None) -> Tensor:
    """``spacing``: of the velocity's grid (z, y, x), so that steps and smoothing are round in millimetres."""
    shape, coarse = tuple(moving.shape), tuple(velocity.shape[2:])
    base = min(s for s, n in zip(spacing, coarse, strict=True) if n > 1)
    relative = [s / base for s in spacing]
    metres = torch.tensor(relative[::-1]).to(velocity)[:, None, None, None]
    fluid_z, fluid_y, fluid_x = (effort.fluid / r for r in relative)
    elastic_z, elastic_y, elastic_x = (effort.elastic / r for r in relative)
    where = identity_index(torch.empty(1, 3, *shape))
    ahead = torch.zeros_like(velocity)
    for _ in range(iterations):
        warped = sample_at(moving[None, None], displacement(velocity, shape), where)[:, 0]
        _, slope = measure(warped)
        force = _gradient(warped) * slope[:, None]
        if seen is not None:
            force = force * (seen > 0.99)
        step = smooth(resize_adjoint(force, coarse), (fluid_z, fluid_y, fluid_x)) / metres.square()
        ahead = effort.momentum * ahead + (1 - effort.momentum) * step
        longest = (ahead * metres).norm(dim=1).max()
        if not longest > 0:
            break
        velocity = smooth(velocity + ahead * (effort.step / longest), (elastic_z, elastic_y, elastic_x))
    return velocity


def _gradient(image: Float[Tensor, "1 z y x"]) -> Float[Tensor, "1 3 z y x"]:
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
