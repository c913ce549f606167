import logging
import shutil
import warnings

import numpy as np
import pydicom
import pytest
import torch
from dicom_files import CT, IDENTIFIER, NAME, Cine, plain, save, uid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from firstread.core.errors import FormatError, GeometryError, InputError, UnsupportedError
from firstread.io.open import read

CODES = {
    "implicit": pydicom.uid.ImplicitVRLittleEndian, "explicit": pydicom.uid.ExplicitVRLittleEndian,
    "big endian": pydicom.uid.ExplicitVRBigEndian, "deflated": pydicom.uid.DeflatedExplicitVRLittleEndian,
    "RLE": pydicom.uid.RLELossless, "JPEG-LS": pydicom.uid.JPEGLSLossless, "JPEG 2000": pydicom.uid.JPEG2000Lossless,
}


def codes(opened) -> set[str]:
    return {note.code for note in opened.case.notes}


def image_of(path, **options):
    return read(path, **options).case["image"]


def test_cine_by_place_and_trigger_time(tmp_path):
    cine = Cine()
    cine.write(tmp_path)
    opened = read(tmp_path)
    image = opened.case["image"]
    assert opened.kind == "DICOM"
    assert image.data.shape == (1, 4, 1, 3, 12, 16)
    assert image.data.dtype == torch.int16
    np.testing.assert_array_equal(image.data[0, :, 0].numpy(), cine.pixels())
    torch.testing.assert_close(image.times_s[0, :, 2], torch.tensor([0.002, 0.042, 0.082, 0.122], dtype=torch.float64))
    torch.testing.assert_close(image.cycle_s, torch.full((1, 3), 0.9, dtype=torch.float64))
    assert image.grid.thickness_mm.item() == 8
    torch.testing.assert_close(image.grid.spacing_mm[0], torch.tensor([10.0, 1.5, 1.25], dtype=torch.float64))
    place = image.grid.to_mm(torch.tensor([[[3.0, 2.0, 1.0]]]))[0, 0]
    torch.testing.assert_close(place, torch.tensor([-50 + 3 * 1.25, 20 + 2 * 1.5, 30 + 10.0], dtype=torch.float64))
    assert codes(opened) == {"slice_gap"}
    assert opened.person.sex == "F" and opened.person.age_years == 61 and opened.person.height_cm == 168


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(*[st.floats(-3.1, 3.1)] * 3), st.booleans())
def test_oblique_stacks_keep_every_pixel_in_its_place(tmp_path, angles, split):
    from scipy.spatial.transform import Rotation

    turned = Rotation.from_euler("xyz", angles).as_matrix()
    folder = tmp_path / str(abs(hash((angles, split))))
    cine = Cine(phases=2, orientation=(*turned[:, 0], *turned[:, 1]), split=split)
    paths = cine.write(folder)
    image = image_of(folder)
    np.testing.assert_array_equal(image.data[0, :, 0].numpy(), cine.pixels())
    for path in paths:
        stored = pydicom.dcmread(path)
        here = torch.tensor([float(v) for v in stored.ImagePositionPatient], dtype=torch.float64)
        index = image.grid.to_index(here.reshape(1, 1, 3))[0, 0]
        z = round(index[2].item())
        torch.testing.assert_close(index, torch.tensor([0.0, 0.0, z], dtype=torch.float64), atol=1e-4, rtol=0)
        assert any(np.array_equal(stored.pixel_array, frame[0, z].numpy()) for frame in image.data[0])


def test_one_series_per_slice_is_one_stack_and_refers_to_its_files(tmp_path):
    cine = Cine(split=True)
    cine.write(tmp_path)
    image = image_of(tmp_path)
    np.testing.assert_array_equal(image.data[0, :, 0].numpy(), cine.pixels())
    assert len(image.source.series_uids) == 3
    for t in range(4):
        for z in range(3):
            reference = image.source.frames[0][t][z]
            np.testing.assert_array_equal(pydicom.dcmread(reference.path).pixel_array, image.data[0, t, 0, z].numpy())
            assert reference.sop_uid == uid("study", "sax", z, t)


def test_the_cine_stack_is_found_in_a_messy_folder(tmp_path):
    Cine(phases=8).write(tmp_path / "a")
    Cine(phases=8, slices=1, series="2ch", number=9, orientation=(0, 1, 0, 0, 0, -1)).write(tmp_path / "a" / "b")
    Cine(phases=1, slices=3, series="scout", number=1).write(tmp_path / "c")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "broken.dcm").write_text("text")
    (tmp_path / "DICOMDIR").write_bytes(b"x")
    opened = read(tmp_path)
    assert opened.case["image"].data.shape[:4] == (1, 8, 1, 3)
    assert codes(opened) == {"series_chosen", "other_files", "damaged_files", "slice_gap"}
    assert image_of(tmp_path, series="9").data.shape[:4] == (1, 8, 1, 1)
    assert image_of(tmp_path, series=uid("study", "scout")).data.shape[:4] == (1, 1, 1, 3)
    with pytest.raises(InputError, match="no series named '77'"):
        read(tmp_path, series="77")


def test_two_stacks_must_be_chosen_from_and_studies_are_not_mixed(tmp_path):
    Cine(phases=8, number=3).write(tmp_path / "one")
    Cine(phases=8, number=4, series="again").write(tmp_path / "two")
    with pytest.raises(InputError, match=r"2 series .*3 'SAX cine' MR 3 x 8, 4 'SAX cine' MR 3 x 8.*--series"):
        read(tmp_path)
    Cine(phases=8, study="other").write(tmp_path / "three")
    with pytest.raises(InputError, match=r"2 studies.*--series"):
        read(tmp_path)


@pytest.mark.parametrize("syntax", CODES.values(), ids=CODES)
def test_transfer_syntaxes_give_the_same_pixels(tmp_path, syntax):
    cine = Cine(phases=2, slices=2, shape=(33, 40), syntax=syntax)
    cine.write(tmp_path)
    np.testing.assert_array_equal(image_of(tmp_path).data[0, :, 0].numpy(), cine.pixels())


def ct(folder, values, slope, intercept, *, signed=False, bits=16):
    folder.mkdir(exist_ok=True)
    for z, plane in enumerate(values):
        dataset = plain(CT, "CT", plane.shape)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid("ct", z)
        dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 1.0
        dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, z]
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, int(signed)
        save(dataset, plane, folder / f"{z}.dcm")
    return folder


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 65535), min_size=16, max_size=16), st.sampled_from([1, 2, -1, 0.5, 1.25]),
       st.sampled_from([0, -1024, -32768, 7.5]), st.booleans())
def test_rescale_is_exact_and_int16_where_it_fits(tmp_path, values, slope, intercept, signed):
    stored = np.array(values, dtype=np.uint16).view(np.int16 if signed else np.uint16).reshape(1, 4, 4)
    data = image_of(ct(tmp_path / "ct", stored, slope, intercept, signed=signed)).data[0, 0, 0].numpy()
    truth = stored.astype(np.float64) * slope + intercept
    fits = np.all(truth == np.round(truth)) and truth.min() >= -(2**15) and truth.max() < 2**15
    whole = float(slope).is_integer() and float(intercept).is_integer()
    assert data.dtype == (np.int16 if fits and whole else np.float32)
    np.testing.assert_allclose(data, truth, rtol=1e-6)


def test_bits_above_the_stored_ones_do_not_count(tmp_path):
    """Old files keep overlays in the bits above BitsStored."""
    values = np.arange(16, dtype=np.uint16).reshape(1, 4, 4)
    read_back = image_of(ct(tmp_path, values | 0xF000, 1, -1000, bits=12)).data[0, 0, 0].numpy()
    np.testing.assert_array_equal(read_back, values.astype(np.int16) - 1000)


def test_a_missing_slice_is_an_error(tmp_path):
    for path in Cine(slices=6).write(tmp_path):
        if pydicom.dcmread(path).ImagePositionPatient[2] == 50:
            path.unlink()
    with pytest.raises(GeometryError, match="1 of 6 slices are missing"):
        read(tmp_path)


def test_a_missing_phase_is_an_error(tmp_path):
    Cine().write(tmp_path)[5].unlink()
    with pytest.raises(InputError, match="3 to 4 frames"):
        read(tmp_path)


def test_mixed_spacing_keeps_slices_as_rows(tmp_path):
    Cine(phases=2).write(tmp_path / "a")
    Cine(phases=2, slices=2, origin=(-50, 20, 57.3)).write(tmp_path / "b")
    for path in (tmp_path / "b").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID + ".9"
        dataset.save_as(path)
    opened = read(tmp_path)
    image = opened.case["image"]
    assert image.data.shape == (5, 2, 1, 1, 12, 16)
    assert sorted(image.grid.affine[:, 2, 3].tolist()) == pytest.approx([30, 40, 50, 57.3, 67.3])
    assert "mixed_spacing" in codes(opened)
    assert image.rows.subject.tolist() == [0] * 5 and image.rows.part.tolist() == [0, 1, 2, 3, 4]
    assert len(image.source.frames) == 5


def test_gantry_tilt_is_kept_and_noted(tmp_path):
    cine = Cine(shear_mm=2.0, phases=1)
    cine.write(tmp_path)
    opened = read(tmp_path)
    assert "gantry_tilt" in codes(opened)
    torch.testing.assert_close(opened.case["image"].grid.affine[0, :3, 2], torch.tensor([0, 2.0, 10.0],
                                                                                       dtype=torch.float64))
    assert opened.case["image"].grid.voxel_ml.item() == pytest.approx(10 * 1.5 * 1.25 / 1000)


def test_slices_that_are_not_parallel_are_rows(tmp_path):
    Cine(slices=1, series="x").write(tmp_path / "a")
    Cine(slices=1, series="x", orientation=(0, 1, 0, 0, 0, -1), number=5).write(tmp_path / "b")
    for path in (tmp_path / "b").iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID + ".9"
        dataset.save_as(path)
    opened = read(tmp_path)
    assert opened.case["image"].data.shape == (2, 4, 1, 1, 12, 16)
    assert "not_a_stack" in codes(opened)


def test_copies_are_read_once_and_repeats_refused(tmp_path):
    paths = Cine().write(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    opened = read(tmp_path)
    assert opened.case["image"].data.shape == (1, 4, 1, 3, 12, 16)
    assert "duplicate_images" in codes(opened)
    again = pydicom.dcmread(paths[0])
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = uid("again")
    again.save_as(tmp_path / "a" / "again")
    with pytest.raises(InputError, match="4 to 5 frames"):
        read(tmp_path)


def test_heart_rate_or_else_the_cycle_is_assumed(tmp_path):
    Cine(interval_ms=None, extra={"HeartRate": 75}).write(tmp_path / "rate")
    torch.testing.assert_close(image_of(tmp_path / "rate").cycle_s, torch.full((1, 3), 0.8, dtype=torch.float64))
    Cine(interval_ms=None).write(tmp_path / "none")
    opened = read(tmp_path / "none")
    torch.testing.assert_close(opened.case["image"].cycle_s, torch.full((1, 3), 0.16, dtype=torch.float64))
    assert "cycle_assumed" in codes(opened)
    Cine(trigger=False, interval_ms=None).write(tmp_path / "untimed")
    opened = read(tmp_path / "untimed")
    assert opened.case["image"].times_s is None and {"order_assumed", "times_unknown"} <= codes(opened)


def test_no_identity_comes_out_unless_asked_for(tmp_path, caplog, capfd):
    Cine(phases=8).write(tmp_path / "a")
    Cine(phases=8, series="again", number=7).write(tmp_path / "b")
    words = [*NAME.lower().split("^"), IDENTIFIER.lower(), "secret", "acc-9", "19600229"]
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        opened = read(tmp_path / "a")
        with pytest.raises(InputError) as error:
            read(tmp_path)
    out, err = capfd.readouterr()
    said = " ".join([repr(opened), str(error.value), caplog.text, out, err, *(str(w.message) for w in warned)]).lower()
    assert not [word for word in words if word in said]
    named = read(tmp_path / "a", identify=True).person
    assert named.name == NAME and named.identifier == IDENTIFIER


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm",
                                  "MR_small_implicit.dcm", "693_J2KR.dcm", "JPEG2000.dcm", "rtdose.dcm",
                                  "image_dfl.dcm", "SC_rgb_jpeg_dcmtk.dcm", "examples_palette.dcm",
                                  "examples_ybr_color.dcm", "examples_overlay.dcm", "color-px.dcm"])
def test_pydicoms_own_files(name):
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} does not come with pydicom")
    dataset = pydicom.dcmread(path)
    image = image_of(pydicom.data.data_manager.Path(path))
    truth = pydicom.pixels.pixel_array(dataset)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        truth = pydicom.pixels.apply_color_lut(truth, dataset) >> 8
    truth = pydicom.pixels.apply_rescale(truth, dataset)
    data = image.data[0].permute(0, 2, 3, 4, 1).squeeze().numpy()
    np.testing.assert_allclose(data, truth.squeeze(), rtol=1e-6)
    assert image.grid.shape[1:] == (dataset.Rows, dataset.Columns)


def test_colour_and_detector_images_have_no_patient_frame():
    image = image_of(pydicom.data.data_manager.Path(get_testdata_file("examples_ybr_color.dcm")))
    assert image.data.shape[2] == 3 and image.grid.frame in ("detector", "none")


def test_dark_is_low_in_monochrome1(tmp_path):
    dataset = plain("1.2.840.10008.5.1.4.1.1.1", "CR", (4, 4))
    dataset.PhotometricInterpretation, dataset.ImagerPixelSpacing = "MONOCHROME1", [0.2, 0.1]
    save(dataset, np.arange(16, dtype=np.uint16).reshape(4, 4), tmp_path / "x.dcm")
    opened = read(tmp_path / "x.dcm")
    assert opened.case["image"].data.flatten().tolist() == list(range(4095, 4079, -1))
    assert opened.case["image"].grid.frame == "detector" and "inverted" in codes(opened)
    assert opened.case["image"].grid.spacing_mm[0, 1:].tolist() == [0.2, 0.1]


def test_bad_files_say_what_is_wrong(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds nothing"):
        read(empty)
    (tmp_path / "text.dcm").write_text("no image at all")
    with pytest.raises(FormatError, match=r"text\.dcm, which is a text file"):
        read(tmp_path / "text.dcm")
    path = Cine(slices=1, phases=1).write(tmp_path / "one")[0]
    whole = path.read_bytes()
    for size in (len(whole) - 10, len(whole) // 2, 400, 200, 140):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError):
            read(path)
        with pytest.raises(InputError):
            read(path.parent)


def test_unsupported_syntax_zero_spacing_and_crooked_axes(tmp_path):
    path = Cine(slices=1, phases=1).write(tmp_path)[0]
    dataset = pydicom.dcmread(path)
    dataset.PixelSpacing = [0, 1.5]
    dataset.save_as(tmp_path / "zero")
    with pytest.raises(InputError, match=r"0 x 1\.5 mm; expected spacing above zero"):
        read(tmp_path / "zero")
    dataset.PixelSpacing, dataset.ImageOrientationPatient = [1, 1], [1, 0, 0, 0.5, 0.8, 0]
    dataset.save_as(tmp_path / "crooked")
    with pytest.raises(InputError, match="right angles"):
        read(tmp_path / "crooked")
    dataset = pydicom.dcmread(path)
    dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 64])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    dataset.save_as(tmp_path / "video")
    with pytest.raises(UnsupportedError, match="MPEG2"):
        read(tmp_path / "video")
