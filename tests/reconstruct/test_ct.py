"""CT from scan to image: dose, filtered backprojection, SART and total variation against exact phantoms."""

import math
from dataclasses import replace

import pytest
import torch

from firstread.acquire.ct import ScanCT
from firstread.acquire.ellipses import draw_ellipses, measure_ellipses
from firstread.core.errors import GeometryError, SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, Rows
from firstread.core.sinogram import FanBeam, ParallelBeam, Sinogram
from firstread.ops.attenuation import WATER_PER_MM, hounsfield
from firstread.ops.projection import Projection
from firstread.ops.sart import sart
from firstread.ops.variation import PLANE, total_variation
from firstread.reconstruct.ct import SART, FilteredBackprojection, SinogramTV, solve_sinogram_tv

GRID = Grid.from_spacing((1, 48, 48), (1.0, 5.0, 5.0))
BODY = torch.tensor([[1.0, 95.0, 70.0, 4.0, -6.0, 0.2], [0.2, 25.0, 18.0, 40.0, 10.0, 1.0],
                     [-0.9, 22.0, 30.0, -35.0, -12.0, 0.0]], dtype=torch.float64)
TRUTH = hounsfield(draw_ellipses(BODY, GRID) * WATER_PER_MM)
FAN = FanBeam.uniform(views=120, bins=96, bin_mm=6.0, source_mm=500.0, detector_mm=1000.0)


def measured(beam, **changes) -> Sinogram:
    data = (measure_ellipses(BODY, beam) * WATER_PER_MM).float()[None, None, None, None]
    return Sinogram(Rows.subjects(1), data, GRID, beam, **changes)


def error_hu(image: Image) -> float:
    return (image.data[0, 0, 0, 0] - TRUTH).square().mean().sqrt().item()


@pytest.mark.parametrize("stage", [FilteredBackprojection(), SART(iterations=20), SinogramTV(regularization=0.1)],
                         ids=lambda stage: stage.name)
def test_values_come_back_in_hounsfield_units(stage):
    made = stage(measured(FAN)).data[0, 0, 0, 0]
    x, y = GRID.points_mm()[0, 0, ..., :2].unbind(-1)
    for hu, centre in ((0.0, (5.0, 40.0)), (200.0, (40.0, 10.0)), (-900.0, (-35.0, -12.0)), (-1000.0, (-100.0, -90.0))):
        near = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2).sqrt() < 9
        assert made[near].mean().item() == pytest.approx(hu, abs=35)


def test_models_need_fewer_views():
    few = measured(FAN.at_views(range(0, 120, 5)))
    direct, algebraic, sparse = (error_hu(stage(few)) for stage in (FilteredBackprojection(), SART(), SinogramTV()))
    assert sparse < 0.9 * algebraic < 0.8 * direct


def test_sart_solves_consistent_equations():
    beam = ParallelBeam.uniform(views=24, bins=20, bin_mm=1.0)
    projection = Projection(beam=beam, shape=(8, 8), spacing_mm=(1.5, 1.5))
    x = torch.rand(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors = [(sart(projection(x), projection, subsets=4, iterations=n, relaxation=1.0) - x).norm() / x.norm()
              for n in (1, 10, 100)]
    assert errors[0] > 3 * errors[1] > 15 * errors[2]


def test_total_variation_is_at_its_minimum():
    """No direction from the solution, into μ ≥ 0, lowers what it minimizes."""
    generator = torch.Generator().manual_seed(1)
    beam = ParallelBeam.uniform(views=9, bins=16, bin_mm=1.0)
    projection = Projection(beam=beam, shape=(10, 10), spacing_mm=(1.0, 1.0))
    rays = torch.rand(1, 9, 16, dtype=torch.float64, generator=generator)
    weights = 0.5 + torch.rand(1, 9, 16, dtype=torch.float64, generator=generator)
    largest = 0.02 * projection.bound(weights)

    def objective(x):
        return float(0.5 * (weights * (projection(x) - rays) ** 2).sum() + largest * total_variation(x, PLANE).sum())

    made = solve_sinogram_tv(rays, weights, projection, 0.02, start=torch.zeros(1, 10, 10, dtype=torch.float64),
                             iterations=5000, tolerance=1e-9)
    least = objective(made.x)
    for scale in (1e-3, 1e-2, 1e-1):
        for _ in range(20):
            step = scale * torch.randn(1, 10, 10, dtype=torch.float64, generator=generator)
            assert objective((made.x + step).clamp_min(0)) >= least * (1 - 1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_bound_of_the_projection_holds_and_is_close(weighted):
    projection = Projection.of(FAN, GRID)
    weights = torch.rand(1, 120, 96, dtype=torch.float64) if weighted else None
    x = torch.rand(1, 48, 48, dtype=torch.float64)
    for _ in range(40):
        rays = projection(x / x.norm())
        x = projection.adjoint(rays if weights is None else weights * rays)
    assert x.norm() <= projection.bound(weights) * (1 + 1e-6) <= 1.3 * x.norm()


def test_noise_is_that_of_the_dose():
    """Var p = 1/I + σ²/I² behind a homogeneous slab, and the weights are its inverse."""
    beam = ParallelBeam.uniform(views=200, bins=11, bin_mm=1.0)
    water = Image(Rows.subjects(1), torch.zeros(1, 1, 1, 1, 48, 48), GRID)
    clean = ScanCT(beam=beam, photons=None)(water, Key(0, "ct")).data
    noisy = ScanCT(beam=beam, photons=1e6, electronic=50.0)(water, Key(0, "ct"))
    seen = 1e6 * torch.exp(-clean)
    pulls = (noisy.data - clean) / (1 / seen + 2500 / seen**2).sqrt()
    assert pulls.mean().abs() < 0.08 and pulls.std().item() == pytest.approx(1.0, abs=0.05)
    expected = 1 / (1 / seen + 2500 / seen**2)
    assert (noisy.weights / expected).median().item() == pytest.approx(1.0, abs=0.05)


def test_noise_depends_on_the_row_and_the_seed():
    water = Image(Rows.subjects(2), torch.zeros(2, 1, 1, 1, 48, 48), GRID.crop((0, 0, 0), (1, 48, 48)).map(
        lambda t: t.repeat_interleave(2, 0)))
    stage = ScanCT(beam=FAN, photons=1e4)
    one, again, other = (stage(water, Key(seed, "ct")).data for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other) and not torch.equal(one[0], one[1])


def test_starved_rays_stay_finite():
    """No photon arrives behind metal: finite integrals with almost no weight, and TV does not follow them."""
    metal = Image(Rows.subjects(1), TRUTH.float()[None, None, None, None].clone(), GRID)
    metal.data[..., 22:26, 22:26] = 30000.0
    scan = ScanCT(beam=FAN, photons=1e4)(metal, Key(0, "ct"))
    assert torch.isfinite(scan.data).all() and float(scan.weights.min()) < 0.1
    assert torch.isfinite(SinogramTV(iterations=10)(scan).data).all()


def test_a_short_arc_is_left_to_the_iterations():
    short = measured(replace(FAN, angles_rad=FAN.angles_rad[:50]))
    with pytest.raises(GeometryError, match="iterative"):
        FilteredBackprojection()(short)
    assert error_hu(SinogramTV()(short)) < 200


def test_bad_input_is_refused():
    nan = measured(FAN)
    nan.data[0, 0, 0, 0, 3, 3] = math.nan
    for stage in (FilteredBackprojection(), SART(), SinogramTV()):
        with pytest.raises(SignalError, match="NaN"):
            stage(nan)
    with pytest.raises(SettingError, match="20 subsets of 5 views"):
        SART()(measured(FAN.at_views(range(5))))
    with pytest.raises(SettingError, match="photons"):
        ScanCT(beam=FAN, photons=0.0)
    with pytest.raises(SignalError, match="complex"):
        ScanCT(beam=FAN)(Image(Rows.subjects(1), torch.zeros(1, 1, 1, 1, 48, 48) + 0j, GRID), Key(0, "ct"))
    with pytest.raises(GeometryError, match="without spacing"):
        ScanCT(beam=FAN)(Image(Rows.subjects(1), torch.zeros(1, 1, 1, 1, 4, 4), Grid.pixels((1, 4, 4))), Key(0, "ct"))
