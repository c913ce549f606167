"""The heart at end-diastole as radius functions about the long axis of the left ventricle.

Heart coordinates (mm): z runs along the long axis from the mitral plane (0) to the apex, x to the lateral wall, y to
the inferior wall; ``theta = atan2(y, x)``, so the septum lies near pi and the anterior wall at -pi/2.

    profile  p(z; l)    = (1 - |(z - z0) / (l - z0)|^e)^(1/e)            truncated (super)ellipsoid, z0 its equator
    endo     r(theta,z) = R p(z; L) (1 + sum_k h_k cos(k theta - f_k - t_k z / L))
    epi      R(theta,z) = r + [(R + w) p(z; L + w_a) - R p(z; L)] T(theta, z / L)
    area                = 1/2 int r^2 dtheta,    volume = int area dz
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

MYOCARDIAL_DENSITY_G_ML = 1.05


@dataclass(frozen=True)
class Harmonic:
    """``amplitude * cos(order * theta - phase_rad - turn_rad * u)`` (u = z / L)."""

    order: int
    amplitude: float
    phase_rad: float
    turn_rad: float = 0.0


@dataclass(frozen=True)
class Patch:
    """A region of the wall, ``amplitude * exp(-(dtheta / width_rad)^2 - ((u - level) / height)^2)`` (u = z / L)."""

    angle_rad: float
    level: float
    width_rad: float
    height: float
    amplitude: float


@dataclass(frozen=True)
class LeftVentricle:
    """Left ventricle at end-diastole.

    radius_mm, length_mm: of the cavity at its equator and from mitral plane to apex; wall_mm, apex_mm: wall at the
    equator and at the apex; equator: z0 / L; exponent: e (2 is an ellipsoid); contour, thickness: regional harmonics;
    patches: regional wall (thick above zero, thin below).
    """

    radius_mm: float
    length_mm: float
    wall_mm: float
    apex_mm: float
    equator: float = 0.25
    exponent: float = 2.0
    contour: tuple[Harmonic, ...] = ()
    thickness: tuple[Harmonic, ...] = ()
    patches: tuple[Patch, ...] = ()

    @property
    def outer_length_mm(self) -> float:
        """From mitral plane to the outer surface of the apex."""
        return self.length_mm + self.apex_mm


@dataclass(frozen=True)
class RightVentricle:
    """Right ventricle: depth beyond the outer wall of the left one, a bump around the septal direction.

        rv(theta, v) = R + D (1 - v^e)^t (1 - x^2)^s (1 + k x),    x = (theta - septum) / (W (1 - n v))

    with v from its base (0) to its apex (1). D comes from the volume.
    base_mm: its base above (below zero) or under the mitral plane; apex: its apex as a fraction of the left cavity's
    length; width_rad: W; narrowing: n; sharpness: s; skew: k (towards the anterior wall); exponent, taper:
    e, t; wall_mm: free wall.
    """

    septum_rad: float = math.pi
    base_mm: float = -3.0
    apex: float = 0.88
    width_rad: float = 1.35
    narrowing: float = 0.3
    sharpness: float = 0.75
    skew: float = 0.1
    exponent: float = 1.6
    taper: float = 0.7
    wall_mm: float = 3.5


def harmonic_sum(harmonics: tuple[Harmonic, ...], theta: Float[Tensor, "*#p"],
                 u: Float[Tensor, "*#p"] | float = 0.0) -> Float[Tensor, "*q"]:
    """``sum_k a_k cos(k theta - f_k - t_k u)``."""
    total = torch.zeros_like(theta)
    for h in harmonics:
        total = total + h.amplitude * torch.cos(h.order * theta - h.phase_rad - h.turn_rad * u)
    return total


def patch_sum(patches: tuple[Patch, ...], theta: Float[Tensor, "*#p"],
              u: Float[Tensor, "*#p"]) -> Float[Tensor, "*q"]:
    """Sum of the patches at angle ``theta`` and level ``u`` (broadcast together)."""
    total = torch.zeros(torch.broadcast_shapes(theta.shape, u.shape), dtype=theta.dtype)
    for p in patches:
        turned = torch.remainder(theta - p.angle_rad + math.pi, 2 * math.pi) - math.pi
        total = total + p.amplitude * torch.exp(-(turned / p.width_rad) ** 2 - ((u - p.level) / p.height) ** 2)
    return total


def profile(z_mm: Float[Tensor, "*#p"], *, length_mm: float, equator_mm: float,
            exponent: float) -> Float[Tensor, "*q"]:
    """``(1 - |(z - z0) / (l - z0)|^e)^(1/e)``, zero beyond ``l``.

    >>> profile(torch.tensor([20.0, 80.0]), length_mm=80.0, equator_mm=20.0, exponent=2.0)
    tensor([1., 0.])
    """
    ratio = ((z_mm - equator_mm) / (length_mm - equator_mm)).abs()
    return (1 - ratio**exponent).clamp(min=0) ** (1 / exponent)


def endocardium(lv: LeftVentricle, theta: Float[Tensor, "*#p"], z_mm: Float[Tensor, "*#p"]) -> Float[Tensor, "*q"]:
    """Radius of the cavity at end-diastole in mm, zero beyond its apex."""
    smooth = profile(z_mm, length_mm=lv.length_mm, equator_mm=lv.equator * lv.length_mm, exponent=lv.exponent)
    return lv.radius_mm * smooth * (1 + harmonic_sum(lv.contour, theta, z_mm / lv.length_mm))


def epicardium(lv: LeftVentricle, theta: Float[Tensor, "*#p"], z_mm: Float[Tensor, "*#p"]) -> Float[Tensor, "*q"]:
    """Radius of the outer surface at end-diastole in mm, zero beyond its apex."""
    z0 = lv.equator * lv.length_mm
    inner = lv.radius_mm * profile(z_mm, length_mm=lv.length_mm, equator_mm=z0, exponent=lv.exponent)
    outer = profile(z_mm, length_mm=lv.outer_length_mm, equator_mm=z0, exponent=lv.exponent)
    outer = (lv.radius_mm + lv.wall_mm) * outer
    u = z_mm / lv.length_mm
    regional = 1 + harmonic_sum(lv.thickness, theta, u) + patch_sum(lv.patches, theta, u)
    return endocardium(lv, theta, z_mm) + (outer - inner) * regional.clamp(min=0.3)


@dataclass(frozen=True, eq=False)
class Quadrature:
    """Nodes in (z, theta) and weights: ``integral = (weights_z[:, None] * f(theta, z)).sum()`` (dz dtheta).

    Gauss-Legendre in s with ``z = end - (end - start) s^2``, which takes the square root at the apex out of the
    integrand, and the trapezoid rule, exact for harmonics, around.
    """

    z_mm: Float[Tensor, "n 1"]
    weights: Float[Tensor, "n 1"]
    theta: Float[Tensor, "1 m"]

    def integrate(self, values: Float[Tensor, "*t n m"]) -> Float[Tensor, "*t"]:
        """Integral of ``values`` over z and theta."""
        return (values * self.weights).sum(dim=(-2, -1))


def quadrature(*ends_mm: float, nodes: int = 40, angles: int = 192) -> Quadrature:
    """Nodes between each two neighbouring ``ends_mm``."""
    import numpy as np

    s, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(nodes))
    s, weight = (s + 1) / 2, weight / 2
    z, w = [], []
    for start, end in pairwise(ends_mm):
        z.append(end - (end - start) * s**2)
        w.append(2 * (end - start) * s * weight)
    theta = torch.arange(angles, dtype=torch.float64) * (2 * math.pi / angles)
    return Quadrature(torch.cat(z)[:, None], torch.cat(w)[:, None] * (2 * math.pi / angles), theta[None])


def cavity_ml(lv: LeftVentricle) -> float:
    """Volume of the cavity at end-diastole, ``int int r^2 / 2 dtheta dz``, in mL."""
    q = quadrature(0.0, lv.length_mm)
    return q.integrate(endocardium(lv, q.theta, q.z_mm) ** 2 / 2).item() / 1000


def myocardium_ml(lv: LeftVentricle) -> float:
    """Volume of the wall, ``int int (R^2 - r^2) / 2 dtheta dz``, in mL; it does not change over the cycle."""
    q = quadrature(0.0, lv.length_mm, lv.outer_length_mm)
    return q.integrate((epicardium(lv, q.theta, q.z_mm) ** 2 - endocardium(lv, q.theta, q.z_mm) ** 2) / 2).item() / 1000
