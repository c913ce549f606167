"""The noise-conditional denoiser: limits, symmetry, and that it learns a posterior known in closed form."""

import pytest
import torch

from firstread.core.errors import SettingError
from firstread.nets.score import SPREAD, CineDenoiser, denoise, posterior_variance


def net(**settings) -> CineDenoiser:
    torch.manual_seed(0)
    made = CineDenoiser(widths=(8, 8), **settings)
    torch.nn.init.normal_(made.tail.weight, std=0.05)
    for block in made.modules():
        if hasattr(block, "second"):
            torch.nn.init.normal_(block.second.weight, std=0.05)
    return made.eval()


def cine(frames: int = 4, size: int = 14) -> torch.Tensor:
    return torch.randn(frames, size, size, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))


def test_untrained_it_is_the_posterior_of_white_images():
    x, sigma = cine(), torch.tensor(0.5)
    mean, variance = CineDenoiser(widths=(8, 8))(x, sigma)
    torch.testing.assert_close(mean, x * SPREAD**2 / (SPREAD**2 + 0.25))
    torch.testing.assert_close(variance, torch.full_like(variance, posterior_variance(sigma).item()))


def test_little_noise_leaves_the_image_and_little_doubt():
    x = cine()
    mean, variance = net()(x, torch.tensor(1e-4))
    assert (mean - x).abs().max() < 1e-2
    assert variance.max() < 1e-6


def test_starts_at_any_frame_of_the_cycle():
    network, x = net(), cine()
    first, rolled = network(x, torch.tensor(0.2)), network(x.roll(1, dims=0), torch.tensor(0.2))
    for one, other in zip(first, rolled, strict=True):
        torch.testing.assert_close(one.roll(1, dims=0), other)


def test_each_slice_of_a_stack_is_by_itself():
    network, x = net(), torch.stack((cine(), cine().flip(0)))
    together, _ = denoise(network, x.movedim(0, 1)[None, :, None], torch.tensor(0.2))
    torch.testing.assert_close(together[0, :, 0, 1], network(x[1], torch.tensor(0.2))[0])


def test_learns_mean_and_variance_of_a_known_posterior():
    """Constant images of a random complex height: the posterior is that of one Gaussian number."""
    torch.manual_seed(0)
    network = CineDenoiser(widths=(8, 8))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    sigma, unit = torch.tensor(1.0), posterior_variance(torch.tensor(1.0))
    for _ in range(120):
        clean = (SPREAD * torch.randn(2, 1, 1, dtype=torch.complex64)).expand(2, 8, 8)
        total = torch.zeros(())
        for one in clean.split(1):
            mean, variance = network(one + sigma * torch.randn(1, 8, 8, dtype=torch.complex64), sigma)
            error = torch.view_as_real(mean - one).square().sum(-1)
            total = total + (error / unit).mean() + (error.detach() / variance + (variance / unit).log()).mean()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    known = 1 / (1 / SPREAD**2 + 64 / sigma.square())  # 64 pixels tell of one number
    with torch.no_grad():
        heights = SPREAD * torch.randn(40, 1, 1, dtype=torch.complex64)
        made = [network(h.expand(1, 8, 8) + torch.randn(1, 8, 8, dtype=torch.complex64), sigma) for h in heights]
    error = torch.stack([(m - h).abs().square().mean() for (m, _), h in zip(made, heights, strict=True)]).mean()
    stated = torch.stack([v.mean() for _, v in made]).mean()
    assert error < 0.7 * unit  # far better than a pixel by itself
    assert error > 0.8 * known
    assert stated == pytest.approx(error.item(), rel=0.5)


def test_refuses_impossible_sizes():
    with pytest.raises(SettingError):
        CineDenoiser(widths=(2,))
    with pytest.raises(SettingError):
        CineDenoiser(blocks=0)


def test_weight_round_trip():
    made = net()
    again = CineDenoiser.from_weight(made.settings(), made.state_dict())
    torch.testing.assert_close(again(cine(), torch.tensor(0.1))[0], made(cine(), torch.tensor(0.1))[0])
