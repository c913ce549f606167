"""Projection and filtered backprojection against exact line integrals of ellipses."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.acquire.ellipses import draw_ellipses, line_integrals, measure_ellipses, shepp_logan
from firstread.core.errors import GeometryError, SettingError
from firstread.core.geometry import Grid
from firstread.core.records import Rows
from firstread.core.sinogram import FanBeam, ParallelBeam, Sinogram
from firstread.ops.backprojection import fan_weights, filtered_backprojection, view_weights
from firstread.ops.projection import Projection
from firstread.ops.ray_symmetry import NONE, _orbits, ray_symmetry

GRID = Grid.from_spacing((1, 64, 64), (1.0, 4.0, 4.0))
BEAMS = {
    "parallel": ParallelBeam.uniform(views=90, bins=90, bin_mm=4.0),
    "parallel, whole turn, offset": ParallelBeam.uniform(views=180, bins=90, bin_mm=4.0, arc_rad=2 * math.pi,
                                                         offset_mm=1.0),
    "curved fan": FanBeam.uniform(views=180, bins=120, bin_mm=5.0, source_mm=500.0, detector_mm=1000.0),
    "flat fan": FanBeam.uniform(views=180, bins=120, bin_mm=5.0, source_mm=500.0, detector_mm=1000.0, curved=False),
    "short scan": FanBeam.uniform(views=130, bins=120, bin_mm=5.0, source_mm=500.0, detector_mm=1000.0,
                                  arc_rad=math.radians(216)),
    "short scan, flat": FanBeam.uniform(views=130, bins=120, bin_mm=5.0, source_mm=500.0, detector_mm=1000.0,
                                        arc_rad=math.radians(250), curved=False),
}
# A smooth-edged body off the centre with two inserts: what is there must come back at its place.
BODY = torch.tensor([[1.0, 90.0, 60.0, 10.0, -12.0, 0.3], [0.5, 20.0, 12.0, 50.0, 10.0, 1.0],
                     [-0.6, 15.0, 15.0, -30.0, -20.0, 0.0]], dtype=torch.float64)


@pytest.fixture(params=BEAMS, ids=lambda name: name.replace(" ", "-"))
def beam(request):
    return BEAMS[request.param]


def test_projection_is_the_line_integral(beam):
    exact = measure_ellipses(BODY, beam)
    made = Projection.of(beam, GRID)(draw_ellipses(BODY, GRID, finer=8))
    assert (made - exact).norm() < 0.025 * exact.norm()
    assert (made - exact).mean().abs() < 1e-3 * exact.mean()


def test_projection_converges(beam):
    errors = []
    for size in (32, 64, 128):
        grid = Grid.from_spacing((1, size, size), (1.0, 256 / size, 256 / size))
        exact = measure_ellipses(BODY, beam)
        errors.append((Projection.of(beam, grid)(draw_ellipses(BODY, grid)) - exact).norm() / exact.norm())
    assert errors[0] > 1.5 * errors[1] > 2.2 * errors[2]


def test_filtered_backprojection_brings_values_back_to_their_place(beam):
    made = filtered_backprojection(measure_ellipses(BODY, beam), beam, (64, 64), (4.0, 4.0), window="hann")
    truth = draw_ellipses(BODY, GRID)
    wide = torch.nn.functional.avg_pool2d(truth[None], 5, 1, 2)[0]
    seen = GRID.points_mm()[0, 0, ..., :2].norm(dim=-1) < 140  # by every view
    flat = ((truth - wide).abs() < 1e-6) & seen  # away from all edges
    assert flat.sum() > 2500
    assert (made - truth)[flat].abs().mean() < 0.012
    assert (made - truth)[flat].abs().max() < 0.1


@given(st.floats(0, 2 * math.pi), st.floats(-40, 40), st.floats(0.1, 3.0))
@settings(max_examples=25, deadline=None)
def test_turning_the_object_turns_the_views(turn, distance, angle):
    turned = BODY.clone()
    c, s = math.cos(turn), math.sin(turn)
    turned[:, 3], turned[:, 4] = c * BODY[:, 3] - s * BODY[:, 4], s * BODY[:, 3] + c * BODY[:, 4]
    turned[:, 5] = BODY[:, 5] + turn
    a, d = torch.tensor(angle, dtype=torch.float64), torch.tensor(distance, dtype=torch.float64)
    assert line_integrals(turned, a + turn, d) == pytest.approx(float(line_integrals(BODY, a, d)), rel=1e-6, abs=1e-4)


def test_line_integrals_are_sums_along_the_line():
    angle, distance = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-11.0, dtype=torch.float64)
    fine = Grid.from_spacing((1, 1024, 1024), (1.0, 0.25, 0.25))
    one = ParallelBeam(angles_rad=(0.7,), bins=1, bin_mm=0.25, offset_mm=-11.0)
    made = Projection.of(one, fine)(draw_ellipses(BODY, fine, finer=1))
    assert made.item() == pytest.approx(float(line_integrals(BODY, angle, distance)), rel=2e-3)


def test_every_view_sees_the_whole_mass():
    beam = BEAMS["parallel"]
    image = torch.rand(64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    image[:12] = image[-12:] = image[:, :12] = image[:, -12:] = 0
    mass = Projection(beam=beam, shape=(64, 64), spacing_mm=(4.0, 4.0))(image).sum(dim=1) * beam.bin_mm
    assert torch.allclose(mass, image.sum().expand(90) * 16.0, rtol=0.01)


@pytest.mark.parametrize("call", ["forward", "adjoint"])
@pytest.mark.parametrize("name", ["parallel", "flat fan"])
def test_gradients(name, call):
    beam = replace(BEAMS[name].at_views((0, 11, 50)), bins=6, bin_mm=60.0)
    op = Projection(beam=beam, shape=(4, 3), spacing_mm=(30.0, 40.0))
    x = torch.randn((2, 4, 3) if call == "forward" else (2, 3, 6), dtype=torch.float64)
    assert torch.autograd.gradcheck(getattr(op, call), x.requires_grad_())
    assert torch.autograd.gradgradcheck(getattr(op, call), x)


def test_gradient_of_filtered_backprojection():
    beam = ParallelBeam.uniform(views=4, bins=5, bin_mm=2.0)
    rows = torch.randn(1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: filtered_backprojection(r, beam, (3, 3), (2.0, 2.0)), rows)


def test_single_precision_agrees():
    op = Projection(beam=BEAMS["curved fan"], shape=(64, 64), spacing_mm=(4.0, 4.0))
    image = draw_ellipses(BODY, GRID)
    assert torch.allclose(op(image.float()).double(), op(image), rtol=1e-4, atol=1e-3)


def test_weights_of_views_sum_to_half_a_turn():
    golden = torch.arange(55) * math.pi * (math.sqrt(5) - 1) / 2
    for angles in (golden.double(), BEAMS["parallel, whole turn, offset"].angles):
        assert view_weights(angles).sum().item() == pytest.approx(math.pi)


@pytest.mark.parametrize("name", ["curved fan", "short scan", "short scan, flat"])
def test_every_line_of_a_fan_scan_counts_once(name):
    """w(β, γ) + w(β + π + 2γ, -γ) = 1, w where the other ray was not measured."""
    beam, step = BEAMS[name], BEAMS[name].angles_rad[1] / 10
    beam = replace(beam, angles_rad=tuple(step * i for i in range(10 * len(beam.angles_rad))))
    weights, fan, half = fan_weights(beam) / step, beam.fan_rad, len(beam.fan_rad)
    last = beam.angles_rad[-1]
    for i in range(0, len(beam.angles_rad), 67):
        for j in range(9, half - 9, 9):
            found = [weights[i, j]]
            for other in (beam.angles_rad[i] + k * math.pi + 2 * float(fan[j]) for k in (-1, 1)):
                if -1e-9 <= other <= last + 1e-9 or name == "curved fan":
                    if name == "curved fan" and len(found) == 2:
                        continue
                    place = other / step % len(beam.angles_rad) if name == "curved fan" else other / step
                    low = min(int(place), len(beam.angles_rad) - 2)
                    column = weights[:, half - 1 - j]
                    found.append(torch.lerp(column[low], column[low + 1], place - low))
            assert sum(found).item() == pytest.approx(1.0, abs=1e-2)


def test_bad_geometry_is_refused():
    with pytest.raises(GeometryError, match="arc of 180"):
        fan_weights(FanBeam.uniform(views=90, bins=120, bin_mm=5.0, source_mm=500.0, detector_mm=1000.0,
                                    arc_rad=math.pi))
    with pytest.raises(GeometryError, match="whole number of turns"):
        fan_weights(FanBeam.uniform(views=90, bins=120, bin_mm=5.0, source_mm=500.0, detector_mm=1000.0,
                                    arc_rad=2.5 * math.pi))
    with pytest.raises(GeometryError, match="source"):
        FanBeam.uniform(views=3, bins=4, bin_mm=1.0, source_mm=900.0, detector_mm=500.0)
    with pytest.raises(SettingError, match="0 bins"):
        ParallelBeam.uniform(views=3, bins=0, bin_mm=1.0)
    with pytest.raises(GeometryError, match="without spacing"):
        Projection.of(BEAMS["parallel"], Grid.pixels((1, 8, 8)))
    with pytest.raises(GeometryError, match=r"expected \(1, 90, 90\)"):
        Sinogram(Rows.subjects(1), torch.zeros(1, 1, 1, 1, 90, 91), GRID, BEAMS["parallel"])
    with pytest.raises(SettingError, match="with cutoff"):
        filtered_backprojection(torch.zeros(90, 90), BEAMS["parallel"], (4, 4), (1.0, 1.0), cutoff=1.5)


def test_shepp_logan_has_its_known_values():
    head = draw_ellipses(shepp_logan(128.0), GRID)
    assert head.max() == pytest.approx(1.0) and head[32, 32] == pytest.approx(0.2)
    assert head[:16].mean() != pytest.approx(float(head[-16:].mean()))  # not upside down by symmetry


@pytest.mark.parametrize("beam", [
    ParallelBeam.uniform(views=12, bins=9, bin_mm=3.0), ParallelBeam.uniform(views=7, bins=8, bin_mm=3.0),
    ParallelBeam.uniform(views=12, bins=8, bin_mm=3.0, offset_mm=0.7),
    ParallelBeam.uniform(views=8, bins=9, bin_mm=3.0, arc_rad=2 * math.pi),
    ParallelBeam(angles_rad=(0.3, 0.3, 1.0), bins=5, bin_mm=3.0),
    FanBeam.uniform(views=12, bins=9, bin_mm=6.0, source_mm=40.0, detector_mm=80.0),
    FanBeam.uniform(views=10, bins=8, bin_mm=6.0, source_mm=40.0, detector_mm=80.0, curved=False),
    FanBeam.uniform(views=12, bins=8, bin_mm=6.0, source_mm=40.0, detector_mm=80.0, offset_mm=1.5)])
@pytest.mark.parametrize("shape", [(7, 7), (8, 8), (6, 9)])
def test_symmetry_changes_nothing(beam, shape, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, *shape, dtype=torch.float64, generator=generator)
    y = torch.rand(3, len(beam.angles_rad), beam.bins, dtype=torch.float64, generator=generator)
    short = Projection(beam=beam, shape=shape, spacing_mm=(3.0, 3.0))
    forward, back = short(x), short.adjoint(y)
    monkeypatch.setattr("firstread.ops.projection.ray_symmetry", _alone)
    plain = Projection(beam=beam, shape=shape, spacing_mm=(3.0, 3.0))
    assert torch.allclose(forward, plain(x), atol=1e-9)
    assert torch.allclose(back, plain.adjoint(y), atol=1e-9)


def _alone(beam, *, square):
    return _orbits(NONE, torch.arange(len(beam.angles_rad) * beam.bins)[None])


def test_symmetry_is_found():
    for beam, square, count in ((BEAMS["parallel"], True, 8), (BEAMS["parallel"], False, 4),
                                (BEAMS["curved fan"], True, 8), (BEAMS["short scan"], True, 1)):
        found = ray_symmetry(beam, square=square)
        assert len(found.elements) == count
        assert len(found.base) <= 1.2 * len(beam.angles_rad) * beam.bins / count
