"""``firstread segment shapes``: from a labelled folder to a model of shapes and a data set drawn from it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from firstread.cli import app
from firstread.core.errors import InputError, OutputError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image, Rows
from firstread.io.nifti import read, write_image, write_labels
from firstread.jobs.segment_data import find_data
from firstread.jobs.segment_shapes import ShapeSettings, paint, shapes_to_folder
from firstread.jobs.segment_train import TrainSettings, train_segmenter

NAMES = ("background", "cavity", "wall")


def ring(seed: int, slices: int = 6, *, alike: bool = False) -> torch.Tensor:
    """alike: of one size, moved by whole pixels."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    place = 15 + 2 * torch.randn(slices, 2, 1, 1, generator=generator)
    radius = 4 + torch.rand(slices, 1, 1, generator=generator)
    if alike:
        place, radius = place.round(), torch.full_like(radius, 4.5)
    far = ((y - place[:, 0]) ** 2 + (x - place[:, 1]) ** 2).sqrt()
    return torch.where(far < radius, 1, torch.where(far < radius + 3, 2, 0)).to(torch.uint8)


def write_rings(home, **kind):
    for number in range(4):
        label = ring(number, **kind)[None, None, None]
        grid = Grid.from_spacing((6, 32, 32), (8.0, 2.0, 2.0))
        for part in ("images", "labels"):
            (home / part).mkdir(parents=True, exist_ok=True)
        write_image(home / "images" / f"p{number}.nii.gz", Image(Rows.subjects(1), label.float(), grid))
        write_labels(home / "labels" / f"p{number}.nii.gz", HardLabels(Rows.subjects(1), label, grid, NAMES))
    (home / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "cavity": 1, "wall": 2}}))
    return home


@pytest.fixture
def data(tmp_path):
    return write_rings(tmp_path / "data")


def test_drawn_maps_are_a_data_set_like_the_one_they_came_from(data, tmp_path):
    said = CliRunner().invoke(app, ["segment", "shapes", str(data), "-o", str(tmp_path / "out"), "--draw", "6"])
    assert said.exit_code == 0, said.output
    made = json.loads((tmp_path / "out" / "shapes.json").read_text())
    assert made["axes"] == "yx" and made["spacing"] == [2.0, 2.0] and made["points"] == 50
    assert made["sd"] == sorted(made["sd"], reverse=True) and len(made["mean"]) == 50
    drawn = find_data(tmp_path / "out")
    assert len(drawn.samples) == 6 and drawn.names == {0: "background", 1: "cavity", 2: "wall"}
    label = read(drawn.samples[0].label)
    assert label.grid.spacing_mm[0].tolist() == [8.0, 2.0, 2.0]
    assert 20 < (label.data == 1).sum() < 120 and (label.data == 2).sum() > 60
    plan = train_segmenter(tmp_path / "out", tmp_path / "model", TrainSettings(only_plan=True))
    assert [c["name"] for c in plan["classes"]] == list(NAMES)
    again = shapes_to_folder(data, tmp_path / "again", ShapeSettings(draw=6))
    assert again["sd"] == made["sd"]
    assert torch.equal(read(tmp_path / "again" / "labels" / "shape0003.nii.gz").data,
                       read(tmp_path / "out" / "labels" / "shape0003.nii.gz").data)
    with pytest.raises(OutputError, match="already holds"):
        shapes_to_folder(data, tmp_path / "out")


def test_it_is_said_where_nothing_varies_and_in_which_unit(data, tmp_path):
    def said(source, out):
        done = CliRunner().invoke(app, ["segment", "shapes", str(source), "-o", str(out), "--draw", "2"])
        assert done.exit_code == 0, done.output
        return done.output, json.loads((out / "shapes.json").read_text())

    text, made = said(write_rings(tmp_path / "alike", alike=True), tmp_path / "one")
    assert "Nothing varies" in text and "All 2 label maps drawn are that one shape" in text
    assert made["warnings"] and made["unit"] == "mm" and ": one shape; 2 label maps" in text
    text, made = said(data, tmp_path / "many")
    assert made["warnings"] == [] and "Nothing varies" not in text and "…" not in text
    assert f"{made['modes']} modes, " in text and " mm per point" in text and "2 label maps drawn" in text


def test_values_that_dataset_json_does_not_name_are_refused(data, tmp_path):
    (data / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "cavity": 1}}))
    with pytest.raises(InputError, match=r"label values \[2\] that dataset.json does not name"):
        shapes_to_folder(data, tmp_path / "out")


def test_classes_of_a_painted_image_differ_in_brightness():
    label = ring(0)[0]
    picture = paint(label, 3, torch.Generator().manual_seed(1))
    means = torch.stack([picture[label == k].mean() for k in range(3)])
    assert torch.cdist(means[:, None], means[:, None]).fill_diagonal_(1).min() > 0.02
    assert not torch.equal(picture, paint(label, 3, torch.Generator().manual_seed(2)))


def test_the_term_trains_and_too_few_whole_shapes_are_said(data, tmp_path):
    plan = train_segmenter(data, tmp_path / "planned", TrainSettings(only_plan=True))
    plan["loss"]["shape"] = 0.1
    plan["network"] |= {"widths": [8, 16], "strides": [[2, 2], [2, 2]], "blocks": [1, 1]}
    plan["training"] |= {"batch": 4, "folds": 0}
    plan["augmentation"]["spatial_chance"] = 0.0
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    card = train_segmenter(data, tmp_path / "model", TrainSettings(plan=path, steps=2))
    plan["loss"]["shape"] = 0.0
    path.write_text(json.dumps(plan))
    other = train_segmenter(data, tmp_path / "other", TrainSettings(plan=path, steps=2))
    assert card["hashes"] != other["hashes"] and card["plan"] != other["plan"]
    plan["loss"]["shape"], plan["patch"] = 0.1, [8, 8]
    path.write_text(json.dumps(plan))
    with pytest.raises(InputError, match="show every class"):
        train_segmenter(data, tmp_path / "cut", TrainSettings(plan=path, steps=2))


def test_what_cannot_be_trained_is_refused_before_anything_is_opened(data, tmp_path, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("opened")

    monkeypatch.setattr("firstread.jobs.segment_train.fingerprint_of", opened)
    for settings, text in ((TrainSettings(folds=5), "4 patients for 5 folds"),
                           (TrainSettings(folds=1), "4 patients for 1 fold;"),
                           (TrainSettings(start="heart-none"), "no weight 'heart-none'"),
                           (TrainSettings(plan=tmp_path / "absent.json"), "no plan at absent.json")):
        with pytest.raises(InputError, match=text):
            train_segmenter(data, tmp_path / "model", settings)
        assert not (tmp_path / "model").exists()


def test_weights_of_another_network_are_refused_before_cases_are_prepared(data, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    save_file({"nothing": torch.zeros(3)}, tmp_path / "other.safetensors")
    monkeypatch.setattr("firstread.jobs.segment_train.prepare_cases", lambda *_, **__: pytest.fail("prepared"))
    with pytest.raises(InputError, match="of which nothing fits"):
        train_segmenter(data, tmp_path / "model", TrainSettings(start=str(tmp_path / "other.safetensors")))


def test_labels_that_are_background_everywhere_are_one_sentence(data, tmp_path):
    for number in range(4):
        grid = Grid.from_spacing((6, 32, 32), (8.0, 2.0, 2.0))
        empty = HardLabels(Rows.subjects(1), torch.zeros(1, 1, 1, 6, 32, 32, dtype=torch.uint8), grid, NAMES)
        write_labels(data / "labels" / f"p{number}.nii.gz", empty)
    for job in (train_segmenter, shapes_to_folder):
        with pytest.raises(InputError, match="labels of 4 cases that are background everywhere"):
            job(data, tmp_path / "model")
