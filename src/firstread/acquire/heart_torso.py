"""What surrounds the heart in a short-axis slice: chest wall, lungs, diaphragm, liver, stomach, spleen, aorta, spine.

Coordinates are the heart's (mm; x to the lateral wall, y to the inferior wall, z to the apex), turned by the angle at
which the heart lies in the chest. Organs drift with z as they do when the plane moves towards the apex.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from firstread.acquire.heart_shape import Harmonic, harmonic_sum
from firstread.acquire.heart_tissue import CODE

XY = tuple[float, float]


@dataclass(frozen=True)
class Organ:
    """An ellipse that drifts with z: centre, drift (mm per mm), semi-axes, angle, tissue, tissue of its wall and its
    thickness; region: where it is painted."""

    centre_mm: XY
    drift: XY
    axes_mm: XY
    angle_rad: float
    tissue: str
    wall: str = ""
    wall_mm: float = 0.0
    region: str = "chest"


@dataclass(frozen=True)
class Torso:
    """Outline of the body, layers of its wall, diaphragm, organs (painted in turn) and lung vessels (x, y, z, radius).

    outline: harmonics of the radius of the ellipse; fat_mm with fat_around, muscle_mm: layers of the chest wall; ribs:
    where bone is in it; diaphragm_mm: its height under the heart's axis, sloping by ``slope`` with a radius of
    ``dome_mm``, rising by ``rise`` per mm towards the apex; liver_mm: its right border; turn_rad: heart to chest.
    """

    centre_mm: XY
    axes_mm: XY
    angle_rad: float
    outline: tuple[Harmonic, ...]
    fat_mm: float
    fat_around: tuple[Harmonic, ...]
    muscle_mm: float
    ribs: Harmonic
    diaphragm_mm: float
    slope: float
    dome_mm: float
    rise: float
    liver_mm: float
    organs: tuple[Organ, ...]
    vessels: tuple[tuple[float, float, float, float], ...]
    turn_rad: float


def paint_torso(torso: Torso, x_mm: Float[Tensor, "y x"], y_mm: Float[Tensor, "y x"],
                places_mm: list[float]) -> Integer[Tensor, "s y x"]:
    """Tissue codes at the points (x, y) of the planes ``places_mm`` (the chest wall as in the middle one)."""
    c, s = math.cos(torso.turn_rad), math.sin(torso.turn_rad)
    x, y = c * x_mm - s * y_mm, s * x_mm + c * y_mm
    wall, chest = _chest_wall(torso, x, y)
    return torch.stack([_organs(torso, wall, chest, x, y, z) for z in places_mm])


def _chest_wall(torso: Torso, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Codes of the chest wall around lung, and where the chest cavity is."""
    dx, dy = x - torso.centre_mm[0], y - torso.centre_mm[1]
    c, s = math.cos(torso.angle_rad), math.sin(torso.angle_rad)
    steps = torch.linspace(-math.pi, math.pi, 721)
    place = ((torch.atan2(dy, dx) + math.pi) * (720 / (2 * math.pi))).int().flatten()

    def around(curve: Tensor) -> Tensor:
        return curve.index_select(0, place).reshape(x.shape)

    q = torch.hypot((c * dx + s * dy) / torso.axes_mm[0], (c * dy - s * dx) / torso.axes_mm[1])
    depth = (around(1 + harmonic_sum(torso.outline, steps)) - q) * (sum(torso.axes_mm) / 2)
    inner = depth - around(torso.fat_mm * (1 + harmonic_sum(torso.fat_around, steps)).clamp(min=0.2))
    share = inner / torso.muscle_mm
    bone = around(harmonic_sum((torso.ribs,), steps)) > 0.35
    between = around(harmonic_sum(torso.outline, 3 * steps)) > 0
    codes = torch.zeros(x.shape, dtype=torch.int64)
    codes[depth > 0] = CODE["skin"]
    codes[depth > 2] = CODE["fat"]
    codes[(depth > 2) & (share > 0)] = CODE["muscle"]
    codes[(share > 0.35) & (share < 0.5) & between] = CODE["fat"]
    codes[(share > 0.55) & (share < 0.95) & bone] = CODE["marrow"]
    codes[share > 1] = CODE["fat"]
    chest = inner > torso.muscle_mm + 1.5
    codes[chest] = CODE["lung"]
    return codes, chest


def _organs(torso: Torso, wall: Tensor, chest: Tensor, x: Tensor, y: Tensor, z_mm: float) -> Tensor:
    codes = wall.clone()
    edge = torso.diaphragm_mm - torso.rise * max(z_mm - 10, 0.0) + torso.slope * x + (x - 10) ** 2 / (2 * torso.dome_mm)
    under = chest & (y > edge)
    regions = {"chest": chest, "belly": under}
    for vx, vy, vz, radius in torso.vessels:
        if abs(z_mm - vz) < 6 * radius:
            _paint(Organ((vx, vy), (0.0, 0.0), (radius, radius), 0.0, "venous blood"), codes, x, y, z_mm, chest)
    codes[under] = CODE["muscle"]
    codes[under & (y > edge + 2)] = CODE["fat"]
    codes[under & (y > edge + 2) & (x < torso.liver_mm - 0.5 * (y - edge) + 0.1 * z_mm)] = CODE["liver"]
    for organ in torso.organs:
        _paint(organ, codes, x, y, z_mm, regions[organ.region])
    return codes


def _paint(organ: Organ, codes: Tensor, x: Tensor, y: Tensor, z_mm: float, where: Tensor) -> None:
    """Paint in the window of the organ alone (the coordinates are nearly affine in the pixel index)."""
    cx, cy = organ.centre_mm[0] + organ.drift[0] * z_mm, organ.centre_mm[1] + organ.drift[1] * z_mm
    window = pixels_near(x, y, cx, cy, max(organ.axes_mm) + organ.wall_mm + 8)
    if window is None:
        return
    dx, dy, room, part = x[window] - cx, y[window] - cy, where[window], codes[window]
    c, s = math.cos(organ.angle_rad), math.sin(organ.angle_rad)
    u, v = c * dx + s * dy, c * dy - s * dx
    a, b = organ.axes_mm
    if organ.wall:
        part[((u / (a + organ.wall_mm)) ** 2 + (v / (b + organ.wall_mm)) ** 2 < 1) & room] = CODE[organ.wall]
    part[((u / a) ** 2 + (v / b) ** 2 < 1) & room] = CODE[organ.tissue]


def pixels_near(x: Float[Tensor, "y x"], y: Float[Tensor, "y x"], cx: float, cy: float,
                reach: float) -> tuple[slice, slice] | None:
    """Rows and columns of the pixels within ``reach`` of (cx, cy), or None where the image does not come near.

    x, y: coordinates of the pixels, a turned square grid.
    """
    height, width = x.shape
    x0, y0 = float(x[0, 0]), float(y[0, 0])
    ux, uy = (float(x[0, -1]) - x0) / (width - 1), (float(y[0, -1]) - y0) / (width - 1)
    step = math.hypot(ux, uy)
    column = ((cx - x0) * ux + (cy - y0) * uy) / step**2
    row = ((cy - y0) * ux - (cx - x0) * uy) / step**2
    far = reach / step
    rows = slice(max(int(row - far), 0), min(int(row + far) + 2, height))
    columns = slice(max(int(column - far), 0), min(int(column + far) + 2, width))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None
