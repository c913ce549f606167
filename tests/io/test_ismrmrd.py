import shutil
import subprocess
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_files import centred_image, kspace_of, point_kspace, root_sum_of_squares

from firstread.core.errors import FormatError, OutputError, SignalError, UnsupportedError
from firstread.core.geometry import Grid
from firstread.core.records import KSpace, Rows
from firstread.io import ismrmrd, mrd_layout
from firstread.io.open import read

TOOLS = shutil.which("ismrmrd_recon_cartesian_2d") and shutil.which("ismrmrd_generate_cartesian_shepp_logan")
needs_tools = pytest.mark.skipif(not TOOLS, reason="ismrmrd-tools are not installed")


def back(tmp_path, kspace):
    ismrmrd.write(tmp_path / "k.h5", kspace)
    opened = read(tmp_path / "k.h5")
    assert opened.kind == "ISMRMRD"
    return opened.case["kspace"]


def test_everything_comes_back(tmp_path):
    kspace = kspace_of(frames=3, coils=4, slices=2, shape=(10, 12), keep=0.5)
    again = back(tmp_path, kspace)
    assert torch.equal(again.data, kspace.data)
    assert torch.equal(again.mask.expand_as(kspace.mask), kspace.mask)
    torch.testing.assert_close(again.noise_covariance, kspace.noise_covariance, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(again.grid.affine, kspace.grid.affine, atol=1e-4, rtol=0)
    torch.testing.assert_close(again.times_s, kspace.times_s, atol=1.3e-3, rtol=0)
    torch.testing.assert_close(again.cycle_s, kspace.cycle_s)
    torch.testing.assert_close(again.grid.thickness_mm, kspace.grid.thickness_mm, rtol=1e-6, atol=0)
    assert again.fourier_axes == ("y", "x") and again.image_shape is None and again.notes == ()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.tuples(*[st.floats(-3, 3)] * 3))
def test_oblique_grids_of_any_size_come_back(tmp_path, height, width, slices, angles):
    from scipy.spatial.transform import Rotation

    kspace = kspace_of(frames=1, coils=1, slices=slices, shape=(height, width), keep=1.0)
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = torch.from_numpy(Rotation.from_euler("xyz", angles).as_matrix())
    grid = Grid(turn @ kspace.grid.affine, kspace.grid.shape, kspace.grid.thickness_mm)
    again = back(tmp_path, KSpace(kspace.rows, kspace.data, grid, kspace.mask))
    torch.testing.assert_close(again.grid.affine, grid.affine, atol=1e-3, rtol=0)
    assert torch.equal(again.data, kspace.data)


def test_slices_that_are_not_parallel_come_back_as_rows(tmp_path):
    one = kspace_of(frames=2, coils=2, slices=1, shape=(6, 8), keep=1.0)
    turn = torch.tensor([[0.0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)
    grid = Grid(torch.cat((one.grid.affine, turn @ one.grid.affine)), one.grid.shape, one.grid.thickness_mm.expand(2))
    kspace = KSpace(Rows.parts(2), torch.cat((one.data, 2 * one.data)), grid, torch.ones(2, 1, 1, 1, 6, 1))
    again = back(tmp_path, kspace)
    assert torch.equal(again.data, kspace.data)
    torch.testing.assert_close(again.grid.affine, grid.affine, atol=1e-4, rtol=0)
    assert "not_a_stack" in {note.code for note in again.notes}


@needs_tools
@pytest.mark.parametrize("options", [("-m", "48"), ("-m", "64", "-O", "1"), ("-m", "64", "-n", "0", "-k")])
def test_a_foreign_file_reconstructs_as_the_tool_does(tmp_path, options):
    """The tool's inverse transform is not normalized: ours is its image over sqrt(samples)."""
    path = tmp_path / "foreign.h5"
    subprocess.run(["ismrmrd_generate_cartesian_shepp_logan", "-c", "4", *options, "-o", path], check=True,
                   capture_output=True)
    kspace = read(path).case["kspace"]
    with h5py.File(path) as file:
        encoded = mrd_layout.parse_header(file["dataset/xml"][0]).encoded
    subprocess.run(["ismrmrd_recon_cartesian_2d", path], check=True, capture_output=True)
    with h5py.File(path) as file:
        truth = file["dataset/cpp/data"][0, 0, 0]
    ours = root_sum_of_squares(kspace)[0, 0, 0].numpy() * np.sqrt(encoded[0] * encoded[1])
    np.testing.assert_allclose(ours, truth, atol=1e-4 * truth.max())


@needs_tools
def test_noise_scan_and_acceleration_of_a_foreign_file(tmp_path):
    path = tmp_path / "foreign.h5"
    subprocess.run(["ismrmrd_generate_cartesian_shepp_logan", "-m", "128", "-c", "4", "-a", "2", "-w", "16", "-C", "-r",
                    "2", "-o", path], check=True, capture_output=True)
    kspace = read(path).case["kspace"]
    assert kspace.data.shape == (1, 4, 4, 1, 128, 128)  # the tool makes each interleave a repetition
    lines = kspace.mask[0, :, 0, 0, :, 0]
    assert 0.5 < lines.float().mean() < 0.65
    assert torch.equal(kspace.data.abs().sum((2, 5))[0, :, 0] > 0, lines)
    covariance = kspace.noise_covariance[0]
    torch.testing.assert_close(covariance.diagonal().real, torch.full((4,), 2 * 0.05**2), rtol=0.4, atol=0)
    assert covariance.real.sub(torch.diag(covariance.diagonal().real)).abs().max() < 1.5e-3


@needs_tools
@pytest.mark.parametrize("place", [(0, 0), (7, 3), (2, 9)])
def test_sign_a_point_is_where_the_tool_puts_it(tmp_path, place):
    kspace = point_kspace(place, (10, 12))
    ismrmrd.write(tmp_path / "point.h5", kspace)
    subprocess.run(["ismrmrd_recon_cartesian_2d", tmp_path / "point.h5"], check=True, capture_output=True)
    with h5py.File(tmp_path / "point.h5") as file:
        image = file["dataset/cpp/data"][0, 0, 0]
    assert np.unravel_index(image.argmax(), image.shape) == place
    again = centred_image(read(tmp_path / "point.h5").case["kspace"].data)[0, 0, 0, 0]
    assert again[place].real == pytest.approx(1, abs=1e-5)


def test_written_files_are_read_by_the_ismrmrd_package(tmp_path):
    package = pytest.importorskip("ismrmrd")
    kspace = kspace_of(frames=2, coils=3, slices=2, shape=(8, 6), keep=0.6)
    ismrmrd.write(tmp_path / "k.h5", kspace)
    with package.Dataset(str(tmp_path / "k.h5"), create_if_needed=False) as dataset:
        header = package.xsd.CreateFromDocument(dataset.read_xml_header())
        assert header.encoding[0].encodedSpace.matrixSize.x == 6
        for number in range(1, dataset.number_of_acquisitions()):
            line = dataset.read_acquisition(number)
            where = line.idx
            here = kspace.data[0, where.phase, :, where.slice, where.kspace_encode_step_1].numpy()
            np.testing.assert_array_equal(line.data, here)


@pytest.mark.skipif(shutil.which("xmllint") is None, reason="xmllint is not installed")
def test_the_header_is_valid(tmp_path):
    schema = "/usr/share/ismrmrd/schema/ismrmrd.xsd"
    ismrmrd.write(tmp_path / "k.h5", kspace_of(frames=2, coils=3, slices=2, shape=(8, 6), keep=1.0))
    with h5py.File(tmp_path / "k.h5") as file:
        (tmp_path / "header.xml").write_bytes(file["dataset/xml"][0])
    subprocess.run(["xmllint", "--noout", "--schema", schema, tmp_path / "header.xml"], check=True)


def rewritten(path, change):
    """The file at ``path`` with its acquisitions changed in place."""
    with h5py.File(path, "r+") as file:
        table = file["dataset/data"][:]
        changed = change(table)
        del file["dataset/data"]
        file["dataset"].create_dataset("data", data=changed, dtype=mrd_layout.acquisition_type())
    return path


def test_averages_are_averaged_and_their_noise_is_smaller(tmp_path):
    kspace = kspace_of(frames=1, coils=2, slices=1, shape=(4, 6), keep=1.0)
    ismrmrd.write(tmp_path / "k.h5", kspace)

    def twice(table):
        image = table["head"]["flags"] & mrd_layout.NOISE == 0
        other = table[image].copy()
        other["head"]["idx"]["average"] = 1
        for index in range(len(other)):
            other["data"][index] = 3 * other["data"][index]
        return np.concatenate((table, other))

    again = read(rewritten(tmp_path / "k.h5", twice)).case["kspace"]
    torch.testing.assert_close(again.data, 2 * kspace.data)
    torch.testing.assert_close(again.noise_covariance, kspace.noise_covariance / 2, atol=1e-6, rtol=1e-4)


def test_reversed_lines_partial_echo_and_skipped_scans(tmp_path):
    kspace = kspace_of(frames=1, coils=2, slices=1, shape=(6, 8), keep=1.0)
    ismrmrd.write(tmp_path / "k.h5", kspace)

    def change(table):
        for index in range(len(table)):
            head = table["head"][index]
            if head["flags"] & mrd_layout.NOISE:
                continue
            values = table["data"][index].view(np.complex64).reshape(2, 8)
            if head["idx"]["kspace_encode_step_1"] == 2:  # measured from right to left
                table["data"][index] = np.ascontiguousarray(values[:, ::-1]).view(np.float32).ravel()
                table["head"]["flags"][index] |= mrd_layout.REVERSED
                table["head"]["center_sample"][index] = 3
            if head["idx"]["kspace_encode_step_1"] == 3:  # the first three samples are missing
                table["data"][index] = np.ascontiguousarray(values[:, 3:]).view(np.float32).ravel()
                table["head"]["number_of_samples"][index], table["head"]["center_sample"][index] = 5, 1
        calibration = table[-1:].copy()  # of a line that was measured anyway
        calibration["head"]["flags"] |= mrd_layout.CALIBRATION
        calibration["data"][0] = 5 * calibration["data"][0]
        navigator = table[-1:].copy()
        navigator["head"]["flags"] |= 1 << 22
        return np.concatenate((table, calibration, navigator))

    again = read(rewritten(tmp_path / "k.h5", change)).case["kspace"]
    truth = kspace.data.clone()
    truth[..., 3, :3] = 0
    torch.testing.assert_close(again.data, truth)
    assert torch.equal(again.mask[0, 0, 0, 0], (truth[0, 0, 0, 0] != 0))
    assert "partial_echo" in {n.code for n in again.notes}


@pytest.mark.parametrize(("mode", "used"), [("embedded", True), ("separate", False)])
def test_calibration_lines_fill_gaps_where_they_are_part_of_the_scan(tmp_path, mode, used):
    kspace = kspace_of(frames=1, coils=2, slices=1, shape=(6, 8), keep=1.0)
    ismrmrd.write(tmp_path / "k.h5", kspace)

    def change(table):
        table["head"]["flags"][table["head"]["idx"]["kspace_encode_step_1"] == 4] |= mrd_layout.CALIBRATION
        return table

    rewritten(tmp_path / "k.h5", change)
    with h5py.File(tmp_path / "k.h5", "r+") as file:
        text = file["dataset/xml"][0].decode()
        file["dataset/xml"][0] = text.replace(
            "</encoding>", f"<parallelImaging><calibrationMode>{mode}</calibrationMode></parallelImaging></encoding>")
    again = read(tmp_path / "k.h5").case["kspace"]
    assert bool(again.mask[0, 0, 0, 0, 4, 0]) == used
    assert ("calibration_skipped" in {note.code for note in again.notes}) != used


def test_oversampling_and_phase_field_of_view(tmp_path):
    """Encoded 2 x field of view along x is cut away; along y it is left to the reconstruction (image_shape)."""
    kspace = kspace_of(frames=1, coils=2, slices=1, shape=(8, 12), keep=1.0)
    smaller = KSpace(kspace.rows, kspace.data, kspace.grid, kspace.mask, image_shape=(1, 6, 6))
    again = back(tmp_path, smaller)
    assert again.data.shape[-2:] == (8, 6) and again.image_shape == (1, 6, 6)
    torch.testing.assert_close(centred_image(again.data), centred_image(kspace.data)[..., 3:9], atol=1e-5, rtol=0)
    torch.testing.assert_close(again.grid.affine, kspace.grid.crop((0, 0, 3), (1, 8, 6)).affine, atol=1e-4, rtol=0)


def test_volumes_encoded_in_three_directions(tmp_path):
    kspace = kspace_of(frames=1, coils=2, slices=4, shape=(6, 8), keep=0.7)
    volume = KSpace(kspace.rows, kspace.data, kspace.grid, kspace.mask, fourier_axes=("z", "y", "x"))
    again = back(tmp_path, volume)
    assert again.fourier_axes == ("z", "y", "x") and torch.equal(again.data, kspace.data)
    torch.testing.assert_close(again.grid.affine, kspace.grid.affine, atol=1e-4, rtol=0)


def test_bad_files_say_what_is_wrong(tmp_path):
    kspace = kspace_of(frames=2, coils=2, slices=1, shape=(6, 8), keep=1.0)
    broken = KSpace(kspace.rows, kspace.data.clone(), kspace.grid, kspace.mask)
    broken.data[0, 0, 0, 0, 2, 3] = float("nan")
    ismrmrd.write(tmp_path / "nan.h5", broken)
    with pytest.raises(SignalError, match="1 NaN or infinite values in the k-space"):
        read(tmp_path / "nan.h5")
    ismrmrd.write(tmp_path / "k.h5", kspace)
    whole = (tmp_path / "k.h5").read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 300):
        (tmp_path / "cut.h5").write_bytes(whole[:size])
        with pytest.raises(FormatError, match="damaged or cut-off HDF5"):
            read(tmp_path / "cut.h5")
    with h5py.File(tmp_path / "k.h5", "r+") as file:
        text = file["dataset/xml"][0].decode()
        file["dataset/xml"][0] = text.replace("cartesian", "spiral")
    with pytest.raises(UnsupportedError, match="spiral"):
        read(tmp_path / "k.h5")
    with h5py.File(tmp_path / "k.h5", "r+") as file:
        file["dataset/xml"][0] = text.replace("<x>8</x>", "<x>4</x>")
    with pytest.raises(FormatError, match="8 samples"):
        read(tmp_path / "k.h5")
    with h5py.File(tmp_path / "k.h5", "r+") as file:
        file["dataset/xml"][0] = text.replace("<y>6</y>", "<y>600000</y>")
    with pytest.raises(FormatError, match="claims"):
        read(tmp_path / "k.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.zeros(3)
    with pytest.raises(FormatError, match="unknown layout"):
        read(tmp_path / "other.h5")


def test_two_repeated_axes_are_refused(tmp_path):
    kspace = kspace_of(frames=2, coils=1, slices=1, shape=(4, 4), keep=1.0)
    ismrmrd.write(tmp_path / "k.h5", kspace)

    def change(table):
        table["head"]["idx"]["repetition"][-1] = 1
        return table

    with pytest.raises(UnsupportedError, match="phase and repetition"):
        read(rewritten(tmp_path / "k.h5", change))


def test_what_cannot_be_written_is_refused(tmp_path):
    kspace = kspace_of(frames=1, coils=1, slices=1, shape=(4, 6), keep=1.0)
    with pytest.raises(OutputError, match="several subjects"):
        ismrmrd.write(tmp_path / "k.h5", replace(kspace.repeat_rows(2), rows=Rows.subjects(2)))
    gaps = torch.ones(1, 1, 1, 1, 4, 6)
    gaps[..., 2] = 0
    with pytest.raises(OutputError, match="gaps"):
        ismrmrd.write(tmp_path / "k.h5", KSpace(kspace.rows, kspace.data, kspace.grid, gaps))
    with pytest.raises(OutputError, match="nothing was measured"):
        ismrmrd.write(tmp_path / "k.h5", KSpace(kspace.rows, kspace.data, kspace.grid, gaps * 0))
