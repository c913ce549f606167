"""Rigid motion between shots: the operator against a body that moves analytically, and poses that are known."""

import math

import pytest
import torch

from firstread.acquire.coils import GaussianCoils
from firstread.acquire.moving import EncodeMoving, random_poses, shot_lines
from firstread.acquire.textures import random_plane
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Rows
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.quality import nrmse
from firstread.ops.rigid_motion import RigidMotion, displaced, relative_to_first
from firstread.reconstruct.direct import ZeroFilled
from firstread.reconstruct.motion import MotionCorrected, in_degrees


def blob(centre: tuple[float, ...], rotation: torch.Tensor, shift: tuple[float, ...], size: int = 32) -> torch.Tensor:
    """A turned Gaussian, ``[z, y, x]`` with voxels of 1.5 mm about the voxel N // 2."""
    place = (torch.arange(size, dtype=torch.float64) - size // 2) * 1.5
    r = torch.stack(torch.meshgrid(place, place, place, indexing="ij"), dim=-1) - torch.tensor(shift).double()
    q = r @ rotation - torch.tensor(centre).double()
    return torch.exp(-(q / torch.tensor([3.0, 4.0, 3.5])).square().sum(-1) / 2).to(torch.complex128)


def turn(i: int, j: int, angle: float) -> torch.Tensor:
    """Rotation that takes axis i towards axis j, in (z, y, x)."""
    m = torch.eye(3, dtype=torch.float64)
    m[i, i] = m[j, j] = math.cos(angle)
    m[i, j], m[j, i] = -math.sin(angle), math.sin(angle)
    return m


def test_a_body_moves_in_space_as_it_should():
    rotation = turn(2, 1, 0.1) @ turn(0, 2, -0.15) @ turn(1, 0, 0.2)
    pose = torch.tensor([[[0.1, -0.15, 0.2, 3.0, -2.0, 4.0]]], dtype=torch.float64)
    still = blob((1, 4, -3), torch.eye(3, dtype=torch.float64), (0, 0, 0))
    made = RigidMotion(pose=pose, spacing_mm=(1.5, 1.5, 1.5))(still[None, None, None])[0, 0, 0]
    assert (made - blob((1, 4, -3), rotation, (3, -2, 4))).abs().max() < 1e-3


def test_whole_pixels_are_a_roll_and_shots_are_unitary():
    x = torch.randn(2, 1, 1, 3, 7, 6, dtype=torch.complex128)
    one = displaced(x, torch.tensor(2.0, dtype=torch.float64).reshape(1, 1, 1, 1, 1, 1), -2)
    torch.testing.assert_close(one, x.roll(2, -2))
    motion = RigidMotion(pose=0.3 * torch.randn(2, 4, 6, dtype=torch.float64), spacing_mm=(3.0, 1.0, 2.0))
    torch.testing.assert_close(motion.back(motion(x)), x.expand(2, 4, 1, 3, 7, 6))


@pytest.mark.parametrize("numbers", [3, 6])
def test_gradients_in_image_and_pose(numbers):
    x = torch.randn(1, 1, 1, 2, 4, 3, dtype=torch.complex128).requires_grad_()
    pose = (0.2 * torch.randn(1, 2, numbers, dtype=torch.float64)).requires_grad_()
    mask = torch.rand(1, 2, 1, 1, 4, 1, dtype=torch.float64)

    def apply(image, pose):
        return CartesianEncoding(mask=mask)(RigidMotion(pose=pose, spacing_mm=(2.0, 1.0, 1.5))(image))

    assert torch.autograd.gradcheck(apply, (x, pose))
    jacobian = torch.autograd.functional.jacobian(
        lambda p: torch.view_as_real(RigidMotion(pose=p, spacing_mm=(2.0, 1.0, 1.5))(x)[0, :, 0]), pose)
    each = torch.stack([torch.view_as_complex(jacobian[s, ..., 0, s, :].movedim(-1, 0).contiguous())
                        for s in range(2)])
    made = RigidMotion(pose=pose, spacing_mm=(2.0, 1.0, 1.5)).with_derivatives(x)
    torch.testing.assert_close(made[0, :, 1:], each)


@pytest.mark.parametrize("numbers", [3, 6])
def test_the_body_as_the_first_shot_saw_it_explains_the_same_scan(numbers):
    pose = torch.tensor([[0.1, 0.05, -0.08, 3.0, -2.0, 1.5], [-0.06, 0.1, 0.04, 1.0, 2.0, -2.5]], dtype=torch.float64)
    pose = pose[None, :, :numbers] if numbers == 6 else pose[None, :, [0, 3, 4]]
    still = blob((1, 4, -3), torch.eye(3, dtype=torch.float64), (0, 0, 0))[None, None, None]
    spacing = (1.5, 1.5, 1.5)
    seen = RigidMotion(pose=pose, spacing_mm=spacing)(still)
    again = RigidMotion(pose=relative_to_first(pose), spacing_mm=spacing)(seen[:, :1])
    torch.testing.assert_close(again, seen, atol=1e-3, rtol=0)


@pytest.mark.parametrize("order", ["interleaved", "random", "sequential"])
def test_lines_are_shared_out_and_poses_stay_within(order):
    lines = shot_lines(13, 4, order, torch.Generator().manual_seed(0))
    assert lines.sum(dim=0).eq(1).all() and lines.sum(dim=1).min() >= 3
    for course in ("jumps", "drift"):
        poses = random_poses(9, 5, 3, course, torch.Generator().manual_seed(1))
        assert poses[0].abs().max() == 0 and in_degrees(poses[None])[..., 0].abs().max() <= 5
        assert poses[:, 1:].abs().max() <= 3 and poses.abs().max() > 0


def body(size: int) -> Image:
    plane = random_plane(Key(2, "body").generator(0), size)
    return Image(Rows.subjects(1), plane[None, None, None, None], Grid.from_spacing((1, size, size), (5.0, 2.0, 2.0)))


def scanned(size: int = 40, **settings) -> tuple[KSpace, torch.Tensor, Image]:
    """K-space of a body rendered twice as fine, the true poses, and the body at rest."""
    fine, key = body(2 * size), Key(0, "scan")
    stage = EncodeMoving(coils=GaussianCoils(count=5), matrix=(size, size), keep_sensitivities=True, **settings)
    rest = EncodeMoving(coils=GaussianCoils(count=5), matrix=(size, size), keep_sensitivities=True, snr=None, shots=1,
                        angle_deg=0, shift_mm=0)
    still = ZeroFilled()(rest(fine, key))
    return stage(fine, key), stage.poses(fine.rows, key), still


def test_poses_are_found_and_the_image_is_that_of_rest():
    kspace, true, still = scanned(shots=5, snr=50, angle_deg=4, shift_mm=4)
    image, found = MotionCorrected(steps=25, inner=4).correct(kspace)
    error = in_degrees(found.pose) - in_degrees(true)  # both relative to the first shot
    assert in_degrees(true).abs().max() > 2
    assert error.square().mean().sqrt() < 0.25
    merged = kspace.data.sum(dim=1, keepdim=True)
    blurred = ZeroFilled()(KSpace(kspace.rows, merged, kspace.grid, torch.ones(1, 1, 1, 1, 1, 1), kspace.sensitivities,
                                  kspace.noise_covariance)).data.abs()
    after, before = (nrmse(data.abs(), still.data.abs()) for data in (image.data, blurred))
    assert after < 0.5 * before and image.data.shape[1] == 1
    assert [note.code for note in image.notes] == ["rigid_motion"]


def test_without_motion_none_is_found():
    kspace, _, _ = scanned(32, shots=4, snr=60, angle_deg=0, shift_mm=0)
    assert in_degrees(MotionCorrected(steps=10).correct(kspace)[1].pose).abs().max() < 0.2


def test_bad_input():
    kspace, _, _ = scanned(16, shots=2)
    stage = MotionCorrected()
    one = KSpace(kspace.rows, kspace.data[:, :1], kspace.grid, kspace.mask[:, :1], kspace.sensitivities)
    with pytest.raises(SettingError, match="1 frames"):
        stage(one)
    gone = KSpace(kspace.rows, kspace.data * 0, kspace.grid, kspace.mask, kspace.sensitivities)
    with pytest.raises(SignalError, match="without signal"):
        stage(gone)
    with pytest.raises(SettingError, match="shots"):
        EncodeMoving(shots=40, coils=GaussianCoils(count=2))(body(32), Key(0, "scan"))
    for wrong in (lambda: MotionCorrected(steps=0), lambda: EncodeMoving(shots=0), lambda: EncodeMoving(snr=0.0),
                  lambda: EncodeMoving(angle_deg=-1),
                  lambda: RigidMotion(pose=torch.zeros(1, 1, 4), spacing_mm=(1.0, 1.0, 1.0))):
        with pytest.raises(SettingError):
            wrong()
