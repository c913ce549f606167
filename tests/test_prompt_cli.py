"""firstread segment prompt: from a file and what is pointed at in it to files, whole or not at all."""

import json

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from firstread.cli import app
from firstread.core.errors import GeometryError, InputError, OutputError, SettingError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.io.nifti import write_image
from firstread.jobs.segment_prompt import PromptSettings, parse_box, parse_point, prompt_to_folder


@pytest.fixture(scope="module")
def cine(tmp_path_factory):
    """Two frames of three slices with a bright disc of 8 mm about (20, 16), as a NIfTI file (RAS), and the disc."""
    y, x = torch.meshgrid(torch.arange(36.0), torch.arange(40.0), indexing="ij")
    disc = ((y - 16)**2 + (x - 20)**2 <= 64).float()
    noise = 0.1 * torch.randn(1, 2, 1, 3, 36, 40, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("prompted") / "cine.nii.gz"
    write_image(path, Image(Rows.subjects(1), disc + noise, Grid.from_spacing((3, 36, 40), (5.0, 1.0, 1.0))))
    return path, disc.numpy() > 0


def test_a_point_in_millimetres_and_in_voxels_are_one(cine, tmp_path):
    path, disc = cine
    place = nibabel.load(path).affine @ (20, 16, 1, 1)
    for name, prompt in (("mm", [",".join(f"{v:g}" for v in place[:3])]), ("voxels", ["20,16,1:+", "--voxels"])):
        done = CliRunner().invoke(app, ["segment", "prompt", str(path), "--point", *prompt, "-o", str(tmp_path / name),
                                        "--name", "liver"])
        assert done.exit_code == 0, done.output
    first, second = (nibabel.load(tmp_path / name / "mask.nii.gz") for name in ("mm", "voxels"))
    masks = np.asarray(first.dataobj) > 0
    assert masks.shape == (40, 36, 3, 2) and np.array_equal(masks, np.asarray(second.dataobj) > 0)
    assert np.allclose(first.affine, nibabel.load(path).affine)
    both = (masks & disc.T[..., None, None]).sum(axis=(0, 1))
    assert (2 * both / (masks.sum(axis=(0, 1)) + disc.sum()) > 0.93).all()
    document = json.loads((tmp_path / "mm" / "prompt.json").read_text())
    assert document["schema"] == "firstread.segment-prompt/1" and document["name"] == "liver"
    assert document["slices"] == [[0, 1, 2]] * 2 and document["prompts"]["units"] == "RAS+ millimetres"
    assert document["volume_ml"][0] == pytest.approx(0.005 * masks[..., 0].sum())
    assert document["prompts"]["reach_mm"] == 50.0  # all that is needed to make it again
    assert f" mL, {int(masks[..., 0].sum())} voxels in 3 slices\n" in done.output
    page = (tmp_path / "mm" / "page.html").read_text()
    assert page.count("<svg") == 1 + 3 + 2 and "http" not in page.replace("http-equiv", "")
    assert {p.name for p in (tmp_path / "mm").iterdir()} == {"mask.nii.gz", "prompt.json", "page.html"}


def test_a_picture_needs_voxels_and_two_numbers_are_enough(tmp_path):
    from PIL import Image as Pillow

    y, x = np.indices((30, 34))
    Pillow.fromarray((40 + 180 * ((y - 14)**2 + (x - 12)**2 < 50)).astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(GeometryError, match="without spacing"):
        prompt_to_folder(tmp_path / "a.png", tmp_path / "o", PromptSettings(points=((12, 14, 0),), positive=(True,)))
    made = prompt_to_folder(tmp_path / "a.png", tmp_path / "o",
                            PromptSettings(boxes=((4.0, 6.0, 20.0, 22.0),), voxels=True))
    assert made["volume_ml"] is None and abs(made["voxels"][0] - 149) < 15
    Pillow.fromarray(np.zeros((30, 34, 3), np.uint8)).save(tmp_path / "c.png")
    with pytest.raises(SettingError, match="3 channels"):
        prompt_to_folder(tmp_path / "c.png", tmp_path / "o2",
                         PromptSettings(points=((12.0, 14.0),), positive=(True,), voxels=True))
    assert not (tmp_path / "o2").exists()


@pytest.mark.parametrize(("prompt", "text"), [
    (["--point", "1,2"], "2 numbers"), (["--point", "a,b,c"], "numbers x,y,z"), (["--point", "1,2,nan"], "numbers"),
    (["--point", "1,2,3:*"], "x,y,z"), (["--box", "1,2,3"], "3 numbers"), ([], "no prompt"),
    (["--point", "1,2,1:-", "--voxels"], "no prompt"), (["--box", "5,5,0,1,9,0"], "reversed"),
    (["--point", "900,0,0"], "outside"), (["--point", "20,16,1", "--voxels", "--frame", "2"], "frame 2"),
    (["--point", "20,16,1", "--voxels", "--model", "none.pth"], "no weights"),
    (["--point", "20,16,1", "--voxels", "--model", "sam"], "no weights at sam"),
    (["--point", "20,16,1", "--voxels", "--model", "prompt", "--reach", "0"], "reach of 0"),
    (["--point", "20,16,1", "--voxels", "--model", "walker", "--reach", "-3"], "reach -3"),
    *((["--point", "20,16,1", "--voxels", "--name", name], "1 to 64 characters") for name in
      ("", " ", "a\\b", "a\nb", 65 * "x", "background"))])
def test_mistakes_are_said_and_leave_nothing(cine, tmp_path, prompt, text):
    done = CliRunner().invoke(app, ["segment", "prompt", str(cine[0]), *prompt, "-o", str(tmp_path / "out")])
    assert done.exception is not None and text in str(done.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("model", "words"), [("prompt", "network prompt, trained on simulated scenes alone"),
                                              ("walker", "random walker, no weights")])
@pytest.mark.parametrize("prompt", [["--point", "20,16,1"], ["--box", "12,8,1,28,24,1"]])
def test_methods_by_name_find_the_disc_in_every_slice_and_frame(cine, tmp_path, model, words, prompt):
    done = CliRunner().invoke(app, ["segment", "prompt", str(cine[0]), *prompt, "--voxels", "--model", model, "-o",
                                    str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    mask = np.asarray(nibabel.load(tmp_path / "out" / "mask.nii.gz").dataobj) > 0
    both = (mask & cine[1].T[..., None, None]).sum(axis=(0, 1))
    assert (2 * both / (mask.sum(axis=(0, 1)) + cine[1].sum()) > 0.9).all()
    document = json.loads((tmp_path / "out" / "prompt.json").read_text())
    assert document["method"] == words and words in (tmp_path / "out" / "page.html").read_text()
    assert bool(document["trail"][0]["weights"]) == (model == "prompt")


def test_another_result_is_replaced_only_when_asked(cine, tmp_path):
    settings = PromptSettings(points=((20.0, 16.0, 1.0),), positive=(True,), voxels=True, propagate="none")
    prompt_to_folder(cine[0], tmp_path / "out", settings)
    with pytest.raises(OutputError):
        prompt_to_folder(cine[0], tmp_path / "out", settings)
    assert prompt_to_folder(cine[0], tmp_path / "out", settings, overwrite=True)["slices"] == [[1], []]


def test_an_empty_mask_is_said(tmp_path):
    ramp = torch.arange(480.0).reshape(1, 1, 1, 1, 20, 24)
    write_image(tmp_path / "a.nii.gz", Image(Rows.subjects(1), ramp, Grid.from_spacing((1, 20, 24), (5.0, 1.0, 1.0))))
    made = prompt_to_folder(tmp_path / "a.nii.gz", tmp_path / "out",
                            PromptSettings(boxes=((6.0, 5.0, 17.0, 14.0),), voxels=True), model="walker")
    assert made["voxels"] == [0] and "nothing_found" in [w["code"] for w in made["warnings"]]


def test_prompts_are_read_as_written():
    assert parse_point("-1.5,2,3") == ((-1.5, 2.0, 3.0), True) and parse_point("1,2,3:-")[1] is False
    assert parse_box("1,2,3,4,5,6") == (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    with pytest.raises(InputError):
        parse_box("1 2 3")


@pytest.mark.parametrize(("slices_mm", "words"), [
    (1.5, "network prompt, trained on simulated scenes alone; carried on through thin slices by the random walker, no "
          "weights"), (8.0, "network prompt, trained on simulated scenes alone")])
def test_where_no_method_is_named_the_walker_carries_on_through_thin_slices(tmp_path, slices_mm, words):
    x, y = np.meshgrid(np.arange(48), np.arange(40), indexing="ij")
    disc = np.repeat(((x - 20)**2 + (y - 16)**2 < 80)[..., None], 4, axis=2).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(disc, np.diag([1.0, 1.0, slices_mm, 1.0])), tmp_path / "a.nii.gz")
    done = CliRunner().invoke(app, ["segment", "prompt", str(tmp_path / "a.nii.gz"), "--point", "20,16,1", "--voxels",
                                    "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "out" / "prompt.json").read_text())
    assert document["method"] == words and len(document["slices"][0]) == 4
