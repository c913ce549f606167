"""Segment, Consensus and tiles with networks whose answer is known."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from firstread.analyze.consensus import Consensus, average_draws, clean_up, unsure_base
from firstread.analyze.segment import Segment
from firstread.analyze.tiles import tiled, window_starts
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows, SoftLabels
from firstread.core.stage import Chain


class Threshold(nn.Module):
    """Classes by brightness of the middle slice: three levels above zero."""

    def __init__(self, sharp: float = 40.0):
        super().__init__()
        self.sharp = nn.Parameter(torch.tensor(sharp))

    def forward(self, x):
        levels = torch.tensor([0.0, 1.0, 0.67, 0.33]).reshape(1, 4, 1, 1)
        return -self.sharp * (x[:, 1:2] - levels).square()


def heart(shape=(3, 60, 70), spacing=(8.0, 1.5, 1.5), centre=(8.0, -6.0), frame="patient") -> Image:
    """A bright disc in a ring beside a dimmer disc, at a place in millimetres."""
    grid = Grid.from_spacing(shape, spacing)
    points = grid.points_mm()[0].float()
    off = (points[..., :2] - torch.tensor(centre)).norm(dim=-1)
    right = (points[..., :2] - torch.tensor([centre[0] - 26, centre[1]])).norm(dim=-1)
    data = 0.33 * (right < 14).float()
    data = torch.where(off < 16, 0.67, data)
    data = torch.where(off < 9, 1.0, data)
    grid = grid if frame == "patient" else replace(grid, frame=frame)
    return Image(Rows.subjects(1), data[None, None, None], grid)


def segment(**settings) -> Segment:
    return Segment(networks=[Threshold(), Threshold(60.0)], patch=48, search=64, **settings)


def turned(image: Image, how: str) -> Image:
    if how == "transposed":
        return replace(image, data=image.data.transpose(-1, -2), grid=image.grid.permute((0, 2, 1)))
    axis = {"x": -1, "y": -2}[how]
    return replace(image, data=image.data.flip(axis), grid=image.grid.flip(how))


def test_members_are_draws_on_the_grid_of_the_image():
    image = heart()
    labels = segment()(image)
    assert labels.data.shape == (2, 1, 4, 3, 60, 70)
    assert labels.rows.draw.tolist() == [0, 1] and labels.rows.subject.tolist() == [0, 0]
    assert labels.grid.same_as(image.repeat_rows(2).grid)
    assert torch.allclose(labels.data.sum(2), torch.ones(2, 1, 3, 60, 70), atol=1e-5)
    found = labels.data[0, 0].argmax(0)
    truth = (4 - (image.data[0, 0, 0] * 3).round().long()) % 4
    assert (found == truth).float().mean() > 0.98


def test_draws_of_the_input_stay_apart():
    labels = segment()(heart().draws(3))
    assert labels.rows.draw.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("how", ["x", "y", "transposed"])
@pytest.mark.parametrize("spacing", [(8.0, 1.5, 1.5), (8.0, 1.1, 1.3)])
def test_a_turned_image_gives_the_same_labels_in_the_world(how, spacing):
    image = heart(spacing=spacing)
    straight = segment()(image).data
    back = segment()(turned(image, how)).data
    back = back.transpose(-1, -2) if how == "transposed" else back.flip({"x": -1, "y": -2}[how])
    assert torch.allclose(straight, back, atol=2e-3)


def test_finer_pixels_give_the_same_millilitres():
    coarse, fine = heart(), heart((3, 120, 140), (8.0, 0.75, 0.75))
    volumes = [segment()(i).data[0, 0, 1].sum() * i.grid.voxel_ml for i in (coarse, fine)]
    assert torch.allclose(volumes[0], volumes[1], rtol=0.03)


def test_phase_and_scale_of_a_complex_image_do_not_matter():
    image = heart()
    turn = torch.polar(torch.full_like(image.data, 7.0), torch.full_like(image.data, 1.1))
    assert torch.allclose(segment()(replace(image, data=turn * image.data)).data, segment()(image).data, atol=1e-4)


def test_a_grid_without_millimetres_is_taken_at_the_assumed_spacing_and_says_so():
    labels = segment()(heart(frame="none"))
    assert labels.notes[0].code == "assumed_spacing" and "1.5 mm" in labels.notes[0].text
    assert torch.allclose(labels.data, segment()(heart(frame="detector")).data, atol=1e-5)


def test_gradients_reach_the_image():
    image = heart()
    data = image.data.clone().requires_grad_()
    segment()(replace(image, data=data)).data[:, :, 1].sum().backward()
    inside = data.grad[0, 0, 0, :, 20:40, 30:50]
    assert torch.isfinite(data.grad).all() and inside.abs().sum() > 0


@pytest.mark.parametrize("shape", [(1, 9, 200), (1, 300, 40)])
def test_narrow_images_pass(shape):
    assert segment()(heart(shape, centre=(0.0, 0.0))).data.shape[-3:] == shape


def test_bad_images_and_settings():
    image = heart()
    with pytest.raises(SettingError, match="one channel"):
        segment()(replace(image, data=image.data.repeat(1, 1, 2, 1, 1, 1)))
    with pytest.raises(SignalError):
        segment()(replace(image, data=image.data * float("nan")))
    with pytest.raises(SettingError):
        Segment(networks=[])


def soft(index: torch.Tensor, rows: Rows) -> SoftLabels:
    hot = torch.nn.functional.one_hot(index, 4).movedim(-1, 2).float()
    grid = Grid.from_spacing(tuple(index.shape[2:]), (8.0, 1.5, 1.5), batch=len(index))
    return SoftLabels(rows, hot, grid, ("background", "a", "b", "c"))


def test_consensus_averages_draws_of_one_part_only():
    index = torch.tensor([1, 1, 2, 3]).reshape(4, 1, 1, 1, 1)
    rows = Rows(torch.tensor([0, 0, 0, 1]), torch.zeros(4, dtype=torch.int64), torch.tensor([0, 1, 2, 0]))
    merged = average_draws(soft(index, rows))
    assert merged.data[0].flatten().tolist() == pytest.approx([0, 2 / 3, 1 / 3, 0])
    hard = Consensus(clean=False)(soft(index, rows))
    assert hard.data.flatten().tolist() == [1, 3]
    assert hard.top_probability.flatten().tolist() == pytest.approx([2 / 3, 1])


def test_cleaning_keeps_one_heart_and_fills_its_holes():
    index = torch.zeros(1, 1, 1, 12, 20, dtype=torch.int64)
    index[..., 2:9, 2:9] = 2
    index[..., 4:7, 4:7] = 1
    index[..., 5, 5] = 0
    index[..., 10, 18] = 2
    index[..., 3:6, 12:15] = 3
    index[..., 11, 0] = 3
    cleaned = clean_up(index)
    assert cleaned[0, 0, 0, 5, 5] == 1 and cleaned[0, 0, 0, 10, 18] == 0 and cleaned[0, 0, 0, 11, 0] == 0
    assert torch.equal(cleaned[..., 3:6, 12:15], index[..., 3:6, 12:15])
    assert torch.equal(clean_up(cleaned), cleaned)


def test_pieces_of_cavity_stay_where_muscle_surrounds_them():
    index = torch.zeros(1, 1, 3, 16, 16, dtype=torch.int64)
    index[:, :, :, 2:12, 2:12] = 2
    index[:, :, 0, 4:9, 4:9] = 1
    index[:, :, 2, 6:8, 6:8] = 1   # beyond a slice in which the cavity is closed
    index[:, :, 2, 12:14, 5:7] = 1  # outside, touching the wall
    cleaned = clean_up(index)[0, 0]
    assert (cleaned[0, 4:9, 4:9] == 1).all() and (cleaned[2, 6:8, 6:8] == 1).all()
    assert (cleaned[2, 12:14] != 1).all()


def test_the_right_ventricle_is_the_piece_beside_the_left_one_not_the_largest():
    index = torch.zeros(1, 1, 2, 20, 30, dtype=torch.int64)
    index[:, :, :, 2:8, 10:16] = 2
    index[:, :, :, 3:7, 6:9] = 3
    index[:, :, :, 12:20, 10:30] = 3  # a liver
    cleaned = clean_up(index)
    assert (cleaned[:, :, :, 12:] == 0).all() and (cleaned[:, :, :, 3:7, 6:9] == 3).all()
    assert (clean_up(index * (index == 3)) == 3).sum() == 2 * 8 * 20
    index[:, :, :, 8:12, 14] = 3  # the liver reaches the wall in one place
    assert (clean_up(index)[:, :, :, 12:] == 0).all(), "the piece that shares more of the wall stays"


def test_segment_and_consensus_make_a_chain():
    case = Chain(segment(), Consensus())(heart())
    assert case["labels"].data.shape == (1, 1, 1, 3, 60, 70)


@given(st.integers(1, 60), st.integers(1, 20), st.floats(0, 0.9))
def test_windows_cover_everything_and_overlap_enough(size, window, overlap):
    starts = window_starts(size, window, overlap)
    covered = {i for s in starts for i in range(s, s + window)}
    assert covered >= set(range(size)) and starts[-1] + window == max(size, window)
    assert all(b - a <= max(1, int(window * (1 - overlap))) for a, b in pairwise(starts))


@pytest.mark.parametrize(("space", "window"), [((33, 20), (16, 16)), ((9, 14, 11), (8, 8, 8)), ((5, 40), (8, 16))])
@pytest.mark.parametrize("blend", ["gaussian", "linear"])
def test_tiles_equal_the_whole_for_a_pointwise_network(space, window, blend):
    volume = torch.randn(2, 3, *space)
    whole = torch.stack((volume.sum(1), volume.square().sum(1)), dim=1)
    made = tiled(lambda x: torch.stack((x.sum(1), x.square().sum(1)), dim=1), volume, window=window, blend=blend,
                 at_once=3)
    assert torch.allclose(made, whole, atol=1e-4)


def test_tiles_equal_the_whole_for_a_convolution_away_from_window_borders():
    torch.manual_seed(0)
    network, volume = nn.Conv2d(1, 2, 3, padding=1), torch.randn(1, 1, 24, 24)
    one = tiled(network, volume, window=(24, 24))
    assert torch.allclose(one, network(volume), atol=1e-5)


@pytest.mark.slow
def test_tiles_equal_monais_sliding_window():
    inferers = pytest.importorskip("monai.inferers")
    torch.manual_seed(0)
    network, volume = nn.Conv3d(1, 2, 5, padding=2), torch.randn(1, 1, 20, 40, 34)
    theirs = inferers.sliding_window_inference(volume, (16, 16, 16), 4, network, overlap=0.25, mode="gaussian")
    assert torch.allclose(tiled(network, volume, window=(16, 16, 16), overlap=0.25), theirs, atol=1e-6)


def test_tiles_refuse_what_does_not_fit():
    for wrong in ({"window": (4,)}, {"window": (4, 4), "overlap": 1.0}, {"window": (4, 4), "at_once": 0}):
        with pytest.raises(SettingError):
            tiled(nn.Identity(), torch.zeros(1, 1, 8, 8), **wrong)


@pytest.mark.parametrize("turned", [False, True])
def test_the_right_ventricle_ends_where_the_network_is_sure_of_it(turned):
    sizes, sure = [9, 10, 8, 6, 4, 2], [0.80, 0.93, 0.99, 0.98, 0.97, 0.60]
    right = torch.arange(10) < torch.tensor(sizes)[:, None]
    probability = torch.tensor(sure)[:, None].expand(-1, 10)
    if turned:  # the base last
        right, probability, sizes = right.flip(0), probability.flip(0), sizes[::-1]
    above = unsure_base(right[None, None, :, None], probability[None, None, :, None]).sum(dim=(-1, -2)).flatten()
    assert above.tolist() == ([0, 0, 0, 0, 10, 9] if turned else [9, 10, 0, 0, 0, 0]), "never the apex"


def test_a_right_ventricle_of_one_slice_or_of_equal_sureness_stays():
    for right in (torch.ones(1, 2, 5, 3, 3, dtype=torch.bool), torch.ones(1, 1, 1, 3, 3, dtype=torch.bool)):
        assert not unsure_base(right, torch.full(right.shape, 0.6)).any()
