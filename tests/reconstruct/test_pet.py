"""PET: the likelihood rises, activity comes back quantitatively, and background and attenuation are in the model."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.acquire.ellipses import draw_ellipses, measure_ellipses
from firstread.acquire.pet import ScanPET, spread
from firstread.core.case import Case
from firstread.core.emission import Emission
from firstread.core.errors import GeometryError, SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, Rows
from firstread.core.sinogram import ParallelBeam
from firstread.core.stage import Chain
from firstread.ops.attenuation import attenuation_at_511
from firstread.ops.emission import expectation_maximization, poisson_log_likelihood
from firstread.ops.projection import Projection
from firstread.reconstruct.pet import MLEM, OSEM

GRID = Grid.from_spacing((1, 48, 48), (4.0, 5.0, 5.0))
BEAM = ParallelBeam.uniform(views=48, bins=56, bin_mm=5.0)
WARM = torch.tensor([[5000.0, 100.0, 75.0, 0.0, 0.0, 0.0], [15000.0, 22.0, 22.0, 45.0, 0.0, 0.0],
                     [-5000.0, 25.0, 25.0, -40.0, 0.0, 0.0]], dtype=torch.float64)
WATER = torch.tensor([[1000.0, 100.0, 75.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def image(ellipses, offset=0.0) -> Image:
    return Image(Rows.subjects(1), (draw_ellipses(ellipses, GRID).float() + offset)[None, None, None, None], GRID)


def scan(**settings) -> Emission:
    return ScanPET(beam=BEAM, **settings)(image(WARM), Key(3, "pet"), image(WATER, -1000.0))


def mean_in(made: Image, x: float, y: float, radius: float) -> float:
    points = GRID.points_mm()[0, 0]
    inside = ((points[..., 0] - x) ** 2 + (points[..., 1] - y) ** 2).sqrt() < radius
    return made.data[0, 0, 0, 0][inside].mean().item()


@given(st.integers(0, 2**31), st.floats(0.0, 3.0), st.booleans())
@settings(max_examples=15, deadline=None)
def test_likelihood_never_falls(seed, background, sparse):
    generator = torch.Generator().manual_seed(seed)
    projection = Projection(beam=ParallelBeam.uniform(views=6, bins=9, bin_mm=1.0), shape=(6, 7), spacing_mm=(1.0, 1.0))
    activity = torch.rand(1, 6, 7, dtype=torch.float64, generator=generator) * (0.3 if sparse else 10)
    factors = torch.rand(1, 6, 9, dtype=torch.float64, generator=generator)
    noise = background * torch.rand(1, 6, 9, dtype=torch.float64, generator=generator)
    counts = torch.poisson(factors * projection(activity) + noise, generator=generator)
    seen: list[float] = []

    def note(_, x):
        assert bool((x >= 0).all())
        seen.append(poisson_log_likelihood(counts, factors * projection(x) + noise).item())

    expectation_maximization(counts, projection, factors, noise, iterations=25, report=note)
    assert all(b >= a - 1e-9 * abs(a) for a, b in pairwise(seen))


def test_end_is_a_maximum_of_the_likelihood():
    """Kuhn and Tucker: the gradient is zero where x > 0 and not above zero elsewhere."""
    generator = torch.Generator().manual_seed(0)
    projection = Projection(beam=ParallelBeam.uniform(views=8, bins=7, bin_mm=1.0), shape=(4, 4), spacing_mm=(1.2, 1.2))
    counts = torch.poisson(4 * torch.rand(1, 8, 7, dtype=torch.float64, generator=generator), generator=generator)
    noise = torch.full_like(counts, 0.2)
    x = expectation_maximization(counts, projection, torch.ones_like(counts), noise, iterations=600)
    gradient = projection.adjoint(counts / (projection(x) + noise) - 1)
    assert (gradient * x).abs().max() < 1e-2 and gradient.max() < 2e-2
    assert x.min() < 1e-4  # some pixels do end at zero, so that both cases are tried


@pytest.mark.parametrize("stage", [MLEM(iterations=60), OSEM(subsets=8, iterations=8)], ids=lambda s: s.name)
def test_activity_comes_back(stage):
    made = stage(scan(counts=3e6))
    assert mean_in(made, 45, 0, 13) == pytest.approx(20000, rel=0.05)
    assert mean_in(made, 0, 50, 15) == pytest.approx(5000, rel=0.05)
    assert mean_in(made, -40, 0, 13) < 900


def test_ordered_subsets_are_as_far_as_as_many_plain_iterations():
    emission = scan(counts=None)
    plain, ordered = MLEM(iterations=24)(emission).data, OSEM(subsets=6, iterations=4)(emission).data
    assert (plain - ordered).norm() < 0.03 * plain.norm()


def test_without_background_or_attenuation_in_the_model_values_are_wrong():
    emission = scan(counts=3e6)
    no_background = MLEM(iterations=40)(replace(emission, background=None))
    no_attenuation = MLEM(iterations=40)(replace(emission, factors=torch.full_like(emission.factors,
                                                                                   float(emission.factors.max()))))
    assert mean_in(no_background, -40, 0, 13) > 1500
    assert mean_in(no_attenuation, 0, 50, 15) < 3500


def test_scan_of_known_ellipses():
    """Trues are c exp(-∫μ) ∫a along exact lines, and background has the stated shares."""
    emission = scan(counts=1e6, randoms=0.5, scatter=0.25, scatter_mm=10.0)
    mu = float(attenuation_at_511(torch.tensor(0.0)))
    one = torch.cat((torch.ones(1, 1, dtype=torch.float64), WATER[:, 1:]), dim=1)
    survive = torch.exp(-measure_ellipses(one, BEAM) * mu)
    trues = survive * measure_ellipses(WARM, BEAM)
    trues = 1e6 * trues / trues.sum()
    model = emission.factors * Projection.of(BEAM, GRID)(image(WARM).data) + emission.background
    assert (model - emission.background - trues).norm() < 0.03 * trues.norm()
    assert emission.background.sum().item() == pytest.approx(0.75e6, rel=0.02)
    assert emission.data.sum().item() == pytest.approx(1.75e6, rel=0.02)
    assert ((emission.data - model) / model.sqrt()).std().item() == pytest.approx(1.0, abs=0.05)
    factors = emission.factors[0, 0, 0, 0] / emission.factors.max()
    assert (factors - survive).abs().mean() < 0.01


def test_in_a_chain_activity_alone_is_not_its_own_ct():
    made = Chain(ScanPET(beam=BEAM, counts=None))(Case({"activity": image(WARM)}))["emission"]
    assert made.factors.min() == made.factors.max() == 1
    both = Chain(ScanPET(beam=BEAM, counts=None))(Case({"activity": image(WARM), "ct": image(WATER, -1000.0)}))
    assert torch.allclose(both["emission"].factors, scan(counts=None).factors)
    assert "48 views" in both.trail[0].settings


def test_scatter_keeps_its_share():
    rays = torch.zeros(1, 81)
    rays[0, 40] = 2.0
    assert spread(rays, 6.0).sum().item() == pytest.approx(2.0, rel=1e-3)


def test_gradient_of_the_iterations():
    projection = Projection(beam=ParallelBeam.uniform(views=3, bins=4, bin_mm=1.0), shape=(3, 3), spacing_mm=(1.0, 1.0))
    counts = (1 + torch.rand(1, 3, 4, dtype=torch.float64)).requires_grad_()
    factors = (0.5 + torch.rand(1, 3, 4, dtype=torch.float64)).requires_grad_()
    start = torch.ones(1, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda y, f: expectation_maximization(y, projection, f, 0.1 * torch.ones_like(y), iterations=2, start=start),
        (counts, factors))


def test_bad_input_is_refused():
    emission = scan(counts=1e5)
    with pytest.raises(SignalError, match="counts below zero"):
        replace(emission, data=emission.data - 1000)
    with pytest.raises(SignalError, match="background below zero or not finite"):
        replace(emission, background=emission.background * float("nan"))
    with pytest.raises(GeometryError, match="coincidences of"):
        replace(emission, beam=BEAM.at_views(range(47)))
    with pytest.raises(SignalError, match="activity that is negative"):
        ScanPET(beam=BEAM)(image(WARM, -6000.0), Key(0, "pet"))
    with pytest.raises(GeometryError, match="another grid"):
        other = replace(image(WATER), grid=Grid.from_spacing((1, 48, 48), (4.0, 4.0, 4.0)))
        ScanPET(beam=BEAM)(image(WARM), Key(0, "pet"), other)
    with pytest.raises(SettingError, match="100 subsets of 48 views"):
        OSEM(subsets=100)(emission)
    with pytest.raises(SettingError, match="0 iterations"):
        MLEM(iterations=0)
