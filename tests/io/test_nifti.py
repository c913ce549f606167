import gzip

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.testing import data_path as NIBABEL

from firstread.core.errors import FormatError, GeometryError, OutputError, SignalError, UnsupportedError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image, Rows
from firstread.io import nifti
from firstread.io.open import read

NAMES = ("background", "LV cavity", "LV myocardium", "RV cavity")


def oblique(angles, spacing_mm, shape) -> Grid:
    from scipy.spatial.transform import Rotation

    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.from_numpy(Rotation.from_euler("xyz", angles).as_matrix()) * torch.tensor(spacing_mm[::-1])
    affine[:3, 3] = torch.tensor([-31.0, 17.0, 5.5])
    return Grid(affine[None], shape)


def saved(path, data, affine=None, **header):
    image = nibabel.Nifti1Image(data, np.diag([-1.5, -1.5, 8, 1]) if affine is None else affine)
    image.header.set_xyzt_units("mm", "sec")
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def codes(path, **options):
    return {note.code for note in read(path, **options).case.notes}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(*[st.floats(-3.1, 3.1)] * 3), st.tuples(*[st.floats(0.3, 12)] * 3),
       st.tuples(*[st.integers(1, 5)] * 3), st.integers(1, 3), st.sampled_from([".nii", ".nii.gz"]))
def test_images_come_back_in_their_place(tmp_path, angles, spacing, shape, frames, suffix):
    grid = oblique(angles, spacing, shape)
    data = torch.randint(-3000, 3000, (1, frames, 1, *shape)).to(torch.int16)
    times = torch.arange(frames).double()[None, :, None] * 0.03
    nifti.write_image(tmp_path / f"i{suffix}", Image(Rows.subjects(1), data, grid, times if frames > 1 else None))
    opened = read(tmp_path / f"i{suffix}")
    image = opened.case["image"]
    assert opened.kind == "NIfTI" and image.grid.frame == "patient"
    assert torch.equal(image.data, data) and image.data.dtype == torch.int16
    torch.testing.assert_close(image.grid.affine, grid.affine, atol=1e-3, rtol=1e-5)
    if frames > 1:
        torch.testing.assert_close(image.times_s, times, atol=1e-6, rtol=1e-5)


def test_other_programs_see_the_same_place_and_both_forms(tmp_path):
    grid = oblique((0.3, -0.5, 1.1), (8.0, 1.5, 1.25), (3, 4, 5))
    labels = HardLabels(Rows.subjects(1), torch.randint(0, 4, (1, 2, 1, 3, 4, 5)), grid, NAMES,
                        times_s=torch.tensor([[[0.0], [0.04]]], dtype=torch.float64))
    nifti.write_labels(tmp_path / "l.nii.gz", labels)
    image = nibabel.load(tmp_path / "l.nii.gz")
    assert image.get_data_dtype() == np.uint8
    assert image.header["sform_code"] == image.header["qform_code"] == 1
    np.testing.assert_allclose(image.header.get_qform(), image.header.get_sform(), atol=1e-4)
    assert image.header.get_xyzt_units() == ("mm", "sec") and image.header["pixdim"][4] == pytest.approx(0.04)
    x, y, z = 4, 2, 1
    lps = grid.to_mm(torch.tensor([[[x, y, z]]], dtype=torch.float64))[0, 0].numpy()
    np.testing.assert_allclose((image.affine @ [x, y, z, 1])[:3] * [-1, -1, 1], lps, atol=1e-4)
    assert np.asarray(image.dataobj)[x, y, z, 1] == labels.data[0, 1, 0, z, y, x]


def test_simpleitk_agrees_on_the_place(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    grid = oblique((0.3, -0.5, 1.1), (8.0, 1.5, 1.25), (3, 4, 5))
    data = torch.rand(1, 1, 1, 3, 4, 5)
    nifti.write_image(tmp_path / "i.nii", Image(Rows.subjects(1), data, grid))
    image = sitk.ReadImage(str(tmp_path / "i.nii"))
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((4, 2, 1)),
                               grid.to_mm(torch.tensor([[[4.0, 2, 1]]]))[0, 0], atol=1e-4)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), data[0, 0, 0])


def test_rows_that_are_slices_are_written_as_one_stack(tmp_path):
    affine = Grid.from_spacing((1, 4, 5), (8.0, 1.5, 1.5), batch=3).affine.clone()
    affine[:, 2, 3] = torch.tensor([0.0, 10.0, 21.0])
    data = torch.randint(0, 4, (3, 2, 1, 1, 4, 5))
    nifti.write_labels(tmp_path / "l.nii.gz", HardLabels(Rows.parts(3), data, Grid(affine, (1, 4, 5)), NAMES))
    image = nibabel.load(tmp_path / "l.nii.gz")
    assert image.shape == (5, 4, 3, 2)
    np.testing.assert_array_equal(np.asarray(image.dataobj)[:, :, 2, 1], data[2, 1, 0, 0].T)
    assert image.header["pixdim"][3] == pytest.approx(10.5)


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1000.0), ("micron", 0.001), ("mm", 1.0)])
@pytest.mark.parametrize(("clock", "seconds"), [("sec", 1.0), ("msec", 1e-3), ("usec", 1e-6)])
def test_units(tmp_path, unit, factor, clock, seconds):
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4, 5), np.int16), np.diag([1.5, 1.5, 8, 1]))
    image.header.set_xyzt_units(unit, clock)
    image.header["pixdim"][4] = 40
    nibabel.save(image, tmp_path / "u.nii")
    read_back = read(tmp_path / "u.nii").case["image"]
    torch.testing.assert_close(read_back.grid.spacing_mm[0], torch.tensor([8, 1.5, 1.5]).double() * factor)
    assert read_back.times_s[0, 2, 0].item() == pytest.approx(80 * seconds)
    assert read_back.cycle_s.item() == pytest.approx(200 * seconds)


@pytest.mark.parametrize("name", ["example4d.nii.gz", "example_nifti2.nii.gz", "anatomical.nii", "functional.nii"])
def test_nibabels_own_files(name):
    path = nifti.Path(NIBABEL, name)
    if not path.exists():
        pytest.skip(f"{name} does not come with nibabel")
    truth = nibabel.load(path)
    image = read(path).case["image"]
    data = truth.get_fdata().reshape((*truth.shape, 1)[:4])
    np.testing.assert_allclose(image.data[0, :, 0].permute(3, 2, 1, 0), data, rtol=1e-6)
    x, y, z = (n - 1 for n in truth.shape[:3])
    ras = (truth.affine @ [x, y, z, 1])[:3]
    here = image.grid.to_mm(torch.tensor([[[x, y, z]]], dtype=torch.float64))[0, 0].numpy() * [-1, -1, 1]
    np.testing.assert_allclose(here, ras, atol=1e-3)


def test_scaled_integers_become_float_and_big_endian_is_understood(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "s.nii")
    raw = nibabel.load(tmp_path / "s.nii")
    assert read(tmp_path / "s.nii").case["image"].data.dtype == torch.float32
    np.testing.assert_allclose(read(tmp_path / "s.nii").case["image"].data[0, 0, 0].permute(2, 1, 0), raw.get_fdata())
    swapped = nibabel.Nifti1Image(np.arange(24, dtype=">i2").reshape(2, 3, 4), np.eye(4),
                                  header=nibabel.Nifti1Header(endianness=">"))
    nibabel.save(swapped, tmp_path / "b.nii")
    assert read(tmp_path / "b.nii").case["image"].data.flatten()[5] == np.arange(24).reshape(2, 3, 4)[1, 2, 0]


def test_a_nifti_file_is_known_by_its_content(tmp_path):
    saved(tmp_path / "scan.nii.gz", np.zeros((2, 3, 4), np.int16))
    (tmp_path / "scan.dat").write_bytes((tmp_path / "scan.nii.gz").read_bytes())
    (tmp_path / "plain").write_bytes(gzip.decompress((tmp_path / "scan.nii.gz").read_bytes()))
    assert read(tmp_path / "scan.dat").case["image"].data.shape == (1, 1, 1, 4, 3, 2)
    assert read(tmp_path / "plain").kind == "NIfTI"


def test_what_the_header_leaves_open_is_noted(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4, 5), np.int16), None)
    nibabel.save(image, tmp_path / "bare.nii")
    opened = read(tmp_path / "bare.nii")
    assert opened.case["image"].grid.frame == "none"
    assert "orientation_unknown" in {n.code for n in opened.case.notes}
    stated = read(tmp_path / "bare.nii", spacing_mm=(8.0, 1.5, 1.2)).case["image"].grid
    assert stated.frame == "detector" and stated.spacing_mm[0].tolist() == [8.0, 1.5, 1.2]
    both = saved(tmp_path / "both.nii", np.zeros((2, 3, 4), np.int16))
    image = nibabel.load(both)
    image.set_qform(np.diag([-1.5, -1.5, 9, 1]), 1)
    image.set_sform(np.diag([-1.5, -1.5, 8, 1]), 2)
    nibabel.save(image, both)
    assert "forms_differ" in codes(both)
    assert read(both).case["image"].grid.spacing_mm[0, 0] == 8
    untimed = saved(tmp_path / "t.nii", np.zeros((2, 3, 4, 5), np.int16))
    image = nibabel.load(untimed)
    image.header["pixdim"][4] = 0
    nibabel.save(image, untimed)
    assert "times_unknown" in codes(untimed) and read(untimed).case["image"].times_s is None


def test_bad_files_say_what_is_wrong(tmp_path):
    with pytest.raises(UnsupportedError, match=r"several values per voxel \(shape \(2, 3, 4, 1, 2\)\)"):
        read(saved(tmp_path / "two.nii", np.zeros((2, 3, 4, 1, 2), np.float32)))
    colour = np.zeros((2, 3, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(UnsupportedError, match="colour"):
        read(saved(tmp_path / "rgb.nii", colour))
    holes = np.zeros((2, 3, 4), np.float32)
    holes[1, 1, 1] = np.nan
    with pytest.raises(SignalError, match="1 NaN"):
        read(saved(tmp_path / "nan.nii", holes))
    path = saved(tmp_path / "zero.nii", np.zeros((2, 3, 4), np.int16))
    stored = bytearray(path.read_bytes())
    stored[88:92] = np.float32(0).tobytes()  # pixdim[3]
    path.write_bytes(stored)
    with pytest.raises(GeometryError, match=r"1\.5 x 1\.5 x 0"):
        read(path)
    assert read(path, spacing_mm=(8.0, 1.5, 1.5)).case["image"].grid.spacing_mm[0, 0] == 8
    huge = bytearray(saved(tmp_path / "huge.nii", np.zeros((2, 3, 4), np.int16)).read_bytes())
    huge[42:48] = np.array([30000, 30000, 30000], dtype="<i2").tobytes()
    (tmp_path / "huge.nii").write_bytes(huge)
    with pytest.raises(FormatError, match="claims"):
        read(tmp_path / "huge.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.999])
def test_cut_off_files(tmp_path, suffix, share):
    path = saved(tmp_path / f"cut{suffix}", np.random.default_rng(0).integers(0, 99, (20, 20, 20)).astype(np.int16))
    stored = path.read_bytes()
    path.write_bytes(stored[: int(len(stored) * share)])
    with pytest.raises(FormatError):
        read(path)


def test_channels_and_several_volumes_are_not_written(tmp_path):
    grid = Grid.from_spacing((2, 3, 4), (8.0, 1.5, 1.5), batch=2)
    with pytest.raises(OutputError, match="3 channels"):
        nifti.write_image(tmp_path / "i.nii", Image(Rows.subjects(2), torch.zeros(2, 1, 3, 2, 3, 4), grid))
    with pytest.raises(OutputError, match="2 volumes"):
        nifti.write_image(tmp_path / "i.nii", Image(Rows.subjects(2), torch.zeros(2, 1, 1, 2, 3, 4), grid))
