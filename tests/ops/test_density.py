"""Density compensation: areas on a grid, spokes against their formula, an image that comes back, bad input."""

import math

import pytest
import torch

from firstread.core.errors import SettingError
from firstread.ops.density import iterative_density, radial_density
from firstread.ops.encoding_noncartesian import NonCartesianEncoding
from firstread.ops.nufft import nufft, nufft_adjoint


def spokes(shots: int, size: int, *, golden: bool = False) -> torch.Tensor:
    angle = torch.arange(shots) * (math.pi * (math.sqrt(5) - 1) / 2 if golden else math.pi / shots)
    place = torch.arange(2 * size) / 2 - size / 2
    return torch.stack((angle.sin()[:, None] * place, angle.cos()[:, None] * place))


def disc(size: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size) - size / 2, torch.arange(size) - size / 2, indexing="ij")
    return (torch.sigmoid(2 * (size / 3 - (x**2 + y**2).sqrt())) * torch.exp(0.02j * x)).to(torch.complex64)


def test_on_a_grid_every_sample_stands_for_one_cell():
    y, x = torch.meshgrid(torch.arange(-16.0, 16.0), torch.arange(-16.0, 16.0), indexing="ij")
    weights = iterative_density(torch.stack((y, x)), (32, 32))
    assert torch.allclose(weights, torch.ones_like(weights), atol=0.02)


@pytest.mark.parametrize("golden", [False, True])
def test_spokes_cover_the_disc_once(golden):
    weights = radial_density(spokes(89, 48, golden=golden))
    assert weights.sum().item() == pytest.approx(math.pi * 24**2, rel=2e-3)
    assert weights[:, 48].sum().item() == pytest.approx(math.pi * 0.25**2, rel=1e-3)


def test_iteration_and_formula_agree_where_spokes_are_dense():
    places = spokes(160, 48)
    made, exact = iterative_density(places, (48, 48)), radial_density(places)
    ring = (places.norm(dim=0) > 4) & (places.norm(dim=0) < 20)
    assert ((made - exact)[ring].norm() / exact[ring].norm()).item() < 0.05


@pytest.mark.parametrize(("shots", "golden", "limit"), [(96, False, 0.01), (89, True, 0.015)])
def test_the_gridded_image_is_the_image(shots, golden, limit):
    places, image = spokes(shots, 48, golden=golden), disc(48)
    made = nufft_adjoint(iterative_density(places, (48, 48)) * nufft(image, places), places, (48, 48))
    assert ((made - image).norm() / image.norm()).item() < limit


def test_a_sample_measured_twice_counts_half():
    places = spokes(60, 32)
    twice = torch.cat((places, places), dim=1)
    one, two = iterative_density(places, (32, 32)), iterative_density(twice, (32, 32))
    assert torch.allclose(two[:60] + two[60:], one, rtol=1e-3, atol=1e-4)


def test_weighted_normal_equations_are_well_conditioned_and_bounded():
    places = spokes(89, 32, golden=True)[None, None]
    encoding = NonCartesianEncoding(trajectory=places, shape=(1, 32, 32),
                                    weights=iterative_density(places[0, 0], (32, 32))[None, None, None, None])
    x = torch.randn(1, 1, 1, 1, 32, 32, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    for _ in range(30):
        x = encoding.gram(x / x.norm())
    assert x.norm().item() < 2 and x.norm().item() <= encoding.bound()


def test_bad_input_is_refused():
    with pytest.raises(SettingError, match="straight lines"):
        radial_density(torch.rand(2, 3, 8))
    with pytest.raises(SettingError, match="spokes of one sample"):
        radial_density(torch.rand(2, 3, 1))
    with pytest.raises(SettingError, match="0 iterations"):
        iterative_density(torch.rand(2, 3, 8), (8, 8), iterations=0)
    with pytest.raises(SettingError, match="axes"):
        iterative_density(torch.rand(3, 3, 8), (8, 8))
