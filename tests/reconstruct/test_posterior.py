"""Posterior draws and plug and play: against closed forms, then properties, then bad input."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from firstread.acquire.coils import GaussianCoils
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import VariableDensity
from firstread.core.case import Case
from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Rows
from firstread.core.stage import Chain
from firstread.nets.score import CineDenoiser
from firstread.ops.encoding import CartesianEncoding
from firstread.reconstruct.direct import ZeroFilled
from firstread.reconstruct.iterative import CGSense, TemporalTV
from firstread.reconstruct.plug_and_play import PlugAndPlay, data_step, scan_of
from firstread.reconstruct.posterior import Posterior, posterior_draw
from firstread.reconstruct.problem import problem_of

SPREAD = 0.5


class WhitePrior(nn.Module):
    """The exact denoiser of white images of variance ``SPREAD²``: the posterior is then a Gaussian in closed form."""

    def settings(self) -> dict:
        return {}

    def forward(self, cine: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shrink = SPREAD**2 / (SPREAD**2 + noise**2)
        return shrink * cine, (shrink * noise**2).expand(cine.shape)


def scan(size: int = 8, frames: int = 2, noise: float = 0.1) -> KSpace:
    """One coil, every other line, an image of white noise of variance ``SPREAD²`` times 2: brightness is not one."""
    generator = torch.Generator().manual_seed(3)
    data = 2 * SPREAD * torch.randn(1, frames, 1, 1, size, size, dtype=torch.complex64, generator=generator)
    mask = torch.zeros(1, frames, 1, 1, size, 1)
    mask[:, 0, ..., ::2, :], mask[:, 1:, ..., 1::2, :] = 1, 1
    encoding = CartesianEncoding(mask=mask)
    clean = encoding(data)
    added = noise * mask * torch.randn(clean.shape, dtype=clean.dtype, generator=generator)
    covariance = torch.full((1, 1, 1), noise**2, dtype=torch.complex64)
    return KSpace(Rows.subjects(1), clean + added, Grid.from_spacing((1, size, size), (8.0, 2.0, 2.0)), mask,
                  noise_covariance=covariance)


def heart(frames: int = 3, size: int = 24) -> KSpace:
    y, x = torch.meshgrid(torch.arange(size) - size / 2, torch.arange(size) - size / 2, indexing="ij")
    radius = torch.linspace(size / 3, size / 4, frames)[:, None, None]
    data = ((0.1 + torch.sigmoid(radius - (x**2 + y**2).sqrt())) * torch.exp(0.02j * x))[None, :, None, None]
    image = Image(Rows.subjects(1), data.to(torch.complex64), Grid.from_spacing((1, size, size), (8.0, 1.5, 1.5)))
    encode = Encode(sampling=VariableDensity(acceleration=2, centre_lines=6), coils=GaussianCoils(count=3), snr=50.0)
    return encode(image, Key(1, "encode"))


def denoiser() -> CineDenoiser:
    torch.manual_seed(0)
    return CineDenoiser(widths=(4, 4)).eval()


def test_data_step_is_the_gaussian_posterior_mean():
    kspace = scan()
    encoding = CartesianEncoding(mask=kspace.mask)
    centre = torch.randn(kspace.data.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    variance = 0.1 + torch.rand(kspace.data.shape, generator=torch.Generator().manual_seed(2))
    x = data_step(encoding, encoding.adjoint(kspace.data), centre, variance, torch.tensor(0.3), steps=60)
    slope = encoding.adjoint(encoding(x) - kspace.data) / 0.3 + (x - centre) / variance
    assert slope.abs().max() < 1e-4


def test_draws_have_mean_and_variance_of_the_closed_form():
    """White prior: measured frequencies have variance 1 / (1 / s² + 1 / σ²) about a shrunken y, others s² about 0."""
    kspace, draws = scan(), 60
    stage = Posterior(network=WhitePrior(), start=ZeroFilled(), first=3.0, last=0.02, levels=6, steps=3, misfit=0.0)
    made = Chain(stage)(Case({"kspace": kspace}), samples=draws)["reconstruction"].data
    found = CartesianEncoding(mask=torch.ones_like(kspace.mask))(made)
    s2, sigma2 = (problem_of(kspace).brightness().item() * SPREAD) ** 2, 0.1**2  # the prior's images have brightness 1
    seen = kspace.mask.bool().expand(kspace.data.shape)
    variance = (found - found.mean(0, keepdim=True)).abs().square().sum(0, keepdim=True) / (draws - 1)
    assert variance[seen].mean().item() == pytest.approx(1 / (1 / s2 + 1 / sigma2), rel=0.15)
    assert variance[~seen].mean().item() == pytest.approx(s2, rel=0.15)
    mean = torch.where(seen, kspace.data * s2 / (s2 + sigma2), torch.zeros_like(kspace.data))
    assert (found.mean(0, keepdim=True) - mean).abs().max() < 5 * (s2 / draws) ** 0.5


def test_draws_repeat_and_do_not_depend_on_their_company():
    stage = Posterior(network=denoiser(), start=TemporalTV(iterations=3), levels=2, steps=3)
    with torch.no_grad():
        alone = Chain(stage)(Case({"kspace": heart()}, seed=4), samples=2)["reconstruction"].data
        more = Chain(stage)(Case({"kspace": heart()}, seed=4), samples=4)["reconstruction"].data
        other = Chain(stage)(Case({"kspace": heart()}, seed=5), samples=2)["reconstruction"].data
    torch.testing.assert_close(alone, more[:2], rtol=0, atol=0)
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    assert (alone - other).abs().max() > 1e-3


def test_sharing_changes_no_draw(monkeypatch):
    stage = Posterior(network=denoiser(), start=TemporalTV(iterations=3), levels=2, steps=3)
    begun = []
    begin = Posterior._begin
    monkeypatch.setattr(Posterior, "_begin", lambda self, row: begun.append(row) or begin(self, row))
    draws = heart().draws(3)
    with torch.no_grad():
        together = stage(draws, Key(1, "posterior")).data
    assert len(begun) == 1
    alone = stage(replace(draws, data=draws.data.requires_grad_()), Key(1, "posterior")).data
    assert len(begun) == 4
    torch.testing.assert_close(together, alone.detach(), rtol=1e-5, atol=1e-6)


def test_rows_of_other_measurements_are_not_shared():
    one = heart()
    both = one.draws(2)
    data = both.data.clone()
    data[1] *= 2
    stage = Posterior(network=denoiser(), start=TemporalTV(iterations=3), levels=2, steps=3, noise=0.05)
    with torch.no_grad():
        made = stage(replace(both, data=data), Key(1, "posterior")).data
    assert made[1].abs().mean() == pytest.approx(2 * made[0].abs().mean().item(), rel=0.05)


def test_the_gradient_is_that_of_the_draw():
    given = scan_of(heart(2, 12), noise=0.05, misfit=0.0, calibration_lines=32)
    encoding = CartesianEncoding(mask=given.encoding.mask.double(), fourier_axes=given.encoding.fourier_axes,
                                 sensitivities=given.encoding.sensitivities.to(torch.complex128))
    exact = replace(given, encoding=encoding, measured=given.measured.to(torch.complex128),
                    rhs=given.rhs.to(torch.complex128), noise_variance=given.noise_variance.double())
    direction = torch.randn(exact.rhs.shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    network = WhitePrior()

    def value(step: float | torch.Tensor) -> torch.Tensor:
        moved = replace(exact, rhs=exact.rhs + step * direction)
        made = posterior_draw(moved, network, exact.rhs, torch.Generator().manual_seed(1), levels=(0.2, 0.05),
                              spread=1.0, steps=4)
        return made.abs().square().sum()

    leaf = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(leaf), leaf)
    assert slope.item() == pytest.approx(((value(1e-4) - value(-1e-4)) / 2e-4).item(), rel=1e-3)


def test_a_gradient_comes_through_every_stage_of_the_draw():
    stage, kspace = Posterior(network=denoiser(), start=TemporalTV(iterations=2), levels=2, steps=2), heart(2, 12)
    stage(replace(kspace, data=kspace.data.requires_grad_()), Key(0, "posterior")).data.abs().sum().backward()
    assert kspace.data.grad is not None and kspace.data.grad.abs().sum() > 0
    assert all(p.grad is not None for p in stage.network.parameters())


def test_plug_and_play_of_a_white_prior_is_ridge_regression():
    """With the exact denoiser of white images the fixed point fits the measured lines and shrinks the others."""
    kspace = scan()
    made = PlugAndPlay(network=WhitePrior(), levels=4, steps=3, iterations=60, tolerance=0, misfit=0)(kspace)
    assert any("60 iterations" in note.text and "not reached" in note.text for note in made.notes)
    frequencies = CartesianEncoding(mask=torch.ones_like(kspace.mask))(made.data)
    seen = kspace.mask.bool().expand(frequencies.shape)
    assert (frequencies[seen] - kspace.data[seen]).abs().max() < 0.05 * kspace.data.abs().max()


def test_plug_and_play_stops_by_its_tolerance():
    made = PlugAndPlay(network=denoiser(), levels=2, iterations=30, tolerance=0.5)(heart())
    [note] = [note for note in made.notes if note.code == "solver"]
    assert "plug_and_play: 2 iterations" in note.text and "tolerance 5e-01 reached" in note.text


def test_noise_that_is_stated_counts_as_if_it_were_measured():
    kspace = heart()
    power = kspace.noise_covariance.diagonal(dim1=1, dim2=2).real.mean()
    level = (power.sqrt() / problem_of(kspace).brightness()).item()
    measured = PlugAndPlay(network=denoiser(), levels=1, iterations=1)(kspace).data
    stated = PlugAndPlay(network=denoiser(), levels=1, iterations=1, noise=level)(kspace).data
    other = PlugAndPlay(network=denoiser(), levels=1, iterations=1, noise=10 * level)(kspace).data
    torch.testing.assert_close(stated, measured, rtol=1e-3, atol=1e-4)
    assert (other - measured).abs().max() > 1e-2


def test_refuses_what_cannot_be():
    with pytest.raises(SettingError):
        PlugAndPlay(network=denoiser(), first=0.1, last=0.2)
    with pytest.raises(SettingError):
        PlugAndPlay(network=denoiser(), strength=0)
    with pytest.raises(SettingError):
        Posterior(network=denoiser(), start=CGSense(), spread=0)
    with pytest.raises(SettingError, match="start"):
        Posterior(network=denoiser(), start=Encode())
    start = CGSense()
    with pytest.raises(SettingError, match="start"):
        Posterior(network=denoiser(), start=Posterior(network=denoiser(), start=start))
