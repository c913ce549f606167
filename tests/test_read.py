"""The main job end to end, as a user meets it: files in, a folder out, mistakes answered in one sentence."""

import errno
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from firstread import cli
from firstread.acquire.heart import heart_subject
from firstread.io.ismrmrd import write as write_kspace
from firstread.io.nifti import write_image
from firstread.read import Settings, read_to_folder
from firstread.simulate import encoder


@pytest.fixture(scope="module")
def heart():
    """A small, fully imaged heart: quick to make and to read."""
    return heart_subject(seed=5, family="test", pathology="normal", matrix=(96, 96), spacing_mm=2.4, slices=6, frames=4,
                         gap_mm=4.0)


@pytest.fixture(scope="module")
def nifti(heart, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("nifti") / "cine.nii.gz"
    write_image(path, heart.image)
    return path


@pytest.fixture(scope="module")
def raw(heart, tmp_path_factory) -> Path:
    from firstread.core.keys import Key

    path = tmp_path_factory.mktemp("raw") / "scan.h5"
    write_kspace(path, encoder(acceleration=3.0, coils=4, snr=40.0)(heart.image, Key(0, "encode")))
    return path


def run(monkeypatch, capsys, *arguments: str | Path) -> tuple[int, str]:
    """The command line in this process: exit code and what it said."""
    monkeypatch.setattr("sys.argv", ["firstread", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code, capsys.readouterr().err


def test_images_in_reading_out(nifti, heart, tmp_path, monkeypatch, capsys):
    code, said = run(monkeypatch, capsys, "read", nifti, "-o", tmp_path / "out")
    assert code == 0, said
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == {"reading.html", "reading.json", "labels.nii.gz"}
    found = json.loads((out / "reading.json").read_text())
    assert found["not_for_clinical_use"] is True
    for name in ("LVEDV", "LVESV", "LVEF", "LVM", "RVEDV", "WT_AHA_1", "WT_AHA_16"):
        entry = found["phenotypes"][name]
        assert (entry["value"] is None) == ("reason" in entry and entry["reason"] is not None), name
    labels = nibabel.load(out / "labels.nii.gz")
    assert labels.shape == nibabel.load(nifti).shape
    assert set(np.unique(np.asarray(labels.dataobj))) <= {0, 1, 2, 3}
    np.testing.assert_allclose(labels.affine, nibabel.load(nifti).affine, atol=1e-4)
    assert (out / "reading.html").stat().st_size < 15_000_000


def test_raw_signal_in_reading_out_with_its_reconstruction(raw, tmp_path):
    reading = read_to_folder(raw, tmp_path / "out")
    assert {"kspace", "zero_filled", "image", "labels", "phenotypes"} <= set(reading.case)
    assert [step.stage for step in reading.case.trail][:2] == ["zero_filled", "cascade"]
    assert all(step.weights for step in reading.case.trail if step.stage in ("cascade", "segment"))


def test_raw_signal_is_read_with_adaptation_and_without_intervals_where_it_helped(raw, tmp_path):
    reading = read_to_folder(raw, tmp_path / "out", Settings(adapt=2))
    codes = {note.code for name in reading.case for note in reading.case[name].notes} | {n.code for n in reading.notes}
    assert ("adapted" in codes) == ("no_intervals" in codes) and codes & {"adapted", "adaptation_rolled_back"}
    assert json.loads((tmp_path / "out" / "reading.json").read_text())["input"]["stated"] == {"adapt": 2}


def test_images_cannot_be_adapted_to(nifti, tmp_path, monkeypatch, capsys):
    code, said = run(monkeypatch, capsys, "read", nifti, "--adapt", 5, "-o", tmp_path / "out")
    assert code == 2 and "leave --adapt out" in said and not (tmp_path / "out").exists()


def test_reading_twice_gives_the_same_numbers(nifti, tmp_path):
    one, two = (read_to_folder(nifti, tmp_path / n).case["phenotypes"].values["LVEDV"].value for n in ("a", "b"))
    assert torch.equal(one, two)


def test_a_single_frame_has_no_ejection_fraction_and_says_why(nifti, tmp_path):
    image = nibabel.load(nifti)
    still = tmp_path / "still.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[..., 0], image.affine), still)
    found = read_to_folder(still, tmp_path / "out").case["phenotypes"]
    assert found["LVEF"].value is None and "frame" in found["LVEF"].reason
    known = read_to_folder(still, tmp_path / "ed", Settings(phase="ED")).case["phenotypes"]
    assert known["LVEDV"].value is not None and known["LVEF"].value is None


def test_a_picture_is_shown_and_not_measured(tmp_path):
    from PIL import Image as Picture

    Picture.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    reading = read_to_folder(tmp_path / "a.png", tmp_path / "out")
    assert "not_a_heart_stack" in {note.code for note in reading.notes} and "phenotypes" not in reading.case


def test_a_grey_picture_is_not_measured_either(tmp_path):
    from PIL import Image as Picture

    Picture.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / "a.png")
    for settings in (Settings(), Settings(spacing_mm=(8.0, 1.5, 1.5))):
        reading = read_to_folder(tmp_path / "a.png", tmp_path / "out", settings, overwrite=True)
        assert "not_a_heart_stack" in {note.code for note in reading.notes} and "phenotypes" not in reading.case


def test_an_array_of_images_is_measured_with_and_without_spacing(heart, tmp_path):
    np.save(tmp_path / "a.npy", heart.image.data[0, :, 0].abs().numpy())
    without = read_to_folder(tmp_path / "a.npy", tmp_path / "a", Settings(axes="time,z,y,x")).case["phenotypes"]
    stated = Settings(axes="time,z,y,x", spacing_mm=(12.0, 2.4, 2.4))
    having = read_to_folder(tmp_path / "a.npy", tmp_path / "b", stated).case["phenotypes"]
    assert without["LVEDV"].value is None and without["LVEF"].value is not None
    assert having["LVEDV"].value is not None


def test_only_the_consensus_is_shown(raw, tmp_path):
    reading = read_to_folder(raw, tmp_path / "out")
    assert {record.batch for record in reading.case.values()} == {1}
    assert "several_rows" not in (tmp_path / "out" / "reading.json").read_text()


def bad_inputs(folder: Path, nifti: Path, raw: Path) -> dict[str, tuple[Path, str]]:
    """A path and a word that its sentence must hold, by kind of mistake."""
    (folder / "empty").mkdir()
    text = folder / "letter.dcm"
    text.write_text("Dear colleague, " * 40)
    cut_nifti = folder / "cut.nii.gz"
    cut_nifti.write_bytes(nifti.read_bytes()[:3000])
    cut_raw = folder / "cut.h5"
    cut_raw.write_bytes(raw.read_bytes()[: raw.stat().st_size // 2])
    image = nibabel.load(nifti)
    data = np.asarray(image.dataobj, dtype=np.float32)
    two = folder / "two.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.stack([data, data], axis=-1), image.affine), two)
    hollow = folder / "nan.nii.gz"
    holes = data.copy()
    holes[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(holes, image.affine), hollow)
    flat = folder / "flat.nii"
    header = bytearray(nibabel.Nifti1Image(data, image.affine).to_bytes())
    header[80:84] = np.float32(0).tobytes()  # pixdim[1]
    header[252:256] = np.int16([0, 0]).tobytes()  # no qform, no sform: spacing is all there is
    flat.write_bytes(header)
    lost = np.full((2, 32, 32), np.nan + 0j, dtype=np.complex64)
    np.save(folder / "nan.npy", lost)
    return {"empty folder": (folder / "empty", "DICOM"), "text named .dcm": (text, "expected"),
            "truncated NIfTI": (cut_nifti, "expected"), "truncated HDF5": (cut_raw, "expected"),
            "two channels": (two, "expected"), "NaN image": (hollow, "NaN"), "zero spacing": (flat, "spacing"),
            "no axes": (folder / "nan.npy", "axes")}


@pytest.mark.parametrize("mistake", ["empty folder", "text named .dcm", "truncated NIfTI", "truncated HDF5",
                                     "two channels", "NaN image", "zero spacing", "no axes"])
def test_bad_input_is_one_sentence_and_leaves_nothing(mistake, nifti, raw, tmp_path, monkeypatch, capsys):
    path, word = bad_inputs(tmp_path, nifti, raw)[mistake]
    before = sorted(tmp_path.iterdir())
    code, said = run(monkeypatch, capsys, "read", path, "-o", tmp_path / "out")
    last = said.strip().splitlines()[-1]
    assert code == 2 and last.startswith("firstread: ") and word.lower() in last.lower(), said
    assert sum(line.startswith("firstread: ") for line in said.splitlines()) == 1 and "Traceback" not in said
    assert sorted(tmp_path.iterdir()) == before


def test_nan_in_kspace_is_named(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "nan.npy", np.full((2, 32, 32), np.nan + 0j, dtype=np.complex64))
    code, said = run(monkeypatch, capsys, "read", tmp_path / "nan.npy", "--axes", "coil,y,x", "-o", tmp_path / "out")
    assert code == 2 and ("NaN" in said or "finite" in said) and not (tmp_path / "out").exists()


def test_an_earlier_reading_is_refused_before_any_work(nifti, tmp_path, monkeypatch, capsys):
    (tmp_path / "reading.json").write_text("{}")
    code, said = run(monkeypatch, capsys, "read", nifti, "-o", tmp_path)
    assert code == 2 and "--overwrite" in said and "opening" not in said


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_interrupted_or_full_nothing_is_half_written(error, nifti, tmp_path, monkeypatch, capsys):
    def stop(reading, folder):
        (folder / "reading.html").write_text("half")
        raise error

    monkeypatch.setattr("firstread.read.write", stop)
    code, said = run(monkeypatch, capsys, "read", nifti, "-o", tmp_path / "out")
    wanted = 130 if isinstance(error, KeyboardInterrupt) else 2
    assert code == wanted and said.strip().splitlines()[-1].startswith("firstread: ")
    assert list(tmp_path.iterdir()) == []


def test_simulated_subjects_are_files_that_read_back(tmp_path, monkeypatch, capsys, heart):
    monkeypatch.setattr("firstread.simulate.heart_subject", lambda **settings: heart)
    code, said = run(monkeypatch, capsys, "simulate", "heart", "-o", tmp_path / "sim", "--acceleration", "3")
    assert code == 0, said
    subject = tmp_path / "sim" / "subject-0000"
    names = {"kspace.h5", "truth_image.nii.gz", "truth_labels.nii.gz", "truth.json"}
    assert {p.name for p in subject.iterdir()} == names
    reading = read_to_folder(subject / "kspace.h5", tmp_path / "out", Settings(truth=subject))
    assert reading.errors["reconstruction PSNR (dB)"] > reading.errors["zero-filled PSNR (dB)"]
    assert "LVEF minus truth (%)" in reading.errors and 0 <= reading.errors["Dice LV cavity"] <= 1
