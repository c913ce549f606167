"""A head of random shape with a folded brain in it, as a fine volume: the truth of slice-to-volume reconstruction.

Ellipsoids whose surfaces are bent by random waves: cerebrospinal fluid, cortex, white matter, ventricles, deep grey
nuclei, cerebellum, eyes, scalp. T2-like contrast. Nothing is symmetric, so that every pose looks different.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.keys import Key

BRAIN_MM = (33.0, 41.0, 31.0)  # half axes (x, y, z) at about 30 weeks
EDGE_MM = 0.4


def head_phantom(*, seed: int, spacing_mm: float = 0.5, field_mm: float = 104.0
                 ) -> tuple[Float[Tensor, "z y x"], Bool[Tensor, "z y x"]]:
    """The head of subject ``seed`` on a cube of ``field_mm``, and where its brain with the fluid around it is.

    Intensities from 0 (air) to about 1 (fluid). Raises SettingError for a spacing or field without voxels.

    >>> head, brain = head_phantom(seed=0, spacing_mm=4.0)
    >>> head.shape, bool(brain.any())
    (torch.Size([26, 26, 26]), True)
    """
    count = int(field_mm / spacing_mm) if spacing_mm > 0 else 0
    if count < 8:
        raise SettingError(f"a field of {field_mm} mm at {spacing_mm} mm", expected="8 voxels or more along each axis",
                           remedy="take a finer spacing or a larger field")
    draw = _Draw(Key(seed, "head").generator(0))
    line = (torch.arange(count, dtype=torch.float32) - (count - 1) / 2) * spacing_mm
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    axes = torch.tensor(BRAIN_MM) * (1 + 0.06 * draw.normal(3))
    fine, coarse = draw.waves(14, 9.0), draw.waves(8, 22.0)
    folds, bend = _wave(fine, x, y, z), _wave(coarse, x, y, z)

    def ellipsoid(centre: Tensor, half: Tensor, waves: Tensor | float = 0.0) -> Tensor:
        """1 inside, 0 outside, an edge of EDGE_MM between."""
        radius = sum(((p - c) / h)**2 for p, c, h in zip((x, y, z), centre, half, strict=True)).sqrt()
        return torch.sigmoid((1 - radius + waves) * half.min() / EDGE_MM)

    centre = torch.zeros(3)
    scalp = ellipsoid(centre, axes * 1.28, 0.02 * bend)
    skull = ellipsoid(centre, axes * 1.19, 0.02 * bend)
    fluid = ellipsoid(centre, axes * 1.11, 0.02 * bend)
    cortex = ellipsoid(centre, axes, 0.03 * bend + 0.035 * folds)
    white = ellipsoid(centre, axes * 0.90, 0.04 * bend + 0.075 * folds)
    image = 0.35 * scalp
    image = image + (0.08 - image) * skull
    for inside, level in ((fluid, 0.95), (cortex, 0.38 + draw.jitter(0.03)), (white, 0.62 + draw.jitter(0.03))):
        image = image + (level - image) * inside
    image = image * (1 + 0.08 * _wave(draw.waves(10, 14.0), x, y, z) * white)
    for side in (-1.0, 1.0):
        size = 1 + draw.jitter(0.25)
        place = torch.tensor([side * 9.0, 2.0, 4.0]) + draw.normal(3)
        image = image + (0.95 - image) * ellipsoid(place, torch.tensor([4.5, 15.0, 6.0]) * size, 0.1 * bend)
        grey = torch.tensor([side * 10.0, 3.0, -6.0]) + draw.normal(3)
        image = image + (0.45 - image) * ellipsoid(grey, torch.tensor([6.0, 9.0, 6.5]) * (1 + draw.jitter(0.1)))
        eye = torch.tensor([side * 17.0, -axes[1].item() * 1.05, -16.0]) + draw.normal(3)
        image = image + (0.9 - image) * ellipsoid(eye, torch.full((3,), 6.5))
    back = torch.tensor([0.0, 22.0, -20.0]) + draw.normal(3)
    image = image + (0.42 + 0.12 * folds - image) * ellipsoid(back, torch.tensor([17.0, 10.0, 8.0]), 0.06 * folds)
    for _ in range(10):  # small things that are nowhere else
        place = draw.normal(3) * torch.tensor([12.0, 16.0, 11.0])
        level = 0.3 + 0.6 * draw.uniform()
        image = image + (level - image) * ellipsoid(place, 1.5 + 2.5 * draw.uniform() + torch.zeros(3)) * white
    return image, fluid > 0.5


class _Draw:
    """Random numbers of one subject."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def normal(self, count: int) -> Tensor:
        return torch.randn(count, generator=self.generator)

    def uniform(self) -> float:
        return float(torch.rand(1, generator=self.generator))

    def jitter(self, sd: float) -> float:
        return sd * float(self.normal(1))

    def waves(self, count: int, length_mm: float) -> Tensor:
        """Wave vectors (rad/mm) of about ``length_mm`` in random directions, and phases: ``[count, 4]``."""
        direction = torch.randn(count, 3, generator=self.generator)
        length = length_mm * (0.7 + 0.6 * torch.rand(count, 1, generator=self.generator))
        phase = 2 * math.pi * torch.rand(count, 1, generator=self.generator)
        return torch.cat((direction / direction.norm(dim=1, keepdim=True) * 2 * math.pi / length, phase), dim=1)


def _wave(waves: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """The sum of plane waves, of standard deviation one: ``sin(a + b)`` of planes and of lines, as two products."""
    k = waves.T
    plane = (y[0, :, 0, None, None] * k[1] + x[0, 0, None, :, None] * k[0] + k[3]).flatten(0, 1)
    line = z[:, 0, 0, None] * k[2]
    total = torch.sin(line) @ torch.cos(plane).T + torch.cos(line) @ torch.sin(plane).T
    return total.reshape(x.shape) * math.sqrt(2 / len(waves))
