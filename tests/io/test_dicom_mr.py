"""DICOM MR images made from raw data: same pixels and places, valid, nothing of the patient unless asked for."""

import shutil
import subprocess
from pathlib import Path

import h5py
import pydicom
import pytest
import torch
from raw_files import kspace_of

from firstread.core.errors import OutputError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.io.dicom.mr import write_mr
from firstread.io.ismrmrd import read, write
from firstread.io.open import read as open_file
from firstread.io.scan import Scan

ABOUT = """<subjectInformation><patientName>Doe^Jane</patientName><patientID>42</patientID>
<patientBirthdate>1960-02-03</patientBirthdate><patientGender>F</patientGender></subjectInformation>
<studyInformation><studyDate>2020-05-06</studyDate><studyTime>07:08:09</studyTime>
<studyInstanceUID>1.2.826.0.1.77</studyInstanceUID></studyInformation>
<measurementInformation><patientPosition>HFS</patientPosition><protocolName>cine sax</protocolName>
<frameOfReferenceUID>1.2.826.0.1.78</frameOfReferenceUID></measurementInformation>"""


def oblique(frames: int = 3, slices: int = 2) -> Image:
    """A cine on a tilted grid with pixels that are not square."""
    tilt = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).Q
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = tilt * torch.linalg.det(tilt) * torch.tensor([1.2, 1.5, 9.0], dtype=torch.float64)
    affine[:3, 3] = torch.tensor([12.0, -30.5, 77.25])
    grid = Grid(affine[None], (slices, 12, 10), torch.tensor([8.0]))
    data = torch.rand(1, frames, 1, slices, 12, 10, generator=torch.Generator().manual_seed(4)) + 0j
    times = (0.01 + 0.04 * torch.arange(frames).double())[None, :, None]
    return Image(Rows.subjects(1), data, grid, times)


def test_what_is_written_is_read_back_at_its_place(tmp_path):
    image = oblique()
    written = write_mr(image, Scan(), tmp_path, method="sense")
    found = open_file(tmp_path).case["image"]
    assert len(written) == 6 and isinstance(found, Image)
    torch.testing.assert_close(found.grid.affine, image.grid.affine, atol=1e-4, rtol=0)
    expected = image.data.abs() / image.data.abs().max() * 4095
    assert (found.data.float() - expected).abs().max() <= 0.51
    torch.testing.assert_close(found.times_s.mean(dim=2, keepdim=True).double(), image.times_s, atol=1e-6, rtol=0)


@pytest.mark.parametrize("identify", [False, True])
def test_the_patient_is_in_it_only_when_asked_for(tmp_path, identify):
    kspace = kspace_of(frames=2, coils=2, slices=1, shape=(16, 16), keep=1.0)
    write(tmp_path / "scan.h5", kspace)
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        text = file["dataset/xml"][0].decode()
        file["dataset/xml"][0] = text.replace("<acquisitionSystem", ABOUT + "<acquisitionSystem")
    found, _ = read(tmp_path / "scan.h5", identify=identify)
    image = Image(found.rows, found.data[:, :, :1], found.grid, found.times_s)
    (tmp_path / "out").mkdir()
    path = write_mr(image, found.source, tmp_path / "out", method="sense")[0]
    header = pydicom.dcmread(path)
    assert str(header.PatientName) == ("Doe^Jane" if identify else "")
    assert (header.PatientID, header.PatientBirthDate) == (("42", "19600203") if identify else ("", ""))
    assert (b"Doe" in path.read_bytes()) == identify
    assert header.StudyInstanceUID == "1.2.826.0.1.77" and header.FrameOfReferenceUID == "1.2.826.0.1.78"
    assert (header.StudyDate, header.PatientPosition, header.ImageType[0]) == ("20200506", "HFS", "DERIVED")
    assert "NOT FOR CLINICAL USE" in header.SeriesDescription and "NOT FOR CLINICAL USE" in header.ImageComments


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
@pytest.mark.parametrize("frames", [1, 3])
def test_the_validator_finds_no_error(tmp_path, frames):
    image = oblique(frames=frames)
    still = Image(image.rows, image.data, image.grid)
    scan = Scan(repetition_ms=3.1, echo_ms=1.5, flip_deg=50.0, field_t=1.5, patient_position="HFS", sex="M")
    for path in write_mr(image if frames > 1 else still, scan, tmp_path, method="sense"):
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
        assert "Error" not in said.stderr + said.stdout, said.stderr


def test_no_place_in_the_patient_is_refused(tmp_path):
    image = oblique()
    nowhere = Image(image.rows, image.data, Grid.pixels(image.grid.shape))
    with pytest.raises(OutputError, match="without a place"):
        write_mr(nowhere, Scan(), tmp_path, method="sense")
    assert list(Path(tmp_path).iterdir()) == []
