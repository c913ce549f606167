"""Sampling patterns as files: what is written reads back exactly, here and in BART."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import blob

from firstread.acquire.mri import Encode
from firstread.acquire.sampling import LearnedMask, StoredMask
from firstread.acquire.schedule import triggered_scan
from firstread.core.errors import FirstreadError, FormatError, InputError
from firstread.core.keys import Key
from firstread.io import ismrmrd, pattern
from firstread.io.open import read as open_file

ENDINGS = ("json", "cfl", "h5")
BART, TOOL = shutil.which("bart"), shutil.which("ismrmrd_info")


def _mask(frames: int = 3, lines: int = 24, count: int = 8, seed: int = 0) -> torch.Tensor:
    order = torch.rand(frames, lines, generator=torch.Generator().manual_seed(seed)).argsort(dim=1)
    return torch.zeros(frames, lines).scatter_(1, order[:, :count], 1.0)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.integers(1, 6), lines=st.integers(1, 40), seed=st.integers(0, 99), ending=st.sampled_from(ENDINGS),
       data=st.data())
def test_patterns_come_back(tmp_path, frames, lines, seed, ending, data):
    mask = _mask(frames, lines, data.draw(st.integers(1, lines)), seed)
    pattern.write(tmp_path / f"p.{ending}", mask)
    assert torch.equal(pattern.read(tmp_path / f"p.{ending}").mask, mask.bool())


@pytest.mark.parametrize("ending", ["json", "h5"])
def test_the_order_of_measurement_comes_back(tmp_path, ending):
    scan = triggered_scan(_mask(), [0.8, 0.3, 0.8], tr_s=0.05, views=4)
    pattern.write(tmp_path / f"p.{ending}", scan.mask, order=scan.order)
    again = pattern.read(tmp_path / f"p.{ending}")
    assert torch.equal(again.order, scan.order) and torch.equal(again.mask, scan.mask.bool())


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_learned_mask_scans_from_its_file_as_it_did(tmp_path, ending):
    learned = LearnedMask(lines=24, count=8, centre_lines=2, frames=3, start=_mask())
    torch.nn.init.normal_(learned.logits, generator=torch.Generator().manual_seed(3))
    pattern.write(tmp_path / f"p.{ending}", learned(3, 24, torch.Generator()))
    stored = StoredMask(mask=pattern.read(tmp_path / f"p.{ending}").mask)
    one, other = (Encode(sampling=sampling)(blob(), Key(0, "encode")) for sampling in (learned, stored))
    assert torch.equal(one.data, other.data) and torch.equal(one.mask, other.mask)


def test_the_ismrmrd_pattern_opens_as_raw_data_of_the_same_mask(tmp_path):
    pattern.write(tmp_path / "p.h5", _mask(), samples=6)
    opened = open_file(tmp_path / "p.h5")
    kspace = opened.case["kspace"]
    assert opened.kind == "ISMRMRD" and kspace.data.shape == (1, 3, 1, 1, 24, 6)
    assert torch.equal(kspace.mask[0, :, 0, 0, :, 0], _mask().bool())


def test_the_pattern_of_a_scan_is_read_from_its_raw_data(tmp_path):
    mask = _mask(count=10)
    mask[:, 10:14] = 1
    ismrmrd.write(tmp_path / "k.h5", Encode(sampling=StoredMask(mask=mask))(blob(), Key(0, "encode")))
    assert torch.equal(pattern.read(tmp_path / "k.h5").mask, mask.bool())


@pytest.mark.skipif(not TOOL, reason="ismrmrd-tools are not installed")
def test_ismrmrd_tools_read_the_pattern(tmp_path):
    pattern.write(tmp_path / "p.h5", _mask())
    said = subprocess.run([TOOL, tmp_path / "p.h5"], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0


@pytest.mark.skipif(not BART, reason="bart is not on the path")
def test_bart_applies_the_pattern(tmp_path):
    mask = _mask()
    pattern.write(tmp_path / "p.cfl", mask)

    def bart(*words: str) -> None:
        subprocess.run([BART, *words], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    kspace = (np.random.default_rng(0).standard_normal((6, 24, 1, 2, 1, 1, 1, 1, 1, 1, 3)) + 1j).astype("<c8")
    (tmp_path / "k.hdr").write_text("# Dimensions\n6 24 1 2 1 1 1 1 1 1 3 1 1 1 1 1\n")
    kspace.flatten(order="F").tofile(tmp_path / "k.cfl")
    bart("fmac", "k", "p", "measured")
    bart("pattern", "measured", "again")
    assert torch.equal(pattern.read(tmp_path / "again.cfl").mask, mask.bool())


def _json(tmp_path, **changed):
    content = {"firstread": "lines", "lines": 4, "frames": [[0, 1]], "order": None} | changed
    path = tmp_path / "p.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("changed", [
    {"frames": [[0, 4]]}, {"frames": [[0, 0]]}, {"frames": [[0.5]]}, {"frames": [[]]}, {"frames": []}, {"lines": "x"},
    {"lines": 10**9}, {"firstread": "else"}, {"order": [[0, 0, 0]]}, {"order": [[0, 0]]}, {"frames": 3}, {"order": {}}])
def test_refuses_json_that_is_no_pattern(tmp_path, changed):
    with pytest.raises(FormatError) as caught:
        pattern.read(_json(tmp_path, **changed))
    assert str(caught.value).count("\n") == 0


def test_refuses_other_files_in_one_sentence(tmp_path):
    (tmp_path / "text.json").write_text("not json")
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "h.h5").write_bytes(b"no hdf5")
    for name in ("text.json", "list.json", "h.h5", "absent.json"):
        with pytest.raises(FirstreadError):
            pattern.read(tmp_path / name)
    with pytest.raises(InputError, match="ends in"):
        pattern.write(tmp_path / "p.txt", _mask())
    with pytest.raises(FormatError, match="0 and 1"):
        pattern.write(tmp_path / "p.json", 0.5 * _mask())
    with pytest.raises(FormatError, match="frame 1"):
        pattern.write(tmp_path / "p.json", torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


@pytest.mark.parametrize("value", [0.5, 2.0, 1j])
def test_refuses_bart_files_that_are_not_binary(tmp_path, value):
    pattern.write(tmp_path / "p.cfl", _mask())
    stored = np.fromfile(tmp_path / "p.cfl", dtype="<c8")
    stored[3] = value
    stored.tofile(tmp_path / "p.cfl")
    with pytest.raises(FormatError, match="binary"):
        pattern.read(tmp_path / "p.cfl")
