"""Resampling: linear functions come back exactly, grids move with their data, gradients pass."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import GeometryError, SettingError
from firstread.core.geometry import Grid
from firstread.ops.intensity import scale_percentiles
from firstread.ops.neighbours import with_neighbours
from firstread.ops.resample import resample, sample


def ramp(grid: Grid) -> torch.Tensor:
    """A linear function of the place in millimetres."""
    return (grid.points_mm() @ torch.tensor([0.3, -0.7, 0.2], dtype=torch.float64)).float().unsqueeze(1)


@settings(max_examples=20, deadline=None)
@given(st.integers(6, 12), st.integers(6, 12), st.floats(0.7, 1.3))
def test_a_linear_function_is_resampled_exactly_in_plane(height, width, spacing):
    source = Grid.from_spacing((2, height, width), (8.0, 1.0, 1.0))
    target = Grid.from_spacing((2, 3, 3), (8.0, spacing, spacing))
    assert torch.allclose(resample(ramp(source), source, target), ramp(target), atol=1e-4)


def test_a_linear_function_is_resampled_exactly_across_slices():
    source, target = Grid.from_spacing((6, 8, 8), (2.0, 1.0, 1.0)), Grid.from_spacing((3, 4, 4), (3.0, 1.0, 1.0))
    assert torch.allclose(resample(ramp(source), source, target), ramp(target), atol=1e-4)


def test_flipped_data_on_a_flipped_grid_is_the_same_image():
    grid = Grid.from_spacing((2, 6, 7), (8.0, 1.2, 1.0))
    data = torch.randn(1, 1, 2, 6, 7)
    assert torch.allclose(resample(data.flip(-1), grid.flip("x"), grid), data, atol=1e-5)
    assert torch.allclose(resample(data.transpose(-1, -2), grid.permute((0, 2, 1)), grid), data, atol=1e-5)


def test_outside_is_zero_or_the_border():
    grid = Grid.from_spacing((1, 4, 4), (8.0, 1.0, 1.0))
    wide = grid.crop((0, -2, -2), (1, 8, 8))
    ones = torch.ones(1, 1, 1, 4, 4)
    assert resample(ones, grid, wide)[0, 0, 0, 0].abs().max() == 0
    assert torch.allclose(resample(ones, grid, wide, outside="border"), torch.ones(1, 1, 1, 8, 8))


def test_going_coarser_does_not_alias():
    grid = Grid.from_spacing((1, 64, 64), (8.0, 0.5, 0.5))
    stripes = torch.arange(64).remainder(2).float().expand(1, 1, 1, 64, 64)
    coarse = resample(stripes, grid, grid.resize((1, 16, 16)))
    assert (coarse[..., 2:-2, 2:-2] - 0.5).abs().max() < 0.01


def test_gradients_pass_through():
    grid = Grid.from_spacing((1, 5, 5), (8.0, 1.0, 1.0))
    data = torch.randn(1, 1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    target = Grid.from_spacing((1, 3, 4), (8.0, 1.1, 0.9))
    assert torch.autograd.gradcheck(lambda d: resample(d, grid, target), data)


def test_misfits_are_refused():
    grid = Grid.from_spacing((1, 4, 4), (8.0, 1.0, 1.0))
    with pytest.raises(GeometryError):
        resample(torch.zeros(1, 1, 2, 4, 4), grid, grid)
    with pytest.raises(GeometryError):
        resample(torch.zeros(2, 1, 1, 4, 4), grid, replace(grid))
    with pytest.raises(SettingError):
        sample(torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 3))


@given(st.floats(0.1, 1000), st.floats(-100, 100))
def test_scaling_forgets_the_units(factor, offset):
    data = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(scale_percentiles(factor * data + offset), scale_percentiles(data), atol=1e-5)


def test_a_row_of_one_value_becomes_zero():
    assert scale_percentiles(torch.full((1, 9), 3.0)).abs().max() == 0


def test_neighbours_alone_and_turned():
    images = torch.arange(8.0).reshape(2, 4, 1, 1)
    alone = with_neighbours(images, keep=torch.tensor([False, True]))
    assert torch.equal(alone[:4, 0], alone[:4, 2]) and alone[5, :, 0, 0].tolist() == [4, 5, 6]
    assert with_neighbours(images, turned=torch.tensor([False, True]))[5, :, 0, 0].tolist() == [6, 5, 4]
