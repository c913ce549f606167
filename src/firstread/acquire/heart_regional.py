"""Regional truth: wall thickness and strain on the 16 segments of the American Heart Association.

A segment is a third of the cavity's length (basal 1-6, middle 7-12, apical 13-16) and a sector of 60° (90° at the
apex) counted from the anterior wall over the septum, the septum being where the right ventricle is deepest.

Thickness WT is the in-plane distance from an endocardial point to the nearest epicardial one, as contours of short-axis
slices give it; WT3D is the distance to the nearest point of the whole epicardial surface. Strain is Lagrangian, from
end-diastole to end-systole, of material lines: with s the length of a line, ``E = s' / s - 1``, for
Ecc mid-wall around, Err from endo- to epicardium, Ell the endocardium from mitral plane to apex.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from firstread.acquire.heart_motion import BeatingHeart, Moment, deform
from firstread.acquire.heart_shape import endocardium, epicardium

LEVELS = (0.25, 0.5, 0.75)
"""Levels (from base to apex) whose mean is the global Ecc and Err."""


def aha_segment(theta: Float[Tensor, "*#p"], level: Float[Tensor, "*#p"], septum_rad: float) -> Integer[Tensor, "*q"]:
    """Segment 1 to 16 at angle ``theta`` and level z / L in [0, 1).

    >>> aha_segment(torch.tensor([-torch.pi / 2, 0.0]), torch.tensor([0.1, 0.9]), torch.pi)
    tensor([ 1, 16])
    """
    degrees = torch.rad2deg(septum_rad - theta) + 90
    sixth = torch.remainder(degrees + 30, 360).div(60, rounding_mode="floor").long()
    fourth = torch.remainder(degrees + 45, 360).div(90, rounding_mode="floor").long()
    ring = (3 * level).clamp(0, 2.999).floor().long()
    return torch.where(ring < 2, 1 + 6 * ring + sixth, 13 + fourth)


@dataclass(frozen=True, eq=False)
class Sections:
    """Points of the wall at end-diastole: sections ``z_mm [n, 1]`` (middle of ``n`` equal parts of the cavity's
    length) and angles ``theta [1, m]``; segment of each."""

    z_mm: Float[Tensor, "n 1"]
    theta: Float[Tensor, "1 m"]
    segment: Integer[Tensor, "n m"]

    def means(self, values: Float[Tensor, "n m"]) -> list[float]:
        """Mean over each of the 16 segments."""
        return [values[self.segment == k].mean().item() for k in range(1, 17)]


def sections_of(heart: BeatingHeart, *, sections: int = 24, angles: int = 144) -> Sections:
    """Evenly spread sections; their number is a multiple of 3."""
    level = ((torch.arange(sections, dtype=torch.float64) + 0.5) / sections)[:, None]
    theta = (torch.arange(angles, dtype=torch.float64) * (2 * math.pi / angles))[None]
    return Sections(level * heart.lv.length_mm, theta, aha_segment(theta, level, heart.rv.septum_rad))


def thickness_in_plane_mm(heart: BeatingHeart, at: Sections) -> Float[Tensor, "n m"]:
    """Distance of each endocardial point to the nearest point of the epicardium in its section."""
    endo = endocardium(heart.lv, at.theta, at.z_mm)
    fine = torch.arange(1440, dtype=torch.float64)[None] * (2 * math.pi / 1440)
    epi = torch.polar(epicardium(heart.lv, fine, at.z_mm), fine.expand(len(at.z_mm), -1).contiguous())
    points = torch.polar(endo, at.theta.expand_as(endo).contiguous())
    return torch.stack([torch.cdist(torch.view_as_real(p), torch.view_as_real(q)).amin(1)
                        for p, q in zip(points, epi, strict=True)])


def thickness_3d_mm(heart: BeatingHeart, at: Sections) -> Float[Tensor, "n m"]:
    """Distance of each endocardial point to the nearest point of the epicardial surface."""
    from scipy.spatial import cKDTree

    lv = heart.lv
    theta = torch.arange(480, dtype=torch.float64)[None] * (2 * math.pi / 480)
    z = lv.outer_length_mm * (1 - torch.linspace(0, 1, 320, dtype=torch.float64)[:, None] ** 2)
    surface = _cartesian(epicardium(lv, theta, z), theta, z)
    inner = _cartesian(endocardium(lv, at.theta, at.z_mm), at.theta, at.z_mm)
    distance, _ = cKDTree(surface.reshape(-1, 3).numpy()).query(inner.reshape(-1, 3).numpy())
    return torch.from_numpy(distance).reshape(at.segment.shape)


def _cartesian(radius: Tensor, theta: Tensor, z: Tensor) -> Tensor:
    return torch.stack(torch.broadcast_tensors(radius * theta.cos(), radius * theta.sin(), z), dim=-1)


def contour_elements(radius_mm: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
    """Length per angle ``sqrt(r^2 + (dr/dtheta)^2)`` of closed contours on evenly spaced angles (spectral slope)."""
    orders = torch.fft.rfftfreq(radius_mm.shape[-1], 1 / radius_mm.shape[-1]).to(radius_mm)
    slope = torch.fft.irfft(1j * orders * torch.fft.rfft(radius_mm), n=radius_mm.shape[-1])
    return torch.hypot(radius_mm, slope)


def circumferential_strain(heart: BeatingHeart, at: Sections, moment: Moment, *,
                           depth: float = 0.5) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
    """Lengths per angle of the material contours at wall depth ``depth`` (0 endo, 1 epi), before and at ``moment``."""
    endo, epi = endocardium(heart.lv, at.theta, at.z_mm), epicardium(heart.lv, at.theta, at.z_mm)
    middle = endo + depth * (epi - endo)
    return contour_elements(middle), contour_elements(deform(heart, moment, middle, at.theta, at.z_mm)[0])


def radial_strain(heart: BeatingHeart, at: Sections, moment: Moment) -> Float[Tensor, "n m"]:
    """Thickening of the wall along its rays."""
    endo, epi = endocardium(heart.lv, at.theta, at.z_mm), epicardium(heart.lv, at.theta, at.z_mm)
    inner, outer = (deform(heart, moment, r, at.theta, at.z_mm)[0] for r in (endo, epi))
    return (outer - inner) / (epi - endo) - 1


def longitudinal_strain(heart: BeatingHeart, moment: Moment, *, nodes: int = 600, angles: int = 24) -> float:
    """Shortening of the endocardial lines from the mitral plane to the apex of the cavity, mean over the angles."""
    theta = torch.arange(angles, dtype=torch.float64)[None] * (2 * math.pi / angles)
    z = heart.lv.length_mm * (1 - torch.linspace(1, 0, nodes, dtype=torch.float64)[:, None] ** 2)
    endo = endocardium(heart.lv, theta, z)
    before = _cartesian(endo, theta, z).diff(dim=0).norm(dim=-1).sum(0)
    after = _cartesian(*deform(heart, moment, endo, theta, z)).diff(dim=0).norm(dim=-1).sum(0)
    return (after / before - 1).mean().item()


def regional_values(heart: BeatingHeart) -> dict[str, float]:
    """All of it by name: WT_AHA_n, WT3D_AHA_n in mm; Ecc_AHA_n, Err_AHA_n in %; and the global values."""
    at = sections_of(heart)
    systole = heart.at(torch.tensor([heart.timing.end_systole]))
    plane, solid = thickness_in_plane_mm(heart, at), thickness_3d_mm(heart, at)
    before, after = circumferential_strain(heart, at, systole)
    around = [100 * (a / b - 1) for a, b in zip(at.means(after), at.means(before), strict=True)]
    through = [100 * v for v in at.means(radial_strain(heart, at, systole))]
    values = {}
    tables = {"WT_AHA": at.means(plane), "WT3D_AHA": at.means(solid), "Ecc_AHA": around, "Err_AHA": through}
    for name, parts in tables.items():
        values |= {f"{name}_{k}": value for k, value in enumerate(parts, start=1)}
    three = Sections(torch.tensor(LEVELS, dtype=torch.float64)[:, None] * heart.lv.length_mm, at.theta, at.segment[:3])
    before, after = circumferential_strain(heart, three, systole)
    return values | {
        "WT_Global": sum(at.means(plane)) / 16, "WT3D_Global": sum(at.means(solid)) / 16,
        "Ecc_Global": 100 * (after.sum(1) / before.sum(1) - 1).mean().item(),
        "Err_Global": 100 * radial_strain(heart, three, systole).mean().item(),
        "Ell_Global": 100 * longitudinal_strain(heart, systole)}
