"""Segmentation from k-space: grids, members, what it sees and what it refuses."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from firstread.acquire.coils import GaussianCoils
from firstread.acquire.interleaved import InterleavedLines
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import FullySampled, LearnedMask
from firstread.analyze.direct import SegmentCine, SegmentFromKSpace, field_grid
from firstread.chains.direct import direct_chain, direct_endpoint, network_of, stage_of
from firstread.core.case import Case
from firstread.core.errors import FormatError, SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Rows
from firstread.nets.cine import CineUNet
from firstread.zoo.store import Weight

NAMES = ("background", "LV cavity", "LV myocardium", "RV cavity")


class Threshold(nn.Module):
    """Bright pixels are cavity, darker ones muscle: a network whose answer is known."""

    def forward(self, cines):
        bright = cines[:, :, 0]
        return 20 * torch.stack((0.25 - bright, bright - 0.75, 0.25 - (bright - 0.5).abs(), -9 + 0 * bright), dim=2)


def image(frames: int = 4, size: tuple[int, int] = (32, 24), spacing: float = 3.0) -> Image:
    """A bright disc that shrinks, a ring about it, two slices."""
    y, x = torch.meshgrid(*((torch.arange(n) - n / 2) * spacing for n in size), indexing="ij")
    radius = torch.tensor([18.0, 15.0, 11.0, 15.0])[:frames, None, None]
    r = (x**2 + y**2).sqrt()
    data = torch.where(r < radius, 1.0, torch.where(r < 26, 0.5, 0.0))[:, None].expand(-1, 2, -1, -1)
    grid = Grid.from_spacing((2, *size), (8.0, spacing, spacing))
    times = 0.2 * torch.arange(frames, dtype=torch.float64)[None, :, None]
    return Image(Rows.subjects(1), data[None, :, None].to(torch.complex64), grid, times)


def scan(sampling, *, snr=None, frames: int = 4) -> KSpace:
    return Encode(sampling=sampling, coils=GaussianCoils(count=3), snr=snr)(image(frames), Key(3, "encode"))


def unet(channels: int = 2) -> CineUNet:
    torch.manual_seed(0)
    return CineUNet(channels_in=channels, channels_out=4, widths=(4, 8)).eval()


def test_fully_sampled_kspace_and_its_image_give_the_same_labels_and_volumes():
    stage = SegmentFromKSpace(networks=[Threshold()], spacing_mm=3.0, field=(32, 24))
    cine = SegmentCine(networks=[Threshold()], spacing_mm=3.0, field=(32, 24))
    one, other = stage(scan(FullySampled())), cine(image())
    torch.testing.assert_close(one.data, other.data, atol=2e-2, rtol=0)
    assert one.names == NAMES and torch.equal(one.times_s, image().times_s)
    disc = (image().data[0, :, 0].abs() == 1).float()
    torch.testing.assert_close(one.harden().data[0, :, 0].eq(1).float(), disc)
    found = direct_chain(stage)(Case({"kspace": scan(FullySampled())}))["phenotypes"]
    areas = disc.flatten(1).sum(dim=1)
    assert found["LVEF"].value.item() == pytest.approx(100 * (1 - areas.min() / areas[0]).item(), abs=0.5)


def test_labels_lie_where_the_heart_is_though_the_networks_know_another_field():
    """Another pixel size and field: the same places in millimetres, background outside the field."""
    stage = SegmentCine(networks=[Threshold()], spacing_mm=1.5, field=(52, 40))
    made, disc = stage(image()), image().data[0, :, 0].abs() == 1
    found = made.harden().data[0, :, 0] == 1
    assert made.data.shape[-3:] == (2, 32, 24) and (found == disc).float().mean() > 0.97
    assert bool((made.data[:, :, 0, :, :2] == 1).all()), "outside the field"
    grid = image().grid
    middle = torch.tensor([[[(24 - 1) / 2, (32 - 1) / 2, 0.0]]], dtype=torch.float64)
    inner = field_grid(grid, 1.5, (52, 40))
    its_middle = torch.tensor([[[19.5, 25.5, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(inner.to_mm(its_middle), grid.to_mm(middle))


def test_labels_of_kspace_are_cut_to_the_reconstructed_matrix():
    stage = SegmentFromKSpace(networks=[unet()], spacing_mm=3.0, field=(32, 24))
    kspace = scan(FullySampled())
    whole, cut = stage(kspace), stage(replace(kspace, image_shape=(2, 20, 16)))
    torch.testing.assert_close(cut.data, whole.data[..., 6:26, 4:20], atol=1e-4, rtol=0)
    torch.testing.assert_close(cut.grid.affine, whole.grid.crop((0, 6, 4), (2, 20, 16)).affine)


def test_members_are_draws_of_their_subject():
    stage = SegmentFromKSpace(networks=[unet(), Threshold()], spacing_mm=3.0, field=(32, 24))
    made = stage(scan(FullySampled()))
    assert made.batch == 2 and made.rows.draw.tolist() == [0, 1] and made.rows.subject.tolist() == [0, 0]
    assert made.grid.affine.shape[0] == 2
    torch.testing.assert_close(made.data.sum(dim=2), torch.ones_like(made.data[:, :, 0]))


def test_data_sharing_helps_where_a_frame_has_two_lines():
    """What stands still is seen whole by sharing, and hardly by the frame's own lines."""
    kspace = scan(InterleavedLines(count=8, together=32))
    error = []
    for distances, channel in (((), 0), ((2,), 2)):
        stage = SegmentFromKSpace(networks=[unet()], distances=distances, spacing_mm=3.0, field=(32, 24))
        seen = stage.inputs(kspace)[:, :, channel]
        true = SegmentCine(networks=[unet()], spacing_mm=3.0, field=(32, 24)).inputs(image())[:, :, 0]
        error.append((seen - true).square().mean().item())
    assert error[1] < 0.2 * error[0]


def test_a_frame_without_lines_is_read_all_the_same():
    kspace = scan(InterleavedLines(count=8))
    mask = kspace.mask.clone()
    mask[:, 2] = 0
    stage = SegmentFromKSpace(networks=[unet(4)], distances=(1,), spacing_mm=3.0, field=(32, 24))
    made = stage(replace(kspace, data=mask * kspace.data, mask=mask))
    assert bool(torch.isfinite(made.data).all())


def test_the_ejection_fraction_has_a_gradient_that_reaches_a_learned_mask():
    mask = LearnedMask(lines=32, count=8, centre_lines=0, frames=4)
    stage = SegmentFromKSpace(networks=[unet(4)], distances=(1,), spacing_mm=3.0, field=(32, 24))
    kspace = Encode(sampling=mask, coils=GaussianCoils(count=3), snr=30.0)(image(), Key(0, "encode"))
    found = direct_endpoint(stage, softness=0.1)(kspace)["phenotypes"]["LVEF"].value
    found.sum().backward()
    assert mask.logits.grad.abs().sum() > 0 and bool(torch.isfinite(mask.logits.grad).all())


def test_a_stored_network_is_built_again():
    card = {"network": {"kind": "latent", "reads": "kspace", "channels_in": 4, "distances": [1], "classes": 4,
                        "widths": [4, 4], "code": 3, "mask_widths": [4, 8], "spacing_mm": 3.0, "field": [32, 24]}}
    torch.manual_seed(0)
    network = network_of(card["network"])
    stage = stage_of(Weight("made", card, network.state_dict()))
    assert isinstance(stage, SegmentFromKSpace) and stage.distances == (1,) and stage.field == (32, 24)
    kspace = scan(InterleavedLines(count=4))
    torch.testing.assert_close(stage.networks[0](stage.inputs(kspace)), network.eval()(stage.inputs(kspace)))
    for wrong, match in (({"kind": "magic"}, "'cine' or 'latent'"), ({"widths": None}, "does not describe")):
        with pytest.raises(FormatError, match=match):
            network_of(card["network"] | wrong)
    with pytest.raises(FormatError, match="network that its card describes"):
        stage_of(Weight("made", card, {}))


def test_an_image_without_millimetres_is_noted():
    plain = image()
    made = SegmentCine(networks=[unet()], spacing_mm=3.0, field=(32, 24))(
        replace(plain, grid=Grid.pixels(plain.grid.shape)))
    assert [note.code for note in made.notes] == ["assumed_spacing"] and not made.grid.has_mm


def test_bad_input():
    kspace = scan(FullySampled())
    stage = SegmentFromKSpace(networks=[unet()], spacing_mm=3.0, field=(32, 24))
    with pytest.raises(SignalError, match="NaN"):
        stage(replace(kspace, data=kspace.data * float("nan")))
    with pytest.raises(SignalError, match="without a measured sample"):
        stage(replace(kspace, data=0 * kspace.data, mask=0 * kspace.mask))
    with pytest.raises(SettingError, match="distances"):
        SegmentFromKSpace(networks=[unet()], distances=(0,))
    with pytest.raises(SettingError, match="one network or more"):
        SegmentCine(networks=[])
    with pytest.raises(SettingError, match="3 classes"):
        SegmentCine(networks=[CineUNet(channels_in=2, channels_out=3, widths=(4,))], spacing_mm=3.0, field=(32, 24))(
            image())
    with pytest.raises(SettingError, match="channels"):
        SegmentCine(networks=[unet()])(replace(image(), data=image().data.expand(-1, -1, 2, -1, -1, -1)))
