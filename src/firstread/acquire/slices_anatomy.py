"""Where things lie in a random short-axis stack: left and right ventricle as functions of depth below the mitral plane.

All lengths are millimetres. ``psi`` is the angle about the LV axis, 0 at the middle of the septum, positive towards the
anterior wall; ``depth`` grows from the mitral plane (0) to the apex. The septum lies at -x, the anterior wall at -y.
Sizes follow published normal ranges (Petersen 2017; Kawel-Boehm 2020) widened by disease: dilated, hypertrophic,
infarcted, overloaded right ventricle. Contraction conserves the muscle's volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from firstread.acquire.slices_draws import Draws, harmonics, slope_corrected, wrap_angle


@dataclass(frozen=True)
class Plane:
    """The pixels of every slice in the heart's own coordinates, ``[subject, slice, y, x]``."""

    spacing_mm: Tensor
    depth_mm: Tensor
    thickness_mm: Tensor
    x: Tensor
    y: Tensor

    @property
    def radius(self) -> Tensor:
        return (self.x.square() + self.y.square()).sqrt().clamp(min=1e-3)

    @property
    def psi(self) -> Tensor:
        return torch.atan2(-self.y, -self.x)


@dataclass(frozen=True)
class Size:
    """Of one heart at one moment: radii at the base and length of the left ventricle, and how far it has contracted."""

    outer: Tensor
    cavity: Tensor
    length: Tensor
    contraction: Tensor


@dataclass(frozen=True)
class Left:
    """Left ventricle: distances to its borders (negative inside), how wide these are drawn, radii of every slice."""

    outer: Tensor
    cavity: Tensor
    outer_blur: Tensor
    cavity_blur: Tensor
    outer_radius: Tensor
    cavity_radius: Tensor
    reach: Tensor
    above: Tensor


@dataclass(frozen=True)
class Right:
    """Right ventricle: distances to the border of the blood and of the wall, largest depth beyond the septum."""

    blood: Tensor
    wall: Tensor
    blur: Tensor
    depth: Tensor
    reach: Tensor
    above: Tensor
    turn: Tensor


@dataclass(frozen=True)
class Heart:
    size: Size
    left: Left
    right: Right
    sac: Tensor


def draw_heart(draws: Draws, *, spacing_mm: float) -> tuple[Plane, Heart]:
    """A heart per subject and the slices through it."""
    size = draw_size(draws)
    plane = draw_plane(draws, spacing_mm=spacing_mm, length_mm=size.length)
    left = draw_left(draws, plane, size)
    right = draw_right(draws, plane, size, left)
    return plane, Heart(size, left, right, draw_sac(draws, plane, size, left, right))


def draw_size(draws: Draws) -> Size:
    """The left ventricle at end-diastole, then contracted: ``outer^2 - cavity^2`` grows as the length shrinks."""
    thick, dilated = draws.chance(0.2), draws.chance(0.2)
    wall = torch.where(dilated, draws.uniform(5, 9.5), draws.uniform(6, 11.5))
    wall = torch.where(thick, draws.uniform(11, 22), wall)
    relaxed = torch.where(thick, draws.uniform(16, 26), draws.uniform(19, 29))
    relaxed = torch.where(dilated, draws.uniform(26, 41), relaxed)
    contraction = torch.where(draws.chance(0.75), torch.ones(1), draws.uniform(0, 1)) * draws.chance(0.6)
    shortening = torch.where(thick, draws.uniform(0.35, 0.8), draws.uniform(0.15, 0.5))
    shortening = torch.where(dilated, draws.uniform(0.03, 0.2), shortening)
    stretch = 1 + contraction * draws.uniform(0.04, 0.25) * (shortening / 0.4).clamp(max=1)
    cavity = relaxed * (1 - contraction * shortening)
    outer = (cavity.square() + stretch * ((relaxed + wall).square() - relaxed.square())).sqrt()
    length = draws.uniform(70, 105) * ((relaxed + wall) / 33).sqrt() / stretch
    return Size(outer, cavity, length, contraction)


def draw_plane(draws: Draws, *, spacing_mm: float, length_mm: Tensor) -> Plane:
    """Random slices through a heart of a given length: spacing, place, orientation, smooth deformation."""
    spacing = spacing_mm * draws.uniform(0.85, 1.18)
    gap = draws.uniform(5, 11)
    span = gap * (draws.slices - 1)
    first = draws.uniform(-5, 1) + draws.uniform(0, 1) * (length_mm + 12 - span).clamp(min=5)
    first = torch.where(draws.chance(0.4), draws.uniform(-22, 2), first)
    depth = first + gap * torch.arange(draws.slices).reshape(1, -1, 1, 1)
    below = depth - length_mm / 2
    missed = torch.where(draws.chance(0.3), 2.5, 0.7)  # breath-holds differ from slice to slice
    line = torch.arange(draws.size) - (draws.size - 1) / 2
    x = line.reshape(1, 1, 1, -1) * spacing - draws.normal(9, mean=5) - draws.normal(0.1) * below
    y = line.reshape(1, 1, -1, 1) * spacing - draws.normal(9) - draws.normal(0.1) * below
    x, y = x - missed * draws.normal(1, per_slice=True), y - missed * draws.normal(1, per_slice=True)
    angle = torch.where(draws.chance(0.22), draws.uniform(-torch.pi, torch.pi), draws.normal(0.45, mean=-0.1))
    mirror = torch.where(draws.chance(0.1), -1.0, 1.0)
    x, y = torch.cos(angle) * x - torch.sin(angle) * y, mirror * (torch.sin(angle) * x + torch.cos(angle) * y)
    strength = draws.uniform(0, 3.2)
    x = x + strength * draws.smooth(4, along=0.5) + 0.6 * draws.smooth(12)
    y = y + strength * draws.smooth(4, along=0.5) + 0.6 * draws.smooth(12)
    return Plane(spacing, depth, gap * draws.uniform(0.6, 1.0), x, y)


def bullet(share: Tensor, power: Tensor) -> Tensor:
    """Radius of a bullet along its axis: ``sqrt(1 - s^p)``, 1 at the base (s <= 0), 0 at the tip (s >= 1).

    >>> bullet(torch.tensor([-1.0, 0.0, 2.0]), torch.tensor(2.0))
    tensor([1., 1., 0.])
    """
    return (1 - share.clamp(0, 1) ** power).clamp(min=0).sqrt()


def bump(angle: Tensor, centre: Tensor, width: Tensor) -> Tensor:
    """``exp(-(angle - centre)^2 / width^2)`` around a circle."""
    return torch.exp(-((wrap_angle(angle - centre) / width) ** 2))


def draw_left(draws: Draws, plane: Plane, size: Size) -> Left:
    """Muscle and cavity: bullets with unequal walls, a flattened septum, scars, a thin outflow tract at the base.

    Borders are drawn as wide as they move within the slice's thickness (partial volume).
    """
    psi, depth, step = plane.psi, plane.depth_mm, plane.thickness_mm / 2
    power, tip = draws.uniform(1.6, 3.4), draws.uniform(2, 6) + 0.3 * (size.outer - size.cavity)
    inner_power, inner_length = power * draws.uniform(0.75, 1.1), size.length - tip
    narrow = 1 - draws.uniform(0, 0.14) * (1 - (depth / size.length).clamp(0, 1)) ** 4
    outer = size.outer * bullet(depth / size.length, power) * narrow
    cavity = size.cavity * bullet(depth / inner_length, inner_power) * narrow

    def moves(radius: Tensor, length: Tensor, by: Tensor) -> Tensor:
        return radius * (bullet((depth - step) / length, by) - bullet((depth + step) / length, by))

    flat = torch.where(draws.chance(0.25), draws.uniform(0, 0.25), draws.normal(0.03)) * torch.exp(-((psi / 0.65) ** 2))
    reach = outer * (1 + harmonics(draws, psi, {2: 0.045, 3: 0.016, 4: 0.009, 5: 0.006}) - flat)
    uneven = 1 + harmonics(draws, psi, {1: 0.12, 2: 0.08})
    scar = draws.chance(0.12) * draws.uniform(0, 0.55) * bump(psi, draws.uniform(-3.1, 3.1), draws.uniform(0.4, 1.0))
    tract = draws.uniform(0, 0.6) * torch.exp(-((depth.clamp(min=0) / 7) ** 2))
    tract = tract * bump(psi, draws.normal(0.3, mean=0.2), torch.tensor(0.7))
    wall = ((outer - cavity) * uneven * (1 - scar) * (1 - tract)).clamp(min=3.2)
    lumpy = 1 + harmonics(draws, psi, {2: 0.035, 3: 0.025, 5: 0.013, 7: 0.008})
    inner = ((reach - wall).clamp(min=1.5) * lumpy).minimum(reach - 3.0)
    inner = torch.where(cavity > 0, inner, torch.full((1,), -5.0))
    pixel = plane.spacing_mm
    return Left(outer=slope_corrected(plane.radius - reach, pixel), cavity=slope_corrected(plane.radius - inner, pixel),
                outer_blur=torch.hypot(pixel, 0.8 * moves(size.outer, size.length, power)),
                cavity_blur=torch.hypot(pixel, 0.8 * moves(size.cavity, inner_length, inner_power)),
                outer_radius=outer, cavity_radius=cavity, reach=reach, above=depth < 0)


def draw_right(draws: Draws, plane: Plane, size: Size, left: Left) -> Right:
    """Blood beyond the septum: a depth over the angle between the two insertions, less towards the apex.

    ``D(u) = D_z (1 - |u|^p)^q`` with u = ±1 at the insertions, rippled; near the base sometimes with an outflow lobe.
    """
    overload, late = draws.chance(0.22), size.contraction > 0.5
    relaxed = torch.where(overload, draws.uniform(28, 62), draws.uniform(16, 40))
    emptying = torch.where(overload, draws.uniform(0.05, 0.4), draws.uniform(0.2, 0.75))
    top = torch.where(late, draws.uniform(-4, 32), draws.uniform(-14, 9))
    share = (plane.depth_mm - top) / (size.length * draws.uniform(0.68, 1.02) - top).clamp(min=20)
    taper = bullet(share, draws.uniform(1.0, 2.6))
    depth = relaxed * (1 - size.contraction * emptying) * taper
    half = draws.uniform(0.85, 1.6) * (0.6 + 0.4 * taper) * (1 - 0.12 * size.contraction)
    u = wrap_angle(plane.psi - draws.normal(0.2) - draws.normal(0.2) * share) / half
    u = u + draws.normal(0.22) * (1 - u.clamp(-1, 1).square())
    bell = 1 - u.abs() ** draws.uniform(1.7, 7.5)
    bell = torch.where(bell > 0, bell.clamp(min=1e-6) ** draws.uniform(0.45, 1.0), bell.clamp(min=-1.5))
    ripple = 1 + harmonics(draws, torch.pi * u, {0.5: 0.12, 1: 0.1, 2: 0.05, 4: 0.03})
    lobe = draws.chance(0.5) * draws.uniform(0, 22) * torch.exp(-(((plane.depth_mm - top).clamp(min=0) / 32) ** 2))
    lobe = lobe * torch.exp(-(((u - draws.uniform(0.5, 0.85)) / draws.uniform(0.2, 0.4)) ** 2)) * (bell > 0)
    reach = depth * bell * ripple.clamp(min=0.4) + lobe * taper
    above = plane.depth_mm < top
    blood = slope_corrected(plane.radius - left.reach - reach, plane.spacing_mm)
    blood = torch.where(~above & (depth > 2.0), blood, torch.full((1,), 50.0))
    wall = torch.where(overload, draws.uniform(2, 8), draws.uniform(1.2, 4.0)) * (1 + 0.3 * size.contraction)
    moved = (0.02 * depth * plane.thickness_mm + 0.75 * (left.outer_blur - plane.spacing_mm)).clamp(max=5)
    reach = torch.where(blood < 50, (reach + wall).clamp(min=0), torch.zeros(1))
    return Right(blood=blood, wall=blood - wall, blur=torch.hypot(plane.spacing_mm, moved), depth=depth, reach=reach,
                 above=above, turn=u)


def draw_sac(draws: Draws, plane: Plane, size: Size, left: Left, right: Right) -> Tensor:
    """Distance to the pericardium: around both ventricles with fat between, most in the grooves and at the apex."""
    fat = draws.normal(1.7, mean=1.5) + harmonics(draws, plane.psi, {1: 1.2, 2: 1.2, 3: 1.2})
    fat = fat + draws.uniform(0, 6) * torch.exp(-((plane.psi / 1.3) ** 2))
    for side in (-1.05, 1.05):
        fat = fat + draws.uniform(0, 7) * torch.exp(-(((right.turn - side) / draws.uniform(0.15, 0.5)) ** 2))
    fat = fat + draws.uniform(0, 16) * (plane.depth_mm / size.length - 0.6).clamp(min=0)
    return slope_corrected(plane.radius - left.reach - right.reach - fat.clamp(min=-0.3), plane.spacing_mm, floor=0.5)
