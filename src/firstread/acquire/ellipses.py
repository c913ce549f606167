"""Phantoms of ellipses, whose line integrals are known exactly: the oracle of tomography."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.sinogram import Beam

# Shepp and Logan 1974 with the contrasts of Toft 1996: value, half axes (x, y), centre (x, y), turn in degrees, as
# shares of half the field of view, y upwards.
SHEPP_LOGAN = ((1.0, 0.69, 0.92, 0.0, 0.0, 0.0), (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
               (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0), (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
               (0.1, 0.21, 0.25, 0.0, 0.35, 0.0), (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
               (0.1, 0.046, 0.046, 0.0, -0.1, 0.0), (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
               (0.1, 0.023, 0.023, 0.0, -0.606, 0.0), (0.1, 0.023, 0.046, 0.06, -0.605, 0.0))


def shepp_logan(radius_mm: float) -> Float[Tensor, "ellipse 6"]:
    """The head of Shepp and Logan (1974), contrasts of Toft (1996): values 0 to 1 in a field of ``2 radius_mm``.

    Each row is (value, half axis x, half axis y, centre x, centre y in mm, turn in radians), y along the image's rows.
    """
    table = torch.tensor(SHEPP_LOGAN, dtype=torch.float64)
    scale = torch.tensor([1, radius_mm, radius_mm, radius_mm, -radius_mm, -math.pi / 180], dtype=torch.float64)
    return table * scale


def random_ellipses(generator: torch.Generator, radius_mm: float, *, count: int = 12) -> Float[Tensor, "ellipse 6"]:
    """A body of value 1 with ``count`` ellipses in it that add between -0.4 and 0.4, some of them small.

    After the random ellipses of Adler and Öktem (2018); the total may leave 0 to 2, as theirs.
    """
    if count < 0 or not radius_mm > 0:
        raise SettingError(f"{count} ellipses in {radius_mm} mm", expected="zero or more, a radius above zero",
                           remedy="correct the setting")
    draw = torch.rand((count + 1, 6), generator=generator, dtype=torch.float64)
    value = 0.8 * draw[:, 0] - 0.4
    axes = radius_mm * 0.02 * (0.4 / 0.02) ** draw[:, 1:3]
    far, way = 0.65 * radius_mm * draw[:, 3].sqrt(), 2 * math.pi * draw[:, 4]
    made = torch.stack((value, axes[:, 0], axes[:, 1], far * way.cos(), far * way.sin(), math.pi * draw[:, 5]), dim=1)
    made[0, :5] = torch.stack((torch.tensor(1.0, dtype=torch.float64), *(radius_mm * (0.75 + 0.2 * draw[0, 1:3])),
                               *(0.05 * radius_mm * (draw[0, 3:5] - 0.5))))
    return made


def random_thorax(generator: torch.Generator, radius_mm: float) -> Float[Tensor, "ellipse 6"]:
    """A chest in attenuation relative to water: wall, lungs with small nodules, heart, spine, ribs; all of it varies.

    >>> chest = random_thorax(torch.Generator().manual_seed(0), 160.0)
    >>> 0.8 < line_integrals(chest, torch.tensor(0.0), torch.tensor(0.0)).item() / 160 < 1.6
    True
    """
    if not radius_mm > 0:
        raise SettingError(f"a chest in {radius_mm} mm", expected="above zero", remedy="correct the setting")

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    wide, deep = uniform(0.82, 0.95), uniform(0.55, 0.68)
    rows = [(uniform(0.92, 1.0), wide, deep, 0.0, 0.0, 0.0)]
    for side in (-1, 1):
        lung, height = (uniform(0.27, 0.33), uniform(0.36, 0.44))
        place, tilt = side * uniform(0.4, 0.45), side * uniform(0.0, 0.3)
        rows.append((-uniform(0.66, 0.74), lung, height, place, 0.02, tilt))
        rows += [(uniform(0.3, 0.7), uniform(0.012, 0.05), uniform(0.012, 0.05), place + uniform(-0.15, 0.15),
                  uniform(-0.2, 0.2), uniform(0, 3)) for _ in range(4)]
        rows += [(uniform(0.5, 0.9), 0.05, 0.015, side * wide * 0.93 * math.cos(angle), deep * 0.93 * math.sin(angle),
                  math.pi / 2 + side * angle) for angle in (-0.9, -0.45, 0.0, 0.45, 0.9)]
    rows.append((uniform(0.05, 0.08), uniform(0.2, 0.26), uniform(0.17, 0.22), 0.05, -0.12, uniform(0, 1)))
    rows += [(uniform(0.4, 0.8), 0.1, 0.085, 0.0, 0.66 * deep, 0.0), (-0.35, 0.04, 0.035, 0.0, 0.66 * deep + 0.13, 0.0)]
    scale = torch.tensor([1, radius_mm, radius_mm, radius_mm, radius_mm, 1], dtype=torch.float64)
    return torch.tensor(rows, dtype=torch.float64) * scale


def line_integrals(ellipses: Float[Tensor, "ellipse 6"], angle_rad: Float[Tensor, "*ray"],
                   distance_mm: Float[Tensor, "*ray"]) -> Float[Tensor, "*ray"]:
    """``∫ f dl`` along ``x cos θ + y sin θ = s``, exactly (Kak and Slaney 1988, ch. 3.1)::

        p = Σ 2 v a b sqrt(q² - t²) / q²,   q² = a² cos²(θ - φ) + b² sin²(θ - φ),   t = s - x₀ cos θ - y₀ sin θ

    >>> disc = torch.tensor([[2.0, 5.0, 5.0, 0.0, 0.0, 0.0]])
    >>> line_integrals(disc, torch.tensor(0.3), torch.tensor(3.0)).item()
    16.0
    """
    total = torch.zeros(torch.broadcast_shapes(angle_rad.shape, distance_mm.shape), dtype=angle_rad.dtype)
    cos, sin = torch.cos(angle_rad), torch.sin(angle_rad)
    for value, a, b, x, y, turn in ellipses.to(angle_rad.dtype):
        square = (a * torch.cos(angle_rad - turn)) ** 2 + (b * torch.sin(angle_rad - turn)) ** 2
        inside = square - (distance_mm - x * cos - y * sin) ** 2
        total = total + 2 * value * a * b * inside.clamp_min(0).sqrt() / square
    return total


def measure_ellipses(ellipses: Float[Tensor, "ellipse 6"], beam: Beam, *, finer: int = 4
                     ) -> Float[Tensor, "view bin"]:
    """Line integrals of a beam's rays, each the mean of ``finer`` rays within its bin (a bin has a width)."""
    angle, distance = beam.finer(finer).rays()
    return line_integrals(ellipses, angle, distance).unflatten(1, (beam.bins, finer)).mean(dim=2)


def draw_ellipses(ellipses: Float[Tensor, "ellipse 6"], grid: Grid, *, finer: int = 4) -> Float[Tensor, "y x"]:
    """The phantom on one plane of ``grid``, each pixel the mean of ``finer`` x ``finer`` points."""
    grid.require_mm("a phantom")
    rows, columns = grid.shape[1:]
    spacing_y, spacing_x = (float(v) for v in grid.spacing_mm[0, 1:])
    y, x = (((torch.arange(n * finer, dtype=torch.float64) + 0.5) / finer - n / 2) * spacing
            for n, spacing in ((rows, spacing_y), (columns, spacing_x)))
    total = torch.zeros(len(y), len(x), dtype=torch.float64)
    for value, a, b, centre_x, centre_y, turn in ellipses.double():
        u, v = x - centre_x, (y - centre_y)[:, None]
        along, across = u * turn.cos() + v * turn.sin(), v * turn.cos() - u * turn.sin()
        total = total + value * ((along / a) ** 2 + (across / b) ** 2 <= 1)
    return total.reshape(rows, finer, columns, finer).mean(dim=(1, 3))
