"""What a random short-axis stack looks like: tissues painted from back to front, in units of the LV blood's signal.

Contrast is that of balanced steady-state cine (blood bright, muscle dark, fat bright, lung black) with wide ranges; in
some subjects every tissue around is random. Blood is always brighter than muscle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from firstread.acquire.slices_anatomy import Heart, Plane
from firstread.acquire.slices_draws import Draws, inside, paint
from firstread.acquire.slices_thorax import draw_thorax, draw_vessels, tissue

# How far contours lie from the half-signal edge, by convention: measured along the contours of ACDC's 20 development
# patients (1.5 mm pixels assumed). Blood takes the blurred pixels, muscle is what is wholly muscle.
OUTER_MM, CAVITY_MM, RIGHT_MM = 1.3, 0.4, 1.3
RING_MM = 1.3  # the least muscle drawn around the cavity

# Image angle of the papillary muscles (right and down positive): posteromedial, anterolateral; None is anywhere.
PAPILLARY = (0.75, -0.75, None, None)


def render(draws: Draws, plane: Plane, heart: Heart) -> tuple[Tensor, Tensor]:
    """Signal ``[subject, slice, y, x]`` and labels 0..3 (uint8) of the slices."""
    pixel = plane.spacing_mm
    wild = draws.chance(0.08)
    muscle = torch.where(wild, draws.uniform(0.05, 0.65), draws.uniform(0.16, 0.55))
    fat = torch.where(draws.chance(0.1), draws.uniform(0.05, 0.4), tissue(draws, 0.45, 1.6, wild=wild))
    blood = 1 + draws.uniform(0, 0.14) * draws.smooth(5) + draws.uniform(0, 0.06) * draws.smooth(14)
    right_blood = blood * draws.uniform(0.7, 1.2).maximum(muscle + 0.15)
    flesh = muscle * (1 + draws.uniform(0, 0.12) * draws.smooth(10) + draws.uniform(0, 0.08) * draws.smooth(24))

    image = draw_thorax(draws, plane, heart, fat=fat, wild=wild)
    # Epicardial fat is thin and often no brighter than muscle, by partial volume and its own ragged texture.
    thin = fat + draws.uniform(0.3, 1) * draws.chance(0.6) * (muscle * draws.uniform(0.7, 1.8) - fat)
    ragged = 1 + draws.uniform(0, 0.3) * draws.smooth(8) + draws.uniform(0, 0.35) * draws.smooth(26)
    image = paint(image, inside(heart.sac, 1.2 * pixel), thin * ragged.clamp(min=0))
    line = torch.exp(-(((heart.sac - 0.5) / draws.uniform(0.6, 1.2)) ** 2)) * draws.uniform(0, 1)
    image = image * (1 - line * draws.chance(0.6))
    image = draw_vessels(draws, image, plane, heart, blood=right_blood, muscle=muscle)
    image = _right(draws, image, plane, heart, blood=right_blood, flesh=flesh)
    image = _left(draws, image, plane, heart, blood=blood, flesh=flesh)
    off = (heart.left.outer / pixel - draws.uniform(-0.5, 0.5)) / draws.uniform(0.5, 0.9)
    ink = draws.chance(0.6) * draws.uniform(0, 0.9) * torch.exp(-(off**2))
    image = image * (1 - ink * (heart.right.blood > 2) * ~heart.left.above)  # chemical shift between muscle and fat
    return image.clamp(min=0), labels_of(heart)


def labels_of(heart: Heart) -> Tensor:
    """0 background, 1 LV cavity, 2 LV myocardium, 3 RV cavity, at the centre of every pixel and slice.

    As readers contour thick slices: blurred pixels at a border of blood belong to the blood, those at the outer wall to
    what is outside (``OUTER_MM``, ``CAVITY_MM``, ``RIGHT_MM``).
    """
    outer = heart.left.outer.masked_fill(heart.left.above, torch.inf)
    return contoured(outer, heart.left.cavity, heart.right.blood)


def contoured(outer_mm: Tensor, cavity_mm: Tensor, right_mm: Tensor) -> Tensor:
    """Labels (uint8) from signed distances to outer wall, LV cavity and RV cavity in mm, negative inside, one shape.

    >>> contoured(*torch.tensor([[-9.0, -9.0, 5.0, 9.0], [-3.0, 3.0, 9.0, 9.0], [9.0, 9.0, 1.0, 9.0]])).tolist()
    [1, 2, 3, 0]
    """
    labels = torch.zeros(outer_mm.shape, dtype=torch.uint8)
    labels[right_mm < RIGHT_MM] = 3
    labels[outer_mm < -OUTER_MM] = 2
    labels[(cavity_mm < CAVITY_MM) & (outer_mm < -OUTER_MM - RING_MM)] = 1
    return labels


def _right(draws: Draws, image: Tensor, plane: Plane, heart: Heart, *, blood: Tensor, flesh: Tensor) -> Tensor:
    """Thin wall, then blood with trabeculae that grow from the wall, and sometimes a moderator band."""
    right = heart.right
    image = paint(image, inside(right.wall, right.blur), flesh * draws.uniform(0.1, 1.1))
    mesh = torch.sigmoid((draws.smooth(30) + 0.7 * draws.smooth(17) - draws.uniform(-0.6, 1.4)) * 4)
    mesh = mesh * torch.exp(right.blood.clamp(max=0) / draws.uniform(1, 10)) * draws.uniform(0, 0.95)
    spots = ((draws.smooth(26) - draws.uniform(0.7, 2.2)) * 3).clamp(0, 1) * draws.uniform(0, 0.9)
    flat = (1 - right.depth / 16).clamp(0, 1)  # pressed flat, it is filled with mesh
    flat = flat * draws.uniform(0, 1.2, per_slice=True).clamp(max=1)
    mesh = mesh.maximum(spots * draws.chance(0.5)).maximum(flat)
    band = torch.exp(-((draws.smooth(3) / draws.uniform(0.02, 0.12)) ** 2)) * draws.chance(0.35) * draws.uniform(0, 0.8)
    return paint(image, inside(right.blood, right.blur), paint(blood, mesh.maximum(band), flesh))


def _left(draws: Draws, image: Tensor, plane: Plane, heart: Heart, *, blood: Tensor, flesh: Tensor) -> Tensor:
    """Muscle, then blood with papillary muscles and a trabecular rim; small cavities are partly filled with muscle."""
    left, ring = heart.left, (~heart.left.above).float()
    image = paint(image, inside(left.outer, left.outer_blur) * ring, flesh)
    mesh = torch.sigmoid((draws.smooth(32) + 0.8 * draws.smooth(20) - draws.uniform(-0.8, 1.4)) * 4)
    meat = mesh * torch.exp(left.cavity.clamp(max=0) / draws.uniform(0.8, 5.5)) * draws.uniform(0, 0.95)
    # As the cavity empties, its trabeculae close up to a solid rim that looks like wall but is cavity by convention.
    thick = draws.uniform(0, 1.2) + draws.uniform(0, 4) * heart.size.contraction
    thick = (thick * (1 + 0.4 * draws.smooth(9))).minimum(0.45 * left.cavity_radius) * draws.chance(0.75)
    meat = meat.maximum(inside(-left.cavity - thick, 1.5 * plane.spacing_mm) * draws.uniform(0.2, 0.95) * (thick > 0))
    share = plane.depth_mm / heart.size.length
    for bearing in PAPILLARY:
        spread = draws.normal(0.35, mean=bearing or 0.0) if bearing else draws.uniform(-torch.pi, torch.pi)
        size = draws.uniform(2, 5.5) + draws.uniform(0, 0.17) * left.cavity_radius
        away = (left.cavity_radius - size * draws.uniform(-0.1, 1.5)).clamp(min=0)
        cos, sin, long = torch.cos(spread), torch.sin(spread), draws.uniform(0.65, 1.4)
        along, across = plane.x * cos + plane.y * sin - away, plane.y * cos - plane.x * sin
        off = torch.hypot(along / long, across * long) + 0.8 * draws.smooth(14) - size
        seen = (share > draws.uniform(0.12, 0.4)) & (share < draws.uniform(0.65, 1.0))
        seen = seen * draws.chance(0.85 if bearing else 0.35) * draws.uniform(0.5, 1.0)
        meat = meat.maximum(inside(off, 1.5 * plane.spacing_mm) * seen)
    small = (1 - left.cavity_radius.clamp(min=0) / 12).clamp(min=0)
    meat = meat.maximum(0.9 * small * draws.uniform(0, 1, per_slice=True))
    jet = torch.exp(-((draws.smooth(3) / draws.uniform(0.05, 0.25)) ** 2)) * torch.exp(-((share / 0.3) ** 2))
    blood = blood * (1 - jet * draws.chance(0.15) * draws.uniform(0, 0.7))
    return paint(image, inside(left.cavity, left.cavity_blur) * ring, paint(blood, meat, flesh))
