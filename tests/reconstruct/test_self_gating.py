"""Self-gating of golden-angle spokes through a body that breathes and beats, its k-space a formula."""

import math
from dataclasses import replace
from functools import lru_cache

import pytest
import torch

from firstread.acquire.trajectories import Radial
from firstread.core.errors import SettingError, SignalError, UnsupportedError
from firstread.core.geometry import Grid
from firstread.core.records import KSpace, Rows
from firstread.ops.quality import nrmse
from firstread.ops.self_gating import band_passed, bins_of, gating_signal, phases_of, without_direction
from firstread.reconstruct.noncartesian import Gridding
from firstread.reconstruct.self_gating import SelfGate

N, SHOTS, SHOT_S, BREATH_HZ, HEART_HZ = 32, 1200, 0.02, 0.27, 1.15


def motion() -> tuple[torch.Tensor, torch.Tensor]:
    """Breathing (0 to 1, long at rest) and heartbeat (-1 to 1) at every shot."""
    time = torch.arange(SHOTS) * SHOT_S
    return torch.sin(math.pi * BREATH_HZ * time) ** 4, torch.cos(2 * math.pi * HEART_HZ * time)


def body(k: torch.Tensor, breath: torch.Tensor, beat: torch.Tensor) -> torch.Tensor:
    """``[coil, shot, sample]`` of Gaussian blobs under Gaussian coils, whose products are Gaussians.

    A chest, a liver that moves along y by up to 0.1 fields of view, a heart that grows and shrinks.
    """
    still = torch.zeros_like(breath)
    blobs = [(1.0, still, still, still + 0.16), (1.2, 0.16 + 0.1 * breath, still - 0.05, still + 0.08),
             (0.8, -0.12 + 0.02 * breath, still + 0.08, 0.06 + 0.012 * beat)]
    coils = [(0.3 * math.sin(a), 0.3 * math.cos(a), 0.25) for a in (0.3, 1.5, 2.8, 4.0, 5.3)]
    signal = []
    for cy, cx, width in coils:
        total = torch.zeros(k.shape[1:], dtype=torch.complex64)
        for height, y, x, sd in blobs:
            both = 1 / (1 / sd**2 + 1 / width**2)
            my, mx = both * (y / sd**2 + cy / width**2), both * (x / sd**2 + cx / width**2)
            apart = ((y - cy) ** 2 + (x - cx) ** 2) / (2 * (sd**2 + width**2))
            weight = (height * both * torch.exp(-apart))[:, None]
            place = k[0] * my[:, None] + k[1] * mx[:, None]
            total += torch.polar(weight * torch.exp(-2 * math.pi**2 * both[:, None] * (k**2).sum(0)),
                                 -2 * math.pi * place)
        signal.append(total)
    return torch.stack(signal) * N * 2 * math.pi


@lru_cache
def scan(*, moving: bool = True) -> tuple[KSpace, torch.Tensor, torch.Tensor]:
    breath, beat = motion() if moving else (torch.zeros(SHOTS), torch.zeros(SHOTS))
    k = Radial(shots=SHOTS)(1, (N, N))[0]
    clean = body(k, breath, beat)
    generator = torch.Generator().manual_seed(0)
    data = clean + 0.002 * clean.abs().max() * torch.randn(clean.shape, dtype=clean.dtype, generator=generator)
    delay = 1 + 0.01 * torch.cos(torch.atan2(k[0, :, -1], k[1, :, -1]))  # what gradients leave in the centre
    kspace = KSpace(Rows.subjects(1), (data * delay[:, None])[None, None, :, None],
                    Grid.from_spacing((1, N, N), (8.0, 10.0, 10.0)), torch.ones(1, 1, 1, 1, 1, 1),
                    trajectory=k[None, None])
    return kspace, breath, beat


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack((a, b)))[0, 1].abs())


@pytest.mark.parametrize(("number", "band"), [(0, (0.1, 0.7)), (1, (0.7, 2.5))], ids=["breathing", "heartbeat"])
def test_the_motion_is_in_the_signal(number, band):
    kspace, *truth = scan()
    made = gating_signal(kspace.data[0, 0, :, 0], kspace.trajectory[0, 0], SHOT_S, band)
    assert correlation(made, band_passed(truth[number][None], SHOT_S, band)[0]) > 0.95


def test_states_are_sharper_than_all_shots_together():
    kspace, breath, _ = scan()
    gated = SelfGate(shot_s=SHOT_S, count=4)(kspace)
    assert gated.data.shape[1] == 4 and [n.code for n in gated.notes] == ["self_gated"]
    signal = gating_signal(kspace.data[0, 0, :, 0], kspace.trajectory[0, 0], SHOT_S, (0.1, 0.7))
    states = [breath[bins_of(signal, 4) == s].mean() for s in range(4)]
    assert max(states) > 0.7 and min(states) < 0.1
    rest = torch.zeros(SHOTS) + min(states), torch.zeros(SHOTS)
    k = kspace.trajectory[0, 0]
    true = Gridding()(KSpace(kspace.rows, body(k, *rest)[None, None, :, None], kspace.grid, kspace.mask,
                             trajectory=kspace.trajectory)).data.abs()[:, 0]
    frame = int(torch.tensor(states).argmin())
    made, blurred = Gridding()(gated).data.abs()[:, frame], Gridding()(kspace).data.abs()[:, 0]
    assert nrmse(made, true) < 0.7 * nrmse(blurred, true)


def test_phases_follow_the_heart():
    kspace, _, beat = scan()
    signal = gating_signal(kspace.data[0, 0, :, 0], kspace.trajectory[0, 0], SHOT_S, (0.7, 2.5))
    phase = phases_of(signal, 4)
    means = torch.stack([beat[phase == p].mean() for p in range(4)])
    assert means.max() > 0.5 and means.min() < -0.5
    assert SelfGate(shot_s=SHOT_S, motion="cardiac", count=4)(kspace).data.shape[1] == 4


def test_directions_and_bands():
    angles = torch.arange(100) * 1.9416
    assert without_direction(torch.cos(2 * angles)[None] + 3, angles).abs().max() < 1e-4
    time = torch.arange(2000) * SHOT_S
    slow = torch.cos(2 * math.pi * 0.3 * time)
    made = band_passed((slow + torch.cos(2 * math.pi * 1.4 * time))[None], SHOT_S, (0.1, 0.7))[0]
    assert (made - slow).abs().max() < 0.05
    assert bins_of(torch.randn(103), 4).bincount().tolist() == [26, 26, 26, 25]


def test_gradient_reaches_the_data():
    kspace, _, _ = scan()
    data = kspace.data.clone().requires_grad_()
    SelfGate(shot_s=SHOT_S)(replace(kspace, data=data)).data.abs().square().sum().backward()
    torch.testing.assert_close(data.grad, 2 * kspace.data)


def test_bad_input():
    kspace, _, _ = scan(moving=False)
    with pytest.raises(UnsupportedError, match="Cartesian"):
        SelfGate(shot_s=0.02)(replace(kspace, trajectory=None))
    with pytest.raises(SignalError, match="does not vary"):
        SelfGate(shot_s=0.02)(replace(kspace, data=kspace.data * 0))
    with pytest.raises(SettingError, match="band"):
        SelfGate(shot_s=1.0)(kspace)
    with pytest.raises(SignalError, match="centre"):
        SelfGate(shot_s=0.02)(replace(kspace, trajectory=kspace.trajectory + 9))
    with pytest.raises(SettingError):
        SelfGate(shot_s=0.0)
    with pytest.raises(SignalError, match="peaks"):
        phases_of(torch.zeros(9), 3)
