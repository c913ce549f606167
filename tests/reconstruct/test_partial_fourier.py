"""Homodyne detection and POCS: exact for a known phase, better than zeros, agreeing with each other; bad input."""

from dataclasses import replace

import pytest
import torch

from firstread.acquire.coils import LoopCoils
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import KSpace, Rows
from firstread.core.stage import Chain, Stage
from firstread.ops.fourier import fft, ifft
from firstread.ops.partial_fourier import homodyne_weights, pocs
from firstread.reconstruct.direct import ZeroFilled
from firstread.reconstruct.grappa import Grappa
from firstread.reconstruct.partial_fourier import POCS, Homodyne

NY, NX = 48, 40


def image(smooth: float = 1.0) -> torch.Tensor:
    """Two frames, three slices: discs with fine structure, a phase that bends over the field of view."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, NY).double(), torch.linspace(-1, 1, NX).double(), indexing="ij")
    body = ((y / 0.8) ** 2 + (x / 0.85) ** 2 < 1) * (1 + 0.4 * torch.sin(14 * x) * torch.cos(17 * y))
    frames = torch.stack([body * (1 + 0.1 * n) for n in range(6)]).reshape(1, 2, 1, 3, NY, NX)
    return frames * torch.exp(1j * smooth * (0.8 * y + 0.6 * x**2 - 0.5 * y * x))


def partial(data: torch.Tensor, first: int, last: int) -> KSpace:
    mask = torch.zeros(1, 1, 1, 1, data.shape[-2], 1, dtype=torch.float64)
    mask[..., first : last + 1, :] = 1
    return KSpace(Rows.subjects(1), mask * fft(data), Grid.pixels(tuple(data.shape[-3:])), mask)


def error(kspace: KSpace, truth: torch.Tensor) -> float:
    return ((ifft(kspace.data) - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("lines", [47, 48])
def test_a_real_image_comes_back_exactly(lines):
    """Without phase the missing end is the conjugate of the other: homodyne is exact, from either end."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(1, 1, 1, 1, lines, 8, dtype=torch.float64, generator=generator).abs() + 0j
    truth = truth + 30 * torch.hann_window(lines, dtype=torch.float64)[:, None]  # the phase estimate stays zero
    for first, last in ((0, lines // 2 + 6), (lines // 2 - 6, lines - 1)):
        kspace = partial(truth, first, last)
        nyquist = 0 if lines % 2 or first == 0 else 1
        made = Homodyne()(kspace)
        lost = fft(truth)[..., 0, :].norm() / truth.norm() if nyquist else 0.0
        assert error(made, truth) <= 1e-9 + 1.001 * float(lost)
        assert error(kspace, truth) > 0.01 and bool((made.mask == 1).all())


def test_weights_count_each_pair_once():
    """W(k) + W(-k) = 2 for every frequency but the self-conjugate one."""
    for first, last in ((0, 29), (20, 47), (18, 47)):
        weights = homodyne_weights(48, first, last, torch.ones(1, dtype=torch.float64))
        assert torch.allclose(weights[1:] + weights[1:].flip(0), torch.full((47,), 2.0, dtype=torch.float64))
        assert bool((weights[:first] == 0).all() and (weights[last + 1 :] == 0).all())


@pytest.mark.parametrize("stage", [Homodyne(), POCS()], ids=["homodyne", "pocs"])
@pytest.mark.parametrize(("first", "last"), [(0, 31), (16, 47)])
def test_smooth_phase_is_recovered(stage: Stage, first, last):
    kspace = partial(image(), first, last)
    assert error(stage(kspace), image()) < 0.5 * error(kspace, image())


def test_pocs_keeps_measured_lines_and_converges():
    kspace = partial(image(smooth=2.0), 0, 31)
    made = POCS(iterations=10)(kspace)
    assert torch.allclose(kspace.mask * made.data, kspace.data, atol=1e-12)
    short, long = POCS(iterations=3, tolerance=0)(kspace), POCS(iterations=60, tolerance=0)(kspace)
    assert error(long, image(smooth=2.0)) < error(short, image(smooth=2.0)) < error(kspace, image(smooth=2.0))


def test_another_axis_and_an_image_space_readout_are_the_same():
    kspace = partial(image(), 0, 31)
    made = POCS()(kspace)
    turned = replace(kspace, data=kspace.data.mT, mask=kspace.mask.mT, grid=Grid.pixels((3, NX, NY)))
    assert torch.allclose(POCS()(turned).data.mT, made.data, atol=1e-12)
    hybrid = replace(kspace, data=ifft(kspace.data, ("x",)), fourier_axes=("y",))
    assert torch.allclose(fft(POCS()(hybrid).data, ("x",)), made.data, atol=1e-12)


def test_after_grappa_with_many_coils():
    maps = LoopCoils(count=6)(Grid.from_spacing((3, NY, NX), (8.0, 2.0, 2.0)), torch.Generator().manual_seed(0))
    coils = image()[:, :1] * maps.to(torch.complex128)
    lines = torch.zeros(NY)
    lines[:36:2] = lines[14:34] = 1
    mask = lines.reshape(1, 1, 1, 1, -1, 1).double()
    kspace = KSpace(Rows.subjects(1), mask * fft(coils), Grid.pixels((3, NY, NX)), mask, maps[None, None].cdouble())
    with pytest.raises(SettingError, match="within the measured part"):
        POCS()(kspace)
    whole = Chain(Grappa(), POCS(), ZeroFilled())(kspace)["zero_filled"]
    half = Chain(Grappa(), ZeroFilled())(kspace)["zero_filled"]
    truth = image()[:, :1]
    assert (whole.data - truth).norm() < 0.6 * (half.data - truth).norm()


def test_gradients():
    lines = torch.randn(2, 8, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))

    def run(k: torch.Tensor) -> torch.Tensor:
        return pocs(k, 0, 5, iterations=3, tolerance=0.0)

    assert torch.autograd.gradcheck(run, lines.requires_grad_())


def test_errors_say_what_is_wrong():
    with pytest.raises(SignalError, match="lines 0 to 24 of 48"):
        Homodyne()(partial(image(), 0, 24))
    with pytest.raises(SignalError, match="lines 24 to 47 of 48"):
        POCS()(partial(image(), 24, 47))
    with pytest.raises(SettingError, match="0 iterations"):
        POCS(iterations=0)
    full = partial(image(), 0, NY - 1)
    assert POCS()(full) is full
