"""ESPIRiT maps: properties, true coils, sigpy's maps, soft SENSE where the object is larger than the field of view."""

from dataclasses import replace

import numpy
import pytest
import torch

from firstread.acquire.coils import LoopCoils
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import FullySampled, UniformLines, VariableDensity
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Rows
from firstread.ops.espirit import eigenmaps, espirit, lag_kernel, phases, signal_projector, windows
from firstread.ops.fourier import fft, ifft
from firstread.reconstruct.calibration import central_region
from firstread.reconstruct.espirit import Espirit
from firstread.reconstruct.iterative import CGSense, SpatialTV

SIZE = 48


def body(height: float = 0.85, size: int = SIZE) -> Image:
    line = torch.linspace(-1, 1, size)
    y, x = line[:, None], line[None]
    plane = 0.4 * ((y / height) ** 2 + (x / 0.9) ** 2 < 1) + 0.6 * (y**2 + (x - 0.2) ** 2 < 0.1)
    plane = plane * (1 + 0.3 * torch.sin(9 * x) * torch.cos(7 * y))
    return Image(Rows.subjects(1), plane[None, None, None, None].float(),
                 Grid.from_spacing((1, size, size), (8.0, 2.0, 2.0)))


def encoded(image: Image, **settings) -> KSpace:
    given = {"sampling": FullySampled(), "snr": 100.0, "correlation": 0.0, "keep_sensitivities": True, **settings}
    return Encode(coils=LoopCoils(count=6), **given)(image, Key(0, "encode"))


def nrmse(made: torch.Tensor, truth: torch.Tensor) -> float:
    return ((made.abs() - truth.abs()).norm() / truth.norm()).item()


def test_windows_are_all_blocks_of_samples():
    samples = torch.randn(2, 1, 4, 5, dtype=torch.complex64)
    rows = windows(samples, (1, 2, 3))
    assert rows.shape == (9, 12)
    assert torch.equal(rows[4], samples[:, :, 1:3, 1:4].flatten())  # window (1, 1) of 3 x 3


def test_lag_kernel_in_image_space_is_the_averaged_projection():
    """G(r) applied pixel by pixel is the projection of every (circular) window, averaged over the overlaps."""
    coils, (ky, kx), (ny, nx) = 3, (2, 3), (6, 5)
    generator = torch.Generator().manual_seed(0)
    projector = signal_projector(torch.randn(7, coils * ky * kx, dtype=torch.complex128, generator=generator), 0.3)
    y = torch.randn(coils, 1, ny, nx, dtype=torch.complex128, generator=generator)
    direct = torch.zeros_like(y)
    for a in range(ny):
        for b in range(nx):
            rows, columns = (torch.arange(a, a + ky) % ny)[:, None], torch.arange(b, b + kx) % nx
            direct[:, 0, rows, columns] += (projector @ y[:, 0, rows, columns].flatten()).reshape(coils, ky, kx)
    lags = lag_kernel(projector, coils, (1, ky, kx))
    g = torch.einsum("cdlmn,ym,xn->yxcd", lags, phases(ny, 2 * ky - 1, lags), phases(nx, 2 * kx - 1, lags))
    made = fft(torch.einsum("yxcd,dzyx->czyx", g, ifft(y)))
    assert torch.allclose(made, direct / (ky * kx), atol=1e-12)
    maps, values = eigenmaps(lags, (1, ny, nx), coils)
    whole = torch.einsum("szyx,sczyx,sdzyx->yxcd", values + 0j, maps, maps.conj())
    assert torch.allclose(whole, g, atol=1e-12)


def test_maps_are_orthonormal_with_eigenvalues_up_to_one():
    kspace = encoded(body())
    maps, values = espirit(kspace.data[0, 0, :, :, 12:36, 12:36], (1, SIZE, SIZE), kernel=(1, 5, 5), sets=3)
    gram = torch.einsum("sczyx,tczyx->yxst", maps.conj(), maps)
    assert torch.allclose(gram, torch.eye(3, dtype=gram.dtype).expand_as(gram), atol=1e-5)
    assert values.max() < 1 + 1e-5 and values.min() > -1e-5 and bool((values[0] >= values[1]).all())


def test_maps_turn_with_the_coils():
    """Another basis of the coils gives the maps in that basis, whatever the phase convention."""
    centre = encoded(body()).data[0, 0, :, :, 12:36, 12:36]
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(2))).Q
    one, value = espirit(centre, (1, SIZE, SIZE), kernel=(1, 5, 5))
    other, turned = espirit(torch.einsum("dc,czyx->dzyx", turn, centre), (1, SIZE, SIZE), kernel=(1, 5, 5))
    agreement = (torch.einsum("dc,sczyx->sdzyx", turn, one).conj() * other).sum(dim=1).abs()
    assert agreement[value > 0.9].min() > 0.999 and torch.allclose(value, turned, atol=1e-3)


def test_maps_are_the_true_coils_within_the_object():
    kspace = encoded(body(), sampling=VariableDensity(acceleration=2, centre_lines=20))
    made = Espirit()(kspace).sensitivities
    agreement = (made.conj() * kspace.sensitivities).sum(dim=2).abs()[body().data[:, :, 0] > 0]
    assert agreement.median() > 0.999 and agreement.quantile(0.02) > 0.99
    outside = made[:, 0, 0].abs()[body(1.0).data[:, 0, 0] == 0]
    assert (outside == 0).float().mean() > 0.5


def test_maps_are_those_of_sigpy():
    mri = pytest.importorskip("sigpy.mri")
    kspace = encoded(body())
    theirs = mri.app.EspiritCalib(kspace.data[0, 0, :, 0].numpy(), calib_width=24, thresh=0.02, kernel_width=6, crop=0,
                                  max_iter=60, show_pbar=False).run()
    ours, value = espirit(kspace.data[0, 0, :, :, 12:36, 12:36], (1, SIZE, SIZE), kernel=(1, 6, 6))
    agreement = numpy.abs((ours[0, :, 0].numpy().conj() * theirs).sum(axis=0))
    assert agreement[value[0, 0].numpy() > 0.9].min() > 0.999


def test_frames_fill_the_calibration_region_together():
    """No frame has a centre of its own; four interleaved frames have the whole of k-space."""
    still = body()
    cine = replace(still, data=still.data.expand(-1, 4, -1, -1, -1, -1).clone())
    kspace = encoded(cine, sampling=UniformLines(acceleration=4, centre_lines=0))
    made = Espirit(calibration_lines=20)(kspace)
    agreement = (made.sensitivities.conj() * kspace.sensitivities).sum(dim=2).abs()
    assert agreement[still.data[:, :, 0] > 0].median() > 0.999


def test_slices_and_subjects_are_each_alone():
    one, other = encoded(body()).data, encoded(body(0.7)).data
    stacked = encoded(replace(body(), data=torch.cat([body().data] * 2, dim=3),
                              grid=Grid.from_spacing((2, SIZE, SIZE), (8.0, 2.0, 2.0))))
    both = Espirit()(replace(stacked, data=torch.cat((one, other), dim=3), sensitivities=None)).sensitivities
    alone = Espirit()(replace(encoded(body(0.7)), sensitivities=None)).sensitivities
    assert torch.allclose(both[..., 1:, :, :], alone, atol=1e-4)


def test_volumes_with_two_phase_encodings():
    volume = replace(body(size=24), data=body(size=24).data * torch.hann_window(12).reshape(-1, 1, 1),
                     grid=Grid.from_spacing((12, 24, 24), (2.0, 2.0, 2.0)))
    flat = encoded(volume, snr=None)
    kspace = replace(flat, data=fft(flat.data, ("z",)), fourier_axes=("z", "y", "x"), sensitivities=None)
    made = Espirit(kernel=3, calibration_lines=12)(kspace).sensitivities
    inside = (volume.data > 0.2)[:, :, 0]
    assert (made.conj() * flat.sensitivities).sum(dim=2).abs()[inside].median() > 0.995


def small_field() -> tuple[KSpace, torch.Tensor]:
    """An object taller than the field of view: the whole of it is rendered, k-space keeps every second line only."""
    tall = body(height=0.75, size=96)
    kspace = encoded(tall, snr=300.0)
    half = kspace.data[..., ::2, :][..., 24:72]
    mask = torch.zeros(1, 1, 1, 1, 48, 1)
    mask[..., ::2, :] = 1
    mask[..., 12:36, :] = 1
    folded = KSpace(Rows.subjects(1), mask * half, Grid.pixels((1, 48, 48)), mask)
    return folded, ifft(half).abs().square().sum(dim=2, keepdim=True).sqrt()


def test_two_sets_resolve_a_field_of_view_smaller_than_the_object():
    folded, truth = small_field()
    errors = [nrmse(CGSense(regularization=1e-4)(Espirit(sets=sets)(folded)).data, truth) for sets in (1, 2)]
    assert errors[1] < 0.6 * errors[0] and errors[1] < 0.1
    soft = SpatialTV(regularization=1e-3)(Espirit(sets=2)(folded))
    assert soft.data.shape == (1, 1, 1, 1, 48, 48) and nrmse(soft.data, truth) < errors[0]


def test_better_than_low_resolution_maps():
    image = body()
    kspace = encoded(image, sampling=UniformLines(acceleration=3, centre_lines=16))
    kspace = replace(kspace, sensitivities=None)
    low, sharp = CGSense(regularization=1e-3)(kspace), CGSense(regularization=1e-3)(Espirit()(kspace))
    assert nrmse(sharp.data, image.data) < 0.7 * nrmse(low.data, image.data)


def test_region_shrinks_to_what_is_measured():
    points = torch.zeros(1, 1, 1, 1, 16, 16, dtype=torch.bool)
    points[..., 4:13, 8] = points[..., 8, 3:13] = points[..., 6:11, 6:11] = True
    _, y, x = central_region(points, (1, 16, 16), ("y", "x"))
    assert bool(points[..., y, x].all()) and y.start <= 8 < y.stop and x.start <= 8 < x.stop
    assert (y.stop - y.start, x.stop - x.start) == (5, 4)


def test_errors_say_what_is_wrong():
    kspace = replace(encoded(body()), sensitivities=None)
    with pytest.raises(SignalError, match="coil 2 of 6 without signal"):
        data = kspace.data.clone()
        data[:, :, 1] = 0
        Espirit()(replace(kspace, data=data))
    holes = torch.ones(1, 1, 1, 1, SIZE, 1)
    holes[..., SIZE // 2, :] = 0
    with pytest.raises(SignalError, match="no measured line at the centre of y"):
        Espirit()(replace(kspace, data=kspace.data * holes, mask=holes))
    few = torch.zeros(1, 1, 1, 1, SIZE, 1)
    few[..., 22:26, :] = few[..., ::3, :] = 1
    with pytest.raises(SettingError, match=r"kernel of \(1, 6, 6\).*calibration region, \(1, [45], 24\)"):
        Espirit()(replace(kspace, data=kspace.data * few, mask=few))
    with pytest.raises(SettingError, match="one coil"):
        Espirit()(replace(kspace, data=kspace.data[:, :, :1], noise_covariance=None))
    with pytest.raises(SettingError, match="8 sets of maps of 6 coils"):
        Espirit(sets=8)(kspace)
    with pytest.raises(SettingError, match="kernel 1"):
        Espirit(kernel=1)
    centre = kspace.data.clone()
    centre[..., 10:38, 10:38] = 0
    with pytest.raises(SignalError, match="zero energy"):
        Espirit()(replace(kspace, data=centre))
