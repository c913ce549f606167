"""Tracking follows a beating disc and stays at rest in the reference frame; a template lies in the middle."""

import pytest
import torch

from firstread.analyze.register_deformable import Effort
from firstread.analyze.register_group import ToTemplate
from firstread.analyze.register_motion import TrackMotion
from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.ops.warp import apply

RADII = (9.0, 8.0, 7.0, 8.0)


def disc(radius: float, shape=(1, 40, 40)) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(shape[1]) - 19.5, torch.arange(shape[2]) - 19.5, indexing="ij")
    r = (x**2 + y**2).sqrt()
    return (torch.sigmoid(2 * (radius - r)) + 0.5 * torch.sigmoid(2 * (radius + 5 - r))).expand(*shape)


@pytest.fixture(scope="module")
def cine() -> Image:
    data = torch.stack([disc(radius, (2, 40, 40)) for radius in RADII])[None, :, None]
    return Image(Rows.subjects(1), data, Grid.from_spacing((2, 40, 40), (8.0, 1.5, 1.5)))


def test_points_on_the_edge_stay_on_it(cine):
    motion = TrackMotion(smooth_frames=0.0)(cine)
    assert motion.in_plane and motion.displacement_mm[:, :, 2].abs().max() == 0
    angle = torch.arange(12) * (2 * torch.pi / 12)
    points = 1.5 * torch.stack((9.0 * angle.cos(), 9.0 * angle.sin(), torch.full((12,), 0.0)), dim=-1)[None].double()
    points[..., 2] = -4.0
    for frame, radius in enumerate(RADII):
        moved = apply(motion.at(frame), points)[..., :2].norm(dim=-1)
        assert (moved - 1.5 * radius).abs().max() < 0.6
    assert motion.displacement_mm[:, 0].abs().max() == 0


def test_smoothing_over_time_damps_a_frame_that_jumps(cine):
    data = cine.data.clone()
    data[:, 2] = disc(4.0, (2, 40, 40))
    jumps = Image(cine.rows, data, cine.grid)
    rough, smooth = (TrackMotion(smooth_frames=sd)(jumps).displacement_mm for sd in (0.0, 1.0))
    second = lambda d: (d[:, 1] - 2 * d[:, 2] + d[:, 3]).norm()  # noqa: E731
    assert second(smooth) < 0.7 * second(rough)


def test_a_template_lies_between_its_subjects():
    data = torch.stack([disc(6.0), disc(10.0)])[:, None, None]
    image = Image(Rows.subjects(2), data, Grid.from_spacing((1, 40, 40), (5.0, 1.0, 1.0), batch=2))
    made = ToTemplate(rounds=3, effort=Effort(shrink=(2, 1), iterations=(20, 15), discrete=False))(image)
    areas = [float((row > 1).sum()) for row in made.data]
    assert areas[0] == pytest.approx(areas[1], rel=0.1)
    radius = (sum(areas) / 2 / torch.pi) ** 0.5
    assert 7.3 < radius < 8.7


def test_bad_series_are_refused(cine):
    with pytest.raises(SettingError, match="1 frames"):
        TrackMotion()(Image(cine.rows, cine.data[:, :1], cine.grid))
    with pytest.raises(SettingError, match="reference 9"):
        TrackMotion(reference=9)(cine)
    with pytest.raises(SettingError, match="frames"):
        ToTemplate()(cine)
