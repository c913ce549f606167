"""Shapes: closed-form volumes, quadrature against fine voxel counts."""

import math

import pytest
import torch
from hearts import plain_heart, systole, volume_points

from firstread.acquire.heart_motion import label_points
from firstread.acquire.heart_shape import (
    Harmonic,
    LeftVentricle,
    cavity_ml,
    endocardium,
    epicardium,
    myocardium_ml,
    profile,
    quadrature,
)


def test_half_ellipsoid_has_its_closed_form_volume():
    lv = LeftVentricle(25.0, 90.0, 8.0, 8.0, equator=0.0)
    assert cavity_ml(lv) == pytest.approx(2 / 3 * math.pi * 25**2 * 90 / 1000, rel=1e-10)
    outer = 2 / 3 * math.pi * 33**2 * 98 / 1000
    assert myocardium_ml(lv) == pytest.approx(outer - cavity_ml(lv), rel=1e-6)


def test_a_contour_harmonic_adds_half_its_square():
    plain, wavy = (LeftVentricle(25.0, 90.0, 8.0, 6.0, contour=c) for c in ((), (Harmonic(3, 0.1, 1.0),)))
    assert cavity_ml(wavy) / cavity_ml(plain) == pytest.approx(1 + 0.1**2 / 2, rel=1e-10)


@pytest.mark.parametrize("exponent", [2.0, 2.5])
def test_quadrature_has_converged(exponent):
    lv = LeftVentricle(25.0, 90.0, 8.0, 6.0, exponent=exponent, thickness=(Harmonic(2, 0.2, 0.4),))
    fine = quadrature(0.0, lv.length_mm, lv.outer_length_mm, nodes=150, angles=240)
    wall = (epicardium(lv, fine.theta, fine.z_mm) ** 2 - endocardium(lv, fine.theta, fine.z_mm) ** 2) / 2
    assert myocardium_ml(lv) == pytest.approx(fine.integrate(wall).item() / 1000, rel=1e-4)


def test_profile_is_one_at_the_equator_and_falls_to_the_apex():
    z = torch.linspace(20, 80, 50)
    p = profile(z, length_mm=80.0, equator_mm=20.0, exponent=2.4)
    assert p[0] == 1 and p[-1] == 0 and bool((p.diff() < 0).all())


@pytest.mark.parametrize("phase", ["diastole", "systole"])
def test_analytic_volumes_equal_a_fine_voxel_count(phase):
    heart = plain_heart()
    moment = systole(heart) if phase == "systole" else heart.at(torch.zeros(1))
    labels = label_points(heart, moment, volume_points(heart, step_mm=(0.3, 2.0)))
    count = torch.bincount(labels.flatten(), minlength=4) * 0.3 * 2.0**2 / 1000
    at = torch.tensor([heart.timing.end_systole if phase == "systole" else 0.0])
    assert count[1].item() == pytest.approx(heart.lv_volume_ml(at).item(), rel=5e-3)
    assert count[2].item() == pytest.approx(myocardium_ml(heart.lv), rel=5e-3)
    assert count[3].item() == pytest.approx(heart.rv_volume_ml(at).item(), rel=5e-3)
