"""A hospital calibrates on its own readings and reads the next scan with the result, as a user does it."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from firstread.acquire.heart import heart_subject
from firstread.cli import app
from firstread.core.errors import FirstreadError
from firstread.io.nifti import write_image


def invoke(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, FirstreadError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """One scan read, and 24 readings like it: its own numbers and features, moved a little."""
    home = tmp_path_factory.mktemp("hospital")
    heart = heart_subject(seed=5, family="test", matrix=(64, 64), spacing_mm=3.6, slices=4, frames=3, gap_mm=6.0)
    write_image(home / "scan.nii.gz", heart.image.map(lambda t: t.abs() if t.is_complex() else t))
    invoke("read", home / "scan.nii.gz", "-o", home / "first")
    document = json.loads((home / "first" / "reading.json").read_text())
    value, draw = document["phenotypes"]["LVEF"]["value"], torch.Generator().manual_seed(0)
    rows = ["subject,LVEF"]
    for i in range(24):
        error, *moved = torch.randn(9, generator=draw).tolist()
        one = json.loads(json.dumps(document))
        one["basis"]["features"] = {name: known + 0.02 * step for (name, known), step in
                                    zip(document["basis"]["features"].items(), moved, strict=True)}
        one["basis"]["fingerprints"], one["input"]["sha256"] = [f"p{i}"], f"p{i}"
        (home / "readings" / f"p{i}").mkdir(parents=True)
        (home / "readings" / f"p{i}" / "reading.json").write_text(json.dumps(one))
        rows.append(f"p{i},{value + 2 * error}")
    (home / "truths.csv").write_text("\n".join(rows))
    invoke("calibrate", home / "readings", home / "truths.csv", "-o", home / "ours.json", "--about", "24 of ours")
    return home


def test_the_next_scan_has_intervals_of_ones_own(hospital):
    first = json.loads((hospital / "first" / "reading.json").read_text())
    assert {"LVEF", "LVEDV"} <= set(first["basis"]["spread"]) and len(first["basis"]["fingerprints"]) == 3
    invoke("read", hospital / "scan.nii.gz", "-o", hospital / "out", "--calibration", hospital / "ours.json")
    found = json.loads((hospital / "out" / "reading.json").read_text())
    entry = found["phenotypes"]["LVEF"]
    assert entry["calibrated_on"] == "24 of ours" and entry["interval"][0] < entry["value"] < entry["interval"][1]
    assert found["phenotypes"]["LVEDV"]["interval"] is None
    assert "shifted_input" not in {note["code"] for note in found["warnings"]}


def test_an_unlike_scan_loses_them_and_a_scan_that_calibrated_is_told(hospital):
    made = json.loads((hospital / "ours.json").read_text())
    first = json.loads((hospital / "first" / "reading.json").read_text())
    noise = made["novelty"]["names"].index("log_noise")
    made["novelty"]["cases"] = [[x - 2 * (i == noise) for i, x in enumerate(case)] for case in made["novelty"]["cases"]]
    made["cases"] = [first["basis"]["fingerprints"][0], *made["cases"]]
    (hospital / "other.json").write_text(json.dumps(made))
    invoke("read", hospital / "scan.nii.gz", "-o", hospital / "unlike", "--calibration", hospital / "other.json")
    found = json.loads((hospital / "unlike" / "reading.json").read_text())
    assert found["phenotypes"]["LVEF"]["interval"] is None and found["phenotypes"]["LVEF"]["value"] is not None
    assert {"shifted_input", "calibration_case"} <= {note["code"] for note in found["warnings"]}


def test_groups_and_files_that_do_not_fit_are_refused(hospital, tmp_path):
    scan, out = hospital / "scan.nii.gz", tmp_path / "out"
    with pytest.raises(FirstreadError, match="--group without a calibration"):
        invoke("read", scan, "-o", out, "--group", "A")
    with pytest.raises(FirstreadError, match="group A of a calibration without groups"):
        invoke("read", scan, "-o", out, "--group", "A", "--calibration", hospital / "ours.json")
    made = json.loads((hospital / "ours.json").read_text())
    made["weights"]["cascade"] = "those of raw signal"
    (tmp_path / "raw.json").write_text(json.dumps(made))
    with pytest.raises(FirstreadError, match=r"a calibration of other weights \(of cascade, segment\)"):
        invoke("read", scan, "-o", out, "--calibration", tmp_path / "raw.json")
    (tmp_path / "table.json").write_text("[1]")
    with pytest.raises(FirstreadError, match=r"table.json: another JSON"):
        invoke("read", scan, "-o", out, "--calibration", tmp_path / "table.json")
    assert not out.exists()


def test_a_scan_that_trained_the_model_cannot_calibrate_it(hospital, tmp_path):
    readings, training = tmp_path / "readings", tmp_path / "training"
    shutil.copytree(hospital / "readings", readings)
    shutil.copytree(hospital / "first", readings / "p0", dirs_exist_ok=True)
    training.mkdir()
    shutil.copy(hospital / "scan.nii.gz", training)
    (training / "readme.txt").write_text("no scan")
    with pytest.raises(FirstreadError, match=r"1 of 24 readings are of scans that trained the model \(p0\)"):
        invoke("calibrate", readings, hospital / "truths.csv", "-o", tmp_path / "c.json", "--trained-on", training)
    assert not (tmp_path / "c.json").exists()
