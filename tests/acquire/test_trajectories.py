"""Trajectories and the scanner that follows them: geometry, the Cartesian scanner as a special case, bad input."""

import math

import pytest
import torch

from firstread.acquire.coils import GaussianCoils
from firstread.acquire.mri import Encode
from firstread.acquire.mri_trajectory import EncodeTrajectory
from firstread.acquire.sampling import FullySampled
from firstread.acquire.trajectories import GOLDEN_ANGLE, LearnedTrajectory, Radial, Spiral
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, Rows


class Cartesian:
    """All whole frequencies, line by line."""

    def __call__(self, frames: int, matrix: tuple[int, int]) -> torch.Tensor:
        lines = [torch.arange(float(n)) - n // 2 for n in matrix]
        return torch.stack(torch.meshgrid(*lines, indexing="ij"))[None]


def picture(size: int = 30, frames: int = 2) -> Image:
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    data = torch.stack([torch.sigmoid(20 * (0.6 + 0.1 * t - (x**2 + 1.5 * y**2).sqrt())) for t in range(frames)])
    return Image(Rows.subjects(1), data[None, :, None, None], Grid.from_spacing((1, size, size), (8.0, 2.0, 2.0)))


def test_golden_spokes_run_on_through_the_frames_and_reach_the_edge():
    made = Radial(shots=5)(4, (32, 24))
    directions = torch.atan2(-made[:, 0, :, 0] / 16, -made[:, 1, :, 0] / 12).flatten()
    turned = (directions.diff() - GOLDEN_ANGLE).remainder(2 * math.pi)
    assert torch.minimum(turned, 2 * math.pi - turned).abs().max() < 1e-5
    assert (made[:, :, :, 32] == 0).all()
    assert (made / torch.tensor([16.0, 12.0])[:, None, None]).norm(dim=1).max().item() == pytest.approx(1)


def test_equal_angles_are_the_same_in_every_frame():
    made = Radial(shots=6, golden=False)(3, (16, 16))
    assert torch.equal(made[0], made[2])


def test_spirals_begin_at_the_centre_and_end_at_the_edge():
    made = Spiral(shots=7, turns=3)(2, (64, 64))
    assert made[:, :, :, 0].abs().max() == 0
    assert torch.allclose(made[:, :, :, -1].norm(dim=1), torch.full((2, 7), 32.0), atol=1e-4)


def test_a_spiral_keeps_the_nyquist_distance_between_its_turns():
    made = Spiral(shots=4)(1, (32, 32))[0].norm(dim=0)
    per_turn = made.shape[1] / (32 / 8)
    assert made[0].diff().mean().item() * per_turn * (1 / 4) <= 1.01


@pytest.mark.parametrize("matrix", [None, (10, 15)])
def test_on_whole_frequencies_it_is_the_cartesian_scanner(matrix):
    settings = {"coils": GaussianCoils(count=3), "snr": None, "matrix": matrix, "keep_sensitivities": True}
    key = Key(0, "encode")
    one = EncodeTrajectory(trajectory=Cartesian(), tolerance=1e-5, **settings)(picture(), key)
    other = Encode(sampling=FullySampled(), **settings)(picture(), key)
    assert (one.data - other.data).norm() < 3e-5 * other.data.norm()
    assert torch.equal(one.sensitivities, other.sensitivities) and one.grid.same_as(other.grid)


def test_noise_has_the_strength_of_the_cartesian_scanner():
    stage = EncodeTrajectory(coils=GaussianCoils(count=2), snr=20.0)
    quiet = EncodeTrajectory(coils=GaussianCoils(count=2), snr=None)
    made, clean = stage(picture(), Key(3, "encode")), quiet(picture(), Key(3, "encode"))
    measured = (made.data - clean.data).abs().square().mean()
    assert measured.item() == pytest.approx(made.noise_covariance[0].diagonal().real.mean().item(), rel=0.1)


def test_gradients_reach_image_and_trained_trajectory():
    image = picture(frames=1)
    leaf = image.data.clone().requires_grad_()
    learned = LearnedTrajectory(start=Radial(shots=3), matrix=(30, 30))
    stage = EncodeTrajectory(trajectory=learned, coils=GaussianCoils(count=2), snr=None)
    made = stage(Image(image.rows, leaf, image.grid), Key(0, "encode"))
    made.data.abs().square().sum().backward()
    assert leaf.grad.abs().sum() > 0 and learned.places.grad.abs().sum() > 0
    assert dict(stage.named_parameters()).keys() == {"trained.places"}


def test_bad_input_is_refused():
    with pytest.raises(SettingError, match="0 spokes"):
        Radial(shots=0)
    with pytest.raises(SettingError, match="1 samples"):
        Spiral(shots=3, samples=1)
    with pytest.raises(SettingError, match="SNR"):
        EncodeTrajectory(snr=0.0)
    with pytest.raises(SettingError, match="a matrix of"):
        EncodeTrajectory(matrix=(64, 64))(picture(), Key(0, "encode"))
    with pytest.raises(SettingError, match=r"of \(30, 30\)"):
        LearnedTrajectory(start=Radial(shots=3), matrix=(30, 30))(1, (20, 20))
    with pytest.raises(SignalError, match="NaN"):
        EncodeTrajectory()(Image(Rows.subjects(1), picture().data * math.nan, picture().grid), Key(0, "encode"))
