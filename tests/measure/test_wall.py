"""Wall thickness and AHA segments: shells of known thickness, turned and flipped grids."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Rows
from firstread.measure import aha, wall
from firstread.measure.cardiac import CLASSES, CardiacFunction

NAMES = ("background", *CLASSES)
SPACING = (8.0, 1.2, 1.5)
WALLS = (8.0, 12.0)  # towards +y and -y (in LPS+ millimetres: +y is posterior)


def heart(*, turn_deg=0.0, slices=9, size=(96, 80)):
    """A tapered shell, thicker at the front, the right ventricle to the patient's right; base at the upper end (+z).

    ``turn_deg`` turns the image's axes in the plane: the heart stays where it is in the world.
    """
    grid = Grid.from_spacing((slices, *size), SPACING)
    turn = np.radians(turn_deg)
    rotation = torch.eye(4, dtype=torch.float64)
    rotation[:2, :2] = torch.tensor([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    grid = replace(grid, affine=rotation @ grid.affine)
    x, y, z = grid.points_mm()[0].unbind(-1)
    inner = 18 + 0.1 * z
    angle = torch.atan2(-y, x)
    outer = inner + 10 + 2 * torch.sin(angle)
    distance = (x**2 + y**2).sqrt()
    data = torch.zeros(grid.shape, dtype=torch.uint8)
    data[((x + 32)**2 + y**2 <= (12 + 0.1 * z)**2)] = 3
    data[distance <= outer] = 2
    data[distance <= inner] = 1
    return HardLabels(Rows.subjects(), data[None, None, None].repeat(1, 2, 1, 1, 1, 1), grid, NAMES)


def segments(labels):
    found = CardiacFunction()(labels)
    return torch.cat([found[f"WT_AHA_{i}"].value for i in range(1, 17)])


def test_a_cylinder_shell_has_its_thickness_within_half_a_pixel():
    y, x = np.meshgrid(np.arange(64) - 31.3, np.arange(64) - 31.8, indexing="ij")
    for inner, outer in ((10.0, 16.0), (14.0, 19.5), (8.0, 20.0)):
        distance = np.hypot(x, y)
        piece = aha.Slice(distance <= inner, (distance > inner) & (distance <= outer), distance > 30, np.eye(4))
        _, thickness = wall.wall_thickness_mm(piece)
        assert thickness.mean() == pytest.approx(outer - inner, abs=0.25)
        assert np.abs(thickness - (outer - inner)).max() < 0.75


def test_smoothed_contour_of_a_disc_lies_on_its_circle():
    y, x = np.meshgrid(np.arange(64) - 32, np.arange(64) - 32, indexing="ij")
    points = wall.smooth_contour(wall.outline(np.hypot(x, y) <= 20.0))
    radius = np.hypot(points[:, 0] - 32, points[:, 1] - 32)
    assert radius.mean() == pytest.approx(20.0, abs=0.2)
    assert radius.std() < 0.25


def test_segments_are_where_they_belong():
    found = segments(heart())
    front = {1: 12.0, 7: 12.0, 13: 12.0}
    back = {4: 8.0, 10: 8.0, 15: 8.0}
    for index, expected in (front | back).items():
        assert found[index - 1].item() == pytest.approx(expected, abs=0.6), index
    for index in (2, 6, 8, 12):
        assert 10.5 < found[index - 1] < 12, index
    for index in (3, 5, 9, 11):
        assert 8 < found[index - 1] < 9.7, index
    assert found.isfinite().all()


@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_segments_do_not_change_when_the_grid_is_flipped(axis):
    labels = heart(turn_deg=20)
    flipped = replace(labels, data=labels.data.flip("btczyx".index(axis)), grid=labels.grid.flip(axis))
    assert torch.allclose(segments(labels), segments(flipped), atol=0.05)


def test_segments_do_not_change_when_in_plane_axes_are_exchanged():
    labels = heart(turn_deg=20)
    exchanged = replace(labels, data=labels.data.permute(0, 1, 2, 3, 5, 4), grid=labels.grid.permute((0, 2, 1)))
    assert torch.allclose(segments(labels), segments(exchanged), atol=0.05)


@pytest.mark.parametrize("turn", [30.0, 75.0, 140.0, 250.0])
def test_segments_hardly_change_when_the_grid_is_turned(turn):
    assert torch.allclose(segments(heart()), segments(heart(turn_deg=turn)), atol=0.5)


def test_the_base_is_the_wide_end_whatever_the_header_says():
    labels = heart()
    ordered = aha.base_to_apex(_slices(labels))
    assert ordered[0].cavity.sum() > ordered[-1].cavity.sum()
    assert "apex_above_base" not in {n.code for n in CardiacFunction()(labels).notes}
    turned = replace(labels, data=labels.data.flip(3))
    ordered = aha.base_to_apex(_slices(turned))
    assert ordered[0].cavity.sum() > ordered[-1].cavity.sum()
    assert "apex_above_base" in {n.code for n in CardiacFunction()(turned).notes}


def _slices(labels):
    affine = labels.grid.affine[0].numpy()
    found = []
    for z, plane in enumerate(labels.data[0, 0, 0].numpy()):
        place = affine.copy()
        place[:3, 3] += z * affine[:3, 2]
        found.append(aha.Slice(plane == 1, plane == 2, plane == 3, place))
    return found


@pytest.mark.parametrize("count, expected", [(3, [0, 1, 2]), (4, [0, 0, 1, 2]), (9, [0, 0, 0, 1, 1, 1, 2, 2, 2])])
def test_thirds_are_cut_at_the_ceilings(count, expected):
    assert aha.thirds(count) == expected


@pytest.mark.parametrize("angle, basal, apical", [(-30, 1, 13), (29.9, 1, 13), (30, 2, 13), (45, 2, 14), (90, 3, 14),
                                                  (149, 3, 15), (150, 4, 15), (-150.1, 4, 15), (-150, 5, 15),
                                                  (-90.1, 5, 16), (-90, 6, 16), (-45, 6, 13), (-45.1, 6, 16)])
def test_sector_borders_are_those_of_the_convention(angle, basal, apical):
    axes = aha.HeartAxes(np.array([0, 0, 1.0]), np.array([0, 1.0, 0]), np.array([1.0, 0, 0]))
    point = np.array([[np.cos(np.radians(angle)), np.sin(np.radians(angle)), 0.0]]) * 20
    if angle not in (-30, 30, 45, 90, 150, -150, -90, -45):  # on a border rounding decides
        assert aha.segment_of(point, np.zeros(3), axes, aha.BASAL).tolist() == [basal]
        assert aha.segment_of(point, np.zeros(3), axes, aha.MIDDLE).tolist() == [basal + 6]
        assert aha.segment_of(point, np.zeros(3), axes, aha.APICAL).tolist() == [apical]
    inside = np.array([[np.cos(np.radians(angle + 0.01)), np.sin(np.radians(angle + 0.01)), 0.0]])
    assert aha.segment_of(inside, np.zeros(3), axes, aha.APICAL)[0] in range(13, 17)


def test_thickness_is_measured_in_millimetres_not_pixels():
    small, large = heart(), heart()
    large = replace(large, grid=replace(large.grid, affine=large.grid.affine * torch.tensor([2.0, 2.0, 2.0, 1.0])))
    assert torch.allclose(segments(large), 2 * segments(small), atol=1e-6)
