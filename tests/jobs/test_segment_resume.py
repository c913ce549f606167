"""A folder of segmentations that was left unfinished keeps what is done, and goes on."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from firstread.cli import _interrupted
from firstread.core.errors import FormatError, InputError, SignalError
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


def test_another_file_of_the_same_name_is_made_anew(images, tmp_path):
    predict_to_folder(SAX, [[images[0]]], tmp_path / "out")
    before = json.loads((tmp_path / "out" / "segmentation.json").read_text())["images"][0]["sha256"]
    images[0].write_bytes(images[2].read_bytes())
    assert predict_to_folder(SAX, [[images[0]]], tmp_path / "out", resume=True)["images"][0]["sha256"] != before


def test_other_settings_and_damaged_documents_are_refused(images, tmp_path):
    predict_to_folder(SAX, [[images[0]]], tmp_path / "out")
    with pytest.raises(InputError, match="other settings"):
        predict_to_folder(SAX, [[images[0]]], tmp_path / "out", PredictSettings(probabilities=True),
                          resume=True)
    with pytest.raises(InputError, match="other weights"):
        predict_to_folder(Path("heart-sax-sunnybrook"), [[images[0]]], tmp_path / "out", resume=True)
    (tmp_path / "out" / "segmentation.json").write_text("{")
    with pytest.raises(FormatError, match="--overwrite"):
        predict_to_folder(SAX, [[images[0]]], tmp_path / "out", resume=True)
