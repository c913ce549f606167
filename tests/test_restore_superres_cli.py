"""firstread restore superres: files out, what is chosen, views, and one sentence for bad input."""

import json
import math
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from firstread.cli import app
from firstread.core.errors import FirstreadError, GeometryError, InputError, OutputError, SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.io.nifti import read, write_image
from firstread.jobs.restore_superres import SuperResSettings, restore_superres, restore_superres_to_folder
from firstread.nets.superres import SuperResolution
from firstread.ops.slice_profile import SectionProfile, SliceProfile
from firstread.restore.superres import ModelSuperResolution, bending, bending_inverse, nearest_factor
from firstread.restore.views import join_views

STEP, FACTOR = 10.0, 5


def cone() -> Image:
    """Two frames of a bright cone about z that shrinks, in voxels of 2 mm."""
    grid = Grid.from_spacing((30, 20, 20), (2.0, 2.0, 2.0))
    x, y, z = grid.points_mm()[0].unbind(-1)
    edge = 4 + 0.25 * (z - z.min())
    frames = [0.2 + torch.sigmoid(share * edge - torch.hypot(x, y)) for share in (1.0, 0.8)]
    return Image(Rows.subjects(1), torch.stack(frames)[None, :, None].float(), grid)


def stack_of(volume: Image) -> Image:
    coarse = volume.grid.resize((6, 20, 20))
    coarse = replace(coarse, thickness_mm=torch.tensor([8.0], dtype=torch.float64))
    return Image(volume.rows, SliceProfile.between(coarse, volume.grid).to(volume.data)(volume.data), coarse)


def view_of(volume: Image, angle: float, shape: tuple[int, int], pixel: float = 2.0) -> Image:
    """A plane that contains z, columns at ``angle``."""
    column, along = torch.tensor([math.cos(angle), math.sin(angle), 0.0]), torch.tensor([0.0, 0.0, 1.0])
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, 0], affine[:3, 1] = pixel * column, pixel * along
    affine[:3, 2] = 6 * torch.linalg.cross(column, along)
    affine[:3, 3] = -(shape[1] - 1) / 2 * pixel * column - (shape[0] - 1) / 2 * pixel * along
    grid = Grid(affine[None], (1, *shape), torch.tensor([6.0], dtype=torch.float64))
    op = SectionProfile(section=grid, volume=volume.grid, thickness_mm=6.0).to(volume.data)
    return Image(volume.rows, 1.3 * op(volume.data), grid)


@pytest.fixture
def files(tmp_path):
    """stack.nii.gz, two views of different matrices, and their true volume."""
    volume = cone()
    write_image(tmp_path / "stack.nii.gz", stack_of(volume))
    write_image(tmp_path / "two.nii.gz", view_of(volume, 0.3, (26, 14)))
    write_image(tmp_path / "four.nii.gz", view_of(volume, 1.7, (20, 18)))
    return tmp_path, volume


def run(*words):
    return CliRunner().invoke(app, ["restore", "superres", *map(str, words)])


def error_of(found, truth):
    inner = (slice(None), slice(None), slice(None), slice(3, -3))
    return float((found.data[inner] - truth.data[inner]).square().mean().sqrt())


def test_cubic_without_views_and_nothing_is_asked(files):
    home, volume = files
    done = run(home / "stack.nii.gz", "-o", home / "out")
    assert done.exit_code == 0, done.output
    after, document = read(home / "out" / "image.nii.gz"), json.loads((home / "out" / "restore.json").read_text())
    assert after.data.shape == volume.data.shape and after.grid.same_as(volume.grid)
    assert (document["schema"], document["method"], document["factor"]) == ("firstread.superres/1", "cubic", 5)
    assert document["thickness_mm"] is None and document["unexplained"] is None
    assert "interpolated" in {w["code"] for w in document["warnings"]}
    text = (home / "out" / "page.html").read_text()
    assert text.count("<img") == 6 and "http" not in text.replace("http-equiv", "")
    again = run(home / "stack.nii.gz", "-o", home / "out")
    assert again.exit_code != 0 and isinstance(again.exception, OutputError)
    assert run(home / "stack.nii.gz", "-o", home / "out", "--method", "linear", "--overwrite").exit_code == 0
    assert json.loads((home / "out" / "restore.json").read_text())["method"] == "linear"


def test_views_of_any_matrix_bring_the_volume_nearer_to_the_truth(files):
    home, volume = files
    views = ["--view", home / "two.nii.gz", "--view", home / "four.nii.gz"]
    done = run(home / "stack.nii.gz", *views, "--thickness", 8, "-o", home / "out")
    assert done.exit_code == 0, done.output
    document = json.loads((home / "out" / "restore.json").read_text())
    assert document["method"] == "model" and document["thickness_from"] == "stated"
    assert [view["name"] for view in document["views"]] == ["two.nii.gz", "four.nii.gz"]
    assert min(view["correlation"] for view in document["views"]) > 0.9
    assert [w["code"] for w in document["warnings"]].count("view_thickness") == 1
    alone = restore_superres(home / "stack.nii.gz", settings=SuperResSettings(thickness_mm=8.0, method="model"))
    assert "no_other_view" in {note.code for note in alone.notes}
    assert error_of(read(home / "out" / "image.nii.gz"), volume) < 0.95 * error_of(alone.after, volume)
    assert "two.nii.gz" in (home / "out" / "page.html").read_text()


def test_frames_do_not_see_each_other():
    stack, stage = stack_of(cone()), ModelSuperResolution(factor=FACTOR)
    both = stage(stack).data
    for frame in (0, 1):
        alone = stage(replace(stack, data=stack.data[:, frame:frame + 1])).data
        torch.testing.assert_close(alone[:, 0], both[:, frame], rtol=1e-4, atol=1e-5)


def test_the_matrix_of_bending_is_the_minimum():
    stack = stack_of(cone())
    op = SliceProfile.between(stack.grid, cone().grid)
    line = stack.data[:, :1, :, :, 10:11, 12:13].double()
    found = (bending_inverse(op.weights, 0.7) @ line.flatten(2)[0].mT)[None, :, None, :, :, None].movedim(-2, 1)
    found = found.reshape(1, 1, 1, 30, 1, 1)
    gradient = op.adjoint(op(found) - line) + 0.7 * bending(found)
    assert float(gradient.abs().max()) < 1e-10


def test_times_of_slices_follow_their_voxels():
    stack = stack_of(cone())
    stack = replace(stack, times_s=torch.arange(12.0).double().reshape(1, 2, 6), cycle_s=torch.ones(1, 6).double())
    made = ModelSuperResolution(factor=2)(stack)
    assert made.times_s.shape == (1, 2, 12) and made.times_s[0, 0, :4].tolist() == [0.0, 0.0, 1.0, 1.0]


def test_the_default_factor_comes_nearest_to_the_pixels():
    factors = [nearest_factor(Grid.from_spacing((4, 8, 8), (step, 2.0, 2.0))) for step in (2.0, 5.2, 10.0, 40.0)]
    assert factors == [1, 3, 5, 8]


def test_joined_views_keep_their_field_of_view():
    volume = cone()
    small, large = view_of(volume, 0.3, (16, 10)), view_of(volume, 1.1, (20, 18))
    joined = join_views([small, large])
    assert joined.grid.shape == (1, 20, 18) and joined.batch == 2
    corner = torch.tensor([[[-0.5, -0.5, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(joined.grid.select(torch.tensor([0])).to_mm(corner), small.grid.to_mm(corner))
    with pytest.raises(SettingError, match="1, 2"):
        join_views([small, replace(large, data=large.data[:, :1])])


@pytest.fixture
def weight(tmp_path):
    torch.manual_seed(0)
    net = SuperResolution(factor=FACTOR, width=4, depth=2, blocks=1)
    save_file({k: v.detach().contiguous() for k, v in net.state_dict().items()}, tmp_path / "net.safetensors")
    (tmp_path / "net.json").write_text(json.dumps({"network": net.settings()}))
    return tmp_path / "net.safetensors"


def test_a_trained_network(files, weight):
    home, _ = files
    settings = SuperResSettings(thickness_mm=8.0, method="learned", weight=weight)
    for views in ((), (home / "two.nii.gz",)):
        made = restore_superres(home / "stack.nii.gz", views, settings)
        assert made.factor == FACTOR and made.weight is not None and made.after.data.shape == (1, 2, 1, 30, 20, 20)
        assert "learned_on_simulation" in {note.code for note in made.notes}
    with pytest.raises(InputError, match="network of factor 5"):
        restore_superres(home / "stack.nii.gz", settings=replace(settings, factor=3))
    weight.with_suffix(".json").unlink()
    with pytest.raises(InputError, match="no network of super-resolution"):
        restore_superres(home / "stack.nii.gz", settings=settings)


def test_gaps_and_views_of_something_else_are_noted(files):
    home, _ = files
    other = read(home / "two.nii.gz")
    noise = torch.rand(other.data.shape, generator=torch.Generator().manual_seed(0))
    write_image(home / "other.nii.gz", replace(other, data=noise))
    made = restore_superres(home / "stack.nii.gz", [home / "other.nii.gz"], SuperResSettings(thickness_mm=5.0))
    assert {"gap", "view_disagrees"} <= {note.code for note in made.notes}


@pytest.mark.parametrize(("settings", "kind", "words"), [
    ({"factor": 1}, SettingError, "factor of 1"), ({"factor": 99}, SettingError, "2 to 16"),
    ({"method": "model"}, GeometryError, "--thickness 10 if there is no gap"),
    ({"thickness_mm": float("nan")}, SettingError, "thickness of nan"),
    ({"thickness_mm": 40.0}, SettingError, "slices of 40 mm that lie 10 mm apart"),
    ({"method": "learned"}, InputError, "without a weight"),
    ({"weight": Path("net.safetensors")}, InputError, "--method learned"),
], ids=str)
def test_settings_that_do_not_fit(files, settings, kind, words):
    home, _ = files
    with pytest.raises(kind, match=words):
        restore_superres_to_folder(home / "stack.nii.gz", home / "out", (), SuperResSettings(**settings))
    assert not (home / "out").exists()


def test_stacks_that_are_none(files):
    home, _ = files
    stack, out = read(home / "stack.nii.gz"), home / "out"

    def refused(kind, words, data, grid=stack.grid, views=()):
        write_image(home / "bad.nii.gz", replace(stack, data=data, grid=grid))
        with pytest.raises(kind, match=words):
            restore_superres_to_folder(home / "bad.nii.gz", out, views, SuperResSettings(thickness_mm=5.0))

    broken = stack.data.clone()
    broken[0, 0, 0, 2, 2, 2] = float("nan")
    refused(SettingError, "one slice", stack.data[:, :, :, :1], stack.grid.crop((0, 0, 0), (1, 20, 20)))
    refused(SignalError, "NaN", broken)
    refused(SignalError, "without signal", 0 * stack.data)
    refused(GeometryError, "without orientation", stack.data, replace(stack.grid, frame="detector"),
            [home / "two.nii.gz"])
    refused(InputError, "further apart", stack.data, Grid.from_spacing((6, 20, 20), (2.0, 2.0, 2.0)))
    np.save(home / "raw.npy", np.ones((2, 8, 8), np.complex64))
    for path, words in ((home / "raw.npy", "firstread reconstruct"), (home / "none.nii.gz", "nothing at")):
        with pytest.raises(FirstreadError, match=words):
            restore_superres_to_folder(path, out)
    assert not out.exists()


def test_views_that_do_not_belong(files):
    home, _ = files
    view, settings = read(home / "two.nii.gz"), SuperResSettings(thickness_mm=8.0)

    def refused(kind, words, changed):
        write_image(home / "bad.nii.gz", changed)
        with pytest.raises(kind, match=words):
            restore_superres(home / "stack.nii.gz", [home / "two.nii.gz", home / "bad.nii.gz"], settings)

    far = view.grid.affine.clone()
    far[:, :3, 3] += 900
    refused(GeometryError, "bad.nii.gz, a view that does not cross the stack",
            replace(view, grid=replace(view.grid, affine=far)))
    refused(InputError, "1 frames for a stack of 2", replace(view, data=view.data[:, :1], times_s=None, cycle_s=None))
    refused(SignalError, "without signal", replace(view, data=0 * view.data))
    refused(GeometryError, "without orientation", replace(view, grid=replace(view.grid, frame="detector")))
    with pytest.raises(InputError, match="cubic interpolation"):
        restore_superres(home / "stack.nii.gz", [home / "two.nii.gz"], replace(settings, method="cubic"))


def test_a_header_without_spacing_can_be_told_it(files):
    home, _ = files
    bare = nibabel.Nifti1Image(np.ones((8, 8, 4), np.float32), None)
    nibabel.save(bare, home / "bare.nii.gz")
    with pytest.raises(GeometryError, match="--spacing"):
        restore_superres(home / "bare.nii.gz")
    made = restore_superres(home / "bare.nii.gz", settings=SuperResSettings(spacing_mm=(8.0, 2.0, 2.0)))
    assert made.factor == 4
