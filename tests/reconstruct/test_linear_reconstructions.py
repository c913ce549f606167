"""Coil estimation, zero-filling and CG-SENSE: properties, a dense solution, bad input."""

from dataclasses import replace

import pytest
import torch

from firstread.acquire.coils import LoopCoils
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import FullySampled, UniformLines, VariableDensity
from firstread.core.case import Case
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Rows
from firstread.core.stage import Chain
from firstread.ops.encoding import CartesianEncoding
from firstread.reconstruct.direct import CombineCoils, ZeroFilled, root_sum_of_squares
from firstread.reconstruct.iterative import CGSense
from firstread.reconstruct.sensitivities import estimate_sensitivities

SIZE = 48


@pytest.fixture(scope="module")
def image() -> Image:
    line = torch.linspace(-1, 1, SIZE)
    y, x = line[:, None], line[None]
    frames = []
    for t in range(6):
        body = 0.4 * ((y / 0.85) ** 2 + (x / 0.9) ** 2 < 1) + 0.6 * (y**2 + x**2 < (0.3 + 0.03 * t) ** 2)
        frames.append(body)
    data = torch.stack(frames)[None, :, None, None].float()
    grid = Grid.from_spacing((1, SIZE, SIZE), (8.0, 2.0, 2.0))
    return Image(Rows.subjects(1), data, grid, times_s=torch.rand(1, 6, 1))


def encoded(image: Image, seed: int = 0, **settings) -> KSpace:
    return Encode(coils=LoopCoils(count=6), **settings)(image, Key(seed, "encode"))


def nrmse(made: torch.Tensor, truth: torch.Tensor) -> float:
    return ((made.abs() - truth.abs()).norm() / truth.norm()).item()


def test_fully_sampled_noiseless_data_give_the_image_back(image):
    kspace = encoded(image, sampling=FullySampled(), snr=None, keep_sensitivities=True)
    assert torch.allclose(ZeroFilled()(kspace).data, image.data + 0j, atol=1e-5)
    assert torch.allclose(root_sum_of_squares(kspace.data), image.data, atol=1e-5)
    assert torch.allclose(CGSense(regularization=0.0, tolerance=1e-7)(kspace).data, image.data + 0j, atol=1e-4)


def test_estimated_coils_are_near_the_true_ones(image):
    kspace = encoded(image, sampling=VariableDensity(acceleration=4, centre_lines=8), snr=50.0, keep_sensitivities=True)
    made = estimate_sensitivities(kspace)
    true = kspace.sensitivities
    object_ = image.data[:, :1] > 0
    agreement = (made.conj() * true).sum(dim=2, keepdim=True).abs()[object_]
    assert made.abs().square().sum(dim=2)[object_[:, :, 0]].sub(1).abs().max() < 1e-3
    assert agreement.mean() > 0.985 and agreement.quantile(0.05) > 0.95


@pytest.mark.parametrize("sampling", [VariableDensity(acceleration=3), UniformLines(acceleration=3, centre_lines=12)])
def test_cg_sense_is_better_than_zero_filling(image, sampling):
    kspace = encoded(image, sampling=sampling, snr=50.0)
    assert nrmse(CGSense()(kspace).data, image.data) < 0.6 * nrmse(ZeroFilled()(kspace).data, image.data)


def test_cg_sense_solves_its_normal_equations():
    size = 8
    data = torch.randn(1, 1, 1, 1, size, size, dtype=torch.complex128)
    maps = torch.randn(1, 1, 3, 1, size, size, dtype=torch.complex128)
    mask = torch.ones(1, 1, 1, 1, size, 1, dtype=torch.float64)
    mask[..., ::3, :] = 0
    kspace = KSpace(Rows.subjects(1), torch.zeros(1, 1, 3, 1, size, size, dtype=torch.complex128),
                    Grid.pixels((1, size, size)), mask, maps)
    encoding = CartesianEncoding(mask=mask, sensitivities=maps)
    kspace = replace(kspace, data=encoding(data))
    unit = torch.eye(size * size, dtype=torch.complex128).reshape(-1, 1, 1, 1, 1, size, size)
    matrix = torch.stack([encoding(column).flatten() for column in unit], dim=1)
    weight = 1e-2 * encoding.bound()
    dense = torch.linalg.solve(matrix.mH @ matrix + weight * torch.eye(size * size), matrix.mH @ kspace.data.flatten())
    made = CGSense(regularization=1e-2, iterations=300, tolerance=1e-12)(kspace)
    assert torch.allclose(made.data.flatten(), dense, atol=1e-8)


def test_whitening_helps_where_noise_is_correlated(image):
    data = {"sampling": UniformLines(acceleration=2), "snr": 8.0, "correlation": 0.8, "keep_sensitivities": True}
    with_covariance, without = [], []
    for seed in range(3):
        kspace = encoded(image, seed, **data)
        with_covariance.append(nrmse(CGSense()(kspace).data, image.data))
        without.append(nrmse(CGSense()(replace(kspace, noise_covariance=None)).data, image.data))
    assert sum(with_covariance) < 0.97 * sum(without)


def test_rows_times_and_source_come_through_and_the_crop_keeps_its_place(image):
    kspace = replace(encoded(image, snr=None, sampling=FullySampled()), image_shape=(1, 33, 20), source={"uid": "1"})
    made = ZeroFilled()(kspace)
    assert made.grid.shape == (1, 33, 20) == tuple(made.data.shape[-3:])
    assert made.source == {"uid": "1"} and torch.equal(made.times_s, image.times_s) and made.rows is kspace.rows
    whole = ZeroFilled()(replace(kspace, image_shape=None))
    centre_small = made.grid.to_mm(torch.tensor([[10.0, 16.0, 0.0]], dtype=torch.float64))
    centre_whole = whole.grid.to_mm(torch.tensor([[SIZE / 2, SIZE / 2, 0.0]], dtype=torch.float64))
    assert torch.allclose(centre_small, centre_whole)
    assert torch.equal(made.data[..., 16, 10], whole.data[..., SIZE // 2, SIZE // 2])


def test_one_coil_needs_no_sensitivities(image):
    stage = Encode(coils=LoopCoils(count=1), sampling=VariableDensity(acceleration=2), snr=40.0)
    kspace = stage(image, Key(1, "encode"))
    assert nrmse(CGSense()(kspace).data, image.data) < 0.4


def test_gradient_of_cg_sense_agrees_with_finite_differences(image):
    kspace = encoded(image, sampling=VariableDensity(acceleration=2), snr=30.0)
    kspace = replace(kspace, data=kspace.data[:, :1].to(torch.complex128), mask=kspace.mask[:, :1].double(),
                     noise_covariance=None, times_s=None)
    stage = CGSense(iterations=200, tolerance=1e-11)
    direction = torch.randn(kspace.data.shape, dtype=torch.complex128) * kspace.mask

    def value(data):
        return stage(replace(kspace, data=data)).data.abs().square().sum()

    data = kspace.data.clone().requires_grad_()
    value(data).backward()
    slope = (data.grad.conj() * direction).sum().real
    step = 1e-5
    measured = (value(kspace.data + step * direction) - value(kspace.data - step * direction)) / (2 * step)
    assert slope.item() == pytest.approx(measured.item(), rel=1e-5)


def test_the_chain_from_image_to_image(image):
    chain = Chain(Encode(sampling=VariableDensity(acceleration=3)), ZeroFilled(), CGSense(),
                  inputs={"truth.image": Image})
    case = chain(Case({"truth.image": image}, seed=3))
    assert list(case) == ["truth.image", "kspace", "zero_filled", "reconstruction"]
    assert torch.equal(chain(Case({"truth.image": image}, seed=3))["reconstruction"].data, case["reconstruction"].data)


def test_bad_kspace_is_refused_in_one_sentence(image):
    kspace = encoded(image, sampling=VariableDensity(acceleration=3))
    data = kspace.data.clone()
    data[0, 1, 2, 0, 3, 4] = torch.nan
    dead = kspace.data.clone()
    dead[:, :, 3] = 0
    nothing = kspace.mask.clone()
    nothing[:, 2] = 0
    hole = kspace.mask.clone()
    hole[..., SIZE // 2, :] = 0
    partly = kspace.data.clone()
    partly[:, 1, 2] = 0
    singular = torch.zeros_like(kspace.noise_covariance)
    for broken, words in ((replace(kspace, data=data), "NaN"), (replace(kspace, data=dead), "coil 4 of 6"),
                          (replace(kspace, data=partly), "coil 3 of 6 without signal in frame 2"),
                          (replace(kspace, mask=nothing), "frame 3"), (replace(kspace, mask=hole), "centre"),
                          (replace(kspace, noise_covariance=singular), "positive definite")):
        for stage in (ZeroFilled(), CGSense()):
            with pytest.raises(SignalError, match=words):
                stage(broken)


def test_refuses_impossible_settings(image):
    with pytest.raises(SettingError, match="regularization"):
        CGSense(regularization=-1.0)
    with pytest.raises(SettingError, match="calibration"):
        ZeroFilled(calibration_lines=1)(encoded(image))


def test_coils_with_coloured_noise_combine_to_the_image(image):
    kspace = encoded(image, sampling=FullySampled(), snr=200.0, correlation=0.4, keep_sensitivities=True)
    made = CombineCoils()(kspace).data
    assert nrmse(made, image.data) < 0.02 < 0.1 < nrmse(ZeroFilled()(kspace).data, image.data)
    scaled = replace(kspace, noise_covariance=None, sensitivities=3 * kspace.sensitivities, data=3 * kspace.data)
    assert nrmse(CombineCoils()(scaled).data, image.data) < 0.02


def test_combination_refuses_sets_of_maps(image):
    kspace = encoded(image, sampling=FullySampled(), keep_sensitivities=True)
    with pytest.raises(SettingError, match="2 sets of coil maps"):
        CombineCoils()(replace(kspace, sensitivities=kspace.sensitivities.repeat(1, 2, 1, 1, 1, 1)))
