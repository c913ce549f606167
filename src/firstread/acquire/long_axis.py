"""Random long-axis planes of the heart with labels: 2- and 4-chamber views, what a network is trained on.

The random hearts of :mod:`~firstread.acquire.slices` are functions of place; here the plane runs along the axis of the
left ventricle, so that depth changes from row to row. Atria are plain ellipses above the base, attached to it:

    e(a, u) = hypot((a + c) / A, (u - m) / B) - 1        a = -depth (mm), u across, A, B half axes, c, m their centre.

Labels: 0 background, 1 LV cavity, 2 LV myocardium, 3 RV cavity, 4 left atrium, 5 right atrium.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from firstread.acquire.slices_anatomy import Heart, Left, Plane, Right, draw_left, draw_right, draw_sac, draw_size
from firstread.acquire.slices_draws import Draws, inside, paint
from firstread.acquire.slices_paint import RIGHT_MM, contoured, render
from firstread.acquire.slices_scan import acquire
from firstread.acquire.slices_thorax import clutter
from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.ops.intensity import scale_percentiles

NAMES = ("background", "LV cavity", "LV myocardium", "RV cavity", "left atrium", "right atrium")
View = Literal["2-chamber", "4-chamber"]
BEARING_RAD = {"4-chamber": 0.0, "2-chamber": torch.pi / 2}  # of the plane about the axis, from the mid septum


def random_long_axis(key: Key, batch: int, *, view: View, subjects: int = 8, size: int = 112, spacing_mm: float = 1.6
                     ) -> tuple[Float[Tensor, "subject y x"], UInt8[Tensor, "subject y x"]]:
    """Images (1st and 99th percentile at 0 and 1) and labels of one long-axis plane of each of ``subjects`` hearts.

    A function of the key, the number of the batch and the view alone. Raises SettingError where a size is too small.

    >>> images, labels = random_long_axis(Key(0, "doc"), 0, view="4-chamber", subjects=1, size=64)
    >>> images.shape, labels.dtype
    (torch.Size([1, 64, 64]), torch.uint8)
    """
    if subjects < 1 or size < 32:
        raise SettingError(f"{subjects} subjects of {size} pixels", expected="one or more, and 32 pixels",
                           remedy="correct the sizes")
    draws = Draws(key.generator(batch, int(view == "2-chamber")), subjects=subjects, slices=1, size=size)
    lv = draw_size(draws)
    plane, across = _plane(draws, lv.length, spacing_mm=spacing_mm, bearing_rad=BEARING_RAD[view])
    left = draw_left(draws, plane, lv)
    right = draw_right(draws, plane, lv, left)
    heart = _closed(draws, plane, Heart(lv, left, right, draw_sac(draws, plane, lv, left, right)))
    image, _ = render(draws, plane, heart)
    labels = contoured(heart.left.outer.masked_fill(heart.left.above, torch.inf), heart.left.cavity, heart.right.blood)
    image, labels = _atria(draws, image, labels, plane, heart, across, four=view == "4-chamber")
    image = acquire(draws, image, plane)
    return scale_percentiles(image[:, 0]), labels[:, 0]


def _plane(draws: Draws, length_mm: Tensor, *, spacing_mm: float, bearing_rad: float) -> tuple[Plane, Tensor]:
    """Pixels of a plane near the axis, turned anyhow in the image; and their distance across, septum or front below 0.
    """
    spacing = spacing_mm * draws.uniform(0.85, 1.18)
    line = torch.arange(draws.size) - (draws.size - 1) / 2
    row, column = line.reshape(1, 1, -1, 1) * spacing, line.reshape(1, 1, 1, -1) * spacing
    turn = draws.uniform(-torch.pi, torch.pi)
    mirror = torch.where(draws.chance(0.5), -1.0, 1.0)
    along = torch.cos(turn) * row - torch.sin(turn) * column
    across = mirror * (torch.sin(turn) * row + torch.cos(turn) * column)
    strength = draws.uniform(0, 3.0)
    along = along + draws.normal(10) + strength * draws.smooth(4)
    across = across + draws.normal(10, mean=8 if bearing_rad == 0 else 0) + strength * draws.smooth(4)
    depth = along + length_mm / 2 - 10
    bearing, off = bearing_rad + draws.normal(0.22), draws.normal(4) + draws.normal(0.08) * along  # foreshortened
    x = across * torch.cos(bearing) - off * torch.sin(bearing)
    y = across * torch.sin(bearing) + off * torch.cos(bearing)
    return Plane(spacing, depth, torch.full_like(spacing, 1.0), x, y), across


def _closed(draws: Draws, plane: Plane, heart: Heart) -> Heart:
    """The heart with its valves: borders end at the base, which leans, in place of running on."""
    tilt = draws.normal(0.18)
    base = plane.depth_mm - tilt * plane.x
    left = cut_off(heart.left, base)
    top = draws.normal(6, mean=4)  # the right ventricle ends near the left one's base
    blood = torch.maximum(heart.right.blood, top - base)
    right = Right(blood, torch.maximum(heart.right.wall, top - base), heart.right.blur, heart.right.depth,
                  heart.right.reach, base < top, heart.right.turn)
    return Heart(heart.size, left, right, torch.maximum(heart.sac, -12 - base))


def cut_off(left: Left, base_mm: Tensor) -> Left:
    """The left ventricle without what lies where ``base_mm`` is below zero."""
    return replace(left, outer=torch.maximum(left.outer, -base_mm), cavity=torch.maximum(left.cavity, -base_mm - 1.0),
                   above=base_mm < 0)


def _atria(draws: Draws, image: Tensor, labels: Tensor, plane: Plane, heart: Heart, across: Tensor, *, four: bool
           ) -> tuple[Tensor, Tensor]:
    """What lies above the base, painted over: other tissue, then the atria with thin walls."""
    pixel, above = plane.spacing_mm, -plane.depth_mm
    roof = inside(-(above - draws.uniform(0, 5)), 2 * pixel) * (labels == 0)
    image = paint(image, roof * draws.uniform(0.6, 1.0), clutter(draws, 7))
    muscle, blood = draws.uniform(0.15, 0.5), draws.uniform(0.75, 1.15) * (1 + 0.06 * draws.smooth(5))
    width, tall = draws.uniform(14, 30), draws.uniform(14, 32)
    atria = [(4, width, tall, draws.normal(4), draws.uniform(0.55, 0.9))]
    if four:
        septum = -heart.left.outer_radius.amax((2, 3), keepdim=True)
        right_width = draws.uniform(15, 30)
        atria.append((5, right_width, draws.uniform(15, 34), 0.6 * septum - right_width + draws.normal(4),
                      draws.uniform(0.5, 0.85)))
    wavy = 1.5 * draws.smooth(6)
    for value, half_across, half_along, middle, up in atria:
        e = torch.hypot((above - up * half_along) / half_along, (across - middle) / half_across) - 1
        off = e * torch.minimum(half_along, half_across) + wavy
        off = torch.maximum(off, 1.0 - above - 0.1 * (across - middle).abs())
        free = labels == 0
        image = paint(image, inside(off - draws.uniform(1, 3), 1.5 * pixel) * free, muscle)
        image = paint(image, inside(off, 1.5 * pixel) * free, blood)
        labels = torch.where(free & (off < RIGHT_MM / 2), value, labels).to(torch.uint8)
    return image.clamp(min=0), labels
