"""The folder of a model: an old one goes only when a new training begins, and what is left says what it is."""

import json

import nibabel
import numpy as np
import pytest
from test_segment_tool import small_plan, write_case

from firstread.core.errors import FirstreadError, FormatError, InputError, OutputError
from firstread.jobs.segment_train import TrainSettings, train_segmenter


@pytest.fixture
def data(tmp_path):
    for number in range(4):
        write_case(tmp_path / "data", f"p{number // 2}_frame{number % 2}", number)
    return tmp_path / "data"


@pytest.fixture
def model(data, tmp_path):
    train_segmenter(data, tmp_path / "model", TrainSettings(plan=small_plan(data, tmp_path, steps=2), folds=0))
    return tmp_path / "model"


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def change_image(path, value=np.nan):
    """One voxel, the file's size kept as far as compression allows."""
    image = nibabel.load(path)
    values = np.asarray(image.dataobj).astype(np.float32).copy()
    values[0, 0, 0] = value
    nibabel.save(nibabel.Nifti1Image(values, image.affine), path)


def test_overwrite_with_wrong_data_leaves_the_model(data, model, tmp_path):
    before = contents(model)
    wrong = tmp_path / "wrong"
    wrong.mkdir()

    def refused(source, **settings):
        with pytest.raises(FirstreadError):
            train_segmenter(source, model, TrainSettings(**settings), overwrite=True)
        assert contents(model) == before

    refused(wrong)
    refused(tmp_path / "absent")
    refused(data, folds=5)
    refused(data, start="heart-none")
    change_image(data / "images" / "p1_frame1.nii.gz")
    refused(data)
    refused(data, only_plan=True)


def test_overwrite_asks_the_files_again_where_only_their_content_changed(data, model, monkeypatch):
    before = contents(model)
    monkeypatch.setattr("firstread.jobs.segment_prepare._size", lambda _: 1)
    monkeypatch.setattr("firstread.jobs.segment_train.prepare_cases", lambda *_, **__: pytest.fail("began"))
    found = json.loads(before["fingerprint.json"])
    from firstread.jobs.segment_data import find_data
    from firstread.jobs.segment_prepare import data_hash

    (model / "fingerprint.json").write_text(json.dumps({**found, "data": data_hash(find_data(data))}))
    before = contents(model)
    change_image(data / "images" / "p1_frame1.nii.gz")
    with pytest.raises(FirstreadError, match="p1_frame1"):
        train_segmenter(data, model, TrainSettings(), overwrite=True)
    assert contents(model) == before


def test_only_plan_over_a_model_deletes_nothing(data, model):
    before = contents(model)
    train_segmenter(data, model, TrainSettings(only_plan=True), overwrite=True)
    assert contents(model) == before
    with pytest.raises(OutputError, match=r"plan\.json of a trained model"):
        train_segmenter(data, model, TrainSettings(only_plan=True, steps=9), overwrite=True)
    assert contents(model) == before
    with pytest.raises(OutputError, match="already holds a trained model"):
        train_segmenter(data, model, TrainSettings(only_plan=True))


def test_overwrite_trains_anew(data, model):
    before = contents(model)
    train_segmenter(data, model, TrainSettings(steps=3), overwrite=True)
    after = contents(model)
    assert set(after) == set(before) and after["fold_all.safetensors"] != before["fold_all.safetensors"]
    train_segmenter(data, model, TrainSettings(folds=2), overwrite=True)
    assert {"fold_0.safetensors", "fold_1.safetensors", "cv.json"} <= set(contents(model))
    assert "fold_all.safetensors" not in contents(model)


@pytest.mark.parametrize("where", ["/proc/x", "/proc/x/y"])
def test_where_nothing_can_be_written_is_said(data, where):
    from pathlib import Path

    with pytest.raises(OutputError, match="where nothing can be written"):
        train_segmenter(data, Path(where), TrainSettings(steps=1))


def test_values_that_dataset_json_does_not_name_are_refused(data, tmp_path):
    about = data / "dataset.json"
    about.write_text(json.dumps({"labels": {"background": 0, "disc": 1}}))
    for settings in (TrainSettings(only_plan=True), TrainSettings(steps=1)):
        with pytest.raises(InputError, match=r"p0_frame0 and 3 other cases: label values \[2\] that dataset.json") as e:
            train_segmenter(data, tmp_path / "model", settings)
        assert "0 (background), 1 (disc)" in str(e.value)
    about.write_text(json.dumps({"labels": {"background": 0, "disc": 1, "ignore": 2}}))
    assert train_segmenter(data, tmp_path / "ignoring", TrainSettings(only_plan=True))["ignored_value"] == 2
    about.write_text(json.dumps({"labels": {}}))
    made = train_segmenter(data, tmp_path / "unnamed", TrainSettings(only_plan=True))
    assert [c["name"] for c in made["classes"]] == ["background", "1", "2"]


def test_a_training_of_other_data_says_so_in_a_sentence(data, tmp_path, monkeypatch):
    plan, model = small_plan(data, tmp_path, steps=4), tmp_path / "model"
    monkeypatch.setattr("firstread.jobs.segment_fold.fit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(data, model, TrainSettings(plan=plan))
    change_image(data / "images" / "p1_frame1.nii.gz", 0.123)
    with pytest.raises(FormatError, match="began with other images or labels; expected"):
        train_segmenter(data, model, TrainSettings(plan=plan))
    with pytest.raises(FormatError, match="began with another plan and other images or labels; expected"):
        train_segmenter(data, model, TrainSettings(plan=plan, steps=3))


def test_the_same_command_goes_on_also_with_overwrite(data, model, monkeypatch):
    from firstread.learn.patches import Patches

    real, seen = Patches.__call__, []

    def dies(self, step):
        seen.append(step)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(Patches, "__call__", dies)
    for _ in range(2):
        if len(seen) < 3:
            with pytest.raises(KeyboardInterrupt):
                train_segmenter(data, model, TrainSettings(steps=4), overwrite=True)
            assert not (model / "card.json").exists()
        else:
            train_segmenter(data, model, TrainSettings(steps=4), overwrite=True)
    assert seen == [0, 1, 2, 2, 3]
    assert json.loads((model / "card.json").read_text())["networks"] == ["fold_all.safetensors"]
