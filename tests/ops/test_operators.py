"""The contract of every LinearOp: adjoint, Gram, linear, differentiable; a new operator joins ``OPERATORS``."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

import firstread
from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.sinogram import FanBeam, ParallelBeam
from firstread.ops.encoding import CartesianEncoding, expand, join_sets
from firstread.ops.encoding_noncartesian import NonCartesianEncoding
from firstread.ops.linear import LinearOp
from firstread.ops.projection import Projection
from firstread.ops.rigid import exponential
from firstread.ops.rigid_motion import RigidMotion
from firstread.ops.slice_profile import SectionProfile, SliceProfile
from firstread.ops.slice_sampling import SliceSampling
from firstread.ops.variation import PLANE, TIME, Differences
from firstread.ops.wavelet import WaveletTransform
from firstread.reconstruct.primal_dual import ScaledProjection


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def _mask(*shape: int) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(3)) < 0.5).double()


def _encoding(mask: Tensor, coils: int, axes: tuple[str, ...], shape: tuple[int, int, int], *,
              sets: int = 1) -> CartesianEncoding:
    maps = _random(2, sets, coils, *shape, seed=7) if coils else None
    return CartesianEncoding(mask=mask, sensitivities=maps, fourier_axes=axes)


def _along(shape: tuple[int, ...], axes: tuple[str, ...], *, sets: int) -> NonCartesianEncoding:
    """Random places in the whole band, random weights."""
    generator = torch.Generator().manual_seed(5)
    band = torch.tensor(IMAGE[6 - len(axes):], dtype=torch.float64)[:, None, None]
    places = (torch.rand(shape, dtype=torch.float64, generator=generator) - 0.5) * band
    weights = torch.rand(2, 1, 1, 1, *shape[-2:], dtype=torch.float64, generator=generator)
    maps = _random(2, sets, 4, *IMAGE[3:], seed=7)
    return NonCartesianEncoding(trajectory=places, shape=IMAGE[3:], sensitivities=maps, weights=weights,
                                fourier_axes=axes, tolerance=1e-12)


IMAGE = (2, 3, 1, 2, 6, 5)
OPERATORS: dict[str, tuple[LinearOp, tuple[int, ...]]] = {
    "lines along y, four coils": (_encoding(_mask(2, 3, 1, 2, 6, 1), 4, ("y", "x"), IMAGE[3:]), IMAGE),
    "random points, three coils": (_encoding(_mask(2, 3, 1, 1, 6, 5), 3, ("y", "x"), IMAGE[3:]), IMAGE),
    "relaxed lines, one mask for all frames": (_encoding(torch.rand(1, 1, 1, 1, 6, 1).double(), 2, ("y", "x"),
                                                         IMAGE[3:]), IMAGE),
    "three Fourier axes": (_encoding(_mask(2, 3, 1, 2, 6, 1), 2, ("z", "y", "x"), IMAGE[3:]), IMAGE),
    "one coil without maps": (_encoding(_mask(2, 3, 1, 1, 6, 1), 0, ("y", "x"), IMAGE[3:]), IMAGE),
    "everything measured": (_encoding(torch.ones(1, 1, 1, 1, 1, 1).double(), 2, ("y", "x"), IMAGE[3:]), IMAGE),
    "three sets of maps": (_encoding(_mask(2, 3, 1, 2, 6, 1), 4, ("y", "x"), IMAGE[3:], sets=3), (2, 3, 3, 2, 6, 5)),
    "lines along x": (_encoding(_mask(2, 3, 1, 1, 1, 5), 2, ("x",), IMAGE[3:]), IMAGE),
}
STACK = Grid.from_spacing((3, 4, 5), (10.0, 2.0, 2.0), batch=2)
OBLIQUE = Grid(torch.tensor([[1.6, -0.3, 1.2, -3.0], [1.2, 0.4, -1.6, 0.5], [0.0, 1.9, 0.5, -4.0], [0, 0, 0, 1]],
                            dtype=torch.float64).repeat(2, 1, 1), (2, 3, 4))
OPERATORS["thick slices of a stack"] = (SliceProfile.between(STACK, STACK.resize((9, 4, 5))), (2, 3, 1, 9, 4, 5))
OPERATORS["oblique sections of a volume"] = (
    SectionProfile(section=OBLIQUE, volume=Grid.from_spacing((9, 9, 10), (2.0, 2.0, 2.0), batch=2), thickness_mm=3.0),
    (2, 3, 1, 9, 9, 10))
OPERATORS["differences in time"] = (Differences(TIME), IMAGE)
OPERATORS["differences in the plane"] = (Differences(PLANE), IMAGE)
OPERATORS["a trajectory of each frame, four coils"] = (_along((2, 3, 2, 4, 5), ("y", "x"), sets=1), IMAGE)
OPERATORS["a trajectory through a volume, two sets"] = (_along((1, 1, 3, 4, 5), ("z", "y", "x"), sets=2),
                                                        (2, 3, 2, 2, 6, 5))
OPERATORS["parallel rays"] = (Projection(
    beam=ParallelBeam.uniform(views=7, bins=9, bin_mm=1.5, offset_mm=0.4), shape=(6, 5), spacing_mm=(1.5, 2.0)), IMAGE)
OPERATORS["a fan of rays"] = (Projection(
    beam=FanBeam.uniform(views=8, bins=9, bin_mm=3.0, source_mm=30.0, detector_mm=60.0), shape=(6, 5),
    spacing_mm=(1.5, 2.0)), IMAGE)
POSES = 0.3 * torch.randn(2, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
OPERATORS["shots of a body that moves in plane"] = (
    _encoding(_mask(2, 3, 1, 1, 6, 1), 4, ("y", "x"), IMAGE[3:])
    @ RigidMotion(pose=POSES[..., :3], spacing_mm=(4.0, 2.0, 1.0)), (2, 1, *IMAGE[2:]))
OPERATORS["shots of a body that moves in space"] = (RigidMotion(pose=POSES, spacing_mm=(4.0, 2.0, 1.0)),
                                                   (2, 1, *IMAGE[2:]))
OPERATORS["composed with an adjoint"] = (
    OPERATORS["lines along y, four coils"][0].H @ OPERATORS["lines along y, four coils"][0], IMAGE)


OPERATORS["slices of a volume in motion"] = (SliceSampling(
    shape=(6, 7, 8), spacing_mm=0.8, plane=(4, 3), sigma_mm=torch.tensor([[0.4, 1.1], [0.4, 1.1]]),
    to_mm=exponential(POSES[0, :2]) @ torch.diag(torch.tensor([0.9, 0.9, 2.5, 1.0])).double()), (6, 7, 8))
OPERATORS["wavelets"] = (WaveletTransform(levels=2, family="daubechies4"), (2, 3, 1, 2, 8, 12))
OPERATORS["parallel rays of norm one"] = (ScaledProjection(OPERATORS["parallel rays"][0]), IMAGE)


def test_every_operator_is_in_the_table():
    package = Path(firstread.__file__).parent
    public = re.compile(r"^class ([A-Za-z]\w*)\(LinearOp\)", re.MULTILINE)
    named = {name for file in package.rglob("*.py") for name in public.findall(file.read_text(encoding="utf-8"))}
    tested = {type(part).__name__ for op, _ in OPERATORS.values() for part in _parts(op)}
    assert named and named <= tested


def _parts(op: LinearOp) -> list[LinearOp]:
    """An operator, and those that a composition is made of."""
    inner = [part for part in vars(op).values() if isinstance(part, LinearOp)]
    return [op, *(found for part in inner for found in _parts(part))]


@pytest.fixture(params=OPERATORS, ids=lambda name: name.replace(" ", "-"))
def operator(request) -> tuple[LinearOp, Tensor]:
    op, shape = OPERATORS[request.param]
    return op, _random(*shape, seed=1)


def test_adjointness(operator):
    op, x = operator
    y = _random(*op(x).shape, seed=2)
    left, right = torch.vdot(y.flatten(), op(x).flatten()), torch.vdot(op.adjoint(y).flatten(), x.flatten())
    assert torch.allclose(left, right, rtol=1e-12)


def test_gram_is_adjoint_after_forward(operator):
    op, x = operator
    assert torch.allclose(op.gram(x), op.adjoint(op(x)), atol=1e-10)


def test_linearity(operator):
    op, x = operator
    other = _random(*x.shape, seed=5)
    assert torch.allclose(op(2j * x + other), 2j * op(x) + op(other), atol=1e-12)


def test_double_adjoint_is_forward(operator):
    op, x = operator
    assert torch.equal(op.H.H(x), op(x))


def test_shape_comes_back(operator):
    op, x = operator
    assert op.adjoint(op(x)).shape == x.shape == op.gram(x).shape


@pytest.mark.parametrize("lines", [(1, 1, 1, 1, 4, 1), (1, 2, 1, 1, 4, 3)], ids=["lines", "points"])
@pytest.mark.parametrize("call", ["forward", "adjoint", "gram"])
@pytest.mark.parametrize("sets", [1, 2])
def test_gradients_in_image_coils_and_mask(lines, call, sets):
    image = _random(1, 2, sets, 1, 4, 3).requires_grad_()
    kspace = _random(1, 2, 2, 1, 4, 3).requires_grad_()
    maps = _random(1, sets, 2, 1, 4, 3, seed=4).requires_grad_()
    mask = torch.rand(lines, dtype=torch.float64).requires_grad_()

    def apply(data, maps, mask):
        return getattr(CartesianEncoding(mask=mask, sensitivities=maps), call)(data)

    assert torch.autograd.gradcheck(apply, (kspace if call == "adjoint" else image, maps, mask))


@pytest.mark.parametrize("call", ["forward", "adjoint", "gram"])
def test_gradients_in_image_coils_trajectory_and_weights(call):
    maps, weights = _random(1, 2, 2, 1, 4, 3, seed=4), torch.rand(1, 1, 1, 1, 2, 3, dtype=torch.float64) + 0.5
    places = torch.tensor([[-1.3, 0.4, 1.6], [0.2, -0.7, 1.1]], dtype=torch.float64)
    trajectory = torch.stack((places, places.flip(0) / 2))[None, None]
    data = _random(1, 2, 2, 1, 2, 3, seed=8) if call == "adjoint" else _random(1, 2, 2, 1, 4, 3)

    def apply(data, maps, trajectory, weights):
        encoding = NonCartesianEncoding(trajectory=trajectory, shape=(1, 4, 3), sensitivities=maps, weights=weights,
                                        tolerance=1e-12)
        return getattr(encoding, call)(data)

    leaves = tuple(t.requires_grad_() for t in (data, maps, trajectory, weights))
    assert torch.autograd.gradcheck(apply, leaves, fast_mode=True)


@pytest.mark.parametrize("call", ["forward", "adjoint"])
def test_gradients_in_volume_and_pose_of_a_section(call):
    """The pose moves the section by a rigid motion from where no sample lies on a voxel's border."""
    volume = Grid.from_spacing((6, 6, 6), (2.0, 2.0, 2.0))
    place = torch.tensor([[1.2, -0.3, 0.9, 2.31], [0.9, 0.4, -1.2, 4.17], [0.1, 1.4, 0.5, 3.05], [0, 0, 0, 1]],
                         dtype=torch.float64)[None]
    pose = torch.tensor([[0.2, -0.1, 0.3, 0.02, 0.05, -0.03]], dtype=torch.float64, requires_grad=True)
    data = (_random(1, 1, 1, 1, 2, 2) if call == "adjoint" else _random(1, 1, 1, 6, 6, 6)).requires_grad_()

    def apply(data, pose):
        section = Grid(exponential(pose) @ place, (1, 2, 2))
        return getattr(SectionProfile(section=section, volume=volume, thickness_mm=1.5, samples=3), call)(data)

    assert torch.autograd.gradcheck(apply, (data, pose), fast_mode=True)
    assert torch.autograd.grad(apply(data, pose).abs().sum(), pose)[0].abs().min() > 0


@pytest.mark.parametrize("name", ["random points, three coils", "three sets of maps"])
def test_bound_holds(name):
    op, x = OPERATORS[name]
    x = _random(*x)
    for _ in range(30):
        x = op.gram(x) / x.norm()
    assert x.norm() <= op.bound() * (1 + 1e-9)


def test_bound_of_orthonormal_sets_is_one():
    """Steps of iterative methods need not shrink with the number of sets."""
    maps = torch.linalg.qr(_random(6, 5, 4, 2)).Q.permute(3, 2, 0, 1)[None, :, :, None]
    encoding = CartesianEncoding(mask=torch.ones(1, 1, 1, 1, 1, 1).double(), sensitivities=maps)
    assert encoding.bound() == pytest.approx(1.0)


def test_joined_sets_have_the_energy_of_the_coils():
    maps = torch.linalg.qr(_random(6, 5, 4, 2)).Q.permute(3, 2, 0, 1)[None, :, :, None]
    x = _random(1, 3, 2, 1, 6, 5, seed=2)
    coils = expand(maps, x)
    assert torch.allclose(join_sets(x).abs(), coils.abs().square().sum(dim=2, keepdim=True).sqrt())
    assert torch.autograd.gradcheck(join_sets, x[:, :1].clone().requires_grad_())


def test_bool_mask_is_a_number_mask():
    mask = _mask(1, 1, 1, 1, 6, 1)
    maps = _random(1, 1, 2, 1, 6, 5)
    x = _random(1, 1, 1, 1, 6, 5)
    as_bool = CartesianEncoding(mask=mask.bool(), sensitivities=maps)
    assert torch.equal(as_bool.gram(x), CartesianEncoding(mask=mask, sensitivities=maps).gram(x))


def test_many_coils_need_sensitivities():
    with pytest.raises(SettingError, match="4 coils without sensitivities"):
        CartesianEncoding(mask=torch.ones(1, 1, 1, 1, 6, 1)).adjoint(torch.ones(1, 1, 4, 1, 6, 6) + 0j)
