"""firstread segment evaluate: files out, and one sentence for bad input."""

import csv
import json
import math
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from firstread.cli import app
from firstread.core.errors import FirstreadError, FormatError, GeometryError, InputError, OutputError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Rows
from firstread.io.nifti import write_labels
from firstread.jobs.segment_evaluate import EvaluateSettings, evaluate_to_folder
from firstread.trust.segmentation import ScoreSettings

GRID = Grid.from_spacing((5, 16, 18), (4.0, 1.0, 1.0))


def volume(shift=0):
    data = torch.zeros(5, 16, 18, dtype=torch.uint8)
    data[1:4, 3:10, 3:9] = 1
    data[1:4, 3:8, 10:14] = 2
    return data.roll(shift, dims=1)


def save(path, data, grid=GRID):
    path.parent.mkdir(exist_ok=True)
    write_labels(path, HardLabels(Rows.subjects(1), data[None, None, None], grid, ("background", "a", "b")))


def tilted():
    c, s = math.cos(0.3), math.sin(0.3)
    turn = torch.tensor([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    return replace(GRID, affine=turn @ GRID.affine)


@pytest.fixture
def folders(tmp_path):
    """Truths, predictions and worse ones of four subjects, one of them with two scans."""
    for number, name in enumerate(["p1_ED", "p1_ES", "p2", "p3", "p4"]):
        save(tmp_path / "truth" / f"{name}.nii.gz", volume())
        save(tmp_path / "mine" / f"{name}.nii.gz", volume(number % 2))
        save(tmp_path / "theirs" / f"{name}.nii.gz", volume(2 + number % 2))
    return tmp_path


def test_files_come_out(folders):
    out = folders / "out"
    done = CliRunner().invoke(app, ["segment", "evaluate", str(folders / "mine"), str(folders / "truth"), "-o",
                                    str(out), "--labels", "cavity,wall", "--against", str(folders / "theirs"),
                                    "--cldice", "--lesions"])
    assert done.exit_code == 0, done.output
    assert "cavity" in done.output and "Dice 0.9" in done.output
    assert "Dice against theirs: +0" in done.output and "better" in done.output
    with (out / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 10 and rows[0]["name"] == "cavity" and float(rows[0]["dice"]) == 1
    assert {row["subject"] for row in rows} == {"p1", "p2", "p3", "p4"}
    document = json.loads((out / "metrics.json").read_text())
    cavity = document["labels"][0]["summary"]["dice"]
    moved = 12 / 14
    assert cavity["mean"] == pytest.approx(((1 + moved) / 2 + 1 + moved + 1) / 4, abs=1e-5)
    assert cavity["lower"] < cavity["mean"] < cavity["upper"] and cavity["subjects"] == 4
    against = document["comparison"]["labels"][0]["difference"]
    assert against["dice"]["mean"] > 0.1 and against["dice"]["verdict"] == "better"
    assert against["hd95_mm"]["mean"] < 0 and against["hd95_mm"]["verdict"] == "better"
    text = (out / "page.html").read_text()
    assert "http" not in text.replace("http-equiv", "") and text.count("<img") == 2
    assert text.index("p1_ES") < text.index("p2</td>")


def test_two_files_are_a_pair(folders):
    made = evaluate_to_folder(folders / "mine" / "p1_ES.nii.gz", folders / "truth" / "p2.nii.gz", folders / "out")
    assert made["cases"] == 1 and made["labels"][1]["name"] == "label 2"
    assert made["labels"][0]["summary"]["dice"]["reason"].startswith("an interval needs")


def test_a_label_that_one_case_lacks_is_counted_as_missing(folders):
    empty = volume()
    empty[empty == 2] = 0
    for kind in ("truth", "mine"):
        save(folders / kind / "p3.nii.gz", empty)
    made = evaluate_to_folder(folders / "mine", folders / "truth", folders / "out")
    assert made["labels"][1]["summary"]["dice"]["missing"] == 1
    assert made["labels"][0]["summary"]["dice"]["missing"] == 0


def test_labels_on_the_same_voxels_in_another_order_of_axes_are_turned_by_the_header(folders):
    before = evaluate_to_folder(folders / "mine", folders / "truth", folders / "straight")
    turned = volume().permute(0, 2, 1).flip(-3, -1)
    save(folders / "truth" / "p3.nii.gz", volume())
    save(folders / "mine" / "p3.nii.gz", turned, GRID.permute((0, 2, 1)).flip("z").flip("x"))
    made = evaluate_to_folder(folders / "mine", folders / "truth", folders / "out")
    assert made["warnings"] == [*before["warnings"], "1 prediction lies on the voxels of its truth with axes in "
                                "another order or sense (p3): turned as their headers say."]
    with (folders / "out" / "metrics.csv").open() as file:
        assert {float(row["dice"]) for row in csv.DictReader(file) if row["case"] == "p3"} == {1.0}


@pytest.mark.parametrize(("change", "kind", "words"), [
    (lambda f: (f / "mine" / "p2.nii.gz").unlink(), InputError, "no prediction in mine for p2"),
    (lambda f: (f / "truth" / "p2.nii.gz").unlink(), InputError, "no truth in truth for p2"),
    (lambda f: save(f / "mine" / "p3.nii.gz", volume()[:4], Grid.from_spacing((4, 16, 18), (4.0, 1.0, 1.0))),
     GeometryError, "p3: a prediction with 4 x 16 x 18 voxels .* instead of 5 x 16 x 18"),
    (lambda f: save(f / "mine" / "p3.nii.gz", volume(), Grid.from_spacing((5, 16, 18), (5.0, 1.0, 1.0))),
     GeometryError, "a spacing of 5 x 1 x 1 mm .* instead of 4 x 1 x 1 mm"),
    (lambda f: save(f / "mine" / "p3.nii.gz", volume(), tilted()), GeometryError, "axes that point elsewhere"),
    (lambda f: save(f / "mine" / "p3.nii.gz", volume(), replace(GRID, affine=GRID.crop((1, 0, 0), GRID.shape).affine)),
     GeometryError, "an origin 4 mm away"),
    (lambda f: save(f / "mine" / "p4.nii.gz", volume() * 3), InputError, "p4: predicted label values .3, 6. that no"),
    (lambda f: _raw(f / "mine" / "p4.nii.gz", np.full((18, 16, 5), np.nan, np.float32)), SignalError, "p4: the"),
    (lambda f: _raw(f / "mine" / "p4.nii.gz", np.full((18, 16, 5), 0.4, np.float32)), FormatError, "no whole numbers"),
    (lambda f: (f / "mine" / "p4.nii.gz").write_bytes(b"\x1f\x8b\x08nothing"), FirstreadError, "p4: the prediction"),
], ids=["prediction", "truth", "shape", "spacing", "flip", "origin", "value", "nan", "soft", "damaged"])
def test_bad_input_is_one_sentence_and_nothing_is_written(folders, change, kind, words):
    change(folders)
    with pytest.raises(kind, match=words):
        evaluate_to_folder(folders / "mine", folders / "truth", folders / "out")
    assert not (folders / "out").exists()
    assert not [path for path in folders.iterdir() if path.name.startswith(".")]


def test_what_is_wrong_with_the_second_predictions_is_said_of_them(folders):
    mine, truth, theirs = (folders / name for name in ("mine", "truth", "theirs"))
    counted = []
    (theirs / "p2.nii.gz").unlink()
    with pytest.raises(InputError, match="--against: no prediction in theirs for p2"):
        evaluate_to_folder(mine, truth, folders / "out", EvaluateSettings(against=theirs), progress=counted.append)
    assert not counted  # before anything is measured
    save(theirs / "p2.nii.gz", volume() * 3)
    with pytest.raises(InputError, match="--against: p2: predicted label values"):
        evaluate_to_folder(mine, truth, folders / "out", EvaluateSettings(against=theirs))


def _raw(path, data):
    nibabel.save(nibabel.Nifti1Image(data, np.diag([-1.0, -1.0, 4.0, 1.0])), path)


def test_names_that_do_not_fit_are_refused(folders):
    mine, truth = folders / "mine", folders / "truth"
    with pytest.raises(InputError, match=r"the truth has label values \[2\]"):
        evaluate_to_folder(mine, truth, folders / "out", EvaluateSettings(labels="cavity"))
    (folders / "names.json").write_text('{"labels": {"background": 0, "cavity": 1, "wall": 2}}')
    made = evaluate_to_folder(mine, truth, folders / "out", EvaluateSettings(labels=str(folders / "names.json")))
    assert [label["name"] for label in made["labels"]] == ["cavity", "wall"]
    (folders / "names.json").write_text("[1, 2]")
    with pytest.raises(InputError, match=r"names\.json"):
        evaluate_to_folder(mine, truth, folders / "new", EvaluateSettings(labels=str(folders / "names.json")))
    with pytest.raises(InputError, match=r"masks named .* or give two folders of cases"):
        evaluate_to_folder(mine, truth / "p2.nii.gz", folders / "new")
    save(folders / "empty" / "p2.nii.gz", volume() * 0)
    with pytest.raises(InputError, match="no labels in"):
        evaluate_to_folder(folders / "empty" / "p2.nii.gz", folders / "empty" / "p2.nii.gz", folders / "new")
    with pytest.raises(OutputError, match="already holds a result"):
        evaluate_to_folder(mine, truth, folders / "out")


def test_a_label_that_most_subjects_lack_is_measured_where_it_is(folders):
    """Label 2 in the truth of p4 alone, added to p1 (two scans) and p2."""
    for name in ("p1_ED", "p1_ES", "p2", "p3"):
        only = volume()
        only[only == 2] = 0
        save(folders / "truth" / f"{name}.nii.gz", only)
        if name == "p3":
            save(folders / "mine" / f"{name}.nii.gz", only)
    done = CliRunner().invoke(app, ["segment", "evaluate", str(folders / "mine"), str(folders / "truth"), "-o",
                                    str(folders / "out")])
    note = ("label 2 is in the truth of 1 of 4 subjects: its means are over that one. In 2 of the others the result "
            "shows it.")
    assert done.exit_code == 0 and note in done.output, done.output
    made = json.loads((folders / "out" / "metrics.json").read_text())
    assert note in made["warnings"] and "most subjects lack" in made["conventions"]
    found = made["labels"][1]["summary"]
    assert found["dice"]["mean"] == 1 and found["dice"]["subjects"] == 1 and found["dice"]["lower"] is None
    assert found["hd95_mm"]["mean"] == 0 and found["predicted_ml"]["subjects"] == 4
    with (folders / "out" / "metrics.csv").open() as stream:
        rows = [row["dice"] for row in csv.DictReader(stream) if row["name"] == "label 2"]
    assert sorted(rows) == ["", "0", "0", "0", "1"]
    agree = evaluate_to_folder(folders / "mine", folders / "truth", folders / "agree",
                               EvaluateSettings(scores=ScoreSettings(both_empty="agree")))
    assert agree["labels"][1]["summary"]["dice"]["mean"] == 0.5 and agree["warnings"] == []


def test_nothing_measured_is_said_in_words(folders):
    empty = torch.zeros_like(volume())
    for name in ("p1_ED", "p1_ES", "p2", "p3", "p4"):
        save(folders / "mine" / f"{name}.nii.gz", empty)
        save(folders / "truth" / f"{name}.nii.gz", empty)
    done = CliRunner().invoke(app, ["segment", "evaluate", str(folders / "mine"), str(folders / "truth"), "-o",
                                    str(folders / "out"), "--labels", "a,b"])
    assert done.exit_code == 0 and "None" not in done.output and "no Dice: in no case" in done.output


def test_empty_folders_say_which_files_are_taken(tmp_path):
    for name in ("mine", "truth"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=r"no label files in mine; expected .*\.nii\.gz, \.nii, DICOM SEG"):
        evaluate_to_folder(tmp_path / "mine", tmp_path / "truth", tmp_path / "out")
    save(tmp_path / "truth" / "p1.nii.gz", volume())
    with pytest.raises(InputError, match=r"for p1 \(1 case\)"):
        evaluate_to_folder(tmp_path / "mine", tmp_path / "truth", tmp_path / "out")
