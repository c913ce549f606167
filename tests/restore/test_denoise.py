"""Denoising: what each method promises on signals of known noise, and bad input."""

from dataclasses import replace

import pytest
import torch

from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, Rows
from firstread.core.stage import Stage
from firstread.nets.denoise import ScaledDenoiser
from firstread.ops.noise import local_pca, noise_components, noise_level
from firstread.restore.denoise import RICIAN, CorrectRician, Denoise, DenoisePCA, DenoiseTV
from firstread.restore.noise2self import Noise2Self, masks, without_centre


def discs(frames: int = 1, size: int = 48) -> torch.Tensor:
    """Two discs whose brightness changes over the frames, ``[1, frames, 1, 1, y, x]``."""
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    one, two = (((y - a).square() + (x - b).square() < r * r).float() for a, b, r in ((16, 18, 9), (32, 30, 8)))
    time = torch.linspace(0, 1, frames)[:, None, None]
    return (0.2 + one * (1 - 0.5 * time) + two * (0.4 + 0.3 * time))[None, :, None, None]


def image(data: torch.Tensor) -> Image:
    return Image(Rows.subjects(len(data)), data, Grid.from_spacing((data.shape[3], *data.shape[4:]), (8.0, 1.5, 1.5)))


def run(stage: Stage, given: Image) -> Image:
    return stage(given, Key(0, "test")) if stage.random else stage(given)


def noisy(data: torch.Tensor, sd: float = 0.1) -> torch.Tensor:
    return data + sd * torch.randn(data.shape, generator=torch.Generator().manual_seed(0), dtype=data.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_the_noise_level_is_found(dtype):
    data = noisy(discs(6, 64).to(dtype), 0.1)
    part = 0.1 if dtype == torch.float32 else 0.1 / 2**0.5
    assert noise_level(data.flatten(0, 3)).mean().item() == pytest.approx(part, rel=0.1)


def test_pure_noise_has_no_component_and_its_variance_is_found():
    x = 0.3 * torch.randn(20, 12, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.eigvalsh(x @ x.mT / 400).flip(1)
    count, variance = noise_components(values, 400)
    assert count.max() <= 1 and variance.mean().item() == pytest.approx(0.09, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_local_pca_keeps_the_series_and_takes_most_noise(dtype):
    clean = discs(16, 24).to(dtype)
    data = noisy(clean)
    made = DenoisePCA(window=5)(image(data)).data
    assert (made - clean).abs().square().mean() < 0.4 * (data - clean).abs().square().mean()
    level = local_pca(data[0, :, 0, 0], window=5)[1]
    assert level.median().item() == pytest.approx(0.1, rel=0.2)


def test_total_variation_takes_noise_and_no_noise_changes_nothing():
    clean = discs()
    data = noisy(clean)
    made = DenoiseTV()(image(data)).data
    assert (made - clean).square().mean() < 0.4 * (data - clean).square().mean()
    torch.testing.assert_close(DenoiseTV(noise=0.0)(image(data)).data, data, atol=1e-6, rtol=0)


def test_masks_partition_and_a_hidden_pixel_is_not_seen():
    parts = masks((9, 10), 4)
    assert parts.int().sum(dim=0).eq(1).all()
    first, second = torch.rand(2, 1, 1, 9, 10)
    mixed = torch.where(parts[5], second, first)
    torch.testing.assert_close(without_centre(first, parts[5])[..., parts[5]],
                               without_centre(mixed, parts[5])[..., parts[5]])


def test_noise2self_is_nearer_to_the_truth_without_having_seen_it():
    clean = discs()
    data = noisy(clean, 0.15)
    stage = Noise2Self(steps=150, width=12, depth=3)
    made = stage(image(data), Key(0, "test")).data
    assert (made - clean).square().mean() < 0.6 * (data - clean).square().mean()
    assert torch.equal(stage(image(data), Key(0, "test")).data, made)


def test_an_untrained_network_is_the_identity():
    data = noisy(discs())
    torch.testing.assert_close(Denoise(network=ScaledDenoiser(channels=1, width=4, depth=2))(image(data)).data, data)
    both = data + 0.3j
    torch.testing.assert_close(Denoise(network=ScaledDenoiser(channels=2, width=4, depth=2))(image(both)).data, both)


@pytest.mark.parametrize("stage", [DenoiseTV(), DenoisePCA(), Noise2Self(steps=1),
                                   Denoise(network=ScaledDenoiser(width=2))], ids=lambda s: s.name)
def test_numbers_that_are_none_are_refused(stage):
    data = discs(3)
    data[0, 0, 0, 0, 3, 3] = torch.nan
    with pytest.raises(SignalError, match="no numbers"):
        run(stage, image(data))


@pytest.mark.parametrize("stage", [DenoiseTV(), Noise2Self(steps=1)], ids=lambda s: s.name)
def test_magnitudes_are_told_of_their_bias(stage):
    assert [n.code for n in run(stage, image(discs())).notes] == ["rician_bias"]
    assert not run(stage, image(discs() + 0j)).notes


def test_denoised_magnitudes_are_corrected_to_the_signal():
    """A constant signal in air, many looks: the mean magnitude is Rice's, the corrected one the signal."""
    clean = torch.zeros(1, 1, 1, 1, 128, 128)
    clean[..., 64:] = 0.2
    noise = torch.view_as_complex(torch.randn(*clean.shape, 2, generator=torch.Generator().manual_seed(0)))
    magnitude = image((clean + 0.1 * noise).abs())
    halves = [magnitude.data[..., part].mean() for part in (slice(0, 64), slice(64, 128))]
    denoised = replace(magnitude, data=torch.where(clean > 0, halves[1], halves[0])).noted(RICIAN)
    made = CorrectRician(noise=0.1)(magnitude, denoised)
    assert (denoised.data - clean).abs().min() > 0.02  # 0.125 in air, 0.227 where the signal is twice the noise
    assert (made.data - clean).abs()[..., 64:].max() < 0.004 and made.data[..., :64].max() < 0.02
    assert not made.notes
    blind = CorrectRician()(magnitude, denoised).data
    assert (blind - clean).abs()[..., 64:].max() < 0.01 and blind[..., :64].max() < 0.04


def test_only_magnitudes_are_corrected():
    for data in (discs() - 0.5, discs() + 0j):
        with pytest.raises(SignalError, match="below zero"):
            CorrectRician(noise=0.1)(image(data), image(data))


def test_a_network_learns_where_the_noise_is_a_hundredth_of_the_contrast():
    """With the image in units of σ as it is, it stayed the identity."""
    torch.manual_seed(0)
    net, clean = ScaledDenoiser(channels=1, width=12, depth=4), discs()[0, :, 0]
    adam = torch.optim.Adam(net.parameters(), lr=4e-3)
    for _ in range(60):
        loss = (net(clean + 0.01 * torch.randn_like(clean), torch.tensor([0.01])) - clean).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert loss < 0.85 * 0.01**2


def test_a_network_has_no_scale_of_its_own():
    torch.manual_seed(0)
    net = ScaledDenoiser(channels=2, width=4, depth=3)
    torch.nn.init.normal_(net.layers[-1].weight)
    x = torch.rand(1, 2, 7, 6)
    bright = net(100 * x, torch.tensor([30.0]))
    torch.testing.assert_close(bright, 100 * net(x, torch.tensor([0.3])), rtol=1e-4, atol=1e-3)


def test_a_network_for_one_size_takes_odd_ones_and_its_gradient_is_right():
    torch.manual_seed(0)
    net = ScaledDenoiser(channels=1, width=3, depth=2).double()
    torch.nn.init.normal_(net.layers[-1].weight)
    x = torch.rand(1, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(net, (x, torch.tensor([0.3], dtype=torch.float64, requires_grad=True)))


def test_bad_settings():
    for wrong in (lambda: DenoiseTV(noise=-1.0), lambda: DenoiseTV(strength=-1), lambda: DenoisePCA(window=1),
                  lambda: Noise2Self(steps=0), lambda: Denoise(network=ScaledDenoiser(), noise=-0.1),
                  lambda: ScaledDenoiser(depth=1)):
        with pytest.raises(SettingError):
            wrong()
    with pytest.raises(SettingError, match="1 frames"):
        DenoisePCA()(image(discs()))
    with pytest.raises(SettingError, match="planes of"):
        Noise2Self()(image(discs()[..., :3, :3]), Key(0, "test"))
