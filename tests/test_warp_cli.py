"""firstread warp: SimpleITK's result, labels and points that go along, and one sentence for bad input."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from firstread.acquire.head import head_phantom
from firstread.cli import app
from firstread.core.errors import FormatError, GeometryError, InputError, UnsupportedError
from firstread.core.geometry import Grid, Transform
from firstread.core.records import Image, Rows
from firstread.io.nifti import read, write_image
from firstread.io.transforms import write_affine, write_composite, write_field
from firstread.jobs.warp import WarpSettings, warp_to_folder
from firstread.ops.rigid import exponential
from firstread.ops.separable import smooth
from firstread.ops.warp import apply, sample_mm


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A head, its labels, another grid, and one transform as ITK and as ANTs keep it."""
    folder = tmp_path_factory.mktemp("warp")
    data, brain = head_phantom(seed=0, spacing_mm=5.0)
    grid = Grid.from_spacing(tuple(data.shape), (5.0,) * 3)
    labels = brain.long() + (data > 0.8).long()
    fixed = Grid.from_spacing((18, 20, 22), (5.0, 4.5, 4.0))
    noise = torch.randn(1, 3, *fixed.shape, generator=torch.Generator().manual_seed(0))
    field = smooth(noise, (3.0, 3.0, 3.0))
    matrix = exponential(torch.tensor([[0.1, -0.1, 0.15, 5.0, -6.0, 4.0]], dtype=torch.float64))
    transform = Transform(matrix, field * 6 / field.norm(dim=1).amax(), fixed, grid)
    for name, values, where in (("head", data, grid), ("labels", labels, grid),
                                ("fixed", torch.rand(fixed.shape), fixed)):
        write_image(folder / f"{name}.nii.gz", Image(Rows.subjects(1), values[None, None, None].float(), where))
    write_composite(folder / "whole.h5", transform)
    back = torch.linalg.inv(matrix[0, :3, :3]).float()
    write_field(folder / "1Warp.nii.gz", torch.einsum("ij,jzyx->izyx", back, transform.displacement_mm[0]), fixed)
    write_affine(folder / "0GenericAffine.mat", matrix[0])
    (folder / "points.csv").write_text("name,X,Y,Z\nnose,0,-30,5\near,20.5,4,-8\n")
    return folder, transform


def run(*words):
    return CliRunner().invoke(app, ["warp", *map(str, words)])


def test_images_come_as_with_simpleitk_from_one_file_or_two(files, tmp_path):
    folder, _ = files
    sitk = pytest.importorskip("SimpleITK")
    names = (["-t", folder / "whole.h5"], ["-t", folder / "1Warp.nii.gz", "-t", folder / "0GenericAffine.mat"])
    fixed, moving = (sitk.ReadImage(str(folder / f"{name}.nii.gz")) for name in ("fixed", "head"))
    theirs = sitk.Resample(moving, fixed, sitk.ReadTransform(str(folder / "whole.h5")), sitk.sitkLinear, 0.0)
    wanted = torch.from_numpy(sitk.GetArrayFromImage(theirs))
    for number, words in enumerate(names):
        out = tmp_path / str(number)
        done = run(folder / "head.nii.gz", *words, "--on", folder / "fixed.nii.gz", "-o", out)
        assert done.exit_code == 0, done.output
        ours = read(out / "warped.nii.gz").data[0, 0, 0]
        assert (ours - wanted)[2:-2, 2:-2, 2:-2].abs().max() < 1e-4 and ours.max() > 0.5
        assert {*json.loads((out / "warp.json").read_text())["files"]} | {"warp.json", "page.html"} == {
            p.name for p in out.iterdir()}
    assert (out / "page.html").read_text().count("<img") == 12


def test_points_go_where_the_image_goes_and_come_back(files, tmp_path):
    folder, transform = files
    words = ["-t", folder / "whole.h5", "-o"]
    assert run(folder / "points.csv", *words, tmp_path / "out", "--on", folder / "fixed.nii.gz").exit_code == 0
    with (tmp_path / "out" / "points.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["nose", "ear"]
    there = torch.tensor([[float(row[axis]) for axis in "XYZ"] for row in rows], dtype=torch.float64)
    start = torch.tensor([[0, -30, 5], [20.5, 4, -8]], dtype=torch.float64)
    assert (apply(transform, there[None])[0] - start).abs().max() < 2e-3
    assert run(tmp_path / "out" / "points.csv", *words, tmp_path / "back", "--inverse").exit_code == 0
    with (tmp_path / "back" / "points.csv").open() as stream:
        again = torch.tensor([[float(row[axis]) for axis in "XYZ"] for row in csv.DictReader(stream)])
    assert (again - start).abs().max() < 5e-3


@pytest.mark.parametrize("interpolation", ["nearest", "onehot"])
def test_labels_keep_their_values_there_and_back(files, tmp_path, interpolation):
    folder, _ = files
    words = ["-t", folder / "whole.h5", "--interpolation", interpolation, "-o"]
    assert run(folder / "labels.nii.gz", *words, tmp_path / "out", "--on", folder / "fixed.nii.gz").exit_code == 0
    made = read(tmp_path / "out" / "warped.nii.gz")
    assert made.data.dtype == torch.int32 and made.data.unique().tolist() == [0, 1, 2]
    assert run(tmp_path / "out" / "warped.nii.gz", *words, tmp_path / "back", "--on", folder / "head.nii.gz",
               "--inverse").exit_code == 0
    back, start = (read(path).data for path in (tmp_path / "back" / "warped.nii.gz", folder / "labels.nii.gz"))
    inner = (..., slice(6, -6), slice(5, -5), slice(5, -5))
    both = ((back > 0) & (start > 0))[inner].sum() * 2 / ((back > 0)[inner].sum() + (start > 0)[inner].sum())
    assert both > 0.9


def test_labels_warped_as_an_image_are_warned_about_and_volumes_stand_beside_each_other(files, tmp_path):
    folder, _ = files
    words = folder / "labels.nii.gz", "-t", folder / "whole.h5", "--on", folder / "fixed.nii.gz"
    assert run(*words, "-o", tmp_path / "image").exit_code == 0
    document = json.loads((tmp_path / "image" / "warp.json").read_text())
    assert "labels_blended" in [note["code"] for note in document["warnings"]]
    assert run(*words, "-o", tmp_path / "labels", "--interpolation", "nearest").exit_code == 0
    document = json.loads((tmp_path / "labels" / "warp.json").read_text())
    assert document["warnings"] == []
    stored = read(folder / "labels.nii.gz").data
    assert document["labels"]["1"]["ml_given"] == pytest.approx(float((stored == 1).sum()) * 0.125, abs=1e-3)
    assert "mL, as given" in (tmp_path / "labels" / "page.html").read_text()


def test_segments_of_a_dicom_seg_keep_their_names(files, tmp_path):
    import highdicom
    import numpy as np
    from pydicom.sr.codedict import codes

    source = series(tmp_path / "ct")
    mask = np.zeros((4, 16, 16), np.uint8)
    mask[1:3, 4:10, 5:12] = 1
    what = highdicom.seg.SegmentDescription(
        1, "Liver", codes.SCT.Organ, codes.SCT.Liver, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL)
    seg = highdicom.seg.Segmentation(
        source, mask, highdicom.seg.SegmentationTypeValues.BINARY, [what], highdicom.UID(), 1, highdicom.UID(), 1,
        "maker", "model", "1", "0")
    seg.save_as(tmp_path / "seg.dcm")
    shift = torch.eye(4, dtype=torch.float64)
    shift[0, 3] = 4.0  # two voxels along x
    write_affine(tmp_path / "shift.tfm", shift)
    words = tmp_path / "seg.dcm", "-t", tmp_path / "shift.tfm", "--on", tmp_path / "ct"
    for name, way, moved in (("there", (), -2), ("back", ("--inverse",), 2)):
        done = run(*words, "-o", tmp_path / name, "--interpolation", "nearest", *way)
        assert done.exit_code == 0, done.output
        document = json.loads((tmp_path / name / "warp.json").read_text())
        assert document["labels"]["1"]["name"] == "Liver"
        assert document["labels"]["1"]["ml"] == pytest.approx(document["labels"]["1"]["ml_given"])
        made = read(tmp_path / name / "warped.nii.gz")
        found = sample_mm(made.data[:, 0].float(), made.grid, torch.tensor([[[2.0 * (8 + moved), 14.0, 3.0]]]).double())
        assert found.item() == 1 and int((made.data > 0).sum()) == int(mask.sum())
    with pytest.raises(InputError, match=r"seg\.dcm, labels, with linear interpolation"):
        warp_to_folder(tmp_path / "seg.dcm", [tmp_path / "shift.tfm"], tmp_path / "ct", tmp_path / "no")


def series(folder):
    """Four CT slices of 16 x 16 pixels of 2 mm, 3 mm apart, as files; their headers."""
    import numpy as np
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    study, own, frame, made = generate_uid(), generate_uid(), generate_uid(), []
    for z in range(4):
        one = pydicom.Dataset()
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID, one.file_meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        one.SOPClassUID, one.SOPInstanceUID, one.Modality = CTImageStorage, generate_uid(), "CT"
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, own, frame
        one.PatientID = one.PatientName = one.StudyID = "a"
        one.PatientBirthDate = one.PatientSex = one.AccessionNumber = one.ReferringPhysicianName = ""
        one.StudyDate, one.StudyTime, one.SeriesNumber, one.InstanceNumber = "20200101", "000000", 1, z + 1
        one.ImagePositionPatient, one.ImageOrientationPatient = [0, 0, 3 * z], [1, 0, 0, 0, 1, 0]
        one.PixelSpacing, one.SliceThickness = [2, 2], 3
        one.Rows = one.Columns = 16
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation, one.RescaleSlope, one.RescaleIntercept = 15, 0, 1, 0
        one.PixelData = (np.arange(256, dtype=np.uint16).reshape(16, 16) + z).tobytes()
        one.save_as(folder / f"{z}.dcm", enforce_file_format=True)
        made.append(pydicom.dcmread(folder / f"{z}.dcm"))
    return made


def test_bad_input_is_one_sentence(files, tmp_path):
    folder, transform = files
    head, fixed, whole = (folder / name for name in ("head.nii.gz", "fixed.nii.gz", "whole.h5"))
    out = tmp_path / "out"

    def refuses(kind, text, *words, **settings):
        with pytest.raises(kind, match=text):
            warp_to_folder(*words, out, WarpSettings(**settings))

    refuses(InputError, "no transform;", head, [], fixed)
    refuses(InputError, r"no transform at none\.h5", head, [folder / "none.h5"], fixed)
    refuses(UnsupportedError, r"points\.csv", head, [folder / "points.csv"], fixed)
    refuses(FormatError, r"head\.nii\.gz of shape", head, [head], fixed)
    refuses(InputError, "no grid", head, [whole], None)
    refuses(InputError, "holds no labels", head, [whole], fixed, interpolation="nearest")
    refuses(InputError, r"nothing at gone\.csv", tmp_path / "gone.csv", [whole], None)
    flat = tmp_path / "flat.nii.gz"
    write_image(flat, Image(Rows.subjects(1), torch.rand(1, 1, 1, 1, 8, 8), Grid.from_spacing((1, 8, 8), (5.0,) * 3)))
    refuses(GeometryError, "a 2D image, a 3D grid, a 3D field", flat, [whole], fixed)
    refuses(GeometryError, "a 3D image, a 2D grid", head, [folder / "0GenericAffine.mat"], flat)
    far = torch.eye(4, dtype=torch.float64)
    far[0, 3] = 5000.0
    write_affine(tmp_path / "far.tfm", far)
    refuses(GeometryError, "leads no voxel of the grid into the image", head, [tmp_path / "far.tfm"], fixed)
    away = replace(transform.from_grid, affine=far @ transform.from_grid.affine)
    write_field(tmp_path / "away.nii.gz", transform.displacement_mm[0], away)
    refuses(GeometryError, "covers nothing of the grid", head, [tmp_path / "away.nii.gz"], fixed)
    broken = tmp_path / "broken.csv"
    for text, message in (("a,b\n1,2\n", "columns a, b"), ("x,y,z\n", "of 0 rows"), ("x,y,z\n1,2,three\n", "line 2"),
                          ("x,y,z\n1,2,3\n1,2,inf\n", "line 3, a place")):
        broken.write_text(text)
        refuses(FormatError, message, broken, [whole], None)
    assert not out.exists()
