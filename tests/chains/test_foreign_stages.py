"""Other people's programs as stages of the heart chain: the result flows on, the missing gradient is named."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import blob

from firstread.acquire.coils import GaussianCoils
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import VariableDensity
from firstread.core.case import Case
from firstread.core.errors import GradientError
from firstread.core.records import Image, KSpace, Phenotype, Phenotypes
from firstread.core.stage import Chain
from firstread.core.wrap import wrap
from firstread.reconstruct.iterative import CGSense


def write_cfl(path: Path, data: np.ndarray) -> None:
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, data.shape)) + "\n")
    data.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def encode() -> Encode:
    sampling = VariableDensity(acceleration=2, centre_lines=8)
    return Encode(sampling=sampling, coils=GaussianCoils(count=4), snr=None, keep_sensitivities=True)


@pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed (Debian package bart)")
def test_bart_is_a_stage_that_agrees_with_ours_and_is_named(tmp_path):
    def pics(kspace: KSpace) -> Image:
        frames = []
        for data in kspace.data[0].detach().numpy():
            write_cfl(tmp_path / "y", data.transpose(2, 3, 0, 1)[..., 0][:, :, None])
            write_cfl(tmp_path / "s", kspace.sensitivities[0, 0].numpy().transpose(2, 3, 0, 1)[..., 0][:, :, None])
            subprocess.run(["bart", "pics", "-S", "-l2", "-r", "0.0001", "-i", "50", "y", "s", "x"], cwd=tmp_path,
                           check=True, capture_output=True)
            image = np.fromfile(tmp_path / "x.cfl", np.complex64).reshape(data.shape[2:], order="F")
            frames.append(torch.from_numpy(image.copy()))
        return Image(kspace.rows, torch.stack(frames)[None, :, None, None], kspace.grid)

    def brightness(image: Image) -> Phenotypes:
        return Phenotypes(image.rows, {"mean": Phenotype(image.data.abs().mean(dim=(1, 2, 3, 4, 5)), "1")})

    measure = wrap(brightness, reads=Image, writes=Phenotypes, name="brightness")
    chain = Chain(encode(), wrap(pics, reads=KSpace, writes=Image, name="bart"), measure)
    case = Case({"object": blob()}, seed=1)
    ours = Chain(encode(), CGSense(regularization=1e-4, iterations=50))(case)["reconstruction"].data
    theirs = chain(case)["bart"].data
    assert (ours - theirs).abs().square().sum().sqrt() / ours.abs().square().sum().sqrt() < 0.02
    leaf = case["object"].map(lambda t: t.clone().requires_grad_() if t.is_complex() else t)
    out = Chain(encode(), wrap(pics, reads=KSpace, writes=Image, name="bart"))(Case({"object": leaf}, seed=1))
    with pytest.raises(GradientError, match="bart"):
        out["bart"].data.abs().sum().backward()
