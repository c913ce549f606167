"""Networks that see time, and the views of k-space that they see."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from firstread.core.errors import SettingError
from firstread.nets.cine import CineUNet, MixFrames
from firstread.nets.latent import Encoder, LatentInterpolation, MaskAutoencoder, interpolate_codes
from firstread.nets.views import in_phase, time_average, views_of, views_of_image
from firstread.ops.fourier import fft, ifft


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def cine_net() -> CineUNet:
    torch.manual_seed(0)
    net = CineUNet(channels_in=2, channels_out=3, widths=(8, 8)).eval()
    for module in net.modules():
        if isinstance(module, MixFrames):
            nn.init.uniform_(module.before, -0.5, 0.5)
            nn.init.uniform_(module.after, -0.5, 0.5)
    return net


def latent_net() -> LatentInterpolation:
    torch.manual_seed(0)
    masks = MaskAutoencoder(classes=3, size=(16, 8), code=5, widths=(8, 8))
    return LatentInterpolation(autoencoder=masks, channels_in=2, widths=(8, 8)).eval()


@pytest.mark.parametrize("make", [cine_net, latent_net])
def test_a_cine_that_begins_later_gives_the_same_frames_later(make):
    net, cine = make(), torch.randn(1, 6, 2, 16, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(net(cine.roll(2, dims=1)), net(cine).roll(2, dims=1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [cine_net, latent_net])
def test_rows_are_independent_and_frames_are_not(make):
    net, cines = make(), torch.randn(2, 6, 2, 16, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(net(cines)[1:], net(cines[1:]), rtol=1e-4, atol=1e-5)
        changed = cines.clone()
        changed[0, 3] += 1
        assert (net(changed) - net(cines))[0, 2].abs().max() > 1e-6, "its neighbour sees the changed frame"


def test_an_untrained_cine_network_reads_every_frame_by_itself_and_learns_to_look_around():
    net = CineUNet(channels_in=2, channels_out=3, widths=(8, 8))
    cines = torch.randn(1, 4, 2, 16, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(net(cines), net.frames(cines[0])[None])
    torch.testing.assert_close(net(cines)[:, :1], net(cines[:, :1]), rtol=1e-4, atol=1e-5)
    net(cines).square().sum().backward()
    assert all(m.before.grad.abs().sum() > 0 < m.after.grad.abs().sum() for m in net.modules()
               if isinstance(m, MixFrames))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_interpolated_codes_solve_their_least_squares(seed, stiffness):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(2, 7, 3, generator=generator, dtype=torch.float64)
    sure = torch.rand(2, 7, generator=generator, dtype=torch.float64) + 0.01
    weight = torch.tensor(stiffness, dtype=torch.float64)
    found = interpolate_codes(codes, sure, weight).requires_grad_()
    bend = found.roll(1, 1) - 2 * found + found.roll(-1, 1)
    cost = (sure[..., None] * (found - codes).square()).sum() + weight * bend.square().sum()
    slope, = torch.autograd.grad(cost, found)
    assert slope.abs().max() < 1e-7 * max(1.0, stiffness)
    still = codes[:, :1].expand_as(codes)
    torch.testing.assert_close(interpolate_codes(still, sure, weight), still, rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(interpolate_codes, (codes.requires_grad_(), sure.requires_grad_(),
                                                        weight.requires_grad_()), rtol=1e-3)


def test_fully_sampled_frames_are_the_image_whatever_is_shared():
    coils, mask = noise(2, 3, 4, 1, 8, 6), torch.ones(1, 1, 1, 1, 8, 1)
    kspace = fft(coils)
    alone, shared = views_of(kspace, mask), views_of(kspace, mask, distances=(1, 2))
    torch.testing.assert_close(shared, alone.repeat(1, 1, 3, 1, 1, 1), rtol=1e-4, atol=1e-5)
    together = in_phase(coils, coils.mean(dim=1, keepdim=True))
    found = torch.complex(alone[:, :, 0], alone[:, :, 1])
    ratio = found / together[:, :, 0]
    assert (ratio / ratio[:, :1, :1, :1, :1] - 1).abs().max() < 1e-3, "the same up to one brightness a row"
    one = coils[:, :, :1]
    torch.testing.assert_close(views_of_image(one), views_of(fft(one), mask), rtol=1e-4, atol=1e-5)


def test_views_do_not_depend_on_scale_phase_or_order_of_coils():
    mask = (torch.rand(1, 5, 1, 1, 8, 1, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    kspace = mask * fft(noise(1, 5, 3, 2, 8, 6))
    wanted = views_of(kspace, mask, distances=(1,))
    phase = torch.polar(torch.ones(3), torch.tensor([0.3, 2.0, -1.0])).reshape(1, 1, 3, 1, 1, 1)
    torch.testing.assert_close(views_of(7 * (phase * kspace).flip(2), mask, distances=(1,)), wanted, rtol=1e-3,
                               atol=1e-4)


def test_what_does_not_move_is_real_and_its_average_needs_each_line_once():
    still = noise(1, 1, 3, 1, 8, 6).expand(-1, 4, -1, -1, -1, -1)
    mask = torch.zeros(1, 4, 1, 1, 8, 1)
    for line in range(8):
        mask[0, line % 4, 0, 0, line] = 1
    kspace = mask * fft(still)
    torch.testing.assert_close(ifft(time_average(kspace, mask)), still[:, :1], rtol=1e-4, atol=1e-5)
    filled = views_of(kspace, mask, distances=(2,))[:, :, 2:]
    assert filled[:, :, 1].abs().max() < 1e-5 and bool((filled[:, :, 0] > 0).all())
    torch.testing.assert_close(filled[:, 0], filled[:, 3])


def test_gradients_are_those_of_finite_differences_and_finite_where_nothing_was_measured():
    mask = torch.tensor([1.0, 0, 1, 0]).double().reshape(1, 1, 1, 1, 4, 1)
    coils = noise(1, 2, 2, 1, 4, 3).to(torch.complex128).requires_grad_()
    assert torch.autograd.gradcheck(lambda c: in_phase(c, time_average(c, mask + 0.5)), (coils,))
    kspace = (mask * fft(coils.detach())).requires_grad_()
    views_of(kspace, mask, distances=(1,)).square().sum().backward()
    assert bool(torch.isfinite(torch.view_as_real(kspace.grad)).all()) and kspace.grad.abs().sum() > 0
    nothing = torch.zeros(1, 2, 2, 1, 4, 3, dtype=torch.complex64, requires_grad=True)
    views_of(nothing, mask.float()).sum().backward()
    assert bool(torch.isfinite(torch.view_as_real(nothing.grad)).all())


def test_an_autoencoder_learns_masks():
    torch.manual_seed(0)
    net = MaskAutoencoder(classes=2, size=(16, 8), code=4, widths=(8, 8))
    y = torch.arange(16)[:, None].expand(16, 8)
    masks = torch.stack([((y > 3) & (y < 3 + n)).long() for n in (4, 6, 8, 10)])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(masks), masks).backward()
        optimizer.step()
    assert (net(masks).argmax(1) == masks).float().mean() > 0.97


def test_bad_input():
    with pytest.raises(SettingError, match="multiples of 4"):
        Encoder(channels_in=1, code=2, size=(10, 8), widths=(4, 4))
    with pytest.raises(SettingError, match="size that the network was made for"):
        latent_net()(torch.zeros(1, 2, 2, 8, 8))
    with pytest.raises(SettingError, match="stiffness"):
        LatentInterpolation(autoencoder=latent_net().autoencoder, channels_in=2, widths=(8, 8), stiffness=0.0)
