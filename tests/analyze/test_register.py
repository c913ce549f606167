"""Registration finds known maps of a head phantom, in millimetres, whatever the contrast; bad pairs are refused."""

from dataclasses import replace

import pytest
import torch

from firstread.acquire.head import head_phantom
from firstread.analyze.register import Register, shared_information, unit_range
from firstread.analyze.register_deformable import Effort
from firstread.analyze.register_discrete import discrete_displacement
from firstread.analyze.register_linear import overlap
from firstread.core.errors import GeometryError, SettingError, SignalError
from firstread.core.geometry import Grid, Transform
from firstread.core.records import Image, Rows
from firstread.ops.rigid import about
from firstread.ops.rigid import exponential as rigid
from firstread.ops.separable import smooth
from firstread.ops.velocity import exponential, sample_at
from firstread.ops.warp import apply, jacobian_determinant, warp

QUICK = Effort(shrink=(4, 2, 1), iterations=(20, 15, 10))


@pytest.fixture(scope="module")
def head() -> Image:
    data, _ = head_phantom(seed=0, spacing_mm=4.0)
    return Image(Rows.subjects(1), data[None, None, None], Grid.from_spacing((26, 26, 26), (4.0, 4.0, 4.0)))


def seen_through(image: Image, transform: Transform) -> Image:
    return replace(image, data=warp(image.data[:, 0], image.grid, transform, image.grid)[:, None])


def inside(image: Image) -> torch.Tensor:
    """Places of voxels in the head."""
    return image.grid.points_mm()[:, image.data[0, 0, 0] > 0.1]


def error_mm(found: Transform, true: Transform, places: torch.Tensor) -> float:
    return float((apply(found, places) - apply(true, places)).norm(dim=-1).mean())


@pytest.mark.parametrize("metric", ["mi", "lncc", "ngf"])
def test_a_rigid_motion_is_found_under_another_contrast(head, metric):
    true = Transform(rigid(torch.tensor([[0.1, -0.15, 0.2, 6.0, -8.0, 5.0]], dtype=torch.float64)))
    fixed = seen_through(head, true)
    fixed = replace(fixed, data=(1.2 - fixed.data.clamp(0, 1)) ** 2)
    found = Register(kind="rigid", metric=metric)(fixed, head)
    assert error_mm(found.forward, true, inside(head)) < 0.8
    assert found.after > found.before and found.metric == metric
    round_trip = apply(found.backward, apply(found.forward, inside(head)))
    torch.testing.assert_close(round_trip, inside(head))
    rotation = found.forward.matrix[0, :3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))


def test_what_does_not_say_where_it_belongs_is_doubted(head):
    assert not Register(kind="rigid")(head, head).notes
    x = torch.linspace(-1, 1, 26)
    ball = (-5 * (x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)).exp()
    round_one = replace(head, data=ball[None, None, None])
    found = Register(kind="rigid")(round_one, round_one)
    assert [note.code for note in found.notes] == ["ambiguous"] and "mm away makes" in found.notes[0].text
    dots = torch.zeros_like(head.data)
    dots[..., 10, 12, 9:11] = dots[..., 15, 8, 14:16] = 1
    sparse = replace(head, data=dots)
    assert "hardly_alike" in {note.code for note in Register(kind="rigid")(head, sparse).notes}
    both = Register(kind="rigid")(*(replace(head, rows=Rows.subjects(2), data=torch.cat((head.data, image.data)),
                                            grid=Grid(head.grid.affine.expand(2, 4, 4), head.grid.shape))
                                    for image in (round_one, round_one)))
    assert [note.code for note in both.notes] == ["ambiguous"]


@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 128, 128), (24, 24, 24)])
def test_small_images_of_noise_have_nothing_in_common(shape):
    g = torch.Generator().manual_seed(0)
    grid = Grid.from_spacing(shape, (4.0, 4.0, 4.0))
    one, two = (smooth(torch.randn(shape, generator=g), (1.0 * (shape[0] > 1), 1.0, 1.0)) for _ in range(2))
    pair = [Image(Rows.subjects(1), data[None, None, None], grid) for data in (one, two)]
    assert "hardly_alike" in {note.code for note in Register(kind="rigid")(*pair).notes}
    scaled = [unit_range(image.data) for image in pair]
    assert shared_information(*scaled) < 0.02 < 1 < shared_information(scaled[0], scaled[0])
    assert "hardly_alike" not in {note.code for note in Register(kind="rigid")(pair[0], pair[0]).notes}


def test_a_map_that_stretches_much_is_doubted(head):
    matrix = about(torch.diag(torch.tensor([1.35, 1.0, 1.0, 1.0], dtype=torch.float64)), inside(head)[0].mean(dim=0))
    fixed = seen_through(head, Transform(matrix[None]))
    found = Register(kind="affine")(fixed, head)
    assert [note.code for note in found.notes] == ["stretched"] and "makes lengths 1.00 to 1." in found.notes[0].text
    assert Register(first="affine", effort=QUICK)(fixed, head).notes == found.notes
    assert "stretched" not in {note.code for note in Register(kind="rigid")(fixed, head).notes}


def test_an_affine_map_is_found(head):
    matrix = rigid(torch.tensor([[0.05, 0.1, -0.1, 4.0, 3.0, -5.0]], dtype=torch.float64)).clone()
    matrix[:, :3, :3] = matrix[:, :3, :3] @ torch.diag(torch.tensor([1.1, 0.93, 1.05], dtype=torch.float64))
    found = Register(kind="affine")(seen_through(head, Transform(matrix)), head)
    assert error_mm(found.forward, Transform(matrix), inside(head)) < 0.8


def test_a_slice_turns_in_its_plane(head):
    grid = Grid.from_spacing((1, 26, 26), (4.0, 4.0, 4.0))
    flat = Image(head.rows, head.data[:, :, :, 13:14], grid)
    true = Transform(rigid(torch.tensor([[0.0, 0.0, 0.25, 6.0, -4.0, 0.0]], dtype=torch.float64)))
    found = Register(kind="rigid")(seen_through(flat, true), flat)
    assert error_mm(found.forward, true, inside(flat)) < 1.0
    assert found.forward.matrix[0, 2].tolist() == pytest.approx([0, 0, 1, 0], abs=1e-12)


def test_a_deformation_is_found_without_folds(head):
    velocity = smooth(torch.randn(1, 3, 26, 26, 26, generator=torch.Generator().manual_seed(1)), (4.0, 4.0, 4.0))
    field = exponential(1.5 * velocity / velocity.norm(dim=1).mean())
    true = Transform(torch.eye(4, dtype=torch.float64)[None], 4.0 * field, head.grid)
    fixed = replace(head, data=sample_at(head.data[:, 0], field)[:, None] ** 0.8)
    found = Register(first="none", effort=QUICK)(fixed, head)
    places = inside(fixed)
    assert error_mm(found.forward, true, places) < 0.45 * error_mm(Transform.identity(), true, places)
    assert jacobian_determinant(found.forward, head.grid).min() > 0
    round_trip = apply(found.backward, apply(found.forward, places)) - places
    assert round_trip.norm(dim=-1).mean() < 0.15  # between voxels
    there = found.backward.from_grid.points_mm()
    assert (apply(found.forward, apply(found.backward, there)) - there).norm(dim=-1).max() < 0.002
    again = Register(first="none", effort=QUICK)(fixed, head)
    assert torch.equal(found.forward.displacement_mm, again.forward.displacement_mm)


def test_a_rotated_world_gives_the_same_answer(head):
    turn = rigid(torch.tensor([0.4, -0.3, 0.9, 20.0, 10.0, -5.0], dtype=torch.float64))
    true = Transform(rigid(torch.tensor([[0.05, 0.05, 0.1, 3.0, 2.0, -2.0]], dtype=torch.float64)))
    fixed = seen_through(head, true)
    elsewhere = Grid(turn @ head.grid.affine, head.grid.shape)
    there = Register(kind="rigid")(replace(fixed, grid=elsewhere), replace(head, grid=elsewhere))
    here = Register(kind="rigid")(fixed, head)
    moved = turn @ here.forward.matrix[0] @ torch.linalg.inv(turn)
    assert error_mm(there.forward, Transform(moved[None]), Transform(turn[None]).apply(inside(head))) < 0.3


def test_large_motion_is_found_by_the_search(head):
    image = head.data[0, 0, 0]
    found = discrete_displacement(torch.roll(image, -6, dims=2), image)
    assert 4.0 < found[0, 0, 8:18, 8:18, 6:14].mean() < 7.0 and found[0, 1:].abs().mean() < 1.0


def test_headers_far_apart_are_brought_together(head):
    away = head.grid.affine.clone()
    away[:, :3, 3] += torch.tensor([500.0, 0.0, 300.0], dtype=torch.float64)
    far = replace(head, grid=Grid(away, head.grid.shape))
    assert overlap(head.grid, far.grid, torch.eye(4, dtype=torch.float64)) == 0
    found = Register(kind="rigid")(head, far)
    true = Transform(torch.linalg.solve(torch.eye(4, dtype=torch.float64), away[0] @ torch.linalg.inv(
        head.grid.affine[0]))[None])
    assert error_mm(found.forward, true, inside(head)) < 0.3
    with pytest.raises(GeometryError, match="do not overlap"):
        Register(first="none")(head, far)


def test_bad_pairs_are_refused(head):
    flat = Image(head.rows, head.data[:, :, :, 13:14], Grid.from_spacing((1, 26, 26), (4.0, 4.0, 4.0)))
    with pytest.raises(GeometryError, match="2D"):
        Register()(head, flat)
    with pytest.raises(SignalError, match="one value"):
        Register()(replace(head, data=torch.ones_like(head.data)), head)
    with pytest.raises(SignalError, match="no numbers"):
        Register()(head, replace(head, data=head.data * float("nan")))
    with pytest.raises(GeometryError, match="without spacing"):
        Register()(replace(head, grid=Grid.pixels(head.grid.shape)), head)
    with pytest.raises(SettingError, match="2 frames"):
        Register()(replace(head, data=head.data.expand(1, 2, 1, 26, 26, 26)), head)
    with pytest.raises(SettingError, match="levels"):
        Effort(shrink=(2, 1), iterations=(5,))
