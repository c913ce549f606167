"""Motion: incompressible, prescribed volumes, periodic; drawn hearts keep within the ranges of life."""

import math

import pytest
import torch
from hearts import DOUBLE, plain_heart, systole
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.acquire.heart_motion import Timing, activation, deform, radii
from firstread.acquire.heart_population import FAMILIES, PATHOLOGIES, draw_targets, heart_of
from firstread.acquire.heart_shape import MYOCARDIAL_DENSITY_G_ML, endocardium, epicardium, myocardium_ml, quadrature
from firstread.core.errors import SettingError

subjects = st.tuples(st.integers(0, 10**6), st.sampled_from(FAMILIES), st.sampled_from(PATHOLOGIES))


def test_activation_is_periodic_and_within_its_bounds():
    timing = Timing()
    phase = torch.linspace(0, 1, 501, dtype=DOUBLE)
    active = activation(timing, phase)
    assert active[0] == 0 and abs(active[-1]) < 1e-12
    assert active.min() > -1e-9 and active.max() <= 1
    assert activation(timing, torch.tensor([timing.end_systole], dtype=DOUBLE)).item() == pytest.approx(1)
    assert torch.allclose(active, activation(timing, phase + 3), atol=1e-9)


def test_the_wall_is_incompressible():
    heart = plain_heart()
    moment = systole(heart)

    def move(point):
        x, y, place = point[:, None]
        r, theta, z = deform(heart, moment, torch.hypot(x, y), torch.atan2(y, x), place)
        return torch.stack((r * theta.cos(), r * theta.sin(), z)).squeeze(-1)

    for theta, z in ((0.3, 10.0), (2.0, 45.0), (-2.5, 70.0)):
        angle, place = torch.tensor([theta], dtype=DOUBLE), torch.tensor([z], dtype=DOUBLE)
        middle = ((endocardium(heart.lv, angle, place) + epicardium(heart.lv, angle, place)) / 2).item()
        point = torch.tensor([middle * math.cos(theta), middle * math.sin(theta), z], dtype=DOUBLE)
        jacobian = torch.autograd.functional.jacobian(move, point)
        assert torch.linalg.det(jacobian).item() == pytest.approx(1, abs=1e-9)


def test_contours_in_the_lab_are_the_moved_material_contours():
    heart, theta = plain_heart(), torch.linspace(-3, 3, 40, dtype=DOUBLE)
    moment, z = systole(heart), torch.full((40,), 30.0, dtype=DOUBLE)
    moved = deform(heart, moment, epicardium(heart.lv, theta, z), theta, z)
    assert torch.allclose(radii(heart, moment, moved[1], moved[2]).epi, moved[0], atol=1e-9)


@given(subjects)
@settings(max_examples=10, deadline=None)
def test_drawn_hearts_keep_within_the_ranges_of_life_and_have_their_volumes(subject):
    seed, family, pathology = subject
    heart, targets = heart_of(seed=seed, family=family, pathology=pathology)
    assert 60 <= heart.lvedv_ml <= 300 and 0.15 <= heart.contraction.ef <= 0.75
    assert 45 <= targets.heart_rate <= 110
    assert heart.lvedv_ml == pytest.approx(targets.lvedv_ml, rel=1e-6)
    assert myocardium_ml(heart.lv) * MYOCARDIAL_DENSITY_G_ML == pytest.approx(targets.lvm_g, rel=1e-6)
    phase = torch.tensor([0.0, 0.2, heart.timing.end_systole, 0.6], dtype=DOUBLE)
    moment = heart.at(phase).spread(2)
    base = heart.base_mm(moment)
    # Substituting the end of the cavity in the lab keeps the square root at the apex out of the integrand.
    apex = heart.lv.outer_length_mm - moment.stretch * heart.lv.apex_mm
    q = quadrature(0.0, 1.0, nodes=30, angles=96)
    at = radii(heart, moment, q.theta, base + (apex - base) * q.z_mm)
    cavity = q.integrate(at.endo**2 / 2 * (apex - base)) / 1000
    assert torch.allclose(cavity, heart.lv_volume_ml(phase), rtol=1e-3)
    tip = heart.lv.outer_length_mm - apex
    cap = radii(heart, moment, q.theta, apex + tip * q.z_mm)
    wall = q.integrate((at.epi**2 - at.endo**2) / 2 * (apex - base)) + q.integrate((cap.epi**2 - cap.endo**2) / 2 * tip)
    assert torch.allclose(wall / 1000, torch.full((4,), myocardium_ml(heart.lv), dtype=DOUBLE), rtol=1e-3)


def test_right_ventricle_has_the_volume_that_was_asked_for():
    heart = plain_heart()
    phase = torch.tensor([0.0, 0.15, 0.38, 0.5], dtype=DOUBLE)
    moment = heart.at(phase)
    z = torch.linspace(-5, 80, 601, dtype=DOUBLE)
    theta = torch.arange(180, dtype=DOUBLE) * (2 * math.pi / 180)
    at = radii(heart, moment.spread(2), theta[None], z[:, None])
    area = ((at.rv**2 - at.epi**2) / 2).sum(-1) * (2 * math.pi / 180)
    assert torch.allclose(torch.trapezoid(area, z) / 1000, heart.rv_volume_ml(phase), rtol=2e-3)


def test_a_cavity_that_would_turn_inside_out_is_refused():
    with pytest.raises(SettingError, match="stays open"):
        plain_heart(ef=0.9)


def test_normal_subjects_agree_with_the_reference_ranges():
    """Petersen 2017; 300 subjects of each sex, means within 4 standard errors of the published ones plus 3 %."""
    import numpy as np

    published = {"male": (166, 58, 103, 182, 54), "female": (124, 61, 70, 130, 58)}
    drawn = {"male": [], "female": []}
    for seed in range(600):
        t = draw_targets(np.random.default_rng(seed), "normal")
        drawn[t.sex].append((t.lvedv_ml, 100 * t.lvef, t.lvm_g, t.rvedv_ml, 100 * t.rvef))
    for sex, rows in drawn.items():
        mean, sd = np.mean(rows, 0), np.std(rows, 0)
        allowed = 4 * sd / math.sqrt(len(rows)) + 0.03 * np.array(published[sex])
        assert (np.abs(mean - published[sex]) < allowed).all(), (sex, mean)
