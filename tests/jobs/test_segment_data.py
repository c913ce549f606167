"""Where data may come from, and what the rules make of it."""

import json
from pathlib import Path

import pytest
import torch
from test_segment_tool import small_plan, write_case

from firstread.core.errors import FormatError, InputError, SettingError, UnsupportedError
from firstread.jobs.segment_data import Sample, find_data
from firstread.jobs.segment_predict import predict_to_folder
from firstread.jobs.segment_train import TrainSettings, train_segmenter
from firstread.jobs.segment_validate import counting, split_patients, summary
from firstread.jobs.segment_weights import start_from
from firstread.learn.planning import plan_for


@pytest.fixture
def data(tmp_path):
    for number in range(2):
        write_case(tmp_path / "data", f"p{number}", number)
    return tmp_path / "data"


def as_nnunet(data, **about):
    (data / "images").rename(data / "imagesTr")
    (data / "labels").rename(data / "labelsTr")
    for path in (data / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
    known = {"labels": {"background": 0, "disc": 1, "ring": 2}, "channel_names": {"0": "MR"}, "file_ending": ".nii.gz"}
    (data / "dataset.json").write_text(json.dumps(known | about))


def test_the_raw_layout_of_nnunet(data):
    as_nnunet(data)
    found = find_data(data)
    assert [s.name for s in found.samples] == ["p0", "p1"] and found.names[2] == "ring" and found.modalities == ("MR",)
    (data / "imagesTr" / "p1_0000.nii.gz").unlink()
    with pytest.raises(InputError, match="p1_0000"):
        find_data(data)
    (data / "dataset.json").write_text(json.dumps({"labels": {"whole": [1, 2]}}))
    with pytest.raises(UnsupportedError, match="region"):
        find_data(data)


def test_a_table_with_patients_channels_and_partial_annotation(data, tmp_path):
    table = data / "list.csv"
    table.write_text("image,label,patient,annotated\nimages/p0.nii.gz;images/p0.nii.gz,labels/p0.nii.gz,a,1\n"
                     "images/p1.nii.gz;images/p1.nii.gz,labels/p1.nii.gz,b,\n")
    found = find_data(table)
    assert [(s.patient, len(s.images), s.annotated) for s in found.samples] == [("a", 2, ("1",)), ("b", 2, ())]
    plan = small_plan(table, tmp_path, steps=2)
    card = train_segmenter(table, tmp_path / "model", TrainSettings(plan=plan))
    rows = json.loads((tmp_path / "model" / "cv.json").read_text())["cases"]
    assert set(next(r for r in rows if r["patient"] == "a")["dice"]) == {"1"}
    assert card["validation"]["2"]["patients"] == 1
    with pytest.raises(SettingError, match="1 channels"):
        predict_to_folder(tmp_path / "model", [[data / "images" / "p0.nii.gz"]], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    table.write_text("file,mask\na,b\n")
    with pytest.raises(FormatError, match="columns"):
        find_data(table)


def test_weights_to_begin_from_and_all_extra_losses(data, tmp_path):
    plan = small_plan(data, tmp_path, steps=2, folds=0)
    document = json.loads(plan.read_text())
    document["loss"] |= {"boundary": 0.1, "topology": 0.1, "anatomy": 0.1, "focal": 1.0}
    plan.write_text(json.dumps(document))
    card = train_segmenter(data, tmp_path / "model", TrainSettings(plan=plan))
    assert card["networks"] == ["fold_all.safetensors"] and card["validation"] is None and card["warnings"]
    again = train_segmenter(data, tmp_path / "second", TrainSettings(
        plan=plan, start=str(tmp_path / "model" / "fold_all.safetensors")))
    own = train_segmenter(data, tmp_path / "third", TrainSettings(plan=plan, start="self"))
    assert own["started_from"] == "self" and len({card["hashes"][0], again["hashes"][0], own["hashes"][0]}) == 3
    with pytest.raises(InputError, match="nothing fits"):
        start_from(torch.nn.Linear(2, 2), str(tmp_path / "model" / "fold_all.safetensors"))


def test_patients_are_never_split_and_folds_are_even():
    samples = [Sample(f"p{k // 3}_{k}", f"p{k // 3}", (), Path("label.nii")) for k in range(30)]
    folds = split_patients(samples, 5)
    assert sorted(n for fold in folds for n in fold) == list(range(30))
    assert [len(fold) for fold in folds] == [6] * 5
    homes = [{samples[n].patient for n in fold} for fold in folds]
    assert sum(len(h) for h in homes) == 10


def test_intervals_are_over_patients_not_cases():
    def scored(copies, patients=4):
        rows = [{"patient": f"p{k}", "dice": {"a": 0.5 + 0.1 * k, "b": None}} for k in range(patients)
                for _ in range(copies)]
        return summary(rows, ["a", "b"])

    few, many = scored(1), scored(50)
    assert few == many and few["a"]["lower"] < few["a"]["mean"] < few["a"]["upper"] and few["a"]["patients"] == 4
    assert few["b"]["mean"] is None and few["b"]["reason"] == "in the truth of no patient"
    two = scored(1, patients=2)["mean of classes"]
    assert two["mean"] == 0.55 and two["lower"] is None and "three" in two["reason"]


def test_a_class_that_most_patients_lack_is_measured_where_it_is():
    rows = [{"patient": f"p{k}", "dice": {"a": 0.9, "b": 0.0}, "absent": ["b"]} for k in range(3)]
    rows.append({"patient": "p3", "dice": {"a": 0.9, "b": 0.6}, "absent": []})
    found = summary(rows, ["a", "b"])
    b = found["b"]
    assert (b["mean"], b["lower"], b["patients"], b["having"], b["asked"]) == (0.6, None, 1, 1, 4)
    assert b["reason"].startswith("in 1 of 4 patients; ")
    assert found["mean of classes"]["mean"] == round((3 * 0.9 + 0.75) / 4, 4)
    assert [row["dice"]["b"] for row in counting(rows, ["a", "b"])] == [None, None, None, 0.6]
    half = [*rows, {"patient": "p4", "dice": {"a": 0.9, "b": 0.6}}, {"patient": "p5", "dice": {"b": 0.6}}]
    assert summary(half, ["b"])["b"]["mean"] == 0.3  # as segment evaluate: 0 where only the result has it
    most = [{**row, "dice": {"b": 0.0}, "absent": ["b"]} for row in rows]
    assert summary(most, ["b"])["b"]["mean"] is None
    many = [{"patient": f"q{k}", "dice": {"b": 0.5 + k / 10 if k < 3 else None}} for k in range(9)]
    assert summary(many, ["b"])["b"]["reason"] == "in 3 of 9 patients" and summary(many, ["b"])["b"]["lower"] == 0.5


def shape_of(shape, spacing, **about):
    return {"shape": {"median": list(shape)}, "spacing": {"median": list(spacing)}, "millimetres": True, "patients": 9,
            "modalities": ["unknown"], "intensity": [{"minimum": 0.0, "low": 1.0, "mean": 2.0, "sd": 1.0, "high": 3.0}],
            "classes": [{"name": "background", "value": 0}, {"name": "a", "value": 1}]} | about


def test_rules_choose_slices_or_volumes_and_leave_thick_axes_alone():
    heart = plan_for(shape_of((10, 216, 256), (8.0, 1.4, 1.4)))
    assert heart.mode == "2.5d" and heart.spacing_mm == (None, 1.4, 1.4) and heart.channels == 3
    sagittal = plan_for(shape_of((256, 256, 20), (1.0, 1.0, 6.0)))
    assert sagittal.mode == "2.5d" and sagittal.patch == (256, 256)
    brain = plan_for(shape_of((160, 192, 192), (1.0, 1.0, 1.0)))
    assert brain.mode == "3d" and brain.patch == (96, 96, 96) and set(brain.network.strides) == {(2, 2, 2)}
    thick = plan_for(shape_of((40, 192, 192), (2.5, 1.0, 1.0)))
    assert thick.network.strides[0] == (1, 2, 2) and thick.patch[0] <= 48
    small = plan_for(shape_of((1, 9, 12), (1.0, 1.0, 1.0)))
    assert small.network.strides == ((2, 2), (1, 1)) and len(small.network.widths) == 2 and small.patch == (10, 12)
    ct = plan_for(shape_of((160, 192, 192), (1.0, 1.0, 1.0), intensity=[
        {"minimum": -1024.0, "low": -100.0, "mean": 40.0, "sd": 20.0, "high": 300.0}]))
    assert ct.normalization[0].kind == "window" and ct.normalization[0].low == -100.0
