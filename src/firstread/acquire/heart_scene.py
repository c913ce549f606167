"""Draws what the ventricles are set into: detail of the heart, torso, and how one scan of it looks."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.acquire.heart_detail import Chamber, Detail, Papillary
from firstread.acquire.heart_motion import BeatingHeart
from firstread.acquire.heart_render import FINER, Look, Scan
from firstread.acquire.heart_shape import Harmonic
from firstread.acquire.heart_tissue import NAMES, TISSUES, Sequence, signal_table, varied
from firstread.acquire.heart_torso import XY, Organ, Torso

CIRCLE = 2 * math.pi
LUMPS = {"fat": (0.05, 0.25), "muscle": (0.1, 0.4), "lung": (0.3, 1.0), "liver": (0.03, 0.15), "stomach": (0.1, 0.5),
         "marrow": (0.1, 0.3)}
"""How uneven some tissues of the torso are (relative standard deviation)."""


def draw_detail(rng: np.random.Generator, heart: BeatingHeart, *, test: bool) -> Detail:
    """Detail for a heart; the test family has four slimmer papillary heads and finer, deeper trabeculae."""
    r, septum = heart.lv.radius_mm, heart.rv.septum_rad
    heads, size = ((2.3, 2.75, -2.05, -2.5), (0.11, 0.16)) if test else ((2.5, -2.3), (0.15, 0.22))
    papillaries = tuple(
        Papillary(septum + angle + rng.normal(0, 0.15), rng.uniform(0.6, 0.78),
                  (rng.uniform(0.1, 0.3), rng.uniform(0.65, 0.9)), r * rng.uniform(*size)) for angle in heads)

    def rough(low: int, high: int, count: int) -> tuple[Harmonic, ...]:
        orders = rng.integers(low, high, size=count)
        size = math.sqrt(3 / count)
        return tuple(Harmonic(int(k), size * rng.uniform(0.2, 0.7), rng.uniform(0, CIRCLE)) for k in orders)

    def outline(amount: float) -> tuple[Harmonic, ...]:
        return tuple(Harmonic(k, amount * rng.uniform(0.3, 1) / (k - 1), rng.uniform(0, CIRCLE)) for k in (2, 3, 4))

    def place(to_septum: float, to_anterior: float) -> XY:
        c, s = math.cos(septum), math.sin(septum)
        return to_septum * c - to_anterior * s, to_septum * s + to_anterior * c

    def chamber(at: XY, drift: XY, radius: float, wall: float, venous: bool) -> Chamber:
        return Chamber(at, drift, radius, wall, venous, outline(0.04 if wall > 1.6 else 0.16))

    chambers = (
        chamber(place(-0.3 * r, -0.3 * r), (0.1, -0.1), 0.8 * r * rng.uniform(0.9, 1.15), 1.5, False),
        chamber(place(1.55 * r, -0.7 * r), (0.1, 0.0), 0.75 * r * rng.uniform(0.85, 1.2), 1.5, True),
        chamber(place(1.0 * r, 1.1 * r), (0.2, 0.2), rng.uniform(11, 15), 1.5, True),
        chamber(place(0.6 * r, 0.2 * r), (0.1, 0.1), rng.uniform(12.5, 16.5), 1.8, False),
    )
    fat_around = (Harmonic(1, rng.uniform(0.4, 1.1), septum + rng.normal(0.4, 0.4)),
                  *(Harmonic(k, rng.uniform(0, 0.4), rng.uniform(0, CIRCLE)) for k in (2, 3, 5)))
    rv_muscles = tuple(
        Papillary(septum + rng.uniform(-1.0, 1.0), rng.uniform(0.25, 0.85),
                  (rng.uniform(0.0, 0.4), rng.uniform(0.5, 0.95)), rng.uniform(1.5, 4.0))
        for _ in range(int(rng.integers(2, 7))))
    trabeculae = rng.uniform(0.08, 0.26) * (1.3 if test else 1.0)
    return Detail(papillaries=papillaries, rv_muscles=rv_muscles, trabeculae=trabeculae,
                  rough=rough(3, 30, 9) if test else rough(2, 16, 6), rv_trabeculae=rng.uniform(0.08, 0.35),
                  rv_rough=rough(6, 50, 8), fat_mm=rng.uniform(1.0, 4.5), fat_around=fat_around,
                  pericardium_mm=rng.uniform(0.8, 1.4), chambers=chambers)


def draw_torso(rng: np.random.Generator, *, left_mm: float, below_mm: float, wide: bool) -> Torso:
    """A torso around a heart that reaches ``left_mm`` towards the chest wall and ``below_mm`` to the diaphragm.

    wide: the larger ranges of the test family.
    """
    more = 1.3 if wide else 1.0

    def near(mean: int | float, spread: int | float) -> float:
        return float(mean + more * spread * rng.uniform(-1.7, 1.7))

    fat, muscle = max(near(15, 7), 4.0), max(near(11, 3), 6.0)
    axes = near(125, 10), near(155, 12)
    centre = axes[0] - left_mm - abs(near(3, 4)) - fat - muscle, near(18, 12)
    aorta = near(52, 7), near(52, 8)
    spine = aorta[0] + near(32, 4), aorta[1] + near(14, 7)
    behind = (0.35, 0.3)
    organs = [
        Organ((-left_mm + near(12, 5), near(18, 10)), (0.05, 0.1), (near(18, 5), near(42, 9)), near(0.0, 0.2), "fat"),
        Organ((near(38, 10), below_mm + near(32, 5)), (-0.1, -0.25), (near(34, 7), near(24, 5)), near(0.2, 0.3),
              str(rng.choice(["stomach", "fluid", "air"], p=[0.7, 0.1, 0.2])), "muscle", abs(near(3, 0.8)), "belly"),
        Organ((near(88, 9), below_mm + near(30, 7)), (-0.1, -0.2), (near(30, 5), near(20, 4)), near(0.9, 0.3), "spleen",
              region="belly"),
        Organ((near(60, 9), below_mm + near(72, 8)), (0.0, -0.1), (near(28, 4), near(20, 3)), near(0.5, 0.4), "muscle",
              "liver", 6.0, "belly"),
    ]
    for _ in range(int(rng.integers(8, 18))):
        size = near(1.0, 0.3)
        tissue = str(rng.choice(["stomach", "muscle", "air", "fluid", "venous blood"], p=[0.35, 0.3, 0.1, 0.05, 0.2]))
        organs.append(Organ((rng.uniform(-50, 110), below_mm + rng.uniform(15, 110)), (0.0, -0.2),
                            (size * rng.uniform(4, 16), size * rng.uniform(3, 9)), rng.uniform(0, math.pi), tissue,
                            "muscle", rng.uniform(1, 2.5), "belly"))
    in_liver = [Organ((rng.uniform(-70, 30), below_mm + rng.uniform(8, 90)), (0.0, -0.2),
                      (rng.uniform(1.5, 6), rng.uniform(1.5, 3)), rng.uniform(0, math.pi), "venous blood",
                      region="belly") for _ in range(int(rng.integers(5, 14)))]
    organs += [
        Organ(spine, behind, (near(22, 3), near(18, 2)), near(0.5, 0.3), "marrow", "muscle", 2.0),
        Organ((spine[0] + 26, spine[1] + 8), behind, (8.0, 8.0), 0.0, "fluid", "muscle", 3.0),
        Organ((aorta[0] - 18, aorta[1] - 2), behind, (6.0, 5.0), 0.0, "muscle", "fat", 2.0),
        Organ(aorta, behind, (near(11, 1), near(11, 1)), 0.0, "blood", "vessel wall", 1.5),
    ]
    vessels = tuple(
        (rng.uniform(-80, 150), rng.uniform(-150, 60), rng.uniform(-40, 120), float(rng.gamma(2.5, 0.35) + 0.35))
        for _ in range(int(rng.integers(150, 400))))
    return Torso(
        centre_mm=centre, axes_mm=axes, angle_rad=near(-0.25, 0.2),
        outline=tuple(Harmonic(k, abs(near(0, 0.02)), rng.uniform(0, CIRCLE)) for k in (2, 3, 4, 5)), fat_mm=fat,
        fat_around=(Harmonic(1, rng.uniform(0, 0.5), math.pi + near(0, 0.6)),
                    Harmonic(3, rng.uniform(0, 0.3), rng.uniform(0, CIRCLE))),
        muscle_mm=muscle, ribs=Harmonic(int(rng.integers(13, 20)), 1.0, rng.uniform(0, CIRCLE)),
        diaphragm_mm=below_mm - abs(near(4, 4)), slope=near(0.0, 0.12), dome_mm=near(150, 30), rise=near(0.3, 0.1),
        liver_mm=near(20, 14), organs=(*in_liver, *organs), vessels=vessels, turn_rad=near(0.0, 0.12))


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], knots: int) -> Float[Tensor, "y x"]:
    """A smooth random field of about unit variance: ``knots`` x ``knots`` normal numbers, interpolated."""
    coarse = torch.from_numpy(rng.standard_normal((1, 1, knots, knots))).float()
    return torch.nn.functional.interpolate(coarse, size=shape, mode="bicubic", align_corners=True)[0, 0]


def draw_look(rng: np.random.Generator, scan: Scan, frames: int, *, test: bool) -> Look:
    """Look of one scan; the test family varies more and is at 3 T in half of the scans."""
    more = 1.4 if test else 1.0
    field = "3T" if test and rng.random() < 0.5 else "1.5T"
    flip, tr = ((42, 55), (2.5, 2.8)) if field == "3T" else ((48, 70), (3.0, 3.6))
    sequence = Sequence(field, rng.uniform(*flip), rng.uniform(*tr))
    factors = {name: tuple(np.exp(more * 0.06 * rng.standard_normal(3)).tolist()) for name in TISSUES[field]}
    table = signal_table(sequence, varied(TISSUES[field], factors), inflow=rng.uniform(1.05, 1.45),
                         trabecular_muscle=rng.uniform(0.35, 0.8))
    height, width = (FINER * n for n in scan.matrix)
    step = scan.spacing_mm / FINER
    y = ((torch.arange(height) - height // 2) * step)[:, None]
    x = ((torch.arange(width) - width // 2) * step)[None]

    def field_of(knots: int) -> Float[Tensor, "y x"]:
        return smooth_field(rng, (height, width), knots)

    hertz = (12.0 if field == "1.5T" else 22.0) * more
    far = torch.hypot(x, y) / 140
    off = hertz * field_of(5) + rng.uniform(-15, 15)
    off = off + rng.uniform(20, 140) * far**4 * (0.5 + field_of(3)).clamp(-1, 1.5)
    towards = rng.uniform(0.15, 0.5), rng.normal(-math.pi * 0.7, 0.5)
    slope = towards[0] * (math.cos(towards[1]) * x + math.sin(towards[1]) * y) / 100
    bias = (0.22 * more * field_of(3) + slope).clamp(-1.2, 1.2)
    phase = rng.uniform(-math.pi, math.pi) + 0.6 * field_of(3)
    grain = rng.uniform(0.02, 0.06)
    texture = torch.stack([1 + grain * field_of(70) + 0.03 * field_of(20) for _ in scan.places_mm])
    strands = torch.stack([0.6 * field_of(44) + 0.4 * field_of(16) for _ in scan.places_mm])
    lumps = torch.tensor([rng.uniform(*LUMPS.get(name, (0.0, 0.06))) for name in NAMES])
    warp = torch.stack([rng.uniform(2, 5) * field_of(6) + rng.uniform(0.5, 1.2) * field_of(24) for _ in range(2)])
    time = torch.arange(frames)[:, None] / frames
    flow = 1 + rng.uniform(0.02, 0.1) * torch.sin(CIRCLE * time + rng.uniform(0, CIRCLE))
    flow = flow + 0.05 * torch.from_numpy(rng.standard_normal((1, len(scan.places_mm)))).float()
    return Look(table, off, torch.polar(torch.exp(bias), phase), texture, strands, lumps, warp, flow)
