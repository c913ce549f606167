"""The beating heart: an incompressible contraction of the wall that gives the volumes that were asked for.

With activation E in [0, 1], longitudinal stretch l = 1 - s E and twist p(u), a point (r, theta, z) of the wall goes to

    z'^     = Lo - l (Lo - z)                              the outer apex stays, the base comes down
    theta'  = theta + E p(z / L)
    r'^2    = r_endo^2 (1 - a c(theta, z / L)) + (r^2 - r_endo^2) / l

whose Jacobian determinant is 1 everywhere. The cavity is V = l (I0 - a I1), I0 = int int r_endo^2 / 2 and
I1 = int int c r_endo^2 / 2 (dtheta dz), so the ``a`` of a given volume is a = (I0 - V / l) / I1. The depth g D of the
right ventricle solves the quadratic V_RV = A1 g + A2 g^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from firstread.acquire.heart_shape import (
    Harmonic,
    LeftVentricle,
    Patch,
    RightVentricle,
    endocardium,
    epicardium,
    harmonic_sum,
    patch_sum,
    quadrature,
)
from firstread.core.errors import SettingError


@dataclass(frozen=True)
class Timing:
    """The cycle in fractions of its length: onset of ejection, end-systole, early filling (start, length, share of
    the stroke volume), atrial contraction."""

    onset: float = 0.05
    end_systole: float = 0.38
    filling: float = 0.46
    filling_length: float = 0.22
    filling_share: float = 0.75
    atrial: float = 0.84


@dataclass(frozen=True)
class Contraction:
    """How the wall moves.

    ef: ejection fraction of the left ventricle; shortening: s; twist_base_rad, twist_apex_rad: at end-systole;
    regional: harmonics of c around 1; patches: regions that move less (amplitude -1: not at all, below: outwards);
    rv_ef: of the right ventricle; rv_excursion_mm: how far its base comes down.
    """

    ef: float
    shortening: float
    rv_ef: float
    twist_base_rad: float = 0.0
    twist_apex_rad: float = 0.0
    regional: tuple[Harmonic, ...] = ()
    patches: tuple[Patch, ...] = ()
    rv_excursion_mm: float = 18.0


def smooth_step(x: Float[Tensor, "*#p"]) -> Float[Tensor, "*q"]:
    """``x^3 (10 - 15 x + 6 x^2)`` between 0 and 1, constant outside.

    >>> smooth_step(torch.tensor([-1.0, 0.5, 2.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    x = x.clamp(0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


def activation(timing: Timing, phase: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
    """Share of the stroke volume that is out, 0 at end-diastole (phase 0 and 1), 1 at end-systole."""
    t = torch.remainder(phase, 1.0)
    out = smooth_step((t - timing.onset) / (timing.end_systole - timing.onset))
    early = smooth_step((t - timing.filling) / timing.filling_length)
    late = smooth_step((t - timing.atrial) / (1 - timing.atrial))
    return out - timing.filling_share * early - (1 - timing.filling_share) * late


@dataclass(frozen=True, eq=False)
class Moment:
    """The heart at T phases: activation E, stretch l, endocardial factor a, right ventricular depth D in mm.

    Each ``[T]``, or ``[T, 1, ...]`` after ``spread``, to broadcast against angles and places.
    """

    activation: Float[Tensor, "*t"]
    stretch: Float[Tensor, "*t"]
    inward: Float[Tensor, "*t"]
    depth_mm: Float[Tensor, "*t"]

    def spread(self, axes: int) -> Moment:
        """The same with ``axes`` singleton axes behind."""
        return Moment(*(value.reshape(-1, *(1,) * axes) for value in
                        (self.activation, self.stretch, self.inward, self.depth_mm)))


@dataclass(frozen=True, eq=False)
class Radii:
    """Radii about the long axis in mm.

    endo, epi: of the left ventricle (zero beyond its apex; above its base the section at the base goes on); left:
    whether the left ventricle is there at all (under its base); rv: outer radius of the right cavity, which lies
    between epi and rv (equal to epi where there is none); level: u; material_rad: the angle that the wall there has
    at end-diastole.
    """

    endo: Tensor
    epi: Tensor
    rv: Tensor
    left: Tensor
    level: Tensor
    material_rad: Tensor


@dataclass(frozen=True)
class BeatingHeart:
    """Shape and motion of one subject's ventricles.

    rvedv_ml: volume of the right ventricle at end-diastole (that of the left one follows from its shape).
    Raises SettingError where the motion would turn the cavity inside out.
    """

    lv: LeftVentricle
    rv: RightVentricle
    timing: Timing
    contraction: Contraction
    rvedv_ml: float

    def __post_init__(self):
        end = self._inward(torch.ones(1, dtype=torch.float64), 1 - self.contraction.shortening)
        if not 0 < (end * self._largest).item() < 0.97:
            raise SettingError(f"an ejection fraction of {self.contraction.ef:.2f} with regional motion up to "
                               f"{self._largest:.2f} times the mean", expected="a cavity that stays open",
                               remedy="lower the ejection fraction or the regional harmonics")

    @cached_property
    def _cavity(self) -> tuple[float, float]:
        """I0 and I1 in mm³."""
        q = quadrature(0.0, self.lv.length_mm)
        area = endocardium(self.lv, q.theta, q.z_mm) ** 2 / 2
        c = motion_factor(self.contraction, q.theta, q.z_mm / self.lv.length_mm)
        return q.integrate(area).item(), q.integrate(area * c).item()

    @cached_property
    def _largest(self) -> float:
        q = quadrature(0.0, self.lv.length_mm)
        return motion_factor(self.contraction, q.theta, q.z_mm / self.lv.length_mm).max().item()

    def _inward(self, active: Tensor, stretch: Tensor | float) -> Tensor:
        whole, moving = self._cavity
        return (whole - whole * (1 - self.contraction.ef * active) / stretch) / moving

    @property
    def lvedv_ml(self) -> float:
        """Volume of the left ventricle at end-diastole."""
        return self._cavity[0] / 1000

    def lv_volume_ml(self, phase: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
        """``EDV (1 - EF E)``."""
        return self.lvedv_ml * (1 - self.contraction.ef * activation(self.timing, phase.double()))

    def rv_volume_ml(self, phase: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
        """``RVEDV (1 - RVEF E)``."""
        return self.rvedv_ml * (1 - self.contraction.rv_ef * activation(self.timing, phase.double()))

    def base_mm(self, moment: Moment) -> Float[Tensor, "*t"]:
        """Where the mitral plane lies along the long axis."""
        return self.lv.outer_length_mm * (1 - moment.stretch)

    def rv_base_mm(self, moment: Moment) -> Float[Tensor, "*t"]:
        """Where the base of the right ventricle lies along the long axis."""
        return self.rv.base_mm + self.contraction.rv_excursion_mm * moment.activation

    @property
    def rv_apex_mm(self) -> float:
        """Where the apex of the right ventricle lies along the long axis."""
        return self.rv.apex * self.lv.length_mm

    def at(self, phase: Float[Tensor, " t"]) -> Moment:
        """The state at each phase of the cycle (0 and 1: end-diastole)."""
        active = activation(self.timing, phase.double())
        stretch = 1 - self.contraction.shortening * active
        inward = self._inward(active, stretch)
        unit = Moment(active, stretch, inward, torch.ones_like(active)).spread(2)
        q = quadrature(0.0, 1.0)
        start = self.rv_base_mm(unit)
        length = self.rv_apex_mm - start
        z = start + length * q.z_mm
        at = radii(self, unit, q.theta, z)
        epi, bump = at.epi, at.rv - at.epi
        first = q.integrate(epi * bump * length)
        second = q.integrate(bump**2 / 2 * length)
        target = 1000 * self.rvedv_ml * (1 - self.contraction.rv_ef * active)
        depth = (torch.sqrt(first**2 + 4 * second * target) - first) / (2 * second)
        return Moment(active, stretch, inward, depth)


def motion_factor(contraction: Contraction, theta: Float[Tensor, "*#p"],
                  u: Float[Tensor, "*#p"]) -> Float[Tensor, "*q"]:
    """c(theta, u): how much more or less than the mean a region moves inwards."""
    return 1 + harmonic_sum(contraction.regional, theta, u) + patch_sum(contraction.patches, theta, u)


def rv_bump(rv: RightVentricle, theta: Float[Tensor, "*#p"], v: Float[Tensor, "*#p"]) -> Float[Tensor, "*q"]:
    """Depth of the right ventricle over its largest depth at angle ``theta`` and level ``v``; zero outside."""
    turned = torch.remainder(theta - rv.septum_rad + torch.pi, 2 * torch.pi) - torch.pi
    x = turned / (rv.width_rad * (1 - rv.narrowing * v.clamp(0, 1)))
    along = torch.where((v >= 0) & (v <= 1), (1 - v.clamp(0, 1) ** rv.exponent) ** rv.taper, 0)
    return along * (1 - x**2).clamp(min=0) ** rv.sharpness * (1 + rv.skew * x.clamp(-1, 1))


def radii(heart: BeatingHeart, moment: Moment, theta: Float[Tensor, "*#p"], z_mm: Float[Tensor, "*#p"]) -> Radii:
    """All radii at angle ``theta`` and place ``z_mm`` along the axis (lab, not material); everything broadcasts."""
    lv, con = heart.lv, heart.contraction
    z = lv.outer_length_mm - (lv.outer_length_mm - z_mm) / moment.stretch
    left, z = z >= 0, z.clamp(min=0)
    u = z / lv.length_mm
    twist = con.twist_base_rad + (con.twist_apex_rad - con.twist_base_rad) * u
    material = theta - moment.activation * twist
    endo, epi = endocardium(lv, material, z), epicardium(lv, material, z)
    moved = endo**2 * (1 - moment.inward * motion_factor(con, material, u))
    outer = (moved + (epi**2 - endo**2) / moment.stretch).sqrt()
    start = heart.rv_base_mm(moment)
    bump = rv_bump(heart.rv, theta, (z_mm - start) / (heart.rv_apex_mm - start))
    return Radii(moved.sqrt(), outer, outer + moment.depth_mm * bump, left, u, material)


def deform(heart: BeatingHeart, moment: Moment, radius_mm: Float[Tensor, "*#p"], theta: Float[Tensor, "*#p"],
           z_mm: Float[Tensor, "*#p"]) -> tuple[Float[Tensor, "*q"], Float[Tensor, "*r"], Float[Tensor, "*s"]]:
    """Where the point of the wall that lies at (radius, theta, z) at end-diastole has moved: the map above."""
    lv, con = heart.lv, heart.contraction
    u = z_mm / lv.length_mm
    endo = endocardium(lv, theta, z_mm)
    moved = endo**2 * (1 - moment.inward * motion_factor(con, theta, u))
    radius = (moved + (radius_mm**2 - endo**2) / moment.stretch).sqrt()
    twist = con.twist_base_rad + (con.twist_apex_rad - con.twist_base_rad) * u
    return (radius, theta + moment.activation * twist,
            lv.outer_length_mm - moment.stretch * (lv.outer_length_mm - z_mm))


def label_points(heart: BeatingHeart, moment: Moment, points_mm: Float[Tensor, "*p 3"]) -> Integer[Tensor, "*p"]:
    """Label (0 background, 1 LV cavity, 2 LV myocardium, 3 RV cavity) at heart coordinates (x, y, z), one moment."""
    x, y, z = points_mm.unbind(-1)
    r = torch.hypot(x, y)
    at = radii(heart, moment, torch.atan2(y, x), z)
    label = torch.where((r >= at.epi) & (r < at.rv), 3, 0)
    label = torch.where(at.left & (r < at.epi), 2, label)
    return torch.where(at.left & (r < at.endo), 1, label)
