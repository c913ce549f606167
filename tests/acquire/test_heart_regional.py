"""Regional truth: segments, wall thickness by brute force, strain against differences of contour lengths."""

import math

import pytest
import torch
from hearts import DOUBLE, plain_heart, systole

from firstread.acquire.heart_motion import deform
from firstread.acquire.heart_regional import (
    aha_segment,
    circumferential_strain,
    contour_elements,
    longitudinal_strain,
    radial_strain,
    regional_values,
    sections_of,
    thickness_3d_mm,
    thickness_in_plane_mm,
)
from firstread.acquire.heart_shape import LeftVentricle, endocardium, epicardium


def test_segments_go_from_anterior_over_the_septum():
    septum = math.pi
    anterior, lateral, inferior = -math.pi / 2, 0.0, math.pi / 2
    angle = torch.tensor([anterior, septum + 0.3, septum - 0.3, inferior, lateral + 0.3, lateral - 0.3], dtype=DOUBLE)
    assert aha_segment(angle, torch.tensor(0.1, dtype=DOUBLE), septum).tolist() == [1, 2, 3, 4, 5, 6]
    assert aha_segment(angle, torch.tensor(0.5, dtype=DOUBLE), septum).tolist() == [7, 8, 9, 10, 11, 12]
    four = torch.tensor([anterior, septum, inferior, lateral], dtype=DOUBLE)
    assert aha_segment(four, torch.tensor(0.9, dtype=DOUBLE), septum).tolist() == [13, 14, 15, 16]


def test_segments_turn_with_the_septum():
    angle = torch.linspace(-3, 3, 50, dtype=DOUBLE)
    level = torch.linspace(0, 0.99, 50, dtype=DOUBLE)
    assert torch.equal(aha_segment(angle, level, 3.0), aha_segment(angle + 0.7, level, 3.7))


def test_thickness_equals_brute_force():
    heart = plain_heart()
    at = sections_of(heart, sections=6, angles=24)
    plane, solid = thickness_in_plane_mm(heart, at), thickness_3d_mm(heart, at)
    theta = torch.linspace(-math.pi, math.pi, 4001, dtype=DOUBLE)
    z = torch.linspace(0, heart.lv.outer_length_mm - 1e-3, 1200, dtype=DOUBLE)
    for n, m in ((0, 3), (3, 11), (5, 20)):
        place, angle = at.z_mm[n, 0], at.theta[0, m]
        r = endocardium(heart.lv, angle[None], place[None])
        epi = epicardium(heart.lv, theta, place.expand_as(theta))
        gap = torch.hypot(epi * theta.cos() - r * angle.cos(), epi * theta.sin() - r * angle.sin()).min()
        assert plane[n, m].item() == pytest.approx(gap.item(), abs=0.02)
        near = theta[(theta - angle + math.pi).remainder(2 * math.pi).sub(math.pi).abs() < 0.6]
        epi = epicardium(heart.lv, near[None], z[:, None])
        gap = ((epi * near.cos() - r * angle.cos()) ** 2 + (epi * near.sin() - r * angle.sin()) ** 2
               + (z[:, None] - place) ** 2).sqrt().min()
        assert solid[n, m].item() == pytest.approx(gap.item(), abs=0.02)
    assert bool((solid <= plane + 0.02).all())


def test_a_concentric_wall_is_as_thick_as_it_was_made():
    heart = plain_heart()
    round_wall = LeftVentricle(25.0, 90.0, 8.0, 8.0, equator=0.3)
    even = type(heart)(round_wall, heart.rv, heart.timing, heart.contraction, heart.rvedv_ml)
    at = sections_of(even, sections=9, angles=12)
    assert thickness_in_plane_mm(even, at)[2].mean().item() == pytest.approx(8.0, abs=0.05)


def test_circumferential_strain_equals_the_change_of_polygon_length():
    heart = plain_heart()
    moment, n = systole(heart), 20000
    at = sections_of(heart, sections=3, angles=180)
    before, after = circumferential_strain(heart, at, moment)
    theta = torch.arange(n, dtype=DOUBLE) * (2 * math.pi / n)
    for k in range(3):
        z = at.z_mm[k].expand(n)
        middle = (endocardium(heart.lv, theta, z) + epicardium(heart.lv, theta, z)) / 2
        r, turned, _ = deform(heart, moment, middle, theta, z)

        def polygon(radius, angle):
            x, y = radius * angle.cos(), radius * angle.sin()
            return torch.hypot(x - x.roll(1), y - y.roll(1)).sum()

        wanted = polygon(r, turned) / polygon(middle, theta) - 1
        assert (after[k].sum() / before[k].sum() - 1).item() == pytest.approx(wanted.item(), abs=1e-6)


def test_contour_elements_of_a_circle_off_centre_sum_to_its_length():
    theta = torch.arange(256, dtype=DOUBLE)[None] * (2 * math.pi / 256)
    radius = 3 * theta.cos() + (20**2 - (3 * theta.sin()) ** 2).sqrt()
    assert (contour_elements(radius).sum() * 2 * math.pi / 256).item() == pytest.approx(2 * math.pi * 20, rel=1e-9)


def test_radial_and_longitudinal_strain_equal_finite_differences():
    heart = plain_heart()
    at, moment = sections_of(heart, sections=3, angles=12), systole(heart)
    z, theta = at.z_mm.expand(3, 12), at.theta.expand(3, 12)
    rays = torch.linspace(0, 1, 400, dtype=DOUBLE)[:, None, None]
    endo, epi = endocardium(heart.lv, theta, z), epicardium(heart.lv, theta, z)
    moved = deform(heart, moment, endo + rays * (epi - endo), theta, z)[0]
    wanted = moved.diff(dim=0).abs().sum(0) / (epi - endo) - 1
    assert torch.allclose(radial_strain(heart, at, moment), wanted, atol=1e-9)
    assert longitudinal_strain(heart, moment) == pytest.approx(longitudinal_strain(heart, moment, nodes=4000), abs=1e-4)
    assert -0.25 < longitudinal_strain(heart, moment) < -0.1


def test_nothing_strains_at_rest_and_an_infarct_strains_least():
    from firstread.acquire.heart_shape import Patch

    rest = plain_heart()
    at = sections_of(rest, sections=3, angles=36)
    before, after = circumferential_strain(rest, at, rest.at(torch.zeros(1)))
    assert torch.allclose(before, after)
    still = plain_heart(ef=0.4, patches=(Patch(-math.pi / 2, 0.5, 0.7, 0.4, -1.0),))
    values = regional_values(still)
    ecc = [values[f"Ecc_AHA_{k}"] for k in range(7, 13)]
    assert max(ecc) == ecc[0] and ecc[0] > min(ecc) + 8
