import shutil
import subprocess

import numpy as np
import pydicom
import pytest
import torch
from dicom_files import Cine, plain, save, uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from firstread.core.errors import FormatError
from firstread.core.records import HardLabels
from firstread.io.dicom.seg import write_seg
from firstread.io.open import read

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
ULTRASOUND = "1.2.840.10008.5.1.4.1.1.3.1"


def item(**values) -> Sequence:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return Sequence([dataset])


def enhanced(path, cine: Cine, *, syntax=pydicom.uid.ExplicitVRLittleEndian, shuffle=True):
    """The cine as one enhanced MR file, its frames in no order."""
    dataset = plain(ENHANCED_MR, "MR", cine.shape)
    dataset.FrameOfReferenceUID = uid("frame")
    dataset.SharedFunctionalGroupsSequence = item(
        PixelMeasuresSequence=item(PixelSpacing=list(cine.spacing_mm), SliceThickness=cine.thickness_mm),
        PlaneOrientationSequence=item(ImageOrientationPatient=list(cine.orientation)),
        PixelValueTransformationSequence=item(RescaleSlope=2, RescaleIntercept=-5, RescaleType="US"))
    order = [(t, z) for z in range(cine.slices) for t in range(cine.phases)]
    if shuffle:
        order = [order[i] for i in np.random.default_rng(1).permutation(len(order))]
    normal, groups = np.cross(cine.orientation[:3], cine.orientation[3:]), []
    for t, z in order:
        group = item(
            PlanePositionSequence=item(ImagePositionPatient=list(np.array(cine.origin) + z * cine.step_mm * normal)),
            FrameContentSequence=item(StackID="1", InStackPositionNumber=z + 1, TemporalPositionIndex=t + 1),
            CardiacSynchronizationSequence=item(NominalCardiacTriggerDelayTime=30.0 * t, RRIntervalTimeNominal=850.0))
        groups.append(group[0])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    dataset.NumberOfFrames = len(order)
    pixels = np.stack([cine.pixels()[t, z] for t, z in order])
    return save(dataset, pixels, path, syntax), order


@pytest.mark.parametrize("syntax", [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.ImplicitVRLittleEndian,
                                    pydicom.uid.ExplicitVRBigEndian, pydicom.uid.RLELossless,
                                    pydicom.uid.JPEG2000Lossless], ids=lambda u: u.name[:16])
def test_frames_are_sorted_by_place_and_trigger(tmp_path, syntax):
    cine = Cine(phases=3, slices=4, shape=(33, 40), orientation=(0.6, 0.8, 0, 0, 0, -1))
    enhanced(tmp_path / "e.dcm", cine, syntax=syntax)
    image = read(tmp_path / "e.dcm").case["image"]
    np.testing.assert_array_equal(image.data[0, :, 0].numpy(), cine.pixels().astype(np.int64) * 2 - 5)
    assert image.data.dtype == torch.int16
    torch.testing.assert_close(image.times_s[0, :, 1], torch.tensor([0, 0.03, 0.06], dtype=torch.float64))
    torch.testing.assert_close(image.cycle_s, torch.full((1, 4), 0.85, dtype=torch.float64))
    assert image.grid.spacing_mm[0].tolist() == pytest.approx([10, 1.5, 1.25])


def test_the_same_cine_classic_and_enhanced_is_the_same_image(tmp_path):
    cine = Cine(phases=3, slices=4, orientation=(0.6, 0.8, 0, 0, 0, -1))
    cine.write(tmp_path / "classic")
    enhanced(tmp_path / "e.dcm", cine)
    one, two = read(tmp_path / "classic").case["image"], read(tmp_path / "e.dcm").case["image"]
    assert torch.equal(one.data * 2 - 5, two.data)
    torch.testing.assert_close(one.grid.affine, two.grid.affine, atol=1e-6, rtol=0)


@pytest.mark.parametrize("syntax", [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.RLELossless,
                                    pydicom.uid.DeflatedExplicitVRLittleEndian], ids=lambda u: u.name[:8])
def test_many_frames_are_described_at_length(tmp_path, syntax):
    cine = Cine(phases=8, slices=6)
    enhanced(tmp_path / "e.dcm", cine, syntax=syntax)
    stored = pydicom.dcmread(tmp_path / "e.dcm", defer_size=2048)
    element = stored.get_item("PerFrameFunctionalGroupsSequence", keep_deferred=True)
    assert element.length > 4096  # more than is read with the header
    data = read(tmp_path / "e.dcm").case["image"].data
    np.testing.assert_array_equal(data[0, :, 0].numpy(), cine.pixels().astype(np.int64) * 2 - 5)


def test_segmentations_refer_to_frames_of_the_enhanced_file(tmp_path):
    cine = Cine(phases=3, slices=4)
    _, order = enhanced(tmp_path / "e.dcm", cine)
    image = read(tmp_path / "e.dcm").case["image"]
    data = torch.randint(1, 4, (1, 3, 1, 4, *cine.shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    names = ("background", "LV cavity", "LV myocardium", "RV cavity")
    paths = write_seg(HardLabels(image.rows, data, image.grid, names), image.source, tmp_path)
    assert len(paths) == 3
    for phase, path in enumerate(paths):
        written = pydicom.dcmread(path)
        pixels = written.pixel_array
        for mask, group in zip(pixels, written.PerFrameFunctionalGroupsSequence, strict=True):
            number = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
            t, z = order[number - 1]
            assert t == phase
            segment = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
            np.testing.assert_array_equal(mask, data[0, phase, 0, z].numpy() == segment)
            assert group.PlanePositionSequence[0].ImagePositionPatient[2] == pytest.approx(30 + 10 * z)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_dciodvfy_finds_no_error_where_the_source_has_numbers_too_long(tmp_path):
    cine = Cine(phases=2, slices=3, origin=(-166.16875678181088, -70.36990260092468, 1e-17),
                orientation=(0.6, 0.8, 0, 0, 0, -1))
    enhanced(tmp_path / "e.dcm", cine)
    image = read(tmp_path / "e.dcm").case["image"]
    data = torch.ones(1, 2, 1, 3, *cine.shape, dtype=torch.uint8)
    names = ("background", "LV cavity", "LV myocardium", "RV cavity")
    for path in write_seg(HardLabels(image.rows, data, image.grid, names), image.source, tmp_path):
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert not [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


def test_descriptions_that_do_not_match_the_frames_are_refused(tmp_path):
    path, _ = enhanced(tmp_path / "e.dcm", Cine(phases=2, slices=2))
    dataset = pydicom.dcmread(path)
    dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:3]
    dataset.save_as(path)
    with pytest.raises(FormatError, match="4 frames that describes 3"):
        read(path)


def test_an_ultrasound_cine_has_frames_and_the_region_s_spacing(tmp_path):
    dataset = plain(ULTRASOUND, "US", (6, 8))
    dataset.NumberOfFrames, dataset.FrameTime = 5, 20
    dataset.SequenceOfUltrasoundRegions = item(PhysicalDeltaX=0.05, PhysicalDeltaY=0.04, PhysicalUnitsXDirection=3,
                                               PhysicalUnitsYDirection=3)
    pixels = np.arange(240, dtype=np.uint16).reshape(5, 6, 8)
    save(dataset, pixels, tmp_path / "us.dcm")
    image = read(tmp_path / "us.dcm").case["image"]
    np.testing.assert_array_equal(image.data[0, :, 0, 0], pixels)
    assert image.grid.frame == "detector"
    assert image.grid.spacing_mm[0, 1:].tolist() == pytest.approx([0.4, 0.5])
    torch.testing.assert_close(image.times_s[0, :, 0], torch.arange(5).double() * 0.02)
