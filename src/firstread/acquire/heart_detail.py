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
    m, z, angle = moment.spread(2), z_mm[:, None], theta[None, :]
    at = radii(heart, m, angle, z)
    under_base = torch.where(at.left, 1.0, 0.0)
    trabeculae = at.endo * (1 - _trabecular_share(detail, m, at)).sqrt()

    depth = at.rv - at.epi
    rv_rough = _ragged(detail.rv_rough, angle + 0.05 * z) * (0.6 + 0.8 * at.level.clamp(0, 1))
    rv_blood = at.epi + depth * (1 - (detail.rv_trabeculae * rv_rough).clamp(0, 0.7))
    rv_wall = at.rv + heart.rv.wall_mm * (depth / 4.0).clamp(0, 1)

    # Above the right ventricle's base fat fills what atria and vessels, painted later, leave of the outline.
    base = heart.rv_base_mm(m)
    roof = radii(heart, m, angle, torch.maximum(z, base))
    outline = torch.where(z < base, at.epi + roof.rv - roof.epi, rv_wall)
    thick = detail.fat_mm * (1 + harmonic_sum(detail.fat_around, angle)).clamp(min=0)
    thick = thick * (1.35 - 0.7 * (z / heart.lv.outer_length_mm).clamp(0, 1))
    present = (at.epi > 0) | (depth > 0)
    fat = torch.where(present, outline + thick, 0)
    pericardium = torch.where(present, fat + detail.pericardium_mm, 0)
    nested = trabeculae * under_base, at.endo * under_base, at.epi, rv_blood, at.rv, rv_wall, fat, pericardium
    return torch.stack(torch.broadcast_tensors(*nested)), at


def _ragged(rough: tuple[Harmonic, ...], angle: Tensor) -> Tensor:
    """How far trabeculae reach inwards around the wall, about 0.5 on average, never below zero."""
    return (0.5 + 0.5 * harmonic_sum(rough, angle)).clamp(0, 1.6)


def _trabecular_share(detail: Detail, moment: Moment, at: Radii) -> Tensor:
    """Share of the cavity's section that trabeculae fill: more at the apex, and more in systole since they stay."""
    at_rest = (1 - (1 - detail.trabeculae) ** 2) * _ragged(detail.rough, at.material_rad + 2.0 * at.level)
    squeezed = (at_rest / (1 - 0.8 * moment.inward)).clamp(0, 0.8)
    return (squeezed * (0.5 + 0.9 * at.level.clamp(0, 1))).clamp(0, 0.85)
