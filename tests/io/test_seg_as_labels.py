"""DICOM SEG labels as data of training and evaluation."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from dicom_files import Cine

from firstread.core.errors import FormatError, GeometryError, InputError
from firstread.core.records import HardLabels, Rows
from firstread.io.dicom.seg import write_seg
from firstread.io.nifti import write_image, write_labels
from firstread.io.open import read
from firstread.jobs.register import RegisterSettings, register
from firstread.jobs.segment_data import find_data, load_sample
from firstread.jobs.segment_evaluate import EvaluateSettings, evaluate_to_folder
from firstread.jobs.segment_train import TrainSettings, train_segmenter

NAMES = ("background", "liver", "tumour")


def write_case(home: Path, name: str, *, names=NAMES, phases: int = 1, seed: int = 0) -> torch.Tensor:
    """A DICOM series in images/NAME with SEG objects in labels/NAME; its labels ``[time, z, y, x]``."""
    Cine(phases=phases, series=name).write(home / "images" / name)
    image = read(home / "images" / name).case["image"]
    shape = (1, image.data.shape[1], 1, *image.data.shape[3:])
    data = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    labels = HardLabels(image.rows, data, image.grid, names, source=image.source)
    (home / "labels" / name).mkdir(parents=True)
    write_seg(labels, image.source, home / "labels" / name)
    return data[0, :, 0].int()


def test_a_folder_of_dicom_with_dicom_labels_is_a_data_set(tmp_path):
    true = [write_case(tmp_path / "data", f"p{n}", phases=2, seed=n) for n in range(2)]
    found = find_data(tmp_path / "data")
    assert found.names == {0: "background", 1: "liver", 2: "tumour"}
    for sample, labels in zip(found.samples, true, strict=True):
        image, values = load_sample(sample)
        assert image.data.shape[1] == 2 and torch.equal(values, labels)
    plan = train_segmenter(tmp_path / "data", tmp_path / "model", TrainSettings(only_plan=True))
    assert [c["name"] for c in plan["classes"]] == list(NAMES)


def test_segments_take_the_values_of_the_classes_stated(tmp_path):
    true = write_case(tmp_path / "data", "p0")[0]
    other = write_case(tmp_path / "data", "p1", names=("background", "Tumour", "LIVER"), seed=1)[0]
    about = tmp_path / "data" / "dataset.json"
    about.write_text(json.dumps({"labels": {"background": 0, "liver": 4, "tumour": 2}, "channel_names": {"0": "CT"}}))
    found = find_data(tmp_path / "data")
    assert torch.equal(load_sample(found.samples[0])[1][0], torch.where(true == 1, 4, true))
    assert torch.equal(load_sample(found.samples[1])[1][0], torch.tensor([0, 2, 4])[other.long()].int())
    about.write_text(json.dumps({"labels": {"background": 0, "one": 1, "two": 2}, "channel_names": {"0": "CT"}}))
    shutil.rmtree(tmp_path / "data" / "images" / "p1")
    shutil.rmtree(tmp_path / "data" / "labels" / "p1")
    assert torch.equal(load_sample(find_data(tmp_path / "data").samples[0])[1][0], true)  # by number: no label is known
    about.write_text(json.dumps({"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "CT"}}))
    with pytest.raises(InputError, match="segment 'tumour'"):
        find_data(tmp_path / "data")


def test_labels_numbered_differently_from_case_to_case_go_by_name(tmp_path):
    true = write_case(tmp_path / "data", "p0")[0]
    other = write_case(tmp_path / "data", "p1", names=("background", "tumour", "liver"), seed=1)[0]
    found = find_data(tmp_path / "data")
    assert found.names == {0: "background", 1: "liver", 2: "tumour"}
    assert torch.equal(load_sample(found.samples[0])[1][0], true)
    assert torch.equal(load_sample(found.samples[1])[1][0], torch.tensor([0, 2, 1])[other.long()].int())


def test_labels_that_do_not_belong_to_the_image(tmp_path):
    write_case(tmp_path / "data", "p0", phases=2)
    (first, second) = sorted((tmp_path / "data" / "labels" / "p0").iterdir())
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(GeometryError, match="p0: 1 DICOM SEG objects, none for frame 2"):
        load_sample(find_data(tmp_path / "data").samples[0])
    second.write_bytes(kept)
    moved = pydicom.dcmread(first)
    for group in moved.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0]
        place.ImagePositionPatient = [float(v) + 1.3 for v in place.ImagePositionPatient]
    moved.save_as(first)
    with pytest.raises(GeometryError, match=r"p0: .* do not fall onto"):
        load_sample(find_data(tmp_path / "data").samples[0])
    first.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(FormatError):
        load_sample(find_data(tmp_path / "data").samples[0])


def evaluated(tmp_path, predictions, truths, **settings):
    evaluate_to_folder(predictions, truths, tmp_path / "out", EvaluateSettings(**settings), overwrite=True)
    with (tmp_path / "out" / "metrics.csv").open() as stream:
        return {(row["case"], row["name"]): float(row["dice"]) for row in csv.DictReader(stream)}


def test_evaluation_of_every_pair_of_formats(tmp_path):
    """SEG beside NIfTI beside SEG: the same scores, by name."""
    true = write_case(tmp_path / "data", "p0")
    image = read(tmp_path / "data" / "images" / "p0").case["image"]
    found = true.clone()
    found[0, 0] = 0
    labels = HardLabels(Rows.subjects(1), found[None, :, None].to(torch.uint8), image.grid, NAMES, source=image.source)
    (tmp_path / "nifti").mkdir()
    write_labels(tmp_path / "nifti" / "p0.nii.gz", replace(labels, source=None))
    (tmp_path / "seg" / "p0_seg").mkdir(parents=True)
    write_seg(labels, image.source, tmp_path / "seg" / "p0_seg")
    truths = tmp_path / "truth"
    truths.mkdir()
    (written,) = (tmp_path / "data" / "labels" / "p0").iterdir()
    shutil.copy(written, truths / "p0.dcm")
    expected = {}
    for value, name in enumerate(NAMES[1:], start=1):
        a, b = (true == value).numpy(), (found == value).numpy()
        expected["p0", name] = pytest.approx(2 * np.sum(a & b) / (a.sum() + b.sum()), abs=1e-5)
    assert evaluated(tmp_path, tmp_path / "seg", truths) == expected
    assert evaluated(tmp_path, tmp_path / "nifti", truths) == expected
    assert evaluated(tmp_path, tmp_path / "nifti", truths, labels="liver,tumour") == expected
    assert evaluated(tmp_path, truths, tmp_path / "nifti") == expected
    with pytest.raises(InputError, match="segment 'tumour'"):
        evaluated(tmp_path, tmp_path / "nifti", truths, labels="liver,spleen")
    coarse = image.grid.resize((image.grid.shape[0], 8, 8))
    nothing = torch.zeros((1, 1, 1, *coarse.shape), dtype=torch.uint8)
    write_labels(tmp_path / "nifti" / "p0.nii.gz", HardLabels(Rows.subjects(1), nothing, coarse, NAMES))
    with pytest.raises(GeometryError, match=r"p0: .* do not fall onto"):
        evaluated(tmp_path, tmp_path / "nifti", truths)


def test_segments_of_two_registered_images_go_by_name(tmp_path):
    write_case(tmp_path / "data", "p0")
    write_case(tmp_path / "data", "p1", names=("background", "tumour", "liver"))
    images, labels = tmp_path / "data" / "images", tmp_path / "data" / "labels"
    for path in (labels / "p1").iterdir():  # the same masks under the other names
        shutil.copy(path, tmp_path / "swapped.dcm")
    made = register(images / "p0", images / "p1", RegisterSettings(kind="rigid"), labels=tmp_path / "swapped.dcm",
                    fixed_labels=labels / "p0")
    assert made.overlap is not None and set(made.overlap.before.values()) == {0.0}
    made = register(images / "p0", images / "p1", RegisterSettings(kind="rigid"), labels=labels / "p0",
                    fixed_labels=labels / "p0")
    assert set(made.overlap.before.values()) == {1.0}


def test_images_are_no_labels(tmp_path):
    write_case(tmp_path / "data", "p0")
    image = read(tmp_path / "data" / "images" / "p0").case["image"]
    shutil.rmtree(tmp_path / "data" / "labels" / "p0")
    write_image(tmp_path / "data" / "labels" / "p0.nii.gz", replace(image, data=image.data + 0.5))
    with pytest.raises(FormatError, match="no whole numbers"):
        load_sample(find_data(tmp_path / "data").samples[0])
