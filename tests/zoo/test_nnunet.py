"""Trained nnU-Net folders: logits beside nnU-Net's own, gradients, folds as draws, and what a damaged folder says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from firstread.acquire.mri import Encode
from firstread.acquire.sampling import VariableDensity
from firstread.chains.models import open_segmenter
from firstread.core.errors import FirstreadError, FormatError, GeometryError, InputError, SettingError, UnsupportedError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, Rows
from firstread.reconstruct.iterative import CGSense

pytest.importorskip("dynamic_network_architectures", reason="needs the networks of nnU-Net")
from tiny_nnunet import CASES, image_of, write_model

REFERENCE = Path(__file__).parents[1] / "reference" / "nnunet_logits.npz"


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory) -> tuple[str, Path]:
    return request.param, write_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_model(tmp_path, "2d", folds=1)


def image(case: str) -> Image:
    data, spacing = image_of(case)
    return Image(Rows.subjects(1), torch.from_numpy(data)[None, None], Grid.from_spacing(data.shape[1:], spacing))


def test_logits_are_nnunets_own(case):
    """Made by nnunetv2 2.8.1: tests/reference/nnunet_logits.py."""
    name, folder = case
    stage, shown = open_segmenter(folder), image(name)
    with torch.no_grad():
        logits, _ = stage.logits(shown.data[0, 0], shown)
    ours = logits[0].flatten(1)[:, ::5].numpy()
    theirs = np.load(REFERENCE)[name]
    assert ours.shape == theirs.shape
    assert abs(ours - theirs).max() < 2e-5


def test_labels_are_nnunets_own(case):
    name, folder = case
    with torch.no_grad():
        ours = open_segmenter(folder)(image(name)).harden().data[0, 0, 0].numpy()
    theirs = np.load(REFERENCE)[f"{name}_labels"]
    assert (ours == theirs).all() and len(np.unique(theirs)) > 1


def test_probabilities_sum_to_one_and_classes_are_named(case):
    name, folder = case
    stage = open_segmenter(folder, mirror=False)
    with torch.no_grad():
        labels = stage(image(name))
    torch.testing.assert_close(labels.data.sum(dim=2), torch.ones_like(labels.data[:, :, 0]))
    assert stage.classes == labels.names
    assert stage.classes == (("background", "whole", "core") if name == "regions" else ("background", "left", "right"))
    assert "nnUNetTrainer" not in stage.settings() and "networks=2" in stage.settings()


def test_folds_are_members_and_their_logits_average_to_the_whole(case):
    name, folder = case
    shown = image(name)
    with torch.no_grad():
        together, _ = open_segmenter(folder, mirror=False).logits(shown.data[0, 0], shown)
        stage = open_segmenter(folder, mirror=False, members=True)
        apart, _ = stage.logits(shown.data[0, 0], shown)
        labels = stage(shown)
        alone = open_segmenter(folder, mirror=False, folds=[1])(shown)
    torch.testing.assert_close(apart.mean(dim=0), together[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(labels.data[1:], alone.data)
    assert labels.rows.draw.tolist() == [0, 1] and labels.rows.subject.tolist() == [0, 0]
    assert stage.writes == "labels.members"


def test_gradient_is_that_of_small_steps(folder):
    """Along one direction, in double precision; the crop to what is not zero stays where it is."""
    stage, shown = open_segmenter(folder, mirror=False).double(), image("2d")
    volume = shown.data[0, 0].double()
    direction = torch.from_numpy(np.random.RandomState(1).standard_normal(volume.shape)) * (volume != 0)
    leaf = volume.clone().requires_grad_()
    weight = torch.linspace(-1, 1, 3 * 3 * 16 * 15, dtype=torch.float64).reshape(1, 3, 3, 16, 15)
    (slope,) = torch.autograd.grad((stage.logits(leaf, shown)[0] * weight).sum(), leaf)
    with torch.no_grad():
        ahead, back = ((stage.logits(volume + s * direction, shown)[0] * weight).sum() for s in (1e-5, -1e-5))
    assert float((slope * direction).sum()) == pytest.approx(float(ahead - back) / 2e-5, rel=1e-6)


def test_gradient_of_a_logit_reaches_kspace(folder):
    """k-space -> CG-SENSE -> nnU-Net: the slope at the measured samples, none at the others."""
    data, spacing = image_of("2d")
    turned = torch.from_numpy(data).transpose(-1, -3).to(torch.complex64)  # slices along z
    grid = Grid.from_spacing(tuple(turned.shape[1:]), spacing[::-1])
    scan = Encode(sampling=VariableDensity(acceleration=2, centre_lines=6), snr=None)
    kspace = scan(Image(Rows.subjects(1), turned[None, None], grid), Key(0, "encode"))
    leaf = kspace.data.clone().requires_grad_()
    reconstructed = CGSense(iterations=4)(kspace.map(lambda t: leaf if t is kspace.data else t))
    volume = reconstructed.data[0, 0].abs()
    logits, _ = open_segmenter(folder, mirror=False).logits(volume, reconstructed)
    logits[0, 1].max().backward()
    measured = kspace.mask.expand_as(leaf) > 0
    assert float(leaf.grad.abs()[measured].max()) > 0
    assert torch.isfinite(torch.view_as_real(leaf.grad)).all()
    assert float(leaf.grad.abs()[~measured].max()) == 0


def test_checkpoint_that_would_run_something_is_refused(folder):
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    torch.save({"network_weights": {}, "more": Evil()}, folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(UnsupportedError, match=r"asks to run .*print"):
        open_segmenter(folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def change(path: Path, edit) -> None:
    found = json.loads(path.read_text())
    edit(found)
    path.write_text(json.dumps(found))


def weights_of(folder: Path, edit) -> None:
    path = folder / "fold_0" / "checkpoint_final.pth"
    found = torch.load(path, weights_only=False)
    edit(found)
    torch.save(found, path)


PLAN = "2d"
BROKEN = {
    "cut checkpoint": (lambda f: cut(f / "fold_0" / "checkpoint_final.pth"), FormatError, "damaged or cut-off"),
    "empty checkpoint": (lambda f: (f / "fold_0" / "checkpoint_final.pth").write_bytes(b""), FormatError, "damaged"),
    "no dataset.json": (lambda f: (f / "dataset.json").unlink(), InputError, "without dataset.json"),
    "no plans.json": (lambda f: (f / "plans.json").unlink(), InputError, "without plans.json"),
    "neither": (lambda f: [(f / n).unlink() for n in ("plans.json", "dataset.json")], InputError,
                "without plans.json and dataset.json"),
    "a folder of v1": (lambda f: [(f / "plans.json").unlink(), (f / "plans.pkl").write_bytes(b"x")], UnsupportedError,
                       r"nnU-Net v1 \(plans.pkl\)"),
    "best alone": (lambda f: (f / "fold_0" / "checkpoint_final.pth").rename(f / "fold_0" / "checkpoint_best.pth"),
                   InputError, "copy fold_0/checkpoint_best.pth to fold_0/checkpoint_final.pth"),
    "spacing in words": (lambda f: change(f / "plans.json", lambda p: p["configurations"][PLAN].update(spacing="two")),
                         FormatError, r"plans.json with a value that cannot be used \(could not convert"),
    "no patch size": (lambda f: change(f / "plans.json", lambda p: p["configurations"][PLAN].pop("patch_size")),
                      FormatError, "plans.json without 'patch_size'"),
    "no fold": (lambda f: shutil.rmtree(f / "fold_0"), InputError, "any fold"),
    "plans of v1": (lambda f: (f / "plans.json").write_text('{"num_stages": 1}'), UnsupportedError, "nnU-Net v1"),
    "plans cut": (lambda f: cut(f / "plans.json"), FormatError, "JSON"),
    "a cascade": (lambda f: change(f / "plans.json", lambda p: p["configurations"][PLAN].update(
        previous_stage="3d_lowres")), UnsupportedError, "one stage"),
    "another configuration": (lambda f: weights_of(f, lambda c: c["init_args"].update(configuration="3d")), FormatError,
                              "'3d'"),
    "another scheme": (lambda f: change(f / "plans.json", lambda p: p["configurations"][PLAN].update(
        normalization_schemes=["MyOwn"])), UnsupportedError, "MyOwn"),
    "another network": (lambda f: change(f / "plans.json", lambda p: p["configurations"][PLAN].update(
        UNet_class_name="os.system")), UnsupportedError, "os.system"),
    "more features": (lambda f: change(f / "plans.json", lambda p: p["configurations"][PLAN].update(
        UNet_base_num_features=8, unet_max_num_features=16)), FormatError, "weights of another network"),
    "fewer stages": (lambda f: change(f / "plans.json", lambda p: p["configurations"][PLAN].update(
        conv_kernel_sizes=[[3, 3]])), FormatError, "does not take"),
    "weights missing": (lambda f: weights_of(f, lambda c: c.pop("network_weights")), FormatError, "network_weights"),
    "two channels stated": (lambda f: change(f / "dataset.json", lambda d: d.update(
        channel_names={"0": "T1", "1": "T2"})), FormatError, "the same number"),
    "weights that are no numbers": (lambda f: weights_of(f, lambda c: [w.fill_(float("nan")) for w in
                                                                      c["network_weights"].values()]), FormatError,
                                   "fold_0/checkpoint_final.pth, in whose weights"),
    "labels with a gap": (lambda f: change(f / "dataset.json", lambda d: d["labels"].update(right=5)),
                          UnsupportedError, "gap"),
    "more labels": (lambda f: change(f / "dataset.json", lambda d: d["labels"].update(third=3)), FormatError,
                    "weights of another network"),
    "labels of v1": (lambda f: change(f / "dataset.json", lambda d: d.update(labels={"0": "background", "1": "x"})),
                     UnsupportedError, "name: number"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_says_what_is_wrong(folder, name):
    damage, kind, text = BROKEN[name]
    damage(folder)
    with pytest.raises(kind, match=text) as caught:
        open_segmenter(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_fold_that_is_not_there_is_named(folder):
    with pytest.raises(InputError, match=r"fold_3 .*there: fold_0"):
        open_segmenter(folder, folds=[0, 3])


def test_the_folder_above_names_what_is_in_it(folder):
    with pytest.raises(InputError, match=f"give one of the folders in it: {folder.name}"):
        open_segmenter(folder.parent)


def test_images_that_do_not_fit_are_refused(folder):
    stage, shown = open_segmenter(folder), image("2d")
    colours = Image(shown.rows, shown.data.expand(-1, -1, 3, -1, -1, -1), shown.grid)
    bare = Image(shown.rows, shown.data, Grid.pixels(shown.grid.shape))
    for wrong, kind, text in ((colours, SettingError, "3 channels"), (bare, GeometryError, "without spacing")):
        with pytest.raises(kind, match=text):
            stage(wrong)
    with pytest.raises(FirstreadError, match="no numbers"):
        stage(shown.map(lambda t: t * float("nan") if t is shown.data else t))


def test_outputs_that_are_no_numbers_are_refused_and_the_stage_named(folder):
    stage, shown = open_segmenter(folder), image("2d")
    with torch.no_grad():
        next(w for w in stage.networks[0].parameters()).fill_(3e38)
    with pytest.raises(FirstreadError, match="outputs of a network that are no numbers, in stage 'foreign_segment'"):
        stage(shown)


def test_an_empty_image_is_background_and_no_error(folder):
    shown = image("2d")
    with torch.no_grad():
        labels = open_segmenter(folder)(shown.map(lambda t: torch.zeros_like(t) if t is shown.data else t))
    assert torch.isfinite(labels.data).all()


def test_a_folder_of_files_is_as_many_images_and_all_are_checked_first(folder, tmp_path):
    """A colour file among them ends it, by name, before anything is segmented; DICOM SEG is asked of DICOM alone."""
    import nibabel

    from firstread.io.nifti import write_image
    from firstread.jobs.segment_predict import PredictSettings, predict_to_folder

    home, heard = tmp_path / "images", []
    home.mkdir()
    for name in ("one", "two_0000"):
        write_image(home / f"{name}.nii.gz", image("2d"))
    (home / "dataset.json").write_text("{}")
    made = predict_to_folder(folder, [[home]], tmp_path / "out", PredictSettings(mirror=False))
    assert [row["input"] for row in made["images"]] == [["one.nii.gz"], ["two_0000.nii.gz"]]
    assert made["mirrored_copies"] is False and (tmp_path / "out" / "two_0000.nii.gz").is_file()
    assert predict_to_folder(folder, [[home / "one.nii.gz"]], tmp_path / "as_trained")["mirrored_copies"] is True
    with pytest.raises(InputError, match=r"DICOM SEG for one\.nii\.gz, which is no DICOM"):
        predict_to_folder(folder, [[home]], tmp_path / "seg", PredictSettings(seg=True), progress=heard.append)
    colours = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), home / "zebra.nii.gz")
    with pytest.raises(UnsupportedError, match=r"zebra\.nii\.gz: a colour NIfTI file"):
        predict_to_folder(folder, [[home]], tmp_path / "bad", progress=heard.append)
    assert not heard and not (tmp_path / "bad").exists() and not (tmp_path / "seg").exists()


def test_mirrored_copies_are_left_out_only_where_there_are_some(folder, tmp_path):
    from firstread.jobs.segment_predict import PredictSettings, predict_to_folder

    weights_of(folder, lambda c: c.update(inference_allowed_mirroring_axes=None))
    with pytest.raises(SettingError, match="averages no flipped copies"):
        predict_to_folder(folder, [[tmp_path / "scan.nii.gz"]], tmp_path / "out", PredictSettings(mirror=False))


def test_channels_of_nnunets_folders_are_one_image(tmp_path):
    from firstread.jobs.segment_predict import _expanded

    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz"):
        (tmp_path / name).touch()
    assert [[p.name for p in parts] for parts in _expanded([tmp_path])] == [
        ["a_0000.nii.gz", "a_0001.nii.gz"], ["b_0000.nii.gz", "b_0001.nii.gz"]]
    (tmp_path / "IM1").write_bytes(bytes(128) + b"DICM")
    assert _expanded([tmp_path]) == [[tmp_path]]


def test_the_verb_segments_with_it_or_leaves_nothing(folder, tmp_path):
    """One image and folds that are there; a cut checkpoint or another number of channels ends with one sentence."""
    from firstread.cli import app
    from firstread.io.nifti import read, write_image

    write_image(tmp_path / "scan.nii.gz", image("2d"))
    call = ["segment", "predict", str(folder), str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    with torch.no_grad():
        ours = open_segmenter(folder)(read(tmp_path / "scan.nii.gz")).harden()
    torch.testing.assert_close(read(tmp_path / "out" / "scan.nii.gz").data.to(torch.uint8), ours.data)
    shutil.rmtree(tmp_path / "out")
    two = CliRunner().invoke(app, [*call[:3], ",".join([call[3]] * 2), *call[4:]])
    cut(folder / "fold_0" / "checkpoint_final.pth")
    broken = CliRunner().invoke(app, call)
    for failed, text in ((two, "2 channels"), (broken, "cut-off")):
        assert isinstance(failed.exception, FirstreadError) and text in str(failed.exception)
    assert sorted(p.name for p in tmp_path.iterdir()) == [folder.name, "scan.nii.gz"]
