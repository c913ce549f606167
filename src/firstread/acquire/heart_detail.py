"""What is drawn but not labelled: trabeculae, papillary muscles, fat, pericardium, atria, great vessels.

Papillary muscles and trabeculae count as cavity, as in the short-axis convention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.acquire.heart_motion import BeatingHeart, Moment, Radii, radii
from firstread.acquire.heart_shape import Harmonic, harmonic_sum

SHELLS = ("LV blood", "LV trabeculae", "LV wall", "RV blood", "RV trabeculae", "RV wall", "fat", "pericardium",
          "outside")
"""What lies between the nested curves of ``shell_radii``, from inside out."""


@dataclass(frozen=True)
class Papillary:
    """A papillary muscle: angle, distance from the axis (share of the cavity radius), levels, radius in mm."""

    angle_rad: float
    distance: float
    levels: tuple[float, float]
    radius_mm: float


@dataclass(frozen=True)
class Chamber:
    """Atrium or great vessel above the base: centre, drift with z, radius (mm) with harmonics, wall."""

    centre_mm: tuple[float, float]
    drift: tuple[float, float]
    radius_mm: float
    wall_mm: float
    venous: bool
    outline: tuple[Harmonic, ...] = ()


@dataclass(frozen=True)
class Detail:
    """All of it for one subject; trabeculae as a share of the radius (of the depth in the right ventricle), fat in mm.

    rv_muscles: papillary muscles and bands of the right ventricle, their distance a share of its depth.
    """

    papillaries: tuple[Papillary, ...]
    rv_muscles: tuple[Papillary, ...]
    trabeculae: float
    rough: tuple[Harmonic, ...]
    rv_trabeculae: float
    rv_rough: tuple[Harmonic, ...]
    fat_mm: float
    fat_around: tuple[Harmonic, ...]
    pericardium_mm: float
    chambers: tuple[Chamber, ...]


def shell_radii(heart: BeatingHeart, detail: Detail, moment: Moment, theta: Float[Tensor, " n"],
                z_mm: Float[Tensor, " s"]) -> tuple[Float[Tensor, "8 t s n"], Radii]:
    """The nested curves that divide a section into ``SHELLS``, at T moments, places ``z_mm`` and angles ``theta``."""
    m = moment.spread(2)
    at = radii(heart, m, theta[None, :], z_mm[:, None])
    keep = torch.where(at.left, 1.0, 0.0)
    share = (1 - detail.trabeculae) ** 2
    ragged = (0.5 + 0.5 * harmonic_sum(detail.rough, at.material_rad + 2.0 * at.level)).clamp(0, 1.6)
    lost = ((1 - share) * ragged / (1 - 0.8 * m.inward)).clamp(0, 0.8) * (0.5 + 0.9 * at.level.clamp(0, 1))
    trabeculae = at.endo * (1 - lost.clamp(0, 0.85)).sqrt()
    deep = at.rv - at.epi
    rv_ragged = (0.5 + 0.5 * harmonic_sum(detail.rv_rough, theta[None, :] + 0.05 * z_mm[:, None])).clamp(0, 1.6)
    coarse = detail.rv_trabeculae * (0.6 + 0.8 * at.level.clamp(0, 1))
    rv_blood = at.epi + deep * (1 - (coarse * rv_ragged).clamp(0, 0.7))
    rv_wall = at.rv + heart.rv.wall_mm * (deep / 4.0).clamp(0, 1)
    above = z_mm[:, None] < heart.rv_base_mm(m)
    roof = radii(heart, m, theta[None, :], torch.maximum(z_mm[:, None], heart.rv_base_mm(m)))
    body = torch.where(above, at.epi + roof.rv - roof.epi, rv_wall)
    thick = detail.fat_mm * (1 + harmonic_sum(detail.fat_around, theta))[None, :].clamp(min=0)
    thick = thick * (1.35 - 0.7 * (z_mm[:, None] / heart.lv.outer_length_mm).clamp(0, 1))
    present = (at.epi > 0) | (deep > 0)
    fat = torch.where(present, body + thick, 0)
    edge = torch.where(present, fat + detail.pericardium_mm, 0)
    nested = trabeculae * keep, at.endo * keep, at.epi, rv_blood, at.rv, rv_wall, fat, edge
    return torch.stack(torch.broadcast_tensors(*nested)), at
