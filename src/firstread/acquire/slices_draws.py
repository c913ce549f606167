"""Random numbers for the slice generator: one value per subject, shaped to broadcast over [subject, slice, y, x]."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Number = float | int


class Draws:
    """All draws of one batch, in a fixed order from one generator, so that a batch is a function of its key."""

    def __init__(self, generator: Generator, *, subjects: int, slices: int, size: int) -> None:
        self.generator, self.subjects, self.slices, self.size = generator, subjects, slices, size

    def uniform(self, low: Number, high: Number, *, per_slice: bool = False) -> Tensor:
        """``[subject, 1 or slice, 1, 1]``, uniform between ``low`` and ``high``."""
        shape = (self.subjects, self.slices if per_slice else 1, 1, 1)
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def normal(self, sd: Number, *, mean: Number = 0.0, per_slice: bool = False) -> Tensor:
        """The same, normal."""
        shape = (self.subjects, self.slices if per_slice else 1, 1, 1)
        return mean + sd * torch.randn(shape, generator=self.generator)

    def chance(self, probability: float, *, per_slice: bool = False) -> Tensor:
        """The same, true with ``probability``."""
        return self.uniform(0, 1, per_slice=per_slice) < probability

    def smooth(self, cells: int, *, fields: int = 1, along: Number = 1.0) -> Tensor:
        """Smooth random images ``[subject, slice, y, x]``, mean 0, sd about 1, ``cells`` bumps across.

        along: how far the image changes from the first to the last slice, 0 not at all, 1 wholly.
        """
        coarse = torch.randn((self.subjects, 2, cells + 2, cells + 2), generator=self.generator)
        ends = F.interpolate(coarse, size=(self.size + 8,) * 2, mode="bicubic", align_corners=True)
        ends = 1.25 * ends[..., 4:-4, 4:-4]
        if self.slices == 1:
            return ends[:, :1]
        angle = torch.linspace(0, along * torch.pi / 2, self.slices).reshape(1, -1, 1, 1)
        return ends[:, :1] * torch.cos(angle) + ends[:, 1:] * torch.sin(angle)

    def noise(self) -> Tensor:
        """White noise ``[subject, slice, y, x]``."""
        return torch.randn((self.subjects, self.slices, self.size, self.size), generator=self.generator)


def harmonics(draws: Draws, angle: Tensor, spread: Mapping[Number, float]) -> Tensor:
    """Random periodic function of an angle: ``sum_k a_k cos(k angle + phase_k)``, a_k normal with sd ``spread[k]``."""
    return sum((draws.normal(sd) * torch.cos(k * angle + draws.uniform(0, 6.3)) for k, sd in spread.items()),
               start=torch.zeros(1))


def wrap_angle(angle: Tensor) -> Tensor:
    """An angle brought into [-pi, pi)."""
    return torch.remainder(angle + torch.pi, 2 * torch.pi) - torch.pi


def inside(signed_mm: Tensor, blur_mm: Tensor | Number) -> Tensor:
    """Share of a voxel that is inside, from the distance to the border (negative inside) and the border's width."""
    return (0.5 - signed_mm / blur_mm).clamp(0, 1)


def paint(image: Tensor, alpha: Tensor, value: Tensor) -> Tensor:
    """``image`` with ``value`` laid over it at opacity ``alpha``."""
    return image + alpha * (value - image)


def slope_corrected(f: Tensor, spacing_mm: Tensor, *, floor: Number = 0.4) -> Tensor:
    """An implicit function turned into a distance near its zero, ``f / |grad f|`` (first order)."""
    dy, dx = torch.gradient(f, dim=(-2, -1))
    return f * spacing_mm / (dy.square() + dx.square()).sqrt().clamp(min=floor * spacing_mm)
