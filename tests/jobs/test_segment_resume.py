"""A folder of segmentations that was left unfinished keeps what is done, and goes on."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from firstread.cli import _interrupted
from firstread.core.errors import FormatError, InputError, OutputError, SignalError
from firstread.jobs import segment_predict
from firstread.jobs.segment_predict import PredictSettings, predict_to_folder

SAX = Path("heart-sax")


@pytest.fixture
def images(tmp_path):
    """Three stacks, of which the second has values that are no numbers."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(3):
        data = rng.normal(100, 20, (64, 64, 2)).astype(np.float32)
        data[5, 5, 0] = np.nan if number == 1 else 1
        paths.append(tmp_path / f"p{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(data, np.diag([1.5, 1.5, 9, 1])), paths[-1])
    return paths


def mend(path):
    stored = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.nan_to_num(np.asarray(stored.dataobj)), stored.affine), path)


def test_an_image_that_fails_does_not_take_the_others_with_it(images, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"1 of 3 images that could not be segmented, first p1: .*--resume"):
        predict_to_folder(SAX, [[path] for path in images], out)
    first = json.loads((out / "segmentation.json").read_text())
    assert [row["name"] for row in first["images"]] == ["p0", "p2"] and first["failed"][0]["input"] == ["p1.nii.gz"]
    assert sorted(path.name for path in out.iterdir()) == ["p0.nii.gz", "p2.nii.gz", "segmentation.json"]
    mend(images[1])
    made = predict_to_folder(SAX, [[images[1]]], out, resume=True)  # what is there and not asked for again stays
    assert [row["name"] for row in made["images"]] == ["p1", "p0", "p2"]
    made = predict_to_folder(SAX, [[path] for path in images], out, resume=True)
    assert [row["name"] for row in made["images"]] == ["p0", "p1", "p2"] and not made["failed"]
    assert made["images"][0] == first["images"][0]  # kept, its seconds too


def test_one_image_that_fails_leaves_no_folder(images, tmp_path):
    with pytest.raises(SignalError, match="p1"):
        predict_to_folder(SAX, [[images[1]]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_keeps_what_is_finished(images, tmp_path, monkeypatch):
    real, calls = segment_predict.read_channels, []

    def pressed(parts, **given):
        calls.append(parts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(parts, **given)

    monkeypatch.setattr(segment_predict, "read_channels", pressed)
    with pytest.raises(KeyboardInterrupt):
        predict_to_folder(SAX, [[images[0]], [images[2]]], tmp_path / "out")
    assert (tmp_path / "out" / "p0.nii.gz").is_file() and not (tmp_path / "out" / "p2.nii.gz").exists()
    predict_to_folder(SAX, [[images[0]], [images[2]]], tmp_path / "out", resume=True)
    assert len(calls) == 3 and (tmp_path / "out" / "p2.nii.gz").is_file()
    assert "--resume" in _interrupted(["segment", "predict"])


def test_ctrl_c_while_going_on_keeps_what_was_finished_behind_it(images, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="1 of 3 images"):
        predict_to_folder(SAX, [[path] for path in images], out)
    mend(images[1])

    def pressed(parts, **given):
        raise KeyboardInterrupt

    monkeypatch.setattr(segment_predict, "read_channels", pressed)
    with pytest.raises(KeyboardInterrupt):
        predict_to_folder(SAX, [[path] for path in images], out, resume=True)
    stored = json.loads((out / "segmentation.json").read_text())
    assert [row["name"] for row in stored["images"]] == ["p0", "p2"] and (out / "p2.nii.gz").is_file()
    assert [row["input"] for row in stored["failed"]] == [["p1.nii.gz"]]  # it was not made, so it is still said


def test_what_failed_and_is_not_asked_for_again_stays_said(images, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="1 of 2 images"):
        predict_to_folder(SAX, [[path] for path in images[:2]], out)
    made = predict_to_folder(SAX, [[images[2]]], out, resume=True)
    assert [row["name"] for row in made["images"]] == ["p2", "p0"]
    assert [row["input"] for row in made["failed"]] == [["p1.nii.gz"]]


def test_a_result_that_is_there_says_that_one_may_go_on(images, tmp_path):
    predict_to_folder(SAX, [[images[0]]], tmp_path / "out")
    with pytest.raises(OutputError, match="add --resume to go on in it"):
        predict_to_folder(SAX, [[images[0]]], tmp_path / "out")


@pytest.mark.parametrize("change", [
    {"images": [{"name": "p0"}]}, {"images": None}, {"failed": [{}]}, {"schema": "another/9"}, {"settings": 3},
    {"images": [{"name": 7, "input": ["p0"], "sha256": ["0"], "files": ["p0.nii.gz"]}]},
    {"images": [{"name": "p0", "input": ["p0"], "sha256": ["0"], "files": [3]}]},
    {"images": [{"name": "p0", "input": ["p0"], "sha256": ["0"], "files": []}]},
    {"images": [{"name": "..", "input": ["p0"], "sha256": ["0"], "files": ["../p0.nii.gz"]}]},
    {"images": [{"name": "/", "input": ["p0"], "sha256": ["0"], "files": ["/etc/hostname"]}]},
    {"images": [{"name": "p0", "input": ["p0"], "sha256": ["0"], "files": ["other.nii.gz"]}]}])
def test_documents_of_another_form_are_refused_and_nothing_is_touched(change, images, tmp_path):
    out = tmp_path / "out"
    predict_to_folder(SAX, [[images[0]]], out)
    document = json.loads((out / "segmentation.json").read_text())
    (out / "segmentation.json").write_text(json.dumps({**document, **change}))
    before = (out / "segmentation.json").read_text()
    with pytest.raises(FormatError, match="of another form"):
        predict_to_folder(SAX, [[images[0]]], out, resume=True)
    assert (out / "segmentation.json").read_text() == before


def test_another_file_of_the_same_name_is_made_anew(images, tmp_path):
    predict_to_folder(SAX, [[images[0]]], tmp_path / "out")
    before = json.loads((tmp_path / "out" / "segmentation.json").read_text())["images"][0]["sha256"]
    images[0].write_bytes(images[2].read_bytes())
    assert predict_to_folder(SAX, [[images[0]]], tmp_path / "out", resume=True)["images"][0]["sha256"] != before


def test_other_settings_and_damaged_documents_are_refused(images, tmp_path):
    predict_to_folder(SAX, [[images[0]]], tmp_path / "out")
    with pytest.raises(InputError, match=r"other settings \(probabilities\)"):
        predict_to_folder(SAX, [[images[0]]], tmp_path / "out", PredictSettings(probabilities=True),
                          resume=True)
    with pytest.raises(InputError, match="other weights"):
        predict_to_folder(Path("heart-sax-sunnybrook"), [[images[0]]], tmp_path / "out", resume=True)
    (tmp_path / "out" / "segmentation.json").write_text("{")
    with pytest.raises(FormatError, match="--overwrite"):
        predict_to_folder(SAX, [[images[0]]], tmp_path / "out", resume=True)


def test_an_end_that_nobody_foresaw_keeps_what_is_finished(images, tmp_path, monkeypatch):
    real = segment_predict.read_channels

    def ends(parts, **given):
        if parts == [images[2]]:
            raise MemoryError
        return real(parts, **given)

    monkeypatch.setattr(segment_predict, "read_channels", ends)
    with pytest.raises(MemoryError):
        predict_to_folder(SAX, [[images[0]], [images[2]]], tmp_path / "out")
    assert (tmp_path / "out" / "p0.nii.gz").is_file()
