"""Reconstruction along trajectories: images come back, noise and gradients, real spirals, bad input."""

from dataclasses import replace

import numpy
import pytest
import torch

from firstread.acquire.active import measure_lines
from firstread.acquire.coils import GaussianCoils
from firstread.acquire.mri_trajectory import EncodeTrajectory
from firstread.acquire.repeat import edge_covariance
from firstread.acquire.trajectories import Radial, Spiral
from firstread.core.errors import SettingError, SignalError, UnsupportedError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Rows
from firstread.io.mrd_encode import acquisitions_of
from firstread.nets.cascade import DeepCascade
from firstread.ops.solve import conjugate_gradient
from firstread.reconstruct.cascade import Cascade
from firstread.reconstruct.direct import ZeroFilled
from firstread.reconstruct.iterative import CGSense, SpatialTV, TemporalTV
from firstread.reconstruct.noncartesian import Gridding, central_maps, density_weights, problem_along
from firstread.reconstruct.sensitivities import estimate_sensitivities

SIZE = 48


@pytest.fixture(scope="module")
def image() -> Image:
    line = (torch.arange(3 * SIZE) - (3 * SIZE - 1) / 2) / (1.5 * SIZE)
    y, x = line[:, None], line[None]
    body, place = (y / 0.8) ** 2 + (x / 0.7) ** 2 < 1, (y - 0.1) ** 2 + (x + 0.2) ** 2
    frames = [0.4 * body + 0.6 * (place < (0.3 + 0.05 * t) ** 2) for t in range(2)]
    grid = Grid.from_spacing((1, 3 * SIZE, 3 * SIZE), (8.0, 2 / 3, 2 / 3))
    return Image(Rows.subjects(1), torch.stack(frames)[None, :, None, None].float(), grid)


@pytest.fixture(scope="module")
def truth(image) -> torch.Tensor:
    return torch.nn.functional.avg_pool3d(image.data[:, :, 0], (1, 3, 3))[:, :, None]


def measured(image: Image, trajectory, **settings) -> KSpace:
    given = {"coils": GaussianCoils(count=4), "snr": 100.0, "matrix": (SIZE, SIZE), **settings}
    return EncodeTrajectory(trajectory=trajectory, **given)(image, Key(0, "encode"))


def nrmse(made: torch.Tensor, truth: torch.Tensor) -> float:
    return ((made.abs() - truth.abs()).norm() / truth.norm()).item()


@pytest.mark.parametrize("trajectory", [Radial(shots=76), Radial(shots=76, golden=False), Spiral(shots=12)],
                         ids=["golden", "equal", "spiral"])
def test_densely_sampled_images_come_back(image, truth, trajectory):
    kspace = measured(image, trajectory, keep_sensitivities=True)
    assert nrmse(Gridding()(kspace).data, truth) < 0.09
    assert nrmse(CGSense(regularization=1e-3)(kspace).data, truth) < 0.06


def test_few_spokes_need_the_coils_and_then_the_prior(image, truth):
    kspace = measured(image, Radial(shots=20))
    stages = Gridding(), CGSense(regularization=1e-3, iterations=15), SpatialTV(regularization=5e-3)
    direct, parallel, sparse = (nrmse(stage(kspace).data, truth) for stage in stages)
    assert sparse < parallel < direct and sparse < 0.5 * direct


@pytest.mark.parametrize(("choice", "snr"), [("l-curve", 30.0), ("sure", 8.0)])
def test_the_weight_is_chosen_along_a_trajectory_too(image, truth, choice, snr):
    kspace = measured(image, Radial(shots=16), snr=snr)
    one = replace(kspace, data=kspace.data[:, :1], trajectory=kspace.trajectory[:, :1])
    with torch.no_grad():
        errors = [nrmse(SpatialTV(regularization=w, iterations=25)(one).data, truth[:, :1]) for w in (1e-3, 1e-2, 1e-1)]
        made = SpatialTV(regularization=None, choice=choice, iterations=25)(one)
    assert nrmse(made.data, truth[:, :1]) < 1.3 * min(errors) < 0.8 * max(errors)


def test_golden_angles_of_several_frames_help_each_other(image, truth):
    kspace = measured(image, Radial(shots=13))
    alone, together = CGSense(regularization=1e-3)(kspace), TemporalTV(regularization=1e-2, iterations=40)(kspace)
    assert together.data.shape == truth.shape and nrmse(together.data, truth) < nrmse(alone.data, truth)


def test_estimated_coils_are_near_the_true_ones(image):
    kspace = measured(image, Radial(shots=40), keep_sensitivities=True)
    made = central_maps(kspace, density_weights(kspace), calibration_lines=24)
    object_ = torch.nn.functional.avg_pool3d(image.data[:, :1, 0], (1, 3, 3))[:, :, None] > 0.1
    agreement = (made.conj() * kspace.sensitivities).sum(dim=2, keepdim=True).abs()[object_]
    assert agreement.mean() > 0.98


def test_weighted_least_squares_is_solved(image):
    problem = problem_along(measured(image, Radial(shots=30)), tolerance=1e-5)
    rhs = problem.rhs()
    made = conjugate_gradient(lambda v: problem.encoding.gram(v) + 0.01 * v, rhs, iterations=60, systems=4)
    explained = problem.encoding.adjoint(problem.encoding(made)) + 0.01 * made
    assert ((explained - rhs).norm() / rhs.norm()).item() < 1e-3


def test_samples_that_were_not_measured_do_not_matter(image):
    kspace = measured(image, Radial(shots=40))
    mask = torch.ones(1, 1, 1, 1, 40, 2 * SIZE)
    mask[..., 30:, :] = 0
    data = torch.where(mask > 0, kspace.data, torch.full_like(kspace.data, 7.0))
    cut = replace(kspace, data=kspace.data[..., :30, :], trajectory=kspace.trajectory[..., :30, :])
    assert torch.allclose(Gridding()(replace(kspace, data=data, mask=mask)).data, Gridding()(cut).data, atol=1e-4)


def test_the_gradient_reaches_data_and_trajectory(image):
    kspace = measured(image, Radial(shots=9))
    places = kspace.trajectory.clone().requires_grad_()
    for stage in (Gridding(), CGSense(iterations=3), SpatialTV(iterations=2)):
        stage(replace(kspace, trajectory=places)).data.abs().square().sum().backward()
        assert bool(torch.isfinite(places.grad).all()) and places.grad.abs().sum() > 0
        places.grad = None


def test_the_gradient_in_the_trajectory_agrees_with_finite_differences(image):
    kspace = measured(image, Radial(shots=9), snr=None, keep_sensitivities=True)
    kspace = replace(kspace, data=kspace.data.to(torch.complex128)[:, :1], trajectory=kspace.trajectory[:, :1].double(),
                     sensitivities=kspace.sensitivities.to(torch.complex128))
    encoding = problem_along(kspace, tolerance=1e-10).encoding
    step = torch.randn(encoding.trajectory.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def value(places):
        moved = type(encoding)(trajectory=places, shape=encoding.shape, sensitivities=encoding.sensitivities,
                               weights=encoding.weights, tolerance=1e-10)
        return moved.adjoint(kspace.data).abs().square().sum()

    places = encoding.trajectory.clone().requires_grad_()
    value(places).backward()
    slope = (places.grad * step).sum().item()
    found = (value(encoding.trajectory + 1e-5 * step) - value(encoding.trajectory - 1e-5 * step)).item() / 2e-5
    assert slope == pytest.approx(found, rel=1e-5)


@pytest.mark.realdata
def test_real_spirals_show_the_phantom(realdata):
    kspace, given = real_spiral(realdata)
    weights = density_weights(kspace)[0, 0, 0, 0]
    assert numpy.corrcoef(weights.flatten(), given.flatten())[0, 1] > 0.95
    direct = Gridding()(kspace).data.abs()[0, 0, 0, 0]
    solved = CGSense(regularization=1e-3, iterations=10)(kspace).data.abs()[0, 0, 0, 0]
    assert ((direct - solved).norm() / solved.norm()).item() < 0.25
    dark, bright = direct[60:70, 20:30].mean(), direct[80:110, 195:225].mean()
    assert bright > 20 * dark


def real_spiral(folder) -> tuple[KSpace, torch.Tensor]:
    with numpy.load(folder / "kspace" / "spiral.npz") as file:
        place, data, weight = (torch.from_numpy(file[name]) for name in ("k", "data", "w"))
    size = 256
    trajectory = torch.stack((place.T.imag, place.T.real))[None, None] * size
    kspace = KSpace(Rows.subjects(1), data.permute(2, 1, 0)[None, None, :, None].contiguous(),
                    Grid.pixels((1, size, size)), torch.ones(1, 1, 1, 1, 1, 1), trajectory=trajectory)
    return kspace, weight.T


def test_misfits_are_refused_when_the_record_is_made(image):
    kspace = measured(image, Radial(shots=9))
    with pytest.raises(SettingError, match=r"\(9, 96\) \(shots, samples\).*\(9, 95\)"):
        replace(kspace, data=kspace.data[..., :-1])
    with pytest.raises(SettingError, match="trajectory of 2 axes"):
        replace(kspace, fourier_axes=("z", "y", "x"))
    with pytest.raises(SettingError, match="Fourier axes"):
        replace(kspace, fourier_axes=("k", "x"))
    with pytest.raises(SettingError, match=r"in 2 frames.*in 3"):
        replace(kspace, data=kspace.data[:, [0, 1, 0]])
    with pytest.raises(SettingError, match="coil maps of shape"):
        replace(kspace, sensitivities=torch.ones(1, 1, 4, 1, 9, 96, dtype=torch.complex64))
    with pytest.raises(SettingError, match="slices"):
        replace(kspace, data=kspace.data.expand(-1, -1, -1, 2, -1, -1))


def full_lines(kspace: KSpace) -> KSpace:
    return measure_lines(kspace, torch.ones(1, 2, 1, 9))


def test_what_needs_lines_refuses_trajectories_and_says_so(image):
    kspace = measured(image, Radial(shots=9))
    network = DeepCascade(cascades=1, depth=2, width=4)
    quiet = replace(kspace, noise_covariance=None)
    for use in (ZeroFilled(), Cascade(network=network), estimate_sensitivities, acquisitions_of, full_lines,
                lambda _: edge_covariance(quiet)):
        with pytest.raises(UnsupportedError, match=r"trajectory for .*Cartesian"):
            use(kspace)


def test_bad_measurements_are_refused_in_one_sentence(image):
    kspace = measured(image, Radial(shots=9))
    far = kspace.trajectory + 40
    broken = kspace.data.clone()
    broken[0, 0, 1] = 0
    broken[0, 1, 1] = 0
    unsampled = torch.zeros(1, 1, 1, 1, 9, 1)
    for wrong, words in ((replace(kspace, data=kspace.data * torch.nan), "NaN"),
                         (replace(kspace, data=broken), "coil 2"),
                         (replace(kspace, mask=unsampled), "no measured sample"),
                         (replace(kspace, trajectory=far), "centre of k-space")):
        with pytest.raises(SignalError, match=words):
            Gridding()(wrong)
    with pytest.raises(SettingError, match="Cartesian k-space"):
        Gridding()(replace(kspace, trajectory=None, grid=Grid.pixels((1, 9, 96)), sensitivities=None))
    with pytest.raises(SettingError, match="some slices only"):
        stack = replace(kspace, data=kspace.data.expand(-1, -1, -1, 2, -1, -1), grid=Grid.pixels((2, SIZE, SIZE)),
                        mask=torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2, 1, 1))
        Gridding()(stack)
    with pytest.raises(SettingError, match="calibration lines"):
        Gridding(calibration_lines=1)(kspace)
