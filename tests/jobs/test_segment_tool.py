"""Train and predict, from files to files, on a few small phantom slices."""

import json

import nibabel
import numpy as np
import pytest
import torch

from firstread.core.errors import FormatError, GeometryError, InputError, OutputError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image, Rows
from firstread.io.nifti import write_image, write_labels
from firstread.jobs.segment_predict import PredictSettings, predict_to_folder
from firstread.jobs.segment_train import TrainSettings, train_segmenter

NAMES = ("background", "disc", "ring")


def disc(seed: int, *, size: int = 24, slices: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright disc in a grey ring on a dark ground, somewhere, with noise."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = 10 + 4 * torch.rand(2, generator=generator)
    r = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2).sqrt()
    label = ((r < 7).int() + (r < 4).int())
    label = torch.where(label == 2, 1, torch.where(label == 1, 2, 0))
    image = torch.tensor([0.1, 1.0, 0.5])[label] + 0.05 * torch.randn(slices, size, size, generator=generator)
    return image, label.expand(slices, -1, -1).to(torch.uint8)


def write_case(home, name: str, seed: int, *, spacing=(8.0, 1.5, 1.5)) -> None:
    image, label = disc(seed)
    grid = Grid.from_spacing(tuple(image.shape), spacing)
    for folder in ("images", "labels"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    write_image(home / "images" / f"{name}.nii.gz", Image(Rows.subjects(1), image[None, None, None], grid))
    write_labels(home / "labels" / f"{name}.nii.gz",
                 HardLabels(Rows.subjects(1), label[None, None, None], grid, NAMES))


@pytest.fixture
def data(tmp_path):
    for number in range(4):
        write_case(tmp_path / "data", f"p{number // 2}_frame{number % 2}", number)
    return tmp_path / "data"


def small_plan(data, tmp_path, **training):
    """The rules' plan with a network that takes no time."""
    train_segmenter(data, tmp_path / "planned", TrainSettings(only_plan=True))
    plan = json.loads((tmp_path / "planned" / "plan.json").read_text())
    plan["network"] |= {"widths": [8, 16], "strides": [[2, 2], [2, 2]], "blocks": [1, 1]}
    plan["training"] |= {"batch": 4, "learning_rate": 0.01, "warmup": 5, "averaging": 0.5, **training}
    plan["patch"] = [24, 24]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    return path


def test_from_files_to_files(data, tmp_path):
    plan = small_plan(data, tmp_path, steps=40)
    card = train_segmenter(data, tmp_path / "model", TrainSettings(plan=plan))
    assert card["networks"] == ["fold_0.safetensors", "fold_1.safetensors"]
    assert card["validation"]["1"]["mean"] > 0.8
    rows = json.loads((tmp_path / "model" / "cv.json").read_text())["cases"]
    assert {row["case"]: row["fold"] for row in rows}["p0_frame0"] == {r["case"]: r["fold"] for r in rows}["p0_frame1"]
    assert not (tmp_path / "model" / "training").exists()
    assert "Not for clinical use" in (tmp_path / "model" / "page.html").read_text()
    image = data / "images" / "p0_frame0.nii.gz"
    made = predict_to_folder(tmp_path / "model", [[image]], tmp_path / "out", PredictSettings(probabilities=True))
    found = nibabel.load(tmp_path / "out" / "p0_frame0.nii.gz")
    truth = nibabel.load(data / "labels" / "p0_frame0.nii.gz")
    assert np.allclose(found.affine, truth.affine) and found.shape == truth.shape
    both = [(np.asarray(n.dataobj) == 1) for n in (found, truth)]
    assert 2 * (both[0] & both[1]).sum() / (both[0].sum() + both[1].sum()) > 0.8
    assert len(made["images"][0]["files"]) == 4 and not made["settings"]["bfloat16"]
    rounded = predict_to_folder(tmp_path / "model", [[image]], tmp_path / "fast", PredictSettings(bfloat16=True))
    again = np.asarray(nibabel.load(tmp_path / "fast" / "p0_frame0.nii.gz").dataobj)
    assert rounded["settings"]["bfloat16"] and (again == np.asarray(found.dataobj)).mean() > 0.99


def test_a_stored_flip_or_transposition_changes_nothing(data, tmp_path):
    plan = small_plan(data, tmp_path, steps=3, folds=0)
    train_segmenter(data, tmp_path / "model", TrainSettings(plan=plan))
    original = nibabel.load(data / "images" / "p1_frame0.nii.gz")
    turned = original.as_reoriented(nibabel.orientations.axcodes2ornt(("P", "L", "I")))
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    predict_to_folder(tmp_path / "model", [[data / "images" / "p1_frame0.nii.gz"], [tmp_path / "turned.nii.gz"]],
                      tmp_path / "out")
    one, other = (nibabel.as_closest_canonical(nibabel.load(tmp_path / "out" / f"{name}.nii.gz"))
                  for name in ("p1_frame0", "turned"))
    assert (np.asarray(one.dataobj) == np.asarray(other.dataobj)).mean() > 0.999


def test_interrupted_it_ends_at_the_same_weights(data, tmp_path, monkeypatch):
    plan = small_plan(data, tmp_path, steps=8, folds=2)
    whole = train_segmenter(data, tmp_path / "whole", TrainSettings(plan=plan))
    from firstread.learn.patches import Patches

    real = Patches.__call__

    def dies(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(Patches, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(data, tmp_path / "parts", TrainSettings(plan=plan))
    with pytest.raises(InputError, match="has not ended"):
        predict_to_folder(tmp_path / "parts", [[data / "images" / "p0_frame0.nii.gz"]], tmp_path / "out")
    monkeypatch.undo()
    again = train_segmenter(data, tmp_path / "parts", TrainSettings())
    assert again["hashes"] == whole["hashes"] and again["validation"] == whole["validation"]
    with pytest.raises(OutputError, match="already holds"):
        train_segmenter(data, tmp_path / "parts", TrainSettings())


def test_another_plan_does_not_go_on(data, tmp_path):
    plan = small_plan(data, tmp_path, steps=2)
    (tmp_path / "model" / "training").mkdir(parents=True)
    (tmp_path / "model" / "fingerprint.json").write_text("{}")
    (tmp_path / "model" / "training" / "state.json").write_text('{"plan": "x", "data": "y", "start": null}')
    with pytest.raises(FormatError, match="began with another"):
        train_segmenter(data, tmp_path / "model", TrainSettings(plan=plan))


def test_damaged_checkpoints_and_weights_are_said_to_be(data, tmp_path, monkeypatch):
    from firstread.learn.patches import Patches

    plan = small_plan(data, tmp_path, steps=4, folds=0)
    real = Patches.__call__

    def dies(self, step):
        if step == 2:
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(Patches, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(data, tmp_path / "model", TrainSettings(plan=plan))
    monkeypatch.undo()
    checkpoint = tmp_path / "model" / "training" / "fold_all.pt"
    good = checkpoint.read_bytes()
    checkpoint.write_bytes(good[: len(good) // 2])
    for cut in (good[: len(good) // 2], b""):
        checkpoint.write_bytes(cut)
        with pytest.raises(FormatError, match=r"damaged checkpoint.*this one fold\) begins anew") as said:
            train_segmenter(data, tmp_path / "model", TrainSettings(plan=plan))
        assert str(said.value).startswith(str(checkpoint)) and "Error" not in str(said.value)
    checkpoint.write_bytes(good)
    train_segmenter(data, tmp_path / "model", TrainSettings(plan=plan))
    weights = tmp_path / "model" / "fold_all.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    image = data / "images" / "p0_frame0.nii.gz"
    with pytest.raises(FormatError, match="fold_all"):
        predict_to_folder(tmp_path / "model", [[image]], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_class_that_a_fold_has_not_seen_is_said(data, tmp_path):
    for frame in range(2):  # the ring in the frames of one patient alone
        path = data / "labels" / f"p0_frame{frame}.nii.gz"
        image = nibabel.load(path)
        values = np.asarray(image.dataobj)
        nibabel.save(nibabel.Nifti1Image(np.where(values == 2, 0, values).astype(np.uint8), image.affine), path)
    card = train_segmenter(data, tmp_path / "model", TrainSettings(plan=small_plan(data, tmp_path, steps=2)))
    assert sum("was trained without class" in text for text in card["warnings"]) == 1


def test_a_refused_command_leaves_the_plan_and_damaged_work_is_made_again(data, tmp_path, monkeypatch):
    plan, model = small_plan(data, tmp_path, steps=4), tmp_path / "model"
    monkeypatch.setattr("firstread.jobs.segment_fold.fit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(data, model, TrainSettings(plan=plan))
    monkeypatch.undo()
    before = (model / "plan.json").read_bytes()
    with pytest.raises(FormatError, match="began with another plan"):
        train_segmenter(data, model, TrainSettings(plan=small_plan(data, tmp_path / "other", steps=5)))
    assert (model / "plan.json").read_bytes() == before
    image = model / "training" / "cases" / "00001" / "image.npy"
    image.write_bytes(image.read_bytes()[:200])
    state = model / "training" / "state.json"
    whole = state.read_bytes()
    state.write_bytes(whole[:9])
    with pytest.raises(FormatError, match="which is damaged"):
        train_segmenter(data, model, TrainSettings(plan=plan))
    state.write_bytes(whole)
    assert train_segmenter(data, model, TrainSettings(plan=plan))["networks"]
    one, other = (model / f"fold_{k}.safetensors" for k in (0, 1))
    other.write_bytes(one.read_bytes())
    with pytest.raises(FormatError, match="whose weights are not those"):
        predict_to_folder(model, [[data / "images" / "p0_frame0.nii.gz"]], tmp_path / "out")


def test_bad_data_is_one_clear_sentence(data, tmp_path):
    plan = small_plan(data, tmp_path, steps=1)
    label = data / "labels" / "p1_frame1.nii.gz"
    good = label.read_bytes()
    stored = nibabel.load(label)

    def refuses(kind, text):
        with pytest.raises(kind, match=text):
            train_segmenter(data, tmp_path / "bad", TrainSettings(plan=plan), overwrite=True)

    values = np.asarray(stored.dataobj).copy()
    nibabel.save(nibabel.Nifti1Image(values[:-1], stored.affine), label)
    refuses(GeometryError, "p1_frame1.*shape")
    moved = stored.affine.copy()
    moved[:3, 3] += 5
    nibabel.save(nibabel.Nifti1Image(values, moved), label)
    refuses(GeometryError, "another place")
    strange = values.copy()
    strange[0, 0, 0] = 9
    nibabel.save(nibabel.Nifti1Image(strange, stored.affine), label)
    refuses(InputError, r"\[9\].*does not know")
    nibabel.save(nibabel.Nifti1Image(values + 0.5, stored.affine), label)
    refuses(FormatError, "whole numbers")
    label.write_bytes(good)
    image = data / "images" / "p1_frame1.nii.gz"
    picture = nibabel.load(image)
    broken = np.asarray(picture.dataobj).astype(np.float32).copy()
    broken[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(broken, picture.affine), image)
    refuses((SignalError, InputError), "p1_frame1|no numbers|NaN")
    colours = np.zeros(picture.shape, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, picture.affine), image)
    refuses(InputError, "p1_frame1")
    image.unlink()
    refuses(InputError, "1 file without a partner")


def test_one_patient_cannot_be_split(tmp_path):
    for number in range(2):
        write_case(tmp_path / "data", f"only_frame{number}", number)
    with pytest.raises(InputError, match="1 patient for 2 folds"):
        train_segmenter(tmp_path / "data", tmp_path / "model", TrainSettings(folds=2))
