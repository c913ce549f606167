"""Posterior draws down to the numbers: as many values as draws, each its own, repeatable; and through ``read``."""

import json
import math

import pytest
import torch
from small_heart import by_brightness, small_heart, small_scan

from firstread.acquire.heart import heart_subject
from firstread.analyze.consensus import Consensus
from firstread.chains.drawn import draws_note, draws_of
from firstread.core.case import Case
from firstread.core.errors import InputError
from firstread.core.keys import Key
from firstread.io.ismrmrd import write as write_kspace
from firstread.io.nifti import write_image
from firstread.nets.score import CineDenoiser
from firstread.read import Settings, read_to_folder
from firstread.reconstruct.iterative import CGSense
from firstread.reconstruct.posterior import Posterior
from firstread.simulate import encoder


def segmentation():
    return by_brightness().using(reads={"image": "image"}), Consensus().using(reads={"labels": "labels.members"})


@torch.no_grad()
def drawn(count, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sampler = Posterior(network=CineDenoiser(widths=(8, 8)), start=CGSense(iterations=4), levels=2, first=0.3)
    return draws_of(Case({"kspace": small_scan()}, seed=seed), segmentation(), count, sampler=sampler.eval())


def test_every_draw_is_measured_by_itself_and_can_be_repeated():
    four, two = drawn(4), drawn(2)
    values = four["LVEDV"]
    assert len(values) == 4 and len(set(values)) > 1 and all(map(math.isfinite, values))
    assert two["LVEDV"] == pytest.approx(values[:2], rel=1e-5)
    assert drawn(2, seed=1)["LVEDV"] != pytest.approx(values[:2], rel=1e-5)
    assert "RVEDV" not in four or len(four["RVEDV"]) == 4
    assert "lies outside" in draws_note({"LVEF": (50.0, 60.0)}, 2, 48.0).text
    text = draws_note({"LVEF": (50.0, 60.0, math.nan)}, 3, 55.0).text
    assert "outside" not in text
    assert text.startswith("3 images that fit") and "LVEF from 50.0 to 60.0 %" in text


@pytest.mark.parametrize(("case", "count"), [(Case({"image": small_heart()}), 4), (Case({"kspace": small_scan()}), 1)])
def test_images_and_a_single_draw_are_refused(case, count):
    with pytest.raises(InputError, match="expected the raw signal of one subject, and two draws or more"):
        draws_of(case, segmentation(), count)


def test_a_reading_holds_its_draws_where_they_were_asked_for(tmp_path):
    heart = heart_subject(seed=5, family="test", matrix=(64, 64), spacing_mm=3.6, slices=3, frames=2, gap_mm=8.0)
    write_kspace(tmp_path / "scan.h5", encoder(acceleration=2.0, coils=2, snr=40.0)(heart.image, Key(0, "encode")))
    read_to_folder(tmp_path / "scan.h5", tmp_path / "out", Settings(draws=2))
    found = json.loads((tmp_path / "out" / "reading.json").read_text())
    entry = found["phenotypes"]["LVEDV"]["draws"]
    assert len(entry["values"]) == 2 and entry["mean"] == pytest.approx(sum(entry["values"]) / 2, rel=1e-5)
    assert entry["sd"] == pytest.approx(abs(entry["values"][0] - entry["values"][1]) / 2**0.5, rel=1e-4)
    assert "posterior_draws" in {note["code"] for note in found["warnings"]}
    assert found["input"]["stated"] == {"draws": 2}
    write_image(tmp_path / "cine.nii.gz", heart.image.map(lambda t: t.abs() if t.is_complex() else t))
    with pytest.raises(InputError, match="2 draws of the reconstruction of images; expected raw signal"):
        read_to_folder(tmp_path / "cine.nii.gz", tmp_path / "no", Settings(draws=2))
    assert not (tmp_path / "no").exists()
