"""firstread restore denoise, gibbs, bias and slices: files out, and one sentence for bad input."""

import json
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from firstread.cli import app
from firstread.core.errors import InputError, OutputError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.io.dicom.mr import write_mr
from firstread.io.nifti import read, write_image
from firstread.io.scan import Scan
from firstread.jobs.restore import SliceSettings, restore_slices, restore_slices_to_folder
from firstread.jobs.restore_image import restore_image_to_folder
from firstread.report.restored import panels
from firstread.zoo.store import load


@pytest.fixture
def scan(tmp_path):
    """Two frames of a disc with noise and shading; its file."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    disc = 0.1 + ((y - 15)**2 + (x - 17)**2 < 90) * (1 + 0.02 * x)
    frames = torch.stack((disc, 0.8 * disc))[None, :, None, None].expand(1, 2, 1, 3, 32, 32)
    noisy = (frames + 0.05 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))).abs()
    path = tmp_path / "scan.nii.gz"
    write_image(path, Image(Rows.subjects(1), noisy, Grid.from_spacing((3, 32, 32), (8.0, 1.5, 1.5))))
    return path


@pytest.mark.parametrize("words", [["denoise"], ["denoise", "--method", "pca"], ["denoise", "--noise", "0.05"],
                                   ["denoise", "--rician"], ["denoise", "--method", "network"], ["gibbs"],
                                   ["bias"]], ids=" ".join)
def test_files_come_out(scan, tmp_path, words):
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["restore", words[0], str(scan), "-o", str(out), *words[1:]])
    assert done.exit_code == 0, done.output
    before, after = read(scan), read(out / "image.nii.gz")
    assert after.data.shape == before.data.shape and after.grid.same_as(before.grid)
    document = json.loads((out / "restore.json").read_text())
    assert document["schema"] == "firstread.restore/1" and 0 < document["removed"] < 1
    changed = (after.data - before.data).square().mean().sqrt() / before.data.square().mean().sqrt()
    assert document["removed"] == pytest.approx(float(changed), rel=0.02, abs=2e-5)
    text = (out / "page.html").read_text()
    assert text.count("<img") == 9 and "http" not in text.replace("http-equiv", "")


def test_the_page_of_a_bias_field_shows_the_factor(tmp_path):
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    body = 0.02 + ((y - 15)**2 + (x - 17)**2 < 150) * (1.0 + 0.3 * ((x // 4 + y // 4) % 2))
    shaded = (body * torch.exp((x - 16) / 40))[None, None, None, None].expand(1, 1, 1, 3, 32, 32)
    grid = Grid.from_spacing((3, 32, 32), (8.0, 1.5, 1.5))
    write_image(tmp_path / "shaded.nii.gz", Image(Rows.subjects(1), shaded.contiguous(), grid))
    made = restore_image_to_folder(tmp_path / "shaded.nii.gz", tmp_path / "out", "bias")
    page = (tmp_path / "out" / "page.html").read_text()
    assert made.divided and "what the image was divided by" in page and "Taken away" not in page
    factor = (made.before.data / made.after.data)[0, 0, 0]
    (reach,) = {row["reach"] for row in panels(made)}
    assert 1 < reach <= float(torch.maximum(factor, 1 / factor).max()) * (1 + 1e-4)
    assert "Taken away" in page_of(tmp_path)


def page_of(folder):
    restore_image_to_folder(folder / "shaded.nii.gz", folder / "gibbs", "gibbs")
    return (folder / "gibbs" / "page.html").read_text()


def test_weights_of_other_networks_are_refused(scan, tmp_path):
    with pytest.raises(InputError, match="no network of denoising"):
        restore_image_to_folder(scan, tmp_path / "out", "denoise", method="network", weight="varnet")
    net = load("denoise")
    save_file({name: tensor.contiguous() for name, tensor in net.state.items()}, tmp_path / "mine.safetensors")
    with pytest.raises(InputError, match="card"):
        restore_image_to_folder(scan, tmp_path / "out", "denoise", method="network",
                                weight=tmp_path / "mine.safetensors")
    with pytest.raises(InputError, match="a weight for tv"):
        restore_image_to_folder(scan, tmp_path / "out", "denoise", weight=tmp_path / "mine.safetensors")
    with pytest.raises(InputError, match="noise level of nan"):
        restore_image_to_folder(scan, tmp_path / "out", "denoise", noise=float("nan"))
    assert not (tmp_path / "out").exists()


def test_stacks_that_cannot_be_one_volume(tmp_path):
    data = torch.rand(1, 1, 1, 6, 12, 12, generator=torch.Generator().manual_seed(0))
    grid = Grid.from_spacing((6, 12, 12), (4.0, 2.0, 2.0))
    for name, changed in (("one", grid), ("bare", replace(grid, frame="detector"))):
        write_image(tmp_path / f"{name}.nii.gz", Image(Rows.subjects(1), data, changed))
    one, out = tmp_path / "one.nii.gz", tmp_path / "out"
    with pytest.raises(InputError, match="1 and 2, which are the same file"):
        restore_slices_to_folder([one, one], out)
    with pytest.raises(InputError, match="whose header states no orientation"):
        restore_slices_to_folder([one, tmp_path / "bare.nii.gz"], out)
    with pytest.raises(InputError, match="thickness of nan"):
        restore_slices_to_folder([one, one], out, settings=SliceSettings(thickness_mm=float("nan")))
    assert not out.exists()


def test_the_series_of_one_dicom_folder_are_stacks(tmp_path):
    exam, uids = tmp_path / "exam", []
    for number, order in enumerate(((0, 1, 2), (1, 0, 2))):
        data = torch.rand(1, 1, 1, 6, 12, 12, generator=torch.Generator().manual_seed(number))
        grid = Grid.from_spacing((6, 12, 12), (4.0, 2.0, 2.0))
        part = exam / str(number)
        part.mkdir(parents=True)
        turned = Image(Rows.subjects(1), data, replace(grid, affine=grid.permute(order).affine))
        path = write_mr(turned, Scan(study_uid="1.2.3", frame_uid="1.2.4"), part, method="x")[0]
        uids.append(str(pydicom.dcmread(path).SeriesInstanceUID))
    settings = SliceSettings(resolution_mm=4.0, iterations=1, bias=False)
    stacks = restore_slices([exam], None, settings, series=uids).case["stacks"].grid.affine
    assert len(stacks) == 2 and not torch.allclose(stacks[0], stacks[1])
    with pytest.raises(InputError, match="1 and 2, which are the same series"):
        restore_slices([exam], None, settings, series=[uids[0], uids[0]])
    with pytest.raises(InputError, match="--series with 2 stacks"):
        restore_slices([exam, exam], None, settings, series=uids)
    with pytest.raises(InputError, match="2 series in one folder"):
        restore_slices([exam], None, settings)


def test_bad_input(scan, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="'magic'"):
        restore_image_to_folder(scan, out, "denoise", method="magic")
    with pytest.raises(InputError, match="noise level for pca"):
        restore_image_to_folder(scan, out, "denoise", method="pca", noise=0.1)
    with pytest.raises(InputError, match="nothing at"):
        restore_image_to_folder(tmp_path / "none.nii", out, "gibbs")
    with pytest.raises(InputError, match="learned it"):
        restore_image_to_folder(scan, out, "denoise", method="network", rician=True)
    with pytest.raises(InputError, match="no weight"):
        restore_image_to_folder(scan, out, "denoise", method="network", weight="nobody")
    with pytest.raises(InputError, match="no 3D image"):
        restore_image_to_folder(scan, out, "bias", mask=scan)
    write_image(tmp_path / "zeros.nii.gz", replace(read(scan), data=torch.zeros_like(read(scan).data)))
    with pytest.raises(SignalError, match="without signal"):
        restore_image_to_folder(tmp_path / "zeros.nii.gz", out, "denoise")
    raw = tmp_path / "raw.npy"
    np.save(raw, np.ones((2, 8, 8), np.complex64))
    with pytest.raises(InputError, match="firstread reconstruct"):
        restore_image_to_folder(raw, out, "gibbs")
    assert not out.exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("mine")
    with pytest.raises(OutputError, match="other files"):
        restore_image_to_folder(scan, tmp_path / "other", "gibbs")
