"""Simulated receive coils: smooth complex maps with ``Σ_c |S_c|² = 1``.

Two families that share no formula: ``GaussianCoils`` for training, ``LoopCoils`` (Biot–Savart) for tests.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.geometry import Grid


@runtime_checkable
class Coils(Protocol):
    """Anything that draws the coil maps of one subject."""

    def __call__(self, grid: Grid, generator: torch.Generator) -> Complex[Tensor, "coil z y x"]: ...


def normalize(maps: Complex[Tensor, "*batch coil z y x"]) -> Complex[Tensor, "*batch coil z y x"]:
    """Maps divided by their root sum of squares over the coils."""
    return maps / maps.abs().square().sum(dim=-4, keepdim=True).sqrt().clamp_min(torch.finfo(maps.real.dtype).tiny)


class GaussianCoils:
    """Training family: Gaussian magnitude around a point on an ellipse, phase a random quadratic in position.

    count: coils. Widths, places and phases are drawn per subject.

    >>> maps = GaussianCoils(count=4)(Grid.from_spacing((1, 16, 16), (8.0, 2.0, 2.0)), torch.Generator().manual_seed(0))
    >>> maps.shape
    torch.Size([4, 1, 16, 16])
    """

    def __init__(self, *, count: int = 8):
        _check(count)
        self.count = count

    def __call__(self, grid: Grid, generator: torch.Generator) -> Complex[Tensor, "coil z y x"]:
        place = _positions(grid)
        turn = 2 * math.pi * _uniform(generator)
        maps = []
        for c in range(self.count):
            angle = turn + 2 * math.pi * (c + 0.5 * (_uniform(generator) - 0.5)) / self.count
            radius = 0.9 + 0.5 * _uniform(generator)
            middle = torch.tensor([radius * math.cos(angle), radius * math.sin(angle), _uniform(generator) - 0.5])
            width = 0.6 + 0.7 * _uniform(generator)
            magnitude = torch.exp(-(place - middle).square().sum(dim=-1) / (2 * width**2))
            slope = torch.randn(3, generator=generator) * 1.2
            bend = torch.randn(3, generator=generator) * 0.4
            phase = place @ slope + place.square() @ bend + 2 * math.pi * _uniform(generator)
            maps.append(torch.polar(magnitude + 1e-3, phase))
        return normalize(torch.stack(maps))


class LoopCoils:
    """Test family: the transverse field of circular current loops on an elliptic cylinder around the body.

    ``S(r) = B_x - i B_y`` with ``B(r) = ∮ dl × (r - l) / |r - l|³`` (Biot–Savart), summed over 24 segments.

    >>> maps = LoopCoils(count=8)(Grid.from_spacing((1, 16, 16), (8.0, 2.0, 2.0)), torch.Generator().manual_seed(0))
    >>> torch.allclose(maps.abs().square().sum(0), torch.ones(1, 16, 16), atol=1e-5)
    True
    """

    def __init__(self, *, count: int = 8):
        _check(count)
        self.count = count

    def __call__(self, grid: Grid, generator: torch.Generator) -> Complex[Tensor, "coil z y x"]:
        coarse = grid.resize((min(grid.shape[0], 12), min(grid.shape[1], 40), min(grid.shape[2], 40)))
        place = _positions(coarse)
        turn = 2 * math.pi * _uniform(generator)
        angles = [turn + 2 * math.pi * c / self.count for c in range(self.count)]
        maps = normalize(torch.stack([self._loop(place, angle, generator) for angle in angles]))
        parts = torch.view_as_real(maps).movedim(-1, 1).flatten(0, 1)[None]
        fine = torch.nn.functional.interpolate(parts, size=grid.shape, mode="trilinear", align_corners=False)
        return normalize(torch.view_as_complex(fine.reshape(self.count, 2, *grid.shape).movedim(1, -1).contiguous()))

    def _loop(self, place: Float[Tensor, "z y x 3"], angle: float, generator: torch.Generator) -> Tensor:
        angle = angle + 0.15 * (_uniform(generator) - 0.5)
        outward = torch.tensor([math.cos(angle), math.sin(angle), 0.0])
        around = torch.tensor([-math.sin(angle), math.cos(angle), 0.0])
        along = torch.tensor([0.0, 0.0, 1.0])
        middle = outward * torch.tensor([1.5, 1.25, 0.0]) + along * 0.4 * (_uniform(generator) - 0.5)
        radius = 0.55 + 0.2 * _uniform(generator)
        field = torch.zeros_like(place)
        segments = 24
        for s in range(segments):
            t = 2 * math.pi * (s + 0.5) / segments
            away = place - (middle + radius * (math.cos(t) * around + math.sin(t) * along))
            piece = -math.sin(t) * around + math.cos(t) * along
            field += torch.linalg.cross(piece.expand_as(away), away) / away.norm(dim=-1, keepdim=True) ** 3
        return torch.complex(field[..., 0], -field[..., 1])


def _positions(grid: Grid) -> Float[Tensor, "z y x 3"]:
    """Voxel centres (x, y, z) about the grid's middle, in units of half the larger in-plane field of view."""
    spacing = grid.spacing_mm[0].tolist()
    half = max(grid.shape[1] * spacing[1], grid.shape[2] * spacing[2]) / 2
    lines = [(torch.arange(n) - (n - 1) / 2) * mm / half for n, mm in zip(grid.shape, spacing, strict=True)]
    z, y, x = torch.meshgrid(*lines, indexing="ij")
    return torch.stack((x, y, z), dim=-1)


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _check(count: int) -> None:
    if count < 1:
        raise SettingError(f"{count} coils", expected="one or more", remedy="raise `count`")
