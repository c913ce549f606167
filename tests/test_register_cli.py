"""firstread register: files out that others read, and one sentence for bad input."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from typer.testing import CliRunner

from firstread.acquire.head import head_phantom
from firstread.cli import app
from firstread.core.errors import GeometryError, InputError, SettingError, SignalError
from firstread.core.geometry import Grid, Transform
from firstread.core.records import Image, Rows
from firstread.io.nifti import read, write_image
from firstread.io.open import read as open_file
from firstread.io.transforms import read_all
from firstread.jobs.register import RegisterSettings, register_to_folder
from firstread.jobs.register_notes import notes_of
from firstread.ops.rigid import exponential
from firstread.ops.warp import compose, inverse, jacobian_determinant, warp


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A head, the same head turned, and labels of both."""
    folder = tmp_path_factory.mktemp("heads")
    data, brain = head_phantom(seed=0, spacing_mm=5.0)
    grid = Grid.from_spacing(tuple(data.shape), (5.0, 5.0, 5.0))
    true = Transform(exponential(torch.tensor([[0.1, -0.1, 0.15, 5.0, -6.0, 4.0]], dtype=torch.float64)))
    made = {}
    for name, values, mode in (("head", data, "bilinear"), ("labels", brain.float(), "nearest")):
        turned = warp(values[None, None], grid, true, grid, mode=mode)
        for side, volume in (("moving", values[None, None]), ("fixed", turned)):
            made[f"{side} {name}"] = folder / f"{side}_{name}.nii.gz"
            write_image(made[f"{side} {name}"], Image(Rows.subjects(1), volume[:, None], grid))
    return made


def test_a_rigid_registration_writes_what_others_read(files, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["register", str(files["fixed head"]), str(files["moving head"]), "-o", str(out),
                                    "--type", "rigid", "--labels", str(files["moving labels"]), "--fixed-labels",
                                    str(files["fixed labels"])])
    assert done.exit_code == 0, done.output
    document = json.loads((out / "transform.json").read_text())
    assert document["schema"] == "firstread.register/1" and document["random_draws"] == "none"
    assert document["dice"]["mean"]["after"] > 0.95 > document["dice"]["mean"]["before"]
    assert {*document["files"]} | {"transform.json", "page.html"} == {p.name for p in out.iterdir()}
    page = (out / "page.html").read_text()
    assert page.count("<img") == 12 and "http" not in page.replace("http-equiv", "")
    sitk = pytest.importorskip("SimpleITK")
    fixed, moving = (sitk.ReadImage(str(files[f"{side} head"])) for side in ("fixed", "moving"))
    there = sitk.Resample(moving, fixed, sitk.ReadTransform(str(out / "transform.tfm")), sitk.sitkLinear, 0.0)
    ours = read(out / "warped.nii.gz").data[0, 0, 0].numpy()
    assert np.abs(sitk.GetArrayFromImage(there) - ours)[2:-2, 2:-2, 2:-2].max() < 1e-4
    inverse = sitk.ReadTransform(str(out / "inverse.tfm"))
    point = sitk.ReadTransform(str(out / "transform.tfm")).TransformPoint((3.0, 4.0, 5.0))
    assert inverse.TransformPoint(point) == pytest.approx((3.0, 4.0, 5.0), abs=1e-6)


def test_a_deformation_of_pictures_is_read_back(tmp_path):
    y, x = np.mgrid[:40, :44]
    for name, radius in (("fixed", 13), ("moving", 10)):
        disc = 200 / (1 + np.exp(np.hypot(y - 20, x - 22) - radius)) + 40 * (x > 22)
        Pillow.fromarray(disc.astype(np.uint8)).save(tmp_path / f"{name}.png")
    out = tmp_path / "out"
    words = ["register", str(tmp_path / "fixed.png"), str(tmp_path / "moving.png"), "-o", str(out), "--first", "none"]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, GeometryError) and not out.exists()
    done = CliRunner().invoke(app, [*words, "--spacing", "1,1,1"])
    assert done.exit_code == 0, done.output
    document = json.loads((out / "transform.json").read_text())
    assert document["jacobian"]["folded_voxels"] == 0 and document["metric"]["name"] == "lncc"
    first, second = read_all(out / "transform.h5")
    whole = compose(second, first)
    warped, grid = read(out / "warped.nii.gz"), open_file(tmp_path / "fixed.png", spacing_mm=(1.0, 1.0, 1.0)).case[
        "image"].grid  # a picture has no place in the world, so that its NIfTI keeps none
    moving = torch.from_numpy(np.asarray(Pillow.open(tmp_path / "moving.png")).astype(np.float32))
    seen = warp(moving[None, None, None], grid, whole, grid)
    torch.testing.assert_close(seen[:, None], warped.data, rtol=0, atol=0.05)
    fixed = np.asarray(Pillow.open(tmp_path / "fixed.png")).astype(np.float32)
    assert np.abs(warped.data[0, 0, 0, 0].numpy() - fixed).mean() < 0.3 * np.abs(moving.numpy() - fixed).mean()


def test_headers_far_apart_and_folds_are_said_on_the_page(files, tmp_path):
    stored = open_file(files["moving head"]).case["image"]
    affine = stored.grid.affine.clone()
    affine[:, 0, 3] += 900
    far = tmp_path / "far.nii.gz"
    write_image(far, replace(stored, grid=replace(stored.grid, affine=affine)))
    made = register_to_folder(files["fixed head"], far, tmp_path / "out", RegisterSettings(kind="rigid"))
    assert [note.code for note in made.notes] == ["headers_apart"]
    page = (tmp_path / "out" / "page.html").read_text()
    assert "1 warning" in page and "only 0 % of the fixed image" in page and "one faces the patient" in page
    document = json.loads((tmp_path / "out" / "transform.json").read_text())
    assert document["there_and_back_mm"]["largest"] < 1e-6
    grid = Grid.from_spacing((4, 4, 16), (1.0, 1.0, 1.0))
    field = torch.zeros(1, 3, *grid.shape)
    field[:, 0] = -2 * (torch.arange(16) - 8.0).clamp(-2, 2)
    folded = Transform(torch.eye(4, dtype=torch.float64)[None], field, grid)
    found = notes_of(folded, inverse(folded), jacobian_determinant(folded, grid), name="a")
    assert found[0].code == "folded"
    assert found[0].text.startswith("a: The map folds in 80 voxels of 256")
    wrong = notes_of(folded, Transform(folded.matrix, 0 * field, grid), torch.ones(1, *grid.shape))
    assert [note.code for note in wrong] == ["not_inverted"]


def test_one_frame_of_several_is_said(files, tmp_path):
    head = open_file(files["moving head"]).case["image"]
    series = tmp_path / "series.nii.gz"
    write_image(series, replace(head, data=torch.cat((head.data * 0, head.data, head.data), dim=1)))
    rigid, fixed = {"kind": "rigid"}, files["fixed head"]
    with pytest.raises(SettingError, match=r"series\.nii\.gz, which has 3 frames; .*--moving-frame: a number from 0"):
        register_to_folder(fixed, series, tmp_path / "out", RegisterSettings(**rigid))
    for wrong in ("3", "-1", "last"):
        with pytest.raises(SettingError, match=f"--frame {wrong} for .* expected mean, or a number from 0 to 2"):
            register_to_folder(series, fixed, tmp_path / "out", RegisterSettings(frame=wrong))
    with pytest.raises(SettingError, match=r"--frame 1 for .* which has 1 frame; expected 0, mean or nothing"):
        register_to_folder(fixed, fixed, tmp_path / "out", RegisterSettings(frame="1"))
    assert not (tmp_path / "out").exists()
    alone = register_to_folder(fixed, files["moving head"], tmp_path / "alone", RegisterSettings(**rigid))
    for frame in ("1", "mean"):
        made = register_to_folder(fixed, series, tmp_path / frame, RegisterSettings(moving_frame=frame, **rigid))
        assert made.after.data.shape == alone.after.data.shape
        assert torch.allclose(made.alignment.forward.matrix, alone.alignment.forward.matrix, atol=0.1)
    done = CliRunner().invoke(app, ["register", str(fixed), str(series), "-o", str(tmp_path / "cli"), "--type", "rigid",
                                    "--moving-frame", "9"])
    assert done.exit_code != 0 and "--moving-frame 9 for series.nii.gz, which has 3 frames" in str(done.exception)


def test_what_is_doubted_is_said_at_once(files, tmp_path):
    head, noise = open_file(files["fixed head"]).case["image"], tmp_path / "noise.nii.gz"
    write_image(noise, replace(head, data=torch.rand(head.data.shape, generator=torch.Generator().manual_seed(0))))
    done = CliRunner().invoke(app, ["register", str(files["fixed head"]), str(noise), "-o", str(tmp_path / "out"),
                                    "--type", "rigid"])
    assert done.exit_code == 0 and "warning: Even aligned, one image hardly tells" in done.output
    assert "hardly_alike" in (tmp_path / "out" / "page.html").read_text()


def test_an_unusable_image_is_named(files, tmp_path):
    colours = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii.gz")
    head, wrong = files["fixed head"], tmp_path / "rgb.nii.gz"
    for pair in ((head, wrong), (wrong, head)):
        with pytest.raises(InputError, match=r"rgb\.nii\.gz: a colour NIfTI file"):
            register_to_folder(*pair, tmp_path / "out")


def test_bad_input(files, tmp_path):
    out = tmp_path / "out"
    fixed, moving = files["fixed head"], files["moving head"]
    flat = tmp_path / "flat.nii.gz"
    write_image(flat, Image(Rows.subjects(1), torch.ones(1, 1, 1, 8, 8, 8), Grid.from_spacing((8, 8, 8), (5.0,) * 3)))
    with pytest.raises(SignalError, match="one value"):
        register_to_folder(fixed, flat, out)
    with pytest.raises(InputError, match="nothing at"):
        register_to_folder(fixed, tmp_path / "none.nii", out)
    with pytest.raises(InputError, match="no labels"):
        register_to_folder(fixed, moving, out, labels=moving)
    with pytest.raises(InputError, match="alone"):
        register_to_folder(fixed, moving, out, fixed_labels=files["fixed labels"])
    with pytest.raises(GeometryError, match=r"flat\.nii\.gz, the labels of the moving image, with 8 x 8 x 8 voxels"):
        register_to_folder(fixed, moving, out, RegisterSettings(kind="rigid"), labels=flat)
    shifted = tmp_path / "shifted.nii.gz"
    stored = open_file(files["moving labels"]).case["image"]
    affine = stored.grid.affine.clone()
    affine[:, :3, 3] += 1
    write_image(shifted, replace(stored, grid=replace(stored.grid, affine=affine)))
    with pytest.raises(GeometryError, match="the labels of the moving image, with"):
        register_to_folder(fixed, moving, out, labels=shifted)
    write_image(shifted, replace(stored, data=stored.data * 0))
    with pytest.raises(InputError, match="all zero"):
        register_to_folder(fixed, fixed, out, labels=files["fixed labels"], fixed_labels=shifted)
    colours = tmp_path / "colours.png"
    Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(colours)
    with pytest.raises(SettingError, match=r"of 3 channels; .* a colour picture in grey"):
        register_to_folder(colours, colours, out, RegisterSettings(spacing_mm=(1.0, 1.0, 1.0)))
    assert not out.exists()
