"""firstread restore denoise, gibbs and bias: files out, and one sentence for bad input."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from firstread.cli import app
from firstread.core.errors import FirstreadError, InputError, OutputError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.io.nifti import read, write_image
from firstread.jobs.restore_image import restore_image_to_folder


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
    raw = tmp_path / "raw.npy"
    np.save(raw, np.ones((2, 8, 8), np.complex64))
    with pytest.raises(FirstreadError):
        restore_image_to_folder(raw, out, "gibbs")
    assert not out.exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("mine")
    with pytest.raises(OutputError, match="other files"):
        restore_image_to_folder(scan, tmp_path / "other", "gibbs")
