import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import GeometryError
from firstread.core.geometry import Grid, Transform


def oblique(shape=(4, 6, 5), spacing=(8.0, 1.5, 1.2)) -> Grid:
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    grid = Grid.from_spacing(shape, spacing)
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = rotation
    return Grid(turn @ grid.affine, shape, grid.thickness_mm)


def test_spacing_and_volume_do_not_depend_on_orientation():
    grid = oblique()
    torch.testing.assert_close(grid.spacing_mm, torch.tensor([[8.0, 1.5, 1.2]], dtype=torch.float64))
    assert grid.voxel_ml.item() == pytest.approx(8.0 * 1.5 * 1.2 / 1000)


def test_index_and_mm_are_inverse():
    grid = oblique()
    index = torch.rand(1, 7, 3, dtype=torch.float64) * 5
    torch.testing.assert_close(grid.to_index(grid.to_mm(index)), index)


@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_flipped_data_stay_in_the_world(axis):
    grid = oblique()
    dim = ("z", "y", "x").index(axis) + 1
    torch.testing.assert_close(grid.flip(axis).points_mm(), grid.points_mm().flip(dim))


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 1, 0), (1, 2, 0)])
def test_permuted_data_stay_in_the_world(order):
    grid = oblique()
    points = grid.points_mm().permute(0, *(o + 1 for o in order), 4)
    torch.testing.assert_close(grid.permute(order).points_mm(), points)


@given(st.tuples(*[st.integers(-3, 3)] * 3))
@settings(max_examples=20, deadline=None)
def test_cropped_data_stay_in_the_world(start):
    grid = oblique()
    crop = grid.crop(start, (2, 2, 2))
    first = torch.tensor([start[::-1]], dtype=torch.float64)
    torch.testing.assert_close(crop.points_mm()[:, 0, 0, 0], grid.to_mm(first))


def test_resize_keeps_outer_edges_and_total_volume():
    grid = oblique()
    fine = grid.resize((8, 12, 10))
    corner, half = torch.tensor([[-0.5, -0.5, -0.5]], dtype=torch.float64), 1000
    torch.testing.assert_close(fine.to_mm(corner), grid.to_mm(corner))
    assert fine.voxel_ml.item() * 960 * half == pytest.approx(grid.voxel_ml.item() * 120 * half)


def test_affine_is_differentiable():
    affine = oblique().affine.requires_grad_()
    Grid(affine, (4, 6, 5)).voxel_ml.sum().backward()
    assert affine.grad is not None and affine.grad.abs().sum() > 0


def test_zero_spacing_is_refused_in_one_sentence():
    with pytest.raises(GeometryError, match="spacing above zero"):
        Grid.from_spacing((4, 4, 4), (0.0, 1.0, 1.0))


def test_a_grid_without_mm_refuses_to_measure():
    with pytest.raises(GeometryError, match="volume"):
        Grid.pixels((1, 4, 4)).require_mm("a volume")


def test_transform_inverse_and_composition():
    matrix = oblique().affine
    there = Transform(matrix)
    points = torch.rand(1, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(there.inverse().apply(there.apply(points)), points)
    torch.testing.assert_close(there.compose(there).apply(points), there.apply(there.apply(points)))
