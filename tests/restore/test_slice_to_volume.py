"""Slice-to-volume: known motion is found, spoilt slices are left out, formulas, files, bad input."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from firstread import cli
from firstread.acquire.head import head_phantom
from firstread.acquire.head_stacks import MILD, Motion, Protocol, acquire_stacks, mask_on
from firstread.core.errors import GeometryError, InputError, SettingError, SignalError
from firstread.core.records import HardLabels, Image, Rows
from firstread.io.nifti import read, write_image
from firstread.jobs.restore import SliceSettings, restore_slices_to_folder
from firstread.ops.rigid import exponential
from firstread.recipes.slices_scores import pose_error, slice_points
from firstread.restore.slices import SliceToVolume
from firstread.restore.slices_field import Field, FieldSettings, mean_features, profile_damping
from firstread.restore.slices_input import cut_slices, join_stacks
from firstread.restore.slices_loop import begin
from firstread.restore.slices_patches import cut_patches
from firstread.restore.slices_robust import Outliers, slice_potentials, slice_weights

SPACING_MM = 2.0
HEAD, BRAIN = head_phantom(seed=1, spacing_mm=SPACING_MM)
COARSE = Protocol(stacks=2, thickness_mm=8.0, gap_mm=0.0, pixel_mm=6.0, drop_outs=0.0, outliers=0.0)


def mask_of(stacks) -> HardLabels:
    grid, middle = stacks.images[0].grid, stacks.images[0].grid.shape[0] // 2
    inside = mask_on(BRAIN, SPACING_MM, grid, stacks.poses[middle:middle + 1])
    return HardLabels(Rows.subjects(1), inside[None, None, None].to(torch.uint8), grid, ("background", "brain"))


def run(monkeypatch, *arguments) -> int:
    """The command line in this process: its exit code."""
    monkeypatch.setattr("sys.argv", ["firstread", "restore", "slices", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


@pytest.fixture(scope="module")
def moved():
    """Three stacks, three of whose slices are spoilt."""
    motion = Motion(drift_mm=0.8, drift_deg=1.5, jump_mm=0.8, jump_deg=1.5, between_mm=1.5, between_deg=2.5)
    protocol = Protocol(stacks=3, thickness_mm=5.0, gap_mm=0.0, pixel_mm=3.0, drop_outs=0.0, outliers=0.06, bias=0.05)
    return acquire_stacks(HEAD, SPACING_MM, motion=motion, protocol=protocol, seed=0)


@pytest.fixture(scope="module")
def made(moved):
    return SliceToVolume(resolution_mm=3.0)(join_stacks(moved.images), mask_of(moved))


@pytest.fixture(scope="module")
def coarse():
    return acquire_stacks(HEAD, SPACING_MM, motion=MILD, protocol=COARSE)


@pytest.fixture
def files(coarse, tmp_path):
    """Two stacks and a mask as files."""
    for number, image in enumerate(coarse.images):
        write_image(tmp_path / f"s{number}.nii.gz", image)
    mask = mask_of(coarse)
    write_image(tmp_path / "mask.nii.gz", Image(mask.rows, mask.data.float(), mask.grid))
    return tmp_path


def test_known_motion_is_found(moved, made):
    points, good = slice_points([image.grid for image in moved.images]), torch.tensor([f == "" for f in moved.faults])
    seen = good & torch.tensor([state != "outside" for state in made.states])
    before = pose_error(torch.eye(4).double().repeat(len(good), 1, 1), moved.poses, points, seen)
    after = pose_error(made.poses[0], moved.poses, points, seen)
    assert after.mean_mm < 0.5 * before.mean_mm and after.mean_deg < 0.6 * before.mean_deg


def test_spoilt_slices_are_left_out_with_a_reason(moved, made):
    count = moved.images[0].grid.shape[0]
    inside = torch.cat([mask_on(BRAIN, SPACING_MM, image.grid, moved.poses[k * count:(k + 1) * count])
                        for k, image in enumerate(moved.images)]).sum(dim=(1, 2))
    spoilt = {i for i, fault in enumerate(moved.faults) if fault}
    excluded = {i for i, state in enumerate(made.states) if state == "excluded"}
    plain = {i for i in spoilt if inside[i] > 60}
    assert len(plain) >= 2 and plain <= excluded <= spoilt
    assert all("does not fit" in made.reasons[i] for i in excluded)


def test_without_robust_statistics_all_count(coarse):
    stage = SliceToVolume(resolution_mm=6.0, iterations=1, robust=False)
    volume = stage(join_stacks(coarse.images), mask_of(coarse))
    assert "excluded" not in volume.states


def test_weights_of_pixels_are_posterior_probabilities():
    error = torch.tensor([0.0, 1.0, -8.0])
    outliers = Outliers(variance=1.0, density=0.01, inliers=0.8)
    gauss = torch.exp(-error**2 / 2) / np.sqrt(2 * np.pi)
    torch.testing.assert_close(outliers.weights(error), gauss * 0.8 / (gauss * 0.8 + 0.01 * 0.2))
    updated = outliers.updated(error, torch.tensor([1.0, 1.0, 0.0]), torch.ones(3))
    assert updated.variance == pytest.approx(0.5) and updated.inliers == pytest.approx(2 / 3)


def test_potentials_and_classes_of_slices():
    weights, which = torch.tensor([1.0, 0.0, 0.5, 0.5]), torch.tensor([0, 0, 1, 1])
    potentials = slice_potentials(weights, torch.ones(4), which, 3)
    torch.testing.assert_close(potentials, torch.tensor([0.5**0.5, 0.5, torch.nan]), equal_nan=True)
    assert slice_weights(torch.tensor([0.10, 0.11, 0.12, 0.13])).tolist() == [1, 1, 1, 1]  # one class alone


def test_patches_share_their_pixels(coarse):
    stacks = join_stacks(coarse.images)
    whole = torch.ones(20, 20, 20, dtype=torch.bool)
    still = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    slices = cut_slices(stacks, still[0], whole, 6.0, still)
    fit = begin(slices, still[slices.stack], whole, 6.0)
    patches, parts = cut_patches(slices, fit, 50.0)
    assert len(patches) > 2 * len(slices)
    total = torch.zeros(len(slices)).index_add(0, patches.parent, parts.pixel_weights.sum(dim=(1, 2)))
    wanted = fit.pixel_weights.sum(dim=(1, 2))
    full = wanted > 100
    torch.testing.assert_close(total[full], wanted[full], rtol=0.1, atol=0.0)
    k = len(patches) // 2
    own = slices.points()[patches.parent[k]].flatten(0, 1)
    near = (patches.points()[k].flatten(0, 1)[:, None] - own).norm(dim=-1).amin(dim=1)
    assert near.max() < 1e-3  # a patch lies on its slice


def test_patches_give_the_same_volume_of_what_is_rigid(coarse):
    stacks, mask = join_stacks(coarse.images), mask_of(coarse)
    plain = SliceToVolume(resolution_mm=6.0, iterations=2)(stacks, mask)
    patches = SliceToVolume(resolution_mm=6.0, iterations=2, patch_mm=60)(stacks, mask)
    assert patches.grid.shape == plain.grid.shape and len(patches.reasons) == len(plain.reasons)
    inside = plain.region > 0
    assert torch.corrcoef(torch.stack((plain.data[inside], patches.data[inside])))[0, 1] > 0.8


def test_mean_features_are_those_of_a_gaussian():
    """Against a million draws of the slice profile."""
    b, normal = torch.tensor([[0.05, 0.1, -0.08]]), torch.tensor([[0.0, 0.6, 0.8]])
    sigma, r = torch.tensor([[0.5, 1.5]]), torch.tensor([[3.0, -2.0, 1.0]])
    draws = torch.randn(1_000_000, 3, generator=torch.Generator().manual_seed(0))
    along = draws @ normal[0]
    draws = sigma[0, 0] * draws + (sigma[0, 1] - sigma[0, 0]) * along[:, None] * normal
    phase = 2 * torch.pi * (r + draws) @ b[0]
    made = mean_features(r, b, profile_damping(b, normal, sigma))
    torch.testing.assert_close(made[0], torch.stack((torch.sin(phase).mean(), torch.cos(phase).mean())), atol=2e-3,
                               rtol=0)


def test_a_field_learns_what_it_is_shown():
    field = Field(settings=FieldSettings(frequencies=32, width=16))
    points = 20 * torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) - 10
    wanted, one = torch.sin(points[:, 0] / 4), torch.ones(1, 32)
    optimizer = torch.optim.Adam(field.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        (field(points, one) - wanted).square().mean().backward()
        optimizer.step()
    assert (field(points, one) - wanted).square().mean() < 0.02


def test_turning_scanner_and_all_turns_the_volume(coarse):
    """Stacks and mask in another frame: the same numbers, the grid turned with them."""
    turn = exponential(torch.tensor([0.4, -0.3, 0.2, 15.0, -8.0, 30.0], dtype=torch.float64))
    stacks, mask = join_stacks(coarse.images), mask_of(coarse)
    stage = SliceToVolume(resolution_mm=6.0, iterations=1)
    here = stage(stacks, mask)
    there = stage(replace(stacks, grid=replace(stacks.grid, affine=turn @ stacks.grid.affine)),
                  replace(mask, grid=replace(mask.grid, affine=turn @ mask.grid.affine)))
    torch.testing.assert_close(there.grid.affine, turn @ here.grid.affine)
    torch.testing.assert_close(there.data, here.data, rtol=0, atol=0.03 * float(here.data.max()))


def test_command_line_writes_volume_table_and_page(files, monkeypatch):
    out = files / "out"
    stacks = [files / f"s{k}.nii.gz" for k in (0, 1)]
    assert run(monkeypatch, *stacks, "--mask", files / "mask.nii.gz", "--resolution-mm", 6, "--iterations", 1,
               "-o", out) == 0
    assert sorted(p.name for p in out.iterdir()) == ["page.html", "slices.json", "volume.nii.gz"]
    document = json.loads((out / "slices.json").read_text(encoding="utf-8"))
    entries = [s for stack in document["stacks"] for s in stack["slices"]]
    assert document["used"] + document["excluded"] + document["outside"] == len(entries) == 26
    assert all((s["reason"] == "") == (s["state"] == "used") for s in entries)
    volume = nibabel.load(out / "volume.nii.gz")
    assert volume.shape == tuple(document["volume"]["shape_zyx"][::-1])
    wanted = read(out / "volume.nii.gz").grid.affine[0]
    np.testing.assert_allclose(wanted, document["volume"]["affine_lps"], atol=1e-4)
    page = (out / "page.html").read_text(encoding="utf-8")
    assert "Not for clinical use" in page and "http" not in page.replace("http-equiv", "")


@pytest.fixture
def refused(files, monkeypatch, capsys):
    """The one sentence of a refusal; nothing is written."""
    def sentence(*arguments) -> str:
        before = sorted(files.iterdir())
        assert run(monkeypatch, *arguments, "--resolution-mm", 6, "-o", files / "out") == 2
        assert sorted(files.iterdir()) == before
        said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("opening", "  "))]
        assert len(said) == 1, said
        return said[0]

    return sentence


def test_one_stack_is_refused(files, refused):
    assert "1 stack" in refused(files / "s0.nii.gz")


def test_four_dimensions_are_refused(files, refused):
    image = nibabel.load(files / "s0.nii.gz")
    data = np.repeat(image.get_fdata(dtype=np.float32)[..., None], 3, axis=3)
    nibabel.save(nibabel.Nifti1Image(data, image.affine), files / "four.nii.gz")
    assert "4D" in refused(files / "s0.nii.gz", files / "four.nii.gz")


def test_an_empty_mask_is_refused(files, refused):
    image = nibabel.load(files / "mask.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), files / "none.nii.gz")
    assert "empty mask" in refused(files / "s0.nii.gz", files / "s1.nii.gz", "--mask", files / "none.nii.gz")


@pytest.mark.parametrize("masked", [False, True])
def test_stacks_apart_are_refused(masked, files, refused):
    image = nibabel.load(files / "s1.nii.gz")
    affine = image.affine.copy()
    affine[:3, 3] += 500
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), affine), files / "far.nii.gz")
    mask = ["--mask", files / "mask.nii.gz"] if masked else []
    assert "does not overlap" in refused(files / "s0.nii.gz", files / "far.nii.gz", *mask)


def test_interrupted_nothing_is_half_written(files):
    def stop(text: str) -> None:
        if "single slices" in text:
            raise KeyboardInterrupt

    before = sorted(files.iterdir())
    with pytest.raises(KeyboardInterrupt):
        restore_slices_to_folder([files / "s0.nii.gz", files / "s1.nii.gz"], files / "out",
                                 settings=SliceSettings(resolution_mm=6.0), progress=stop)
    assert sorted(files.iterdir()) == before


@pytest.mark.parametrize("setting", [{"resolution_mm": 0.0}, {"iterations": 0}, {"patch_mm": -1.0},
                                     {"regularization": 0.0}])
def test_settings_that_make_no_sense(setting):
    with pytest.raises(SettingError):
        SliceToVolume(**setting)


def test_records_that_make_no_sense(coarse):
    image, mask = coarse.images[0], mask_of(coarse)
    stage = SliceToVolume(resolution_mm=6.0)
    with pytest.raises(InputError, match="one stack"):
        stage(image, mask)
    with pytest.raises(SignalError, match="same everywhere"):
        stage(join_stacks([image, replace(image, data=torch.ones_like(image.data))]), mask)
    with pytest.raises(GeometryError, match="4 slices"):
        join_stacks([image, Image(image.rows, image.data[:, :, :, :2], image.grid.crop((0, 0, 0), (2, 16, 16)))])
