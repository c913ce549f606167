"""Strain of motions known on paper; turns strain nothing."""

import math

import torch

from firstread.core.geometry import Grid
from firstread.ops.rigid import exponential
from firstread.ops.strain import around, deformation_gradient, lagrangian_strain

GRID = Grid.from_spacing((1, 81, 81), (8.0, 0.5, 0.5))
NORMAL = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def test_a_ring_that_keeps_its_area_thickens_and_shortens_as_on_paper():
    points = GRID.points_mm()
    radius = points[..., :2].norm(dim=-1).clamp_min(1e-6)
    shrunk = (radius.square() - 60.0).clamp_min(1e-6).sqrt()  # r^2 - R^2 is the same everywhere
    field = torch.cat((points[..., :2] * (shrunk / radius - 1)[..., None], torch.zeros_like(radius)[..., None]), dim=-1)
    strain = lagrangian_strain(deformation_gradient(field.movedim(-1, 1), GRID))
    ring = ((radius > 11) & (radius < 16))[0, 0]
    radial, circular = around(strain[0, 0][ring], points[0, 0][ring], torch.zeros(3, dtype=torch.float64), NORMAL)
    stretch = (shrunk / radius)[0, 0][ring]
    assert (circular - (stretch.square() - 1) / 2).abs().max() < 0.01
    assert (radial - (stretch.pow(-2) - 1) / 2).abs().max() < 0.03


def test_a_turn_strains_nothing_on_an_oblique_grid():
    tilt = exponential(torch.tensor([0.3, -0.4, 0.5, 7.0, 0.0, -3.0], dtype=torch.float64))
    grid = Grid(tilt @ Grid.from_spacing((6, 7, 8), (3.0, 1.5, 1.0)).affine, (6, 7, 8))
    turn = exponential(torch.tensor([[0.0, 0.2, math.pi / 7, 5.0, -2.0, 1.0]], dtype=torch.float64))
    points = grid.points_mm()
    field = points @ turn[0, :3, :3].T + turn[0, :3, 3] - points
    gradient = deformation_gradient(field.movedim(-1, 1), grid)
    torch.testing.assert_close(gradient, turn[:, :3, :3].expand_as(gradient[0, 0, 0]).expand_as(gradient))
    assert lagrangian_strain(gradient).abs().max() < 1e-9
