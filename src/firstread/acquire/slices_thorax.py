"""What surrounds the heart in a random stack: lung, diaphragm, chest wall, vessels, unnamed organs, atria."""

from __future__ import annotations

import torch
from torch import Tensor

from firstread.acquire.slices_anatomy import Heart, Plane
from firstread.acquire.slices_draws import Draws, Number, inside, paint, slope_corrected, wrap_angle


def tissue(draws: Draws, low: Number, high: Number, *, wild: Tensor) -> Tensor:
    """A tissue's signal per subject; anything up to 1.2 in the ``wild`` ones."""
    return torch.where(wild, draws.uniform(0.02, 1.2), draws.uniform(low, high))


def clutter(draws: Draws, cells: int, *, levels: int = 5) -> Tensor:
    """Random regions of random signal with random rims: level sets of a smooth field."""
    field = draws.smooth(cells, along=0.6) * levels / 4 + levels / 2
    table = torch.rand((draws.subjects, levels), generator=draws.generator) ** 1.5 * 1.2
    index = field.clamp(0, levels - 1.001)
    low = index.long()
    here = table.gather(1, low.flatten(1)).reshape(field.shape)
    after = table.gather(1, (low.flatten(1) + 1).clamp(max=levels - 1)).reshape(field.shape)
    return paint(here, ((index - low - 0.8) / 0.2).clamp(0, 1), after)


def disc(plane: Plane, x_mm: Tensor, y_mm: Tensor) -> Tensor:
    """Distance of every pixel from a point."""
    return torch.hypot(plane.x - x_mm, plane.y - y_mm)


def draw_thorax(draws: Draws, plane: Plane, heart: Heart, *, fat: Tensor, wild: Tensor) -> Tensor:
    """Everything behind the heart, from back to front."""
    mixed = torch.where(draws.smooth(9, along=0.6) > draws.uniform(0, 1.5), clutter(draws, 11), clutter(draws, 5))
    image = torch.where(draws.chance(0.5), clutter(draws, 5), mixed)
    wavy = 4 * draws.smooth(4, along=0.5)
    image = _lung(draws, image, plane, wavy, wild)
    image = _below(draws, image, plane, heart, wavy, fat, wild)
    image = _chest_wall(draws, image, plane, heart, wavy, fat, wild)
    aorta = draws.normal(0.5, mean=1.1)
    image = _round(draws, image, plane, wavy, bearing=aorta, seen=0.7, size=(8, 15), vessel=True, wild=wild)
    for seen, size, vessel in ((0.5, (5, 25), False), (0.4, (5, 30), False), (0.3, (3, 10), True)):
        bearing = draws.uniform(-torch.pi, torch.pi)
        image = _round(draws, image, plane, wavy, bearing=bearing, seen=seen, size=size, vessel=vessel, wild=wild)
    return image


def _lung(draws: Draws, image: Tensor, plane: Plane, wavy: Tensor, wild: Tensor) -> Tensor:
    """Dark beyond the free wall, with bright vessels."""
    toward = draws.normal(0.6, mean=0.6)
    border = plane.x * torch.cos(toward) - plane.y * torch.sin(toward) + wavy - draws.uniform(-45, 35)
    vessels = (draws.smooth(28) - draws.uniform(1.3, 2.6)).clamp(0, 1) * draws.uniform(0, 1.2)
    signal = tissue(draws, 0.0, 0.14, wild=wild & draws.chance(0.3)) + vessels
    return paint(image, inside(-border, 1.5 * plane.spacing_mm) * draws.chance(0.88), signal)


def _below(draws: Draws, image: Tensor, plane: Plane, heart: Heart, wavy: Tensor, fat: Tensor, wild: Tensor) -> Tensor:
    """Diaphragm: liver under the right ventricle, stomach or spleen under the left one, a rim of fat between."""
    dome = 0.004 * plane.x.square() * draws.uniform(-1, 1) + wavy
    far = heart.left.outer_radius.amax(1, keepdim=True) + draws.uniform(-3, 28)
    border = plane.y + draws.normal(0.25) * plane.x - far + dome
    border = border - draws.normal(0.25) * (plane.depth_mm - heart.size.length / 2)
    vessels = (draws.smooth(24) - 1.2).clamp(0, 1) * draws.uniform(-0.2, 0.6)
    stomach = torch.where(draws.chance(0.4), clutter(draws, 9), tissue(draws, 0.02, 0.9, wild=wild))
    liver = tissue(draws, 0.15, 0.6, wild=wild) + vessels
    organ = torch.where(plane.x + 2 * wavy < draws.uniform(-25, 60), liver, stomach)
    there = draws.chance(0.85)
    rim = inside(-(border + draws.uniform(0, 5)), plane.spacing_mm)
    image = paint(image, rim * there, fat * draws.uniform(0.4, 1.1))
    return paint(image, inside(-border, plane.spacing_mm) * there, organ)


def _chest_wall(draws: Draws, image: Tensor, plane: Plane, heart: Heart, wavy: Tensor, fat: Tensor,
                wild: Tensor) -> Tensor:
    """Muscle with ribs, fat, then air, in front of the right ventricle."""
    toward = draws.normal(0.45, mean=0.7)
    cos, sin = torch.cos(toward), torch.sin(toward)
    reach = heart.left.outer_radius.amax(1, keepdim=True) * (1 + 0.35 * cos)
    reach = reach + heart.right.depth.amax(1, keepdim=True) * cos.clamp(min=0)
    curve = draws.normal(0.004) * (plane.x * sin - plane.y * cos).square() + 0.7 * wavy
    border = -plane.x * cos - plane.y * sin - reach - draws.uniform(2, 40) + curve
    ribs = (draws.smooth(10) > draws.uniform(0.3, 1.5)) * draws.uniform(0, 0.8) * draws.chance(0.8)
    there, pixel = draws.chance(0.8), plane.spacing_mm
    image = paint(image, inside(-border, pixel) * there, tissue(draws, 0.08, 0.45, wild=wild) + ribs)
    border = border - draws.uniform(5, 22)
    image = paint(image, inside(-border, pixel) * there, fat * draws.uniform(0.7, 1.4))
    return paint(image, inside(-(border - draws.uniform(6, 45)), pixel) * there, draws.uniform(0, 0.05))


def _round(draws: Draws, image: Tensor, plane: Plane, wavy: Tensor, *, bearing: Tensor, seen: float,
           size: tuple[Number, Number], vessel: bool, wild: Tensor) -> Tensor:
    """A vessel or organ with a wall."""
    far = draws.uniform(45, 85)
    off = disc(plane, far * torch.cos(bearing), far * torch.sin(bearing)) + 0.3 * wavy - draws.uniform(*size)
    there, wall = draws.chance(seen), draws.uniform(0, 1.5 if vessel else 3.0)
    image = paint(image, inside(off - wall, plane.spacing_mm) * there, tissue(draws, 0.05, 0.9, wild=wild))
    signal = tissue(draws, 0.5 if vessel else 0.0, 1.3 if vessel else 1.1, wild=wild)
    return paint(image, inside(off, plane.spacing_mm) * there, signal)


# Bearing from the LV axis (image angle, right and down positive), its spread, distance over the LV radius, radius in
# mm, whether it shows where the right ventricle has ended (True) or merely near the base (False), and how often.
AROUND_THE_BASE = (
    (torch.pi - 0.75, 0.35, (1.15, 1.6), (13, 32), True, 0.9),   # right atrium
    (-torch.pi + 0.9, 0.35, (1.0, 1.5), (9, 20), True, 0.9),     # right ventricular outflow tract
    (torch.pi, 0.35, (0.9, 1.5), (8, 22), True, 0.5),            # aortic root
    (-torch.pi + 1.6, 0.4, (1.15, 1.5), (5, 13), False, 0.4),    # pulmonary trunk, auricle
    (1.2, 0.8, (1.2, 1.6), (5, 16), False, 0.3),                 # coronary sinus, pulmonary veins
)


# Bearing from the middle of the septum (anterior positive), its spread, half the angle that it spans, reach beyond the
# left ventricle in mm: what lies flush against the septum where the right ventricle has ended.
AGAINST_THE_SEPTUM = (
    (-0.55, 0.3, (0.45, 1.0), (14, 55)),  # right atrium
    (0.85, 0.3, (0.35, 0.8), (8, 36)),    # outflow tract
)


def _against_the_septum(draws: Draws, image: Tensor, plane: Plane, heart: Heart, *, blood: Tensor,
                        muscle: Tensor) -> Tensor:
    """Right atrium and outflow tract as two lobes that lean on the left ventricle, ``reach (1 - |v|^p)^q``."""
    there, pixel = heart.right.above.float() * draws.chance(0.75), plane.spacing_mm
    for bearing, spread, spans, reaches in AGAINST_THE_SEPTUM:
        v = wrap_angle(plane.psi - draws.normal(spread, mean=bearing)) / draws.uniform(*spans)
        bell = 1 - v.abs() ** draws.uniform(1.8, 5)
        bell = torch.where(bell > 0, bell.clamp(min=1e-6) ** draws.uniform(0.4, 0.8), bell.clamp(min=-1.5))
        lobe = draws.uniform(*reaches) * bell + draws.uniform(0, 2) * draws.smooth(6)
        off = slope_corrected(plane.radius - heart.left.reach.clamp(min=8) - lobe, pixel)
        seen, wall = there * draws.chance(0.9), draws.uniform(0.3, 3)
        image = paint(image, inside(off - wall, 1.5 * pixel) * seen, muscle * draws.uniform(0.6, 1.5))
        image = paint(image, inside(off, 1.5 * pixel) * seen, blood * draws.uniform(0.75, 1.15))
    return image


def draw_vessels(draws: Draws, image: Tensor, plane: Plane, heart: Heart, *, blood: Tensor, muscle: Tensor) -> Tensor:
    """Atria, aortic root and outflow tracts near the base: bright, round, and labelled nothing."""
    wide = 1.5 * plane.spacing_mm
    outer = heart.left.outer_radius.amax(1, keepdim=True)
    image = _against_the_septum(draws, image, plane, heart, blood=blood, muscle=muscle)
    near = (plane.depth_mm < draws.uniform(0, 16)).float()
    for bearing, spread, distance, sizes, instead, probability in AROUND_THE_BASE:
        angle, size, squeeze = draws.normal(spread, mean=bearing), draws.uniform(*sizes), draws.uniform(0.65, 1.0)
        cos, sin = torch.cos(angle), torch.sin(angle)
        away = torch.maximum(outer * draws.uniform(*distance), heart.left.outer_radius * 0.9 + size * 0.7)
        along, across = plane.x * cos + plane.y * sin - away, plane.y * cos - plane.x * sin
        off = torch.hypot(along / squeeze, across * squeeze) + 1.2 * draws.smooth(6) - size
        seen = (heart.right.above.float() if instead else near) * draws.chance(probability)
        image = paint(image, inside(off - draws.uniform(0.5, 3), wide) * seen, muscle * draws.uniform(0.7, 1.6))
        image = paint(image, inside(off, wide) * seen, blood * draws.uniform(0.75, 1.15))
    above = heart.left.above.float()  # left atrium and aortic root where the ventricle would be
    for bearing, distance, low, high in ((0.6, 0.35, 15, 30), (torch.pi, 0.4, 10, 17)):
        angle, away = draws.normal(0.4, mean=bearing), outer * distance * draws.uniform(0.6, 1.4)
        off = disc(plane, away * torch.cos(angle), away * torch.sin(angle)) + 2 * draws.smooth(5)
        off = off - draws.uniform(low, high)
        image = paint(image, inside(off - draws.uniform(0.5, 3.5), wide) * above, muscle * draws.uniform(0.7, 1.5))
        image = paint(image, inside(off, wide) * above, blood * draws.uniform(0.8, 1.15))
    return image
