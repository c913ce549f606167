"""Temporal TV and the cascade as stages: on a moving disc, against zero-filling and CG-SENSE."""

import pytest
import torch

from firstread.acquire.coils import LoopCoils
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import LearnedMask, VariableDensity
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Rows
from firstread.nets.cascade import DeepCascade
from firstread.reconstruct.cascade import Cascade
from firstread.reconstruct.direct import ZeroFilled
from firstread.reconstruct.iterative import CGSense, TemporalTV

SIZE, FRAMES = 40, 10


@pytest.fixture(scope="module")
def image() -> Image:
    line = torch.linspace(-1, 1, SIZE)
    y, x = line[:, None], line[None]
    radius = 0.35 + 0.1 * torch.cos(2 * torch.pi * torch.arange(FRAMES)[:, None, None] / FRAMES)
    data = 0.3 * ((y / 0.85) ** 2 + (x / 0.9) ** 2 < 1) + 0.7 * (y**2 + x**2 < radius**2)
    grid = Grid.from_spacing((1, SIZE, SIZE), (8.0, 2.0, 2.0))
    return Image(Rows.subjects(1), data[None, :, None, None].float(), grid, times_s=torch.rand(1, FRAMES, 1))


@pytest.fixture(scope="module")
def kspace(image) -> KSpace:
    stage = Encode(coils=LoopCoils(count=4), sampling=VariableDensity(acceleration=4, centre_lines=6), snr=40)
    return stage(image, Key(3, "encode"))


def nrmse(made: Image, truth: Image) -> float:
    return ((made.data.abs() - truth.data).norm() / truth.data.norm()).item()


def untrained() -> Cascade:
    return Cascade(network=DeepCascade(cascades=2, depth=2, width=4, kernel="shift", sharing=(2,), consistency=0.1,
                                       variation=0.03))


def test_temporal_variation_is_better_than_frame_by_frame(image, kspace):
    errors = [nrmse(stage(kspace), image) for stage in (ZeroFilled(), CGSense(), TemporalTV())]
    assert errors[2] < 0.7 * errors[1] < 0.7 * errors[0]


def test_the_untrained_cascade_is_better_than_frame_by_frame(image, kspace):
    with torch.no_grad():
        assert nrmse(untrained()(kspace), image) < nrmse(CGSense()(kspace), image)


@pytest.mark.parametrize("stage", [TemporalTV(iterations=5), untrained()], ids=["tv", "cascade"])
def test_scaling_the_signal_scales_the_image(stage, kspace):
    with torch.no_grad():
        once = stage(kspace).data
        louder = stage(kspace.map(lambda t: 1000 * t if t is kspace.data else 1e6 * t if t is kspace.noise_covariance
                                  else t)).data
    assert torch.allclose(louder / 1000, once, atol=1e-4)


@pytest.mark.parametrize("stage", [TemporalTV(iterations=5), untrained()], ids=["tv", "cascade"])
def test_keeps_rows_times_and_grid(stage, kspace):
    with torch.no_grad():
        made = stage(kspace)
    assert made.grid is kspace.grid and made.rows is kspace.rows and torch.equal(made.times_s, kspace.times_s)
    assert made.data.shape == (1, FRAMES, 1, 1, SIZE, SIZE) and made.data.is_complex()


def test_one_frame_and_one_coil_work(image):
    single = image.map(lambda t: t[:, :1] if t is image.data or t is image.times_s else t)
    stage = Encode(coils=LoopCoils(count=1), sampling=VariableDensity(acceleration=2), snr=40)
    kspace = stage(single, Key(0, "encode"))
    with torch.no_grad():
        for stage in (TemporalTV(), untrained()):
            assert nrmse(stage(kspace), single) < 0.4


@pytest.mark.parametrize("stage", [CGSense(), TemporalTV(iterations=10), untrained()], ids=["cg", "tv", "cascade"])
def test_an_end_to_end_gradient_reaches_the_mask(stage, image):
    mask = LearnedMask(lines=SIZE, count=12, centre_lines=6, frames=FRAMES)
    kspace = Encode(sampling=mask, coils=LoopCoils(count=4), snr=40)(image, Key(0, "encode"))
    (stage(kspace).data.abs() - image.data).square().mean().backward()
    assert torch.isfinite(mask.logits.grad).all() and mask.logits.grad.abs().max() > 0


@pytest.mark.parametrize("stage", [TemporalTV(iterations=5), untrained()], ids=["tv", "cascade"])
def test_bad_kspace_is_refused(stage, kspace):
    broken = kspace.map(lambda t: t * torch.nan if t is kspace.data else t)
    with pytest.raises(SignalError, match="NaN"):
        stage(broken)


def test_refuses_impossible_settings():
    with pytest.raises(SettingError, match="regularization"):
        TemporalTV(regularization=-1)


def test_the_trail_names_the_network():
    assert "cascades=2" in untrained().settings() and "calibration_lines=32" in untrained().settings()
