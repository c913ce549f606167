"""A PET phantom of known contrast: a body with hot discs and a cold one, whose line integrals are known exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError

DIAMETERS_MM = (10.0, 13.0, 17.0, 22.0, 28.0, 37.0)  # NEMA NU 2, the body phantom


@dataclass(frozen=True)
class UptakePhantom:
    """activity: ellipses in Bq/mL; body: attenuation relative to water; discs: (diameter, x, y in mm, ratio)."""

    activity: Float[Tensor, "ellipse 6"]
    body: Float[Tensor, "one 6"]
    discs: tuple[tuple[float, float, float, float], ...]
    background_bq_ml: float


def uptake_phantom(generator: torch.Generator, *, radius_mm: float = 150.0, background_bq_ml: float = 5000.0
                   ) -> UptakePhantom:
    """Six discs of NEMA's diameters on a ring in an elliptic body; the largest is cold, the others 3 to 8 times as hot.

    Order, ring's turn and ratios are drawn. Ellipses as in ``acquire.ellipses``. Raises SettingError for a body too
    small for the discs (120 mm).

    >>> made = uptake_phantom(torch.Generator().manual_seed(0))
    >>> len(made.discs), sum(ratio == 0 for *_, ratio in made.discs)
    (6, 1)
    """
    if radius_mm < 120 or not background_bq_ml > 0:
        raise SettingError(f"a body of {radius_mm} mm with {background_bq_ml} Bq/mL", expected="120 mm or more, "
                           "activity above zero", remedy="correct the setting")
    turn, *drawn = torch.rand(len(DIAMETERS_MM) + 1, generator=generator, dtype=torch.float64).tolist()
    order = torch.randperm(len(DIAMETERS_MM), generator=generator).tolist()
    half_x, half_y = radius_mm, 0.8 * radius_mm
    discs = []
    for place, (index, share) in enumerate(zip(order, drawn, strict=True)):
        angle = 2 * math.pi * (place + turn) / len(order)
        ratio = 0.0 if index == len(order) - 1 else 3.0 + 5.0 * share
        discs.append((DIAMETERS_MM[index], 0.55 * half_x * math.cos(angle), 0.55 * half_y * math.sin(angle), ratio))
    body = torch.tensor([[1.0, half_x, half_y, 0.0, 0.0, 0.0]], dtype=torch.float64)
    inserts = [[background_bq_ml * (ratio - 1), d / 2, d / 2, x, y, 0.0] for d, x, y, ratio in discs]
    activity = torch.cat((body * torch.tensor([background_bq_ml, 1, 1, 1, 1, 1], dtype=torch.float64),
                          torch.tensor(inserts, dtype=torch.float64)))
    return UptakePhantom(activity, body, tuple(discs), background_bq_ml)
