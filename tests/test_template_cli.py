"""firstread template: the middle of several heads, transforms that lead to each, one sentence for bad input."""

import json

import pytest
import torch
from typer.testing import CliRunner

from firstread.acquire.head import head_phantom
from firstread.cli import app
from firstread.core.errors import GeometryError, InputError, SettingError
from firstread.core.geometry import Grid, Transform
from firstread.core.records import Image, Rows
from firstread.io.nifti import read, write_image
from firstread.io.transforms import read_all
from firstread.jobs.template import TemplateSettings, template_to_folder
from firstread.jobs.warp import follow
from firstread.ops.rigid import exponential
from firstread.ops.warp import sample_mm, warp


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """One head in three poses, its middle one unturned."""
    folder = tmp_path_factory.mktemp("heads")
    data, _ = head_phantom(seed=0, spacing_mm=6.5)
    grid = Grid.from_spacing(tuple(data.shape), (6.5,) * 3)
    paths = []
    for name, sign in (("minus", -1.0), ("middle", 0.0), ("plus", 1.0)):
        twist = sign * torch.tensor([[0.0, 0.0, 0.2, 6.0, 0.0, 0.0]], dtype=torch.float64)
        seen = warp(data[None, None], grid, Transform(exponential(twist)), grid)
        paths.append(folder / f"{name}.nii.gz")
        write_image(paths[-1], Image(Rows.subjects(1), seen[:, None], grid))
    return paths


def test_the_template_of_one_head_in_three_poses_is_the_head_in_the_middle_pose(heads, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["template", *map(str, heads), "-o", str(out), "--first", "rigid", "--rounds", "1"])
    assert done.exit_code == 0, done.output
    made, middle = read(out / "template.nii.gz"), read(heads[1])
    pair = torch.stack((made.data.flatten(), middle.data.flatten()))
    assert torch.corrcoef(pair)[0, 1] > 0.95
    turn = read_all(out / "transforms" / "plus.h5")[-1].matrix[0]
    assert torch.atan2(turn[0, 1], turn[0, 0]).abs() == pytest.approx(0.2, abs=0.05)
    for path in heads:
        there = follow(read_all(out / "transforms" / path.name.replace(".nii.gz", ".h5")), made.grid.points_mm())
        image = read(path)
        seen = sample_mm(image.data[:, 0], image.grid, there)[0, 0]
        pair = torch.stack((seen.flatten(), made.data.flatten()))
        assert torch.corrcoef(pair)[0, 1] > 0.95
    document = json.loads((out / "template.json").read_text())
    assert list(document["images"]) == ["minus", "middle", "plus"]
    assert all(one["folded_voxels"] == 0 for one in document["images"].values())
    assert (out / "page.html").read_text().count("<img") == 12


def test_bad_input(heads, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="1 image;"):
        template_to_folder(heads[:1], out)
    with pytest.raises(InputError, match="two images named plus"):
        template_to_folder([heads[2], heads[2]], out)
    flat = tmp_path / "flat.nii.gz"
    write_image(flat, Image(Rows.subjects(1), torch.rand(1, 1, 1, 1, 8, 8), Grid.from_spacing((1, 8, 8), (5.0,) * 3)))
    with pytest.raises(GeometryError, match=r"flat\.nii\.gz: a 3D fixed image and a 2D moving one"):
        template_to_folder([heads[0], flat], out)
    series = tmp_path / "series.nii.gz"
    write_image(series, Image(Rows.subjects(1), torch.rand(1, 3, 1, 8, 8, 8), Grid.from_spacing((8, 8, 8), (5.0,) * 3)))
    with pytest.raises(SettingError, match=r"series\.nii\.gz: a moving image of 3 frames"):
        template_to_folder([heads[0], series], out)
    with pytest.raises(InputError, match="nothing at"):
        template_to_folder([heads[0], tmp_path / "none.nii"], out, TemplateSettings(rounds=1))
    assert not out.exists()
