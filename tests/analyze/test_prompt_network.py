"""The promptable network: what it is shown lies where it was said, its answer comes back there; pieces, gradients."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from firstread.analyze.prompt_channels import CHANNELS, SIZE, about, decode, encode, likeness, prompt_window
from firstread.analyze.prompt_network import PromptedNetwork
from firstread.analyze.prompted import SegmentPrompted
from firstread.analyze.prompting import PlanePrompt
from firstread.analyze.random_walk import RandomWalker
from firstread.chains.prompted import prompt_network
from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.prompts import Prompts
from firstread.core.records import Image, Rows
from firstread.nets.resunet import ResUNet
from firstread.ops.regions import dice


def disc(centre, radius, shape=(70, 80)):
    y, x = torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij")
    return (y - centre[0])**2 + (x - centre[1])**2 <= radius**2


def said(points=(), positive=(), box=None, before=None, spacing=(1.0, 1.0)):
    return PlanePrompt(torch.tensor(points, dtype=torch.float32).reshape(-1, 2), torch.tensor(positive).bool(),
                       None if box is None else torch.tensor(box, dtype=torch.float32), spacing, before)


class Channel(nn.Module):
    """A stand-in that answers with one of its channels: what is above a half is the object."""

    def __init__(self, number):
        super().__init__()
        self.number, self.windows = number, []

    def forward(self, x):
        assert x.shape[1:] == (CHANNELS, SIZE, SIZE)
        self.windows.append(x.shape)
        object_ = 20 * (x[:, self.number] - 0.5)
        return torch.stack((torch.zeros_like(object_), object_), dim=1)


@pytest.mark.parametrize("centre", [(35, 40), (4, 76)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.6)])
def test_the_mask_before_comes_back_where_it_was(centre, spacing):
    mask = disc(centre, 12)
    plane = torch.rand(1, 70, 80, generator=torch.Generator().manual_seed(0))
    made = PromptedNetwork(network=Channel(6))(plane, said(before=(plane, mask), spacing=spacing)) > 0.5
    assert dice(made[None], mask[None]) > 0.97


def test_a_box_comes_back_where_it_was():
    plane = torch.rand(1, 70, 80, generator=torch.Generator().manual_seed(0))
    made = PromptedNetwork(network=Channel(4))(plane, said(box=(20, 30, 41, 47))) > 0.5
    assert abs(int(made.sum()) - 22 * 18) < 25 and made[21:41, 31:47].all() and not made[:19].any()


def test_clicks_lie_where_they_were_set():
    prompt = said([(30, 20), (44, 60)], [True, False], spacing=(1.0, 0.8))
    window = prompt_window(prompt, 45.0)
    seen = encode(torch.rand(70, 80), prompt, window)
    for channel, place in ((2, (30, 20)), (3, (44, 60))):
        at = decode(seen[channel], window, (70, 80)) - 0.5
        assert divmod(int(at.argmax()), 80) == place
    assert not seen[4:].any()


def test_windows_are_square_in_millimetres_and_hold_what_was_said():
    top, left, bottom, right = about(torch.tensor([[[10.0, 20.0], [30.0, 40.0]]]), (1.0, 2.0), 10.0)
    assert top <= 0 and left <= 15 and bottom - top == pytest.approx(2 * (right - left), abs=3)
    box = prompt_window(said(box=(10, 10, 29, 29)), 1.0)
    assert box[0] < 5 and box[3] > 34
    small = prompt_window(said(box=(10, 10, 11, 11)), 1.0)
    assert small[2] - small[0] >= 16


def test_grey_values_of_what_was_pointed_at_are_likely_there():
    values = torch.where(disc((35, 40), 15), 0.8, 0.2).requires_grad_()
    like = likeness(values, values, disc((35, 40), 3).float())
    assert like[35, 50] > 0.8 and like[5, 5] < 0.1
    like.sum().backward()
    assert torch.isfinite(values.grad).all()


def test_only_the_piece_that_was_pointed_at_is_kept_and_is_looked_at_twice():
    plane = (disc((20, 20), 7) | disc((50, 60), 7)).float()[None]
    network = Channel(0)
    made = PromptedNetwork(network=network)(plane, said([(20, 20)], [True])) > 0.5
    assert dice(made[None], disc((20, 20), 7)[None]) > 0.95 and len(network.windows) == 2
    assert not (PromptedNetwork(network=Channel(0))(plane, said([(35, 40)], [True])) > 0.5).any()


def real_network():
    torch.manual_seed(0)
    return ResUNet(channels_in=CHANNELS, channels_out=2, widths=(8, 8), strides=((2, 2),) * 2, blocks=(1, 1)).eval()


@pytest.mark.parametrize("prompts", [{"points": [(22, 18, 1), (4, 4, 1)], "positive": [True, False]},
                                     {"boxes": [(14, 10, 1, 30, 26, 1)]}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_reaches_the_image_and_nothing_is_changed(prompts, dtype):
    grid = Grid.from_spacing((3, 40, 44), (4.0, 1.0, 1.0))
    data = (disc((18, 22), 9, (40, 44)) + 0.1 * torch.rand(3, 40, 44)).to(dtype)[None, None, None]
    leaf, kept = data.clone().requires_grad_(), data.clone()
    stage = SegmentPrompted(method=PromptedNetwork(network=real_network()), least_px=1)
    weights = {name: value.clone() for name, value in stage.state_dict().items()}
    labels = stage(Image(Rows.subjects(1), leaf, grid), Prompts.on_grid(grid, **prompts))
    assert labels.data.dtype == dtype and labels.data.shape == (1, 1, 2, 3, 40, 44)
    labels.data[:, :, 1].sum().backward()
    assert torch.isfinite(leaf.grad).all() and leaf.grad.abs().sum() > 0
    assert torch.equal(leaf.detach(), kept)
    assert all(torch.equal(value, weights[name]) for name, value in stage.state_dict().items())
    other = SegmentPrompted(method=PromptedNetwork(network=real_network()), least_px=1)
    other.load_state_dict(stage.state_dict())
    again = other(Image(Rows.subjects(1), data, grid), Prompts.on_grid(grid, **prompts))
    assert torch.equal(again.data, labels.data.detach())


def test_a_brighter_image_gives_the_same_mask():
    grid = Grid.from_spacing((1, 40, 44), (4.0, 1.0, 1.0))
    data = (disc((18, 22), 9, (40, 44)) + 0.1 * torch.rand(40, 44))[None, None, None, None]
    stage = SegmentPrompted(method=PromptedNetwork(network=real_network()))
    image, prompts = Image(Rows.subjects(1), data, grid), Prompts.on_grid(grid, points=[(22, 18, 0)])
    one, other = (stage(replace(image, data=values), prompts).data for values in (data, 300 * data - 1000))
    torch.testing.assert_close(one, other, atol=2e-3, rtol=0)


@pytest.mark.parametrize("prompt", [said([(10, 10)], [True]), said(box=(5, 5, 20, 20)),
                                    said(before=(torch.rand(1, 30, 30), disc((10, 10), 6, (30, 30))))])
def test_a_plane_without_contrast_holds_nothing(prompt):
    plane = torch.full((1, 30, 30), 0.1, requires_grad=True)
    made = PromptedNetwork(network=prompt_network("prompt"))(plane, prompt)
    assert made.shape == (30, 30) and not made.any()
    made.sum().backward()
    assert torch.isfinite(plane.grad).all()


@pytest.mark.parametrize("reach", [0.0, -5.0, float("inf"), float("nan")])
def test_a_reach_of_nothing_or_without_end_is_refused(reach):
    with pytest.raises(SettingError, match="a reach of"):
        PromptedNetwork(network=Channel(0), reach_mm=reach)
    with pytest.raises(SettingError, match="reach "):
        RandomWalker(reach_mm=reach)


@pytest.mark.parametrize(("reach", "spacing"), [(1e5, (1.0, 1.0)), (50.0, (0.00025, 0.00025))])
def test_a_reach_beyond_the_plane_is_the_whole_plane(reach, spacing):
    """Such as the default reach in a picture from a microscope: a window that large needs no memory of that size."""
    plane = disc((20, 20), 7).float()[None]
    clicks = said([(20, 20)], [True], spacing=spacing)
    made = PromptedNetwork(network=Channel(0), reach_mm=reach)(plane, clicks)
    whole = PromptedNetwork(network=Channel(0), reach_mm=80 * spacing[1])(plane, clicks)
    assert torch.equal(made, whole) and dice((made > 0.5)[None], disc((20, 20), 7)[None]) > 0.9
