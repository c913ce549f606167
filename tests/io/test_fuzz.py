"""Damaged files: whatever bytes change, only a FirstreadError comes out and little memory is taken."""

import tracemalloc

import numpy as np
import pydicom
import pytest
import torch
from dicom_files import Cine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from raw_files import kspace_of
from test_dicom_enhanced import enhanced
from test_rawdata import write_bart, write_fastmri

from firstread.core.errors import FirstreadError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.io import ismrmrd, nifti
from firstread.io.open import read

SYNTAXES = {"dicom": pydicom.uid.ExplicitVRLittleEndian, "implicit": pydicom.uid.ImplicitVRLittleEndian,
            "rle": pydicom.uid.RLELossless, "j2k": pydicom.uid.JPEG2000Lossless, "jpegls": pydicom.uid.JPEGLSLossless}
FORMATS = [*SYNTAXES, "enhanced", "nii", "nii.gz", "ismrmrd", "fastmri", "npy", "bart", "png", "jpg"]


@pytest.fixture(scope="module", params=FORMATS)
def small(request, tmp_path_factory):
    """(a small valid file, the arguments to read it with)."""
    folder, name = tmp_path_factory.mktemp("fuzz"), request.param
    if name in SYNTAXES:
        return Cine(phases=1, slices=1, shape=(33, 40), syntax=SYNTAXES[name]).write(folder)[0], {}
    if name == "enhanced":
        return enhanced(folder / "e.dcm", Cine(phases=2, slices=2))[0], {}
    if name.startswith("nii"):
        grid = Grid.from_spacing((3, 4, 5), (8.0, 1.0, 1.0))
        nifti.write_image(folder / f"i.{name}", Image(Rows.subjects(1), torch.rand(1, 2, 1, 3, 4, 5), grid))
        return folder / f"i.{name}", {}
    if name == "ismrmrd":
        ismrmrd.write(folder / "k.h5", kspace_of(frames=2, coils=2, slices=2, shape=(6, 8), keep=0.7))
        return folder / "k.h5", {}
    if name == "fastmri":
        data = np.ones((2, 2, 8, 9), np.complex64)
        return write_fastmri(folder / "f.h5", data, encoded=(8, 9), kept=(4, 8)), {}
    if name == "npy":
        np.save(folder / "a.npy", np.ones((2, 3, 4), np.complex64))
        return folder / "a.npy", {"axes": "coil,y,x"}
    if name == "bart":
        write_bart(folder / "b", np.ones((4, 3, 1, 2)))
        return folder / "b.hdr", {}
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Pillow.fromarray(pixels).save(folder / f"p.{name}")
    return folder / f"p.{name}", {}


changes = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.one_of(
    st.binary(min_size=1, max_size=4), st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b""]))),
    min_size=1, max_size=6)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=changes, header_only=st.booleans(), kept=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_only_our_errors_come_out(small, changes, header_only, kept):
    path, options = small
    stored = bytearray(path.read_bytes())
    for place, piece in changes:
        at = int(place * (min(len(stored), 1500) if header_only else len(stored)))
        stored[at:at + max(1, len(piece))] = piece
    damaged = path.with_name(f"damaged{path.suffix}")
    damaged.write_bytes(stored[: int(len(stored) * kept)])
    if path.suffix == ".hdr":
        damaged.with_suffix(".cfl").write_bytes(path.with_suffix(".cfl").read_bytes())
    tracemalloc.start()
    try:
        assert len(read(damaged, **options).case) == 1
    except FirstreadError as error:
        assert error.got and error.expected and error.remedy and "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 400e6
