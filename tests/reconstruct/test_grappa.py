"""GRAPPA: exact where coils are band-limited, any pattern of lines, interleaved calibration, an independent fit."""

from dataclasses import replace

import numpy
import pytest
import torch

from firstread.acquire.sampling import UniformLines
from firstread.core.errors import SettingError, SignalError, UnsupportedError
from firstread.core.geometry import Grid
from firstread.core.records import KSpace, Rows
from firstread.core.stage import Chain
from firstread.ops.fourier import fft, ifft
from firstread.ops.grappa import fit_kernel, plan
from firstread.reconstruct.direct import ZeroFilled, root_sum_of_squares
from firstread.reconstruct.grappa import Grappa
from firstread.reconstruct.iterative import CGSense

NY, NX, COILS = 36, 32, 6


@pytest.fixture(scope="module")
def full() -> torch.Tensor:
    """K-space of 4 frames of a moving shape seen by coils of three harmonics along each axis: GRAPPA's relations hold
    to rounding, but for the edges of k-space."""
    generator = torch.Generator().manual_seed(0)
    harmonics = torch.zeros(COILS, NY, NX, dtype=torch.complex128)
    middle = torch.randn(COILS, 3, 3, dtype=torch.complex128, generator=generator)
    harmonics[:, NY // 2 - 1 : NY // 2 + 2, NX // 2 - 1 : NX // 2 + 2] = middle
    maps = ifft(harmonics)
    y, x = torch.meshgrid(torch.linspace(-1, 1, NY).double(), torch.linspace(-1, 1, NX).double(), indexing="ij")
    frames = []
    for t in range(4):
        blobs = [torch.exp(-100 * ((y - cy - 0.03 * t) ** 2 + (x - cx) ** 2)) * phase for (cy, cx), phase in
                 zip([(-0.4, 0.1), (0.0, -0.3), (0.3, 0.2), (0.1, 0.5)], (1, 1j, -1, 1 + 1j), strict=True)]
        frames.append(torch.stack(blobs).sum(dim=0))
    return fft(maps * torch.stack(frames)[:, None])[None, :, :, None]


def sampled(full: torch.Tensor, mask: torch.Tensor) -> KSpace:
    mask = mask.to(full.real.dtype)
    mask = mask[None, :, None, None, :, None] if mask.ndim == 2 else mask
    return KSpace(Rows.subjects(full.shape[0]), mask * full, Grid.pixels(tuple(full.shape[-3:]), batch=full.shape[0]),
                  mask.expand(full.shape[0], *[-1] * 5))


def uniform(frames: int, **settings) -> torch.Tensor:
    return UniformLines(**settings)(frames, NY, torch.Generator().manual_seed(1))


def error(made: torch.Tensor, truth: torch.Tensor) -> float:
    return ((made - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("acceleration", [2, 3])
def test_missing_lines_come_back_where_coils_are_band_limited(full, acceleration):
    kspace = sampled(full[:, :1], uniform(1, acceleration=acceleration, centre_lines=14))
    made = Grappa(regularization=1e-10)(kspace)
    assert error(kspace.data, full[:, :1]) > 0.1 > 5e-3 > error(made.data, full[:, :1])
    assert bool((made.mask == 1).all()) and made.notes == ()


def test_measured_samples_stay(full):
    kspace = sampled(full, uniform(4, acceleration=3, centre_lines=14))
    made = Grappa()(kspace)
    assert torch.equal(kspace.mask * made.data, kspace.data)


def test_fully_sampled_data_pass_unchanged(full):
    kspace = sampled(full, torch.ones(1, NY))
    assert Grappa()(kspace) is kspace


def test_every_frame_has_its_own_pattern(full):
    """Lines at random steps of one to three, other ones in every frame."""
    still = full[:, :1].expand(-1, 4, -1, -1, -1, -1)
    mask = torch.zeros(4, NY)
    steps = torch.randint(1, 4, (4, NY), generator=torch.Generator().manual_seed(3)).cumsum(dim=1)
    for frame in range(4):
        mask[frame, steps[frame][steps[frame] < NY]] = 1
    mask[:, 12:24] = 1
    made = Grappa(regularization=1e-8)(sampled(still, mask))
    known = made.mask[0, :, 0, 0, :, 0] == 1
    for frame in range(4):
        lines = known[frame]
        assert lines.sum() > 32
        assert error(made.data[:, frame][:, :, :, lines], still[:, frame][:, :, :, lines]) < 5e-3


def test_interleaved_frames_calibrate_each_other(full):
    """No frame has centre lines of its own; together the four have every line (still object)."""
    still = full[:, :1].expand(-1, 4, -1, -1, -1, -1)
    kspace = sampled(still, uniform(4, acceleration=4, centre_lines=0))
    assert error(Grappa(regularization=1e-10)(kspace).data, still) < 0.01
    with pytest.raises(SignalError, match="at the centre"):
        Grappa()(sampled(still[:, :1], uniform(1, acceleration=4, centre_lines=0)))


def test_lines_along_another_axis_slices_and_image_space_readouts(full):
    kspace = sampled(full, uniform(4, acceleration=2, centre_lines=14))
    made = Grappa()(kspace)
    turned = replace(kspace, data=kspace.data.mT, mask=kspace.mask.mT, grid=Grid.pixels((1, NX, NY)))
    assert torch.allclose(Grappa()(turned).data.mT, made.data)
    hybrid = Grappa()(replace(kspace, data=ifft(kspace.data, ("x",)), fourier_axes=("y",)))
    assert torch.allclose(fft(hybrid.data, ("x",)), made.data)
    twice = replace(kspace, data=fft(kspace.data.expand(-1, -1, -1, 2, -1, -1), ("z",)), fourier_axes=("z", "y", "x"),
                    grid=Grid.pixels((2, NY, NX)))
    assert torch.allclose(ifft(Grappa()(twice).data, ("z",))[:, :, :, 1:], made.data)


def test_the_kernel_is_that_of_a_plain_least_squares_fit(full):
    """The calibration equations written out place by place, solved by numpy."""
    block = full[0, 0, :, 0, 10:24]
    offsets, readout = (-1, 2), 3
    rows, targets = [], []
    for line in range(1, 12):
        for sample in range(1, NX - 1):
            rows.append([block[c, line + o, sample + s].item() for c in range(COILS) for o in offsets
                         for s in (-1, 0, 1)])
            targets.append(block[:, line, sample].tolist())
    expected = numpy.linalg.lstsq(numpy.array(rows), numpy.array(targets), rcond=None)[0]
    made = fit_kernel(block, offsets, readout=readout, regularization=0.0)
    predicted, wanted = numpy.array(rows) @ made.numpy(), numpy.array(rows) @ expected
    assert numpy.linalg.norm(predicted - wanted) < 1e-6 * numpy.linalg.norm(wanted)


def test_plan_keeps_to_the_calibration_region_and_to_the_measured_part():
    measured = torch.zeros(20, dtype=torch.bool)
    measured[[0, 2, 4, 5, 6, 7, 8, 14]] = True
    found = plan(measured, lines=4, room=6, least=dict.fromkeys(range(1, 5), 2))
    assert found[(-1, 1, 2)] == [3] and found[(-1, 1, 3)] == [1]
    filled = {line for lines in found.values() for line in lines}
    assert filled == {1, 3, *range(9, 14), 15, 16, 17, 18} and set(found) >= {(-2, -1), (1,)}
    assert all(max(0, *o) - min(0, *o) + 2 <= 6 for o in found)
    partial = torch.zeros(20, dtype=torch.bool)
    partial[:14:2] = True
    assert {k for lines in plan(partial, lines=2, room=9, least={1: 1, 2: 1}).values() for k in lines} == {
        1, 3, 5, 7, 9, 11, 13}


def test_a_partial_acquisition_stays_partial(full):
    lines = uniform(1, acceleration=2, centre_lines=12)
    lines[:, 26:] = 0
    made = Grappa()(sampled(full[:, :1], lines))
    assert made.mask[0, 0, 0, 0, :25, 0].all() and not made.mask[..., 27:, :].any()
    assert [note.code for note in made.notes] == ["grappa_unfilled"]
    assert bool((made.data[..., 27:, :] == 0).all())


def test_after_it_comes_any_reconstruction(full):
    kspace = sampled(full, uniform(4, acceleration=3, centre_lines=14))
    truth = root_sum_of_squares(full)
    for stage in (ZeroFilled(), CGSense(regularization=1e-4)):
        made = Chain(Grappa(regularization=1e-8), stage)(kspace)[stage.writes]
        assert error(made.data.abs(), truth) < 0.02


def test_gradient_runs_through_fit_and_filling():
    data = torch.randn(1, 1, 2, 1, 10, 6, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 10)
    mask[0, [0, 2, 8]] = 0

    def fill(values: torch.Tensor) -> torch.Tensor:
        return Grappa(lines=2, readout=1, regularization=1e-2)(sampled(values, mask)).data

    assert torch.autograd.gradcheck(fill, data.requires_grad_())


def test_errors_say_what_is_wrong(full):
    one = full[:, :1]
    kspace = sampled(one, uniform(1, acceleration=3, centre_lines=14))
    with pytest.raises(SignalError, match="coil 3 of 6 without signal"):
        data = kspace.data.clone()
        data[:, :, 2] = 0
        Grappa()(replace(kspace, data=data))
    with pytest.raises(SettingError, match="larger than the calibration region of 4 lines"):
        Grappa(readout=31)(sampled(one, uniform(1, acceleration=3, centre_lines=3)))
    with pytest.raises(SettingError, match="33 samples along a readout of 32"):
        Grappa(readout=33)(kspace)
    with pytest.raises(SettingError, match="one coil"):
        Grappa()(replace(kspace, data=kspace.data[:, :, :1]))
    with pytest.raises(UnsupportedError, match="along y and x"):
        points = (torch.rand(1, 1, 1, 1, NY, NX, generator=torch.Generator().manual_seed(0)) < 0.7).double()
        Grappa()(replace(kspace, mask=points, data=points * one))
    with pytest.raises(SettingError, match="3 source lines"):
        Grappa(lines=3)
