import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from dicom_files import IDENTIFIER, NAME, Cine, uid

from firstread.core.errors import OutputError
from firstread.core.records import HardLabels, Image
from firstread.io.dicom.seg import code_of, write_seg
from firstread.io.open import read

NAMES = ("background", "LV cavity", "LV myocardium", "RV cavity")
DCMQI = shutil.which("segimage2itkimage", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def drawn(image: Image) -> HardLabels:
    """Random labels on the grid of ``image``."""
    shape = (image.data.shape[0], image.data.shape[1], 1, *image.data.shape[3:])
    data = torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    return HardLabels(image.rows, data, image.grid, NAMES, source=image.source)


def written(folder, cine: Cine, **options):
    cine.write(folder / "in")
    image = read(folder / "in", **options).case["image"]
    labels = drawn(image)
    (folder / "out").mkdir()
    return image, labels, write_seg(labels, image.source, folder / "out")


def placed_masks(path) -> dict:
    """Segment number and rounded place to mask, from the standard's attributes alone."""
    dataset = pydicom.dcmread(path)
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    found = {}
    for mask, group in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        place = tuple(round(float(v), 2) for v in group.PlanePositionSequence[0].ImagePositionPatient)
        found[group.SegmentIdentificationSequence[0].ReferencedSegmentNumber, place] = mask
    return found


@pytest.mark.parametrize("split", [False, True], ids=["one series", "a series per slice"])
def test_masks_come_back_at_their_places(tmp_path, split):
    image, labels, paths = written(tmp_path, Cine(split=split, orientation=(0.6, 0.8, 0, 0, 0, -1)))
    assert len(paths) == 4
    assert len({pydicom.dcmread(path).SeriesInstanceUID for path in paths}) == 1
    for phase, path in enumerate(paths):
        masks = placed_masks(path)
        assert len(masks) == 9
        for (number, place), mask in masks.items():
            index = image.grid.to_index(torch.tensor([[place]], dtype=torch.float64))[0, 0]
            z = round(index[2].item())
            torch.testing.assert_close(index, torch.tensor([0, 0, z], dtype=torch.float64), atol=0.01, rtol=0)
            np.testing.assert_array_equal(mask, labels.data[0, phase, 0, z].numpy() == number)


@pytest.mark.parametrize("split", [False, True], ids=["one series", "a series per slice"])
def test_each_frame_refers_to_its_source_image(tmp_path, split):
    image, _, paths = written(tmp_path, Cine(split=split))
    for phase, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        referred = {image.ReferencedSOPInstanceUID for group in dataset.PerFrameFunctionalGroupsSequence
                    for derivation in group.DerivationImageSequence for image in derivation.SourceImageSequence}
        assert referred == {uid("study", "sax", z, phase) for z in range(3)}
        listed = {i.ReferencedSOPInstanceUID: s.SeriesInstanceUID for s in dataset.ReferencedSeriesSequence
                  for i in s.ReferencedInstanceSequence}
        assert listed == {uid("study", "sax", z, phase): uid("study", f"sax-{z}" if split else "sax") for z in range(3)}
        assert dataset.StudyInstanceUID == image.source.study_uid


def test_codes_algorithm_and_warning(tmp_path):
    _, _, paths = written(tmp_path, Cine(phases=1))
    dataset = pydicom.dcmread(paths[0])
    codes = [s.SegmentedPropertyTypeCodeSequence[0].CodeValue for s in dataset.SegmentSequence]
    assert codes == ["87878005", "49848007", "53085002"]
    assert {s.SegmentAlgorithmType for s in dataset.SegmentSequence} == {"AUTOMATIC"}
    assert dataset.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "Firstread"
    assert "not for clinical use" in dataset.ContentDescription.lower()
    assert "not for clinical use" in dataset.SeriesDescription.lower()


def test_identity_is_written_only_where_asked_for(tmp_path):
    _, _, paths = written(tmp_path, Cine(phases=1))
    stored = paths[0].read_bytes()
    words = (*NAME.split("^"), IDENTIFIER, "Secret", "ACC-9", "19600229")
    assert not [word for word in words if word.encode() in stored]
    (tmp_path / "named").mkdir()
    _, _, paths = written(tmp_path / "named", Cine(phases=1), identify=True)
    assert pydicom.dcmread(paths[0]).PatientName == NAME


def test_an_empty_phase_is_written(tmp_path):
    Cine(phases=2).write(tmp_path / "in")
    image = read(tmp_path / "in").case["image"]
    labels = drawn(image)
    labels.data[:, 1] = 0
    paths = write_seg(labels, image.source, tmp_path)
    assert len(paths) == 2 and pydicom.dcmread(paths[1]).pixel_array.max() == 0


def test_labels_that_do_not_fit_are_refused(tmp_path):
    image, labels, _ = written(tmp_path, Cine())
    with pytest.raises(OutputError, match="rows, phases and slices"):
        write_seg(HardLabels(labels.rows, labels.data[:, :2], labels.grid, NAMES), image.source, tmp_path)


def test_other_classes_have_codes_too(tmp_path):
    image, labels, _ = written(tmp_path, Cine(phases=1))
    names = ("background", "spleen", "left atrium", "my own class, of a long name")
    (path,) = write_seg(HardLabels(labels.rows, labels.data, labels.grid, names), image.source, tmp_path)
    found = [s.SegmentedPropertyTypeCodeSequence[0] for s in pydicom.dcmread(path).SegmentSequence]
    assert [code.CodingSchemeDesignator for code in found] == ["SCT", "SCT", "99FIRSTREAD"]
    assert [code.CodeValue for code in found][:2] == ["78961009", "82471001"]
    assert len(found[2].CodeValue) == 16 and found[2].CodeMeaning == names[3]
    assert code_of("lung upper lobe left").value != code_of("lung upper lobe right").value
    assert [s.SegmentLabel for s in pydicom.dcmread(path).SegmentSequence] == list(names[1:])
    if shutil.which("dciodvfy"):
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert not [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("identify", [False, True])
def test_dciodvfy_finds_no_error(tmp_path, identify):
    _, _, paths = written(tmp_path, Cine(phases=2, split=identify), identify=identify)
    for path in paths:
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert not [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.skipif(DCMQI is None, reason="segimage2itkimage (dcmqi) is not installed")
def test_dcmqi_reads_the_same_mask(tmp_path):
    import nibabel

    image, labels, paths = written(tmp_path, Cine(phases=2, orientation=(0.6, 0.8, 0, 0, 0, -1)))
    for phase, path in enumerate(paths):
        out = tmp_path / f"dcmqi{phase}"
        out.mkdir()
        subprocess.run([DCMQI, "--inputDICOM", path, "--outputDirectory", out, "-t", "nii"], check=True,
                       capture_output=True)
        for number in (1, 2, 3):
            volume = nibabel.load(out / f"{number}.nii.gz")
            foreign = np.asarray(volume.dataobj) > 0
            for index in np.argwhere(foreign)[::7]:
                ras = volume.affine @ np.append(index, 1.0)
                here = image.grid.to_index(torch.tensor(ras[:3] * [-1, -1, 1]).reshape(1, 1, 3))[0, 0].round().long()
                x, y, z = here.tolist()
                assert labels.data[0, phase, 0, z, y, x] == number
            assert foreign.sum() == (labels.data[0, phase] == number).sum()
