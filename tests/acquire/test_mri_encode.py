"""The scanner stage: noise at its level and covariance, coils of two families, an exact relation to the grid."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.acquire.coils import GaussianCoils, LoopCoils
from firstread.acquire.mri import Encode, encode_lower
from firstread.acquire.noise import correlated_noise, covariance_of, random_covariance
from firstread.acquire.sampling import FullySampled, LearnedMask, VariableDensity
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, Rows
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.fourier import ifft
from firstread.ops.whitening import whitening_matrix

KEY = Key(7, "encode")


def _disc(size: int = 32, frames: int = 2, rows: Rows | None = None) -> Image:
    line = torch.linspace(-1, 1, size)
    disc = ((line[:, None] ** 2 + line[None] ** 2) < 0.5).float()
    rows = rows or Rows.subjects(1)
    data = disc.expand(rows.subject.shape[0], frames, 1, 1, size, size).clone()
    return Image(rows, data, Grid.from_spacing((1, size, size), (8.0, 2.0, 2.0), batch=data.shape[0]))


@pytest.mark.parametrize("family", [GaussianCoils, LoopCoils])
def test_coils_are_smooth_normalized_and_differ_between_subjects(family):
    grid = Grid.from_spacing((2, 48, 40), (8.0, 2.0, 2.0))
    maps = family(count=6)(grid, torch.Generator().manual_seed(1))
    assert maps.shape == (6, 2, 48, 40)
    assert torch.allclose(maps.abs().square().sum(dim=0), torch.ones(2, 48, 40), atol=1e-4)
    assert (maps[..., 1:] - maps[..., :-1]).abs().max() < 0.3
    assert (maps - family(count=6)(grid, torch.Generator().manual_seed(2))).abs().max() > 0.1
    flat = maps.flatten(1)
    assert torch.linalg.matrix_rank(flat @ flat.mH) == 6


def test_kspace_is_the_operator_applied_to_the_image():
    stage = Encode(sampling=VariableDensity(acceleration=2), coils=LoopCoils(count=3), snr=None,
                   keep_sensitivities=True)
    image = _disc()
    kspace = stage(image, KEY)
    encoding = CartesianEncoding(mask=kspace.mask, sensitivities=kspace.sensitivities)
    assert torch.allclose(kspace.data, encoding(image.data + 0j), atol=1e-5)
    assert kspace.noise_covariance is None
    assert (kspace.mask.sum(dim=-2) == 16).all()


def test_sensitivities_are_kept_back_by_default():
    assert Encode()(_disc(64), KEY).sensitivities is None


def test_noise_has_the_stated_level_and_covariance():
    image = _disc(64, frames=8)
    stages = [Encode(sampling=FullySampled(), coils=LoopCoils(count=4), snr=snr) for snr in (None, 10.0)]
    clean, noisy = (stage(image, KEY) for stage in stages)
    noise = (noisy.data - clean.data)[0].movedim(1, 0).flatten(1)
    measured = covariance_of(noise)
    assert measured.diagonal().real.mean().item() == pytest.approx(0.01, rel=0.02)
    assert torch.allclose(measured, noisy.noise_covariance[0], atol=6e-4)
    white = covariance_of(whitening_matrix(noisy.noise_covariance)[0] @ noise)
    assert torch.allclose(white, 0.01 * torch.eye(4) + 0j, atol=8e-4)


@settings(deadline=None, max_examples=20)
@given(coils=st.integers(1, 16), correlation=st.floats(0, 0.9), seed=st.integers(0, 99))
def test_random_covariances_are_definite_with_mean_variance_one(coils, correlation, seed):
    covariance = random_covariance(coils, correlation, torch.Generator().manual_seed(seed))
    assert torch.allclose(covariance, covariance.mH, atol=1e-6)
    assert torch.linalg.eigvalsh(covariance).min() > 0.01
    assert covariance.diagonal().real.mean().item() == pytest.approx(1.0, abs=1e-5)


def test_randomness_belongs_to_the_row_not_to_the_order():
    rows = Rows.parts(3)
    image = _disc(64, rows=rows)
    stage = Encode()
    together = stage(image, KEY).data
    alone = stage(image.select(torch.tensor([2])), KEY).data
    assert torch.equal(together[2:], alone)
    assert not torch.allclose(together[0], together[1])


def test_parts_of_one_subject_share_their_coils():
    stage = Encode(snr=None, sampling=FullySampled(), keep_sensitivities=True)
    maps = stage(_disc(rows=Rows.parts(2)), KEY).sensitivities
    assert torch.equal(maps[0], maps[1])
    others = stage(_disc(rows=Rows.subjects(2)), KEY).sensitivities
    assert not torch.allclose(others[0], others[1])


@pytest.mark.parametrize(("fine", "coarse"), [(96, 32), (90, 30), (64, 32), (60, 20), (63, 21)])
def test_a_finer_object_lands_on_the_resized_grid(fine, coarse):
    """A band-limited object (a Gaussian) sampled on both grids gives the same samples."""
    def gaussian(grid: Grid) -> torch.Tensor:
        place = grid.points_mm()[0]
        x, y = place[..., 0], place[..., 1]
        return torch.exp(-((x - 6) ** 2 + (y + 4) ** 2) / (2 * 7.0**2))

    grid = Grid.from_spacing((1, fine, fine), (8.0, 96 / fine, 96 / fine))
    image = gaussian(grid).to(torch.complex128)
    low = ifft(encode_lower(image, (coarse, coarse)))
    assert torch.allclose(low.real, gaussian(grid.resize((1, coarse, coarse))), atol=2e-3)


def test_the_stage_resizes_its_grid():
    kspace = Encode(matrix=(32, 32), sampling=FullySampled())(_disc(96), KEY)
    assert kspace.grid.shape == (1, 32, 32) and kspace.data.shape[-2:] == (32, 32)
    assert kspace.grid.spacing_mm[0, 1].item() == pytest.approx(6.0)


def test_a_gradient_reaches_image_and_mask():
    mask = LearnedMask(lines=32, count=12)
    stage = Encode(sampling=mask, snr=20.0)
    image = _disc()
    data = image.data.requires_grad_()
    kspace = stage(image, KEY)
    assert (kspace.mask.sum(dim=-2) == 12).all()
    kspace.data.abs().square().sum().backward()
    assert data.grad.abs().max() > 0 and mask.logits.grad.abs().max() > 0


def test_correlated_noise_needs_no_more_than_its_generator():
    covariance = random_covariance(3, 0.4, torch.Generator().manual_seed(0))
    draws = [correlated_noise(covariance, (5,), torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("settings", [{"snr": 0.0}, {"snr": -1.0}, {"correlation": 1.0}])
def test_refuses_impossible_settings(settings):
    with pytest.raises(SettingError, match="expected"):
        Encode(**settings)


def test_refuses_images_it_cannot_encode():
    image = _disc()
    with pytest.raises(SettingError, match="at least as fine"):
        Encode(matrix=(64, 64))(image, KEY)
    with pytest.raises(SignalError, match="without signal"):

        Encode(sampling=FullySampled())(Image(image.rows, 0 * image.data, image.grid), KEY)
    with pytest.raises(SignalError, match="NaN"):
        Encode()(Image(image.rows, image.data / 0, image.grid), KEY)
    with pytest.raises(SignalError, match="more samples than coils"):
        covariance_of(torch.ones(4, 2) + 0j)
