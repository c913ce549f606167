"""Who the subjects are: sex, pathology, volumes, mass and motion drawn for a family, and the shape that has them.

Normal subjects follow the UK Biobank reference ranges (Petersen et al., J Cardiovasc Magn Reson 2017;19:18): men
LVEDV 166 ± 32 mL, LVEF 58 ± 5 %, LVM 103 ± 21 g, RVEF 54 ± 6 %; women 124 ± 21 mL, 61 ± 5 %, 70 ± 13 g, 58 ± 6 %.
The right ventricle pumps what the left one does (± 3 %), so its volume follows from the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from firstread.acquire.heart_motion import BeatingHeart, Contraction, Timing
from firstread.acquire.heart_shape import (
    MYOCARDIAL_DENSITY_G_ML,
    Harmonic,
    LeftVentricle,
    Patch,
    RightVentricle,
    cavity_ml,
    myocardium_ml,
)
from firstread.core.keys import Key

Family = Literal["train", "calibration", "test"]
Pathology = Literal["normal", "dilated", "hypertrophic", "infarct", "rv_disease"]
CIRCLE = 2 * math.pi
FAMILIES: tuple[Family, ...] = ("train", "calibration", "test")
PATHOLOGIES: tuple[Pathology, ...] = ("normal", "dilated", "hypertrophic", "infarct", "rv_disease")
MIX = {"train": (0.36, 0.16, 0.16, 0.16, 0.16), "test": (0.20, 0.20, 0.20, 0.20, 0.20)}
"""Shares of the pathologies; calibration uses those of train."""


Stream = Callable[[str], np.random.Generator]


def streams(seed: int, family: Family) -> Stream:
    """Independent generators by name, so that the draws of one part never move those of another."""

    def stream(name: str) -> np.random.Generator:
        return np.random.default_rng(Key(seed, f"heart_subject/{family}/{name}").generator().initial_seed())

    return stream


@dataclass(frozen=True)
class Targets:
    """What the heart is built to have."""

    pathology: Pathology
    sex: Literal["male", "female"]
    lvedv_ml: float
    lvef: float
    lvm_g: float
    rvedv_ml: float
    rvef: float
    heart_rate: float


def heart_of(*, seed: int, family: Family, pathology: Pathology | None = None) -> tuple[BeatingHeart, Targets]:
    """The heart of subject ``seed`` of ``family``; a pathology of None is drawn."""
    stream = streams(seed, family)
    if pathology is None:
        pathology = PATHOLOGIES[int(stream("pathology").choice(5, p=MIX["test" if family == "test" else "train"]))]
    targets = draw_targets(stream("targets"), pathology)
    return draw_heart(stream("heart"), targets, family), targets


def draw_targets(rng: np.random.Generator, pathology: Pathology) -> Targets:
    """Volumes, mass and heart rate of one subject."""
    male = bool(rng.random() < 0.5)
    size, sd = (166.0, 32.0) if male else (124.0, 21.0)
    mass, mass_sd = (103.0, 21.0) if male else (70.0, 13.0)
    z = rng.standard_normal(5).clip(-2.3, 2.3)
    edv, lvm = size + sd * z[0], mass + mass_sd * (0.7 * z[0] + 0.71 * z[1])
    ef = (0.58 if male else 0.61) + 0.05 * z[2]
    rvef = (0.54 if male else 0.58) + 0.06 * (0.5 * z[2] + 0.87 * z[3])
    rate = 62 + 9 * z[4]
    if pathology != "normal":
        rate = 74 + 13 * z[4]
    if pathology == "dilated":
        edv, ef = rng.uniform(170, 300), rng.uniform(0.15, 0.42)
        lvm, rvef = rng.uniform(110, 210), rng.uniform(0.25, 0.5)
    elif pathology == "hypertrophic":
        edv, ef, lvm = edv * rng.uniform(0.75, 1.0), rng.uniform(0.58, 0.75), rng.uniform(130, 260)
        lvm *= 1.0 if male else 0.8
    elif pathology == "infarct":
        edv, ef, lvm = edv * rng.uniform(1.1, 1.7), rng.uniform(0.2, 0.5), lvm * rng.uniform(1.2, 1.6)
    edv, ef, lvm = float(np.clip(edv, 62, 300)), float(np.clip(ef, 0.15, 0.75)), float(np.clip(lvm, 42, 280))
    rvef = float(np.clip(rvef, 0.2, 0.72))
    rvedv = edv * ef * (1 + 0.03 * rng.standard_normal()) / rvef
    if pathology == "rv_disease":
        rvedv, rvef = rng.uniform(180, 330) * (1.0 if male else 0.85), rng.uniform(0.18, 0.42)
    rvedv = float(np.clip(rvedv, 70, 340))
    rate = float(np.clip(rate, 45, 110))
    return Targets(pathology, "male" if male else "female", edv, ef, lvm, rvedv, float(rvef), rate)


def draw_heart(rng: np.random.Generator, targets: Targets, family: Family) -> BeatingHeart:
    """A heart that has the ``targets`` exactly.

    The test family has another shape family: super-ellipsoid profiles (exponent 2.3 to 2.8), contour harmonics of
    order 3 to 7 and thickness harmonics of order 2 to 5, where train and calibration have ellipsoids with orders 2 to
    4 and 1 to 3.
    """
    test, pathology = family == "test", targets.pathology
    septum = math.pi + rng.normal(0, 0.12)
    sphericity = rng.normal(0.57, 0.035)
    if pathology == "dilated":
        sphericity = rng.uniform(0.6, 0.76)
    sphericity *= 0.96 if test else 1.0
    orders, thick_orders = (range(3, 8), (2, 3, 4, 5)) if test else (range(2, 5), (1, 2, 3))
    contour = [Harmonic(k, abs(rng.normal(0, 0.05 / k)), rng.uniform(0, CIRCLE), rng.normal(0, 1)) for k in orders]
    thickness = [Harmonic(k, abs(rng.normal(0, 0.09 / math.sqrt(k))), rng.uniform(0, CIRCLE), rng.normal(0, 1))
                 for k in thick_orders]
    walls: list[Patch] = []
    still: list[Patch] = []
    if pathology == "hypertrophic":
        centre = septum + rng.normal(-0.2, 0.4) if rng.random() < 0.8 else rng.uniform(0, CIRCLE)
        walls.append(Patch(centre % CIRCLE, rng.uniform(0.1, 0.7), rng.uniform(0.7, 1.3), rng.uniform(0.4, 0.8),
                           rng.uniform(0.1, 0.7)))
    if pathology == "infarct":
        territory = rng.choice(3)
        centre = septum + (0.9, -1.9, math.pi - 0.2)[territory] + rng.normal(0, 0.3)
        level = (rng.uniform(0.6, 0.95), rng.uniform(0.2, 0.6), rng.uniform(0.2, 0.7))[territory]
        extent = rng.uniform(0.6, 1.1), rng.uniform(0.3, 0.55)
        walls.append(Patch(centre % CIRCLE, level, *extent, -rng.uniform(0.2, 0.5)))
        still.append(Patch(centre % CIRCLE, level, *extent, -rng.uniform(0.85, 1.15)))
    if pathology == "rv_disease":
        contour.append(Harmonic(2, -rng.uniform(0.02, 0.08), 2 * septum % CIRCLE))
    shape = LeftVentricle(1.0, 2.0 / sphericity, 0.3, 0.2, equator=rng.uniform(0.15, 0.3),
                          exponent=rng.uniform(2.3, 2.8) if test else 2.0, contour=tuple(contour),
                          thickness=tuple(thickness), patches=tuple(walls))
    lv = with_volumes(shape, lvedv_ml=targets.lvedv_ml, lvm_g=targets.lvm_g, apex_share=rng.uniform(0.45, 0.75))
    big, ratio = pathology == "rv_disease", targets.rvedv_ml / targets.lvedv_ml
    rv = RightVentricle(septum_rad=septum % CIRCLE, base_mm=rng.uniform(-12, 0), apex=rng.uniform(0.82, 0.95),
                        width_rad=min(rng.uniform(1.3, 1.55) + 0.25 * max(ratio - 0.9, 0.0), 1.9),
                        narrowing=rng.uniform(0.15, 0.4), sharpness=rng.uniform(0.45, 0.85),
                        skew=rng.uniform(-0.05, 0.4), exponent=rng.uniform(1.4, 2.4), taper=rng.uniform(0.55, 0.8),
                        wall_mm=rng.uniform(3.5, 7.0) if big else rng.uniform(2.5, 4.0))
    vigour = targets.lvef / 0.6
    shortening = 0.15 * vigour * rng.uniform(0.85, 1.15) * (0.75 if pathology == "hypertrophic" else 1.0)
    swing = rng.uniform(0.05, 0.2) * min(1.0, vigour)
    turn = rng.uniform(0.7, 1.3) * min(1.2, vigour)
    contraction = Contraction(
        ef=targets.lvef, shortening=min(shortening, 0.19), rv_ef=targets.rvef,
        twist_base_rad=-math.radians(4) * turn, twist_apex_rad=math.radians(10) * turn,
        regional=(Harmonic(1, swing, septum - math.pi + rng.normal(0, 0.4)),
                  Harmonic(2, swing * 0.3, rng.uniform(0, CIRCLE))),
        patches=tuple(still), rv_excursion_mm=22 * targets.rvef / 0.55 * rng.uniform(0.8, 1.1))
    systole = float(np.clip(0.27 + 0.0017 * targets.heart_rate + rng.normal(0, 0.015), 0.3, 0.48))
    filling = systole + rng.uniform(0.06, 0.09)
    timing = Timing(onset=rng.uniform(0.03, 0.06), end_systole=systole, filling=filling,
                    filling_length=rng.uniform(0.18, 0.26), filling_share=rng.uniform(0.6, 0.85),
                    atrial=rng.uniform(0.8, 0.88))
    return BeatingHeart(lv, rv, timing, contraction, targets.rvedv_ml)


def with_volumes(shape: LeftVentricle, *, lvedv_ml: float, lvm_g: float, apex_share: float) -> LeftVentricle:
    """``shape`` scaled to a cavity of ``lvedv_ml``, its wall set to a mass of ``lvm_g`` (apex: a share of it)."""
    from scipy.optimize import brentq

    scale = (lvedv_ml / cavity_ml(shape)) ** (1 / 3)
    scaled = replace(shape, radius_mm=shape.radius_mm * scale, length_mm=shape.length_mm * scale)

    def missing(wall_mm: float) -> float:
        walled = replace(scaled, wall_mm=wall_mm, apex_mm=apex_share * wall_mm)
        return myocardium_ml(walled) * MYOCARDIAL_DENSITY_G_ML - lvm_g

    wall_mm = float(brentq(missing, 0.5, 60.0, xtol=1e-9))
    return replace(scaled, wall_mm=wall_mm, apex_mm=apex_share * wall_mm)
