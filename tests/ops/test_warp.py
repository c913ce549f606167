"""Transforms at work: points and images move together, inverses come back, Jacobians are those of formulas."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import GeometryError
from firstread.core.geometry import Grid, Transform
from firstread.ops.rigid import exponential as rigid
from firstread.ops.warp import apply, compose, field_at, inverse, jacobian_determinant, moved_grid, warp


def turned(shape=(12, 14, 16), spacing=(2.0, 1.5, 1.0)) -> Grid:
    """An oblique grid with different spacings."""
    grid = Grid.from_spacing(shape, spacing)
    return Grid(rigid(torch.tensor([0.2, -0.3, 0.4, 5.0, 1.0, -3.0], dtype=torch.float64)) @ grid.affine, shape)


def wavy(grid: Grid, size_mm: float = 1.0) -> Transform:
    """A small rigid motion and a smooth field on it."""
    matrix = rigid(torch.tensor([[0.05, 0.1, -0.05, 1.0, -2.0, 0.5]], dtype=torch.float64))
    points = grid.points_mm()
    field = size_mm * torch.stack([torch.sin(points[..., k] / 6 + k) for k in (1, 2, 0)], dim=1)
    return Transform(matrix, field, grid)


def inner_points(grid: Grid) -> torch.Tensor:
    return grid.points_mm()[:, 3:-3, 3:-3, 3:-3].reshape(1, -1, 3)


def test_an_image_of_places_moves_as_points_do():
    grid = turned()
    transform = wavy(grid)
    seen = warp(grid.points_mm().movedim(-1, 1), grid, transform, grid)
    inside = warp(torch.ones(1, 1, *grid.shape, dtype=torch.float64), grid, transform, grid)[0, 0] > 0.9999
    torch.testing.assert_close(seen[0][:, inside], apply(transform, grid.points_mm())[0].movedim(-1, 0)[:, inside],
                               rtol=0, atol=1e-3)


def test_the_inverse_comes_back():
    grid = turned()
    transform = wavy(grid)
    points = inner_points(grid)
    there = apply(transform, points)
    assert (there - points).norm(dim=-1).mean() > 1
    assert (apply(inverse(transform), there) - points).abs().max() < 0.03
    assert inverse(transform).from_grid.same_as(moved_grid(grid, transform.matrix))


def test_an_inverse_nearby_is_made_exact_and_nothing_gets_worse():
    grid = turned()
    transform = wavy(grid)
    exact = inverse(transform)
    rough = replace(exact, displacement_mm=exact.displacement_mm + 0.5)
    places = exact.from_grid.points_mm()
    for near in (rough, exact):
        made = inverse(transform, near=near)
        assert (apply(transform, apply(made, places)) - places).norm(dim=-1).max() < 0.002
    folded = replace(transform, displacement_mm=8 * transform.displacement_mm)
    off = [(apply(folded, apply(one, places)) - places).norm(dim=-1) for one in (rough, inverse(folded, near=rough))]
    assert (off[1] <= off[0] + 1e-3).all() and off[1].mean() < off[0].mean()


def test_composition_is_one_after_the_other():
    grid = turned()
    first, second = wavy(grid), Transform(rigid(torch.tensor([[0.1, 0.0, 0.0, 0.0, 2.0, 1.0]], dtype=torch.float64)))
    points = inner_points(grid)
    torch.testing.assert_close(apply(compose(second, first), points), apply(second, apply(first, points)))
    around = compose(inverse(first), first)
    assert (apply(around, points) - points).abs().max() < 0.03


@settings(max_examples=10, deadline=None)
@given(st.floats(-0.3, 0.5), st.floats(-0.3, 0.5), st.floats(-0.2, 0.2))
def test_the_jacobian_of_a_linear_field_is_its_determinant(x, y, shear):
    grid = turned()
    linear = torch.diag(torch.tensor([x, y, 0.1], dtype=torch.float64))
    linear[0, 1] = shear
    points = grid.points_mm()
    field = torch.einsum("ij,bzyxj->bizyx", linear, points)
    matrix = rigid(torch.tensor([[0.3, 0.1, -0.2, 1.0, 2.0, 3.0]], dtype=torch.float64))
    wanted = torch.linalg.det(matrix[0, :3, :3] + linear).item()
    found = jacobian_determinant(Transform(matrix, field, grid), grid)
    assert (found - wanted).abs().max() < 1e-4


def test_a_fold_is_seen():
    grid = Grid.from_spacing((6, 6, 6), (1.0, 1.0, 1.0))
    field = torch.zeros(1, 3, 6, 6, 6)
    field[:, 0] = -2.0 * torch.arange(6)
    eye = torch.eye(4, dtype=torch.float64)[None]
    assert (jacobian_determinant(Transform(eye, field, grid), grid) + 1).abs().max() < 1e-5


def test_a_slice_is_warped_in_its_plane():
    grid = Grid.from_spacing((1, 8, 8), (5.0, 1.0, 1.0))
    shift = torch.eye(4, dtype=torch.float64)[None].clone()
    shift[:, 0, 3] = 2.0
    image = torch.arange(8.0).expand(1, 1, 1, 8, 8)
    assert torch.equal(warp(image, grid, Transform(shift), grid)[..., :6], image[..., 2:])


def test_gradients_reach_image_and_field():
    grid = Grid.from_spacing((2, 3, 4), (1.0, 1.0, 1.0))
    data = torch.randn(1, 1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    field = (0.2 * torch.randn(1, 3, 2, 3, 4, dtype=torch.float64)).requires_grad_()
    eye = torch.eye(4, dtype=torch.float64)[None]
    assert torch.autograd.gradcheck(lambda d, f: warp(d, grid, Transform(eye, f, grid), grid, outside="border"),
                                    (data, field))


def test_rows_are_independent():
    grid = turned()
    one, two = wavy(grid), wavy(grid, 0.3)
    both = Transform(torch.cat((one.matrix, two.matrix)), torch.cat((one.displacement_mm, two.displacement_mm)),
                     Grid(grid.affine.expand(2, 4, 4), grid.shape))
    points = inner_points(grid).expand(2, -1, 3)
    torch.testing.assert_close(apply(both, points)[1:], apply(two, points[:1]))
    assert (apply(inverse(both), apply(both, points)) - points).abs().max() < 0.03


def test_misfits_are_refused():
    grid = turned()
    with pytest.raises(GeometryError, match="field"):
        wavy(grid).compose(wavy(grid))
    with pytest.raises(GeometryError, match="grid"):
        Transform(torch.eye(4, dtype=torch.float64)[None], torch.zeros(1, 3, 2, 2, 2), grid)
    assert field_at(Transform.identity(), torch.ones(1, 2, 3)).abs().sum() == 0
