"""The tag walker: it answers as pydicom reads, or not at all."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import Cine

from firstread.io.dicom import pixels
from firstread.io.dicom.files import find_images
from firstread.io.dicom.head import Head, HeadReader
from firstread.io.dicom.read import person_of
from firstread.io.dicom.series import series_in
from firstread.io.open import read

_spec = importlib.util.spec_from_file_location("dicom_fuzz", Path(__file__).parents[2] / "bench" / "dicom_fuzz.py")
fuzz = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz)

SYNTAXES = (pydicom.uid.ImplicitVRLittleEndian, pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.RLELossless,
            pydicom.uid.JPEG2000Lossless)


def head_of(stored: bytes):
    return HeadReader().read(lambda count, offset: stored[offset:offset + count], len(stored))


def stored_file(folder, syntax=pydicom.uid.ExplicitVRLittleEndian) -> bytes:
    return Cine(phases=1, slices=1, shape=(33, 40), syntax=syntax).write(folder)[0].read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_read_as_pydicom_reads_them():
    found = [fuzz.compare(7, number) for number in range(2500)]
    assert [differs for _, differs in found if differs] == []
    assert 400 < sum(answered for answered, _ in found) < 2000


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_plain_files_are_answered_and_a_difference_is_seen(tmp_path, syntax):
    stored = stored_file(tmp_path, syntax)
    head = head_of(stored)
    assert head is not None and fuzz.difference(head, stored) is None
    other = replace(head, values={**head.values, "Rows": b"\x0d\0"})
    assert fuzz.difference(other, stored) == "value of Rows"
    moved = replace(head, pixels=((head.pixels[0][0] + 1, head.pixels[0][1]),))
    assert fuzz.difference(moved, stored) == "pixels"


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_cut_off_and_lengthened_files_are_declined(tmp_path, syntax):
    stored = stored_file(tmp_path, syntax)
    assert all(head_of(stored[:-cut]) is None for cut in (1, 8, 60, len(stored) - 140))
    assert head_of(stored + bytes(2)) is None


def test_repeated_and_disordered_elements_are_declined(tmp_path):
    path = Cine(phases=1, slices=1).write(tmp_path)[0]
    stored = path.read_bytes()
    rows = stored.index(b"\x28\0\x10\0US")
    assert head_of(stored[:rows] + stored[rows:rows + 10] + stored[rows:]) is None
    assert head_of(stored[:rows] + stored[rows + 10:rows + 20] + stored[rows:rows + 10] + stored[rows + 20:]) is None


def test_an_attribute_that_is_not_kept_is_an_error(tmp_path):
    with pytest.raises(KeyError):
        head_of(stored_file(tmp_path)).value("PatientBirthDate")


@pytest.mark.parametrize("syntax", [*SYNTAXES, pydicom.uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("split", [False, True])
def test_a_series_is_the_same_with_the_walker(tmp_path, syntax, split):
    Cine(split=split, shape=(33, 40), syntax=syntax).write(tmp_path)
    one, two = (series_in(find_images(tmp_path, walker=walker).images)[0] for walker in (HeadReader(), None))
    assert isinstance(one.headers[0], Head) == (syntax in SYNTAXES)
    for name in ("study_uid", "uids", "number", "description", "modality", "reference_uid", "kind", "broken"):
        assert getattr(one, name) == getattr(two, name)
    for ours, theirs in zip(one.frames, two.frames, strict=True):
        np.testing.assert_array_equal(ours.affine, theirs.affine)
        whole = replace(theirs.storage, fragments=ours.storage.fragments)  # pydicom's are looked up for RLE alone
        assert replace(ours, affine=None) == replace(theirs, affine=None, storage=whole)
    loaded = [pixels.load(series.frames, []) for series in (one, two)]
    np.testing.assert_array_equal(*loaded)
    assert person_of(one.headers[0], identify=True) == person_of(two.headers[0], identify=True)


def test_processes_decode_in_the_order_of_the_files(tmp_path, monkeypatch):
    cine = Cine(phases=2, shape=(33, 40), syntax=pydicom.uid.JPEG2000Lossless)
    cine.write(tmp_path)
    monkeypatch.setattr(pixels, "_WORTH", 2)
    monkeypatch.setattr(pixels.os, "cpu_count", lambda: 2)
    np.testing.assert_array_equal(read(tmp_path).case["image"].data[0, :, 0].numpy(), cine.pixels())
