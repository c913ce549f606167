"""Wavelet, locally low rank and L + S as stages: better than the linear method, λ chosen near the best one."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from firstread.acquire.coils import LoopCoils
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import VariableDensity
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Rows
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.minimize import LeastSquares
from firstread.ops.regularization import cartesian_radius
from firstread.reconstruct.choice import noise_variance, part_of
from firstread.reconstruct.iterative import CGSense, SpatialTV, TemporalTV
from firstread.reconstruct.problem import Problem, problem_of
from firstread.reconstruct.regularized import Regularized
from firstread.reconstruct.sparse import LocallyLowRank, LowRankPlusSparse, Wavelet

SIZE = 48


def scene(frames: int) -> Image:
    line = torch.linspace(-1, 1, SIZE)
    y, x = line[None, :, None], line[None, None]
    radius = 0.3 + 0.08 * torch.cos(2 * torch.pi * torch.arange(frames)[:, None, None] / frames)
    data = 0.35 * ((y / 0.8) ** 2 + (x / 0.9) ** 2 < 1) + 0.6 * (y**2 + x**2 < radius**2)
    grid = Grid.from_spacing((1, SIZE, SIZE), (8.0, 2.0, 2.0))
    return Image(Rows.subjects(1), data[None, :, None, None].float(), grid)


def encoded(image: Image, snr: float) -> KSpace:
    stage = Encode(coils=LoopCoils(count=4), sampling=VariableDensity(acceleration=3, centre_lines=6), snr=snr,
                   keep_sensitivities=True)
    return stage(image, Key(3, "encode"))


STILL, MOVING = scene(1), scene(8)
SCANS = {1: encoded(STILL, 20), 8: encoded(MOVING, 20)}


def nrmse(made: Image) -> float:
    truth = STILL.data if made.data.shape[1] == 1 else MOVING.data
    return ((made.data.abs() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize(("stage", "frames"), [(Wavelet(), 1), (LocallyLowRank(), 8), (LowRankPlusSparse(), 8)],
                         ids=["wavelet", "llr", "l+s"])
def test_it_is_better_than_least_squares_and_says_why_it_stopped(stage, frames):
    with torch.no_grad():
        made = stage(SCANS[frames])
        assert nrmse(made) < 0.75 * nrmse(CGSense()(SCANS[frames]))
    assert [n.code for n in made.notes] == ["solver"] and "iterations, residual" in made.notes[0].text


@cache
def least_error(kind: type[Regularized], frames: int) -> float:
    """Over λ, every half decade."""
    with torch.no_grad():
        return min(nrmse(kind(regularization=10 ** (-3 + 0.5 * k), iterations=25)(SCANS[frames])) for k in range(4))


@pytest.mark.parametrize(("kind", "frames", "choice", "excess"), [
    (Wavelet, 1, "sure", 1.05), (SpatialTV, 1, "sure", 1.05), (TemporalTV, 8, "sure", 1.05),
    (LocallyLowRank, 8, "sure", 1.05), (LowRankPlusSparse, 8, "sure", 1.05), (Wavelet, 1, "discrepancy", 1.3),
    (SpatialTV, 1, "discrepancy", 1.3), (SpatialTV, 1, "l-curve", 1.3)])
def test_the_chosen_weight_is_near_the_best(kind, frames, choice, excess):
    with torch.no_grad():
        made = kind(regularization=None, choice=choice, iterations=25)(SCANS[frames])
    assert made.notes[0].code == "regularization" and choice in made.notes[0].text
    assert nrmse(made) < excess * least_error(kind, frames)


def test_noise_is_known_from_its_scan_or_from_outer_kspace():
    noisy = encoded(MOVING, 5)
    known = noise_variance(noisy)
    estimated = noise_variance(replace(noisy, noise_covariance=None))
    assert known.item() == pytest.approx(estimated.item(), rel=0.15)


def test_an_unknown_noise_level_takes_the_usual_weight_and_says_so():
    """Filled k-space: measured by its mask, but zero far out."""
    near = cartesian_radius(SCANS[1].data, (-2, -1)) < 1
    filled = replace(SCANS[1], noise_covariance=None, data=SCANS[1].data * near)
    with torch.no_grad():
        made = SpatialTV(regularization=None, iterations=2)(filled)
        usual = SpatialTV(iterations=2)(filled)
    assert torch.equal(made.data, usual.data)
    assert made.notes[0].severity == "warning" and "noise level is not known" in made.notes[0].text


def test_a_part_is_enough_to_choose_a_weight():
    """Of slices, frames and fully sampled columns: those of most energy, with their own coils and lines."""
    torch.manual_seed(0)
    shape = torch.zeros(1, 5, 2, 3, 6, 100, dtype=torch.complex64)
    data = torch.randn_like(shape) * (1 + 9 * (torch.arange(100) >= 30) * (torch.arange(100) < 94))
    data[:, :, :, 1] *= 3
    maps, mask = torch.randn(1, 1, 2, 3, 6, 100, dtype=torch.complex64), torch.rand(1, 5, 1, 1, 6, 1)
    problem = Problem(data, CartesianEncoding(mask=mask, sensitivities=maps, fourier_axes=("y",)))
    part = part_of(problem, together=False)
    assert torch.equal(part.measured, data[:, [1, 3], :, 1:2, :, 30:94])
    assert torch.equal(part.encoding.sensitivities, maps[:, :, :, 1:2, :, 30:94])
    assert torch.equal(part.encoding.mask, mask[:, [1, 3]])
    assert part_of(problem, together=True).measured.shape[1] == 5


def test_discrepancy_refuses_a_model_that_misses_the_noise():
    quiet = replace(SCANS[1], noise_covariance=1e-6 * SCANS[1].noise_covariance)
    with pytest.raises(SignalError, match="weakest regularization misses"), torch.no_grad():
        Wavelet(regularization=None, choice="discrepancy", iterations=5)(quiet)


def test_low_rank_and_sparse_add_up_and_differ():
    problem = problem_of(SCANS[8])
    fit = LeastSquares(problem.encoding.gram, problem.rhs(), problem.encoding.bound())
    stage = LowRankPlusSparse(iterations=30)
    weight = 5e-3 * problem.brightness()
    with torch.no_grad():
        low, sparse = stage.parts(fit, weight).x.chunk(2, dim=1)
        assert torch.allclose(stage.solve(fit, weight).x, low + sparse)
    values = torch.linalg.svdvals(low[0, :, 0, 0].flatten(1))
    assert int((values > 1e-3 * values[0]).sum()) < 8
    assert 0 < float(sparse.norm()) < 0.5 * float(low.norm())


def test_odd_sizes_volumes_and_one_frame():
    kspace = encoded(STILL, 20)
    odd = replace(kspace, data=kspace.data[..., 1:, 3:], mask=kspace.mask[..., 1:, :],
                  sensitivities=kspace.sensitivities[..., 1:, 3:], grid=kspace.grid.crop((0, 1, 3), (1, 47, 45)))
    with torch.no_grad():
        for stage in (Wavelet(iterations=3), Wavelet(iterations=3, axes=("z", "y", "x"), family="daubechies4"),
                      LocallyLowRank(iterations=3, block=7), LowRankPlusSparse(iterations=3)):
            assert torch.isfinite(stage(odd).data.abs()).all()


def test_refuses_impossible_settings():
    for wrong in ({"regularization": -1}, {"iterations": 0}, {"tolerance": -1}, {"choice": "oracle"}):
        with pytest.raises(SettingError if "choice" not in wrong else Exception):
            Wavelet(**wrong)
    with pytest.raises(SettingError, match="blocks of 0"):
        LocallyLowRank(block=0)
    with pytest.raises(SettingError, match="rank"):
        LowRankPlusSparse(rank=0)
