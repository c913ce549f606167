"""Unringing of a disc whose Fourier transform is known, and what it must leave alone."""

import pytest
import torch

from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.ops.fourier import fft, ifft
from firstread.ops.gibbs import remove_ringing, share_along_x
from firstread.restore.gibbs import RemoveRinging

N, RADIUS, CENTRE = 96, 27.3, (0.3, -2.6)  # pixels


def places(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    index = torch.arange(size, dtype=torch.float64) - size // 2
    return index[:, None], index[None, :]


def ringing_disc() -> torch.Tensor:
    """The disc of brightness 1 from its analytic transform ``R J1(2 pi R k) / k`` at N x N frequencies."""
    ky, kx = (k / N for k in places(N))
    k = (ky**2 + kx**2).sqrt()
    safe = torch.where(k > 0, k, torch.ones_like(k))
    spectrum = torch.where(k > 0, RADIUS * torch.special.bessel_j1(2 * torch.pi * RADIUS * safe) / safe,
                           torch.full_like(k, torch.pi * RADIUS**2))
    spectrum = spectrum * torch.exp(-2j * torch.pi * (ky * CENTRE[0] + kx * CENTRE[1]))
    return ifft(spectrum / N).real


def distance() -> torch.Tensor:
    y, x = places(N)
    return ((y - CENTRE[0])**2 + (x - CENTRE[1])**2).sqrt() - RADIUS


def true_disc() -> torch.Tensor:
    """Share of every pixel inside the disc."""
    fine = 16
    y, x = (p / fine for p in places(N * fine))
    offset = (1 - 1 / fine) / 2 - 0.5 + 0.5 / fine  # centres of the fine pixels about those of the coarse ones
    inside = ((y + offset - CENTRE[0])**2 + (x + offset - CENTRE[1])**2).sqrt() < RADIUS
    return torch.nn.functional.avg_pool2d(inside.double().roll((fine // 2, fine // 2), (0, 1))[None], fine)[0]


def test_a_disc_rings_no_more_and_stays_sharp():
    rings, truth, far = ringing_disc(), true_disc(), distance().abs() > 3
    made = remove_ringing(rings)
    before, after = rings - truth, made - truth
    assert before[far].abs().max() > 0.04 and after[far].abs().max() < 0.006
    assert after[far].square().mean().sqrt() < 0.1 * before[far].square().mean().sqrt()
    assert after.square().mean().sqrt() < 0.5 * before.square().mean().sqrt()
    assert after[distance().abs() > 1.5].abs().max() < 0.02  # edges are where they were


def test_what_oscillates_in_itself_is_left_nearly_alone():
    y, x = places(N)
    waves = torch.cos(2 * torch.pi * 5 * x / N) + torch.cos(2 * torch.pi * 4 * y / N)
    assert (remove_ringing(waves) - waves).abs().max() < 0.05


def test_axes_are_alike_and_complex_images_keep_their_phase():
    rings = ringing_disc()
    torch.testing.assert_close(remove_ringing(rings.T).T, remove_ringing(rings), atol=2e-3, rtol=0)  # near ties
    torch.testing.assert_close(remove_ringing(rings * 1j), remove_ringing(rings) * 1j)
    share = share_along_x(rings)
    torch.testing.assert_close(share + share.T, torch.ones_like(share))


def test_gradient():
    x = torch.rand(9, 10, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: remove_ringing(v, shifts=3), (x,))


def test_zero_filled_images_are_told():
    rings = ringing_disc()
    grid = Grid.from_spacing((1, N, N), (5.0, 1.0, 1.0))
    image = Image(Rows.subjects(1), rings[None, None, None, None].float(), grid)
    assert not RemoveRinging()(image).notes
    wide = ifft(torch.nn.functional.pad(fft(rings), (48, 48, 48, 48))).real
    grid = Grid.from_spacing((1, 2 * N, 2 * N), (5.0, 0.5, 0.5))
    made = RemoveRinging()(Image(Rows.subjects(1), wide[None, None, None, None].float(), grid))
    assert [note.code for note in made.notes] == ["zero_filled"]


def test_bad_settings():
    for wrong in (lambda: RemoveRinging(shifts=0), lambda: RemoveRinging(window=(2, 1)),
                  lambda: remove_ringing(torch.ones(6, 20))):
        with pytest.raises(SettingError):
            wrong()
