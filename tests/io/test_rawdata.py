import shutil
import subprocess

import h5py
import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from raw_files import centred_image, centred_kspace, kspace_of, point_kspace

from firstread.core.errors import FormatError, InputError, SignalError, UnsupportedError
from firstread.io import mrd_layout
from firstread.io.mrd_encode import acquisitions_of
from firstread.io.open import read


def write_fastmri(path, data, *, mask=None, encoded=None, kept=None, patient="1234"):
    """As fastMRI stores it: kspace [slice, coil, row, column], header with rows along its x."""
    with h5py.File(path, "w") as file:
        file["kspace"] = data
        file.attrs["patient_id"] = patient
        if mask is not None:
            file["mask"] = mask
        if encoded is not None:
            one = kspace_of(frames=1, coils=1, slices=1, shape=encoded[::-1], keep=1.0)
            header, _, _ = acquisitions_of(one)
            header = mrd_layout.Header(header.encoded, header.encoded_mm, (*kept, 1), (
                kept[0] * 1.2, kept[1] * 1.5, 5.0), header.centre, header.person, ())
            file["ismrmrd_header"] = mrd_layout.header_xml(header, coils=1, frames=1, slices=1)
    return path


def write_bart(base, array):
    """``array`` in BART's order of axes, first axis fastest."""
    array = np.asarray(array, dtype=np.complex64)
    base.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, (*array.shape, *[1] * (16 - array.ndim))))
                                        + "\n")
    base.with_suffix(".cfl").write_bytes(array.tobytes(order="F"))
    return base.with_suffix(".cfl")


def test_fastmri_multicoil(tmp_path):
    """Rows are the readout, twice oversampled; columns are lines, of which some were measured."""
    draw = torch.Generator().manual_seed(0)
    image = torch.randn(3, 2, 16, 9, generator=draw, dtype=torch.complex64)
    mask = np.array([1, 0, 1, 1, 1, 1, 1, 0, 0], dtype=bool)
    data = (centred_kspace(image) * torch.from_numpy(mask)).numpy()
    opened = read(write_fastmri(tmp_path / "f.h5", data, mask=mask, encoded=(16, 9), kept=(8, 8)))
    kspace = opened.case["kspace"]
    assert opened.kind == "fastMRI" and kspace.data.shape == (1, 1, 2, 3, 8, 9)
    assert kspace.mask.shape == (1, 1, 1, 1, 1, 9) and kspace.mask.flatten().tolist() == mask.tolist()
    truth = centred_image(torch.from_numpy(data))[:, :, 4:12]
    torch.testing.assert_close(centred_image(kspace.data)[0, 0].transpose(0, 1), truth, atol=1e-5, rtol=0)
    assert kspace.image_shape == (3, 8, 8)
    torch.testing.assert_close(kspace.grid.spacing_mm[0], torch.tensor([5, 1.2, 1.5]).double(), atol=1e-5, rtol=0)
    assert "1234" not in repr(opened)


def test_fastmri_single_coil_without_header(tmp_path):
    data = centred_kspace(torch.rand(2, 6, 8, dtype=torch.complex64)).numpy()
    kspace = read(write_fastmri(tmp_path / "f.h5", data)).case["kspace"]
    assert kspace.data.shape == (1, 1, 1, 2, 6, 8) and kspace.grid.frame == "none"
    np.testing.assert_array_equal(kspace.data[0, 0, 0], data)
    spaced = read(tmp_path / "f.h5", spacing_mm=(5.0, 1.0, 1.0)).case["kspace"]
    assert spaced.grid.spacing_mm[0].tolist() == [5, 1, 1]


def test_bart_axes(tmp_path):
    array = np.arange(4 * 3 * 2 * 5, dtype=np.complex64).reshape(4, 3, 1, 2, 1, 1, 1, 1, 1, 1, 5) + 1
    opened = read(write_bart(tmp_path / "b", array))
    kspace = opened.case["kspace"]
    assert opened.kind == "BART" and kspace.data.shape == (1, 5, 2, 1, 3, 4)
    for t, c, y, x in [(0, 0, 0, 0), (4, 1, 2, 3), (2, 1, 0, 1)]:
        assert kspace.data[0, t, c, 0, y, x].item() == array[x, y, 0, c, 0, 0, 0, 0, 0, 0, t]
    assert read(tmp_path / "b.hdr").case["kspace"].data.shape == kspace.data.shape
    volume = np.ones((4, 3, 6, 2), np.complex64)
    assert read(write_bart(tmp_path / "v", volume)).case["kspace"].fourier_axes == ("z", "y", "x")
    slices = np.ones((4, 3, 1, 2, *[1] * 9, 6), np.complex64)
    kspace = read(write_bart(tmp_path / "s", slices)).case["kspace"]
    assert kspace.data.shape == (1, 1, 2, 6, 3, 4) and kspace.fourier_axes == ("y", "x")


@pytest.mark.skipif(shutil.which("bart") is None, reason="bart is not installed")
@pytest.mark.parametrize("place", [(0, 0), (7, 3), (2, 8)])
def test_sign_a_point_is_where_bart_puts_it(tmp_path, place):
    kspace = point_kspace(place, (10, 9))
    write_bart(tmp_path / "k", kspace.data[0, 0, 0, 0].numpy().T)
    subprocess.run(["bart", "fft", "-i", "-u", "3", tmp_path / "k", tmp_path / "image"], check=True)
    image = np.fromfile(tmp_path / "image.cfl", dtype="<c8").reshape(10, 9)
    ours = centred_image(read(tmp_path / "k.cfl").case["kspace"].data)[0, 0, 0, 0]
    np.testing.assert_allclose(ours, image, atol=1e-6)
    assert np.unravel_index(np.abs(image).argmax(), image.shape) == place


def test_npy_axes(tmp_path):
    draw = np.random.default_rng(0)
    array = (draw.normal(size=(5, 6, 2, 7)) + 1j).astype(np.complex64)
    np.save(tmp_path / "k.npy", array)
    kspace = read(tmp_path / "k.npy", axes="time,y,coil,x").case["kspace"]
    np.testing.assert_array_equal(kspace.data[0, :, :, 0], array.transpose(0, 2, 1, 3))
    np.save(tmp_path / "i.npy", draw.integers(0, 300, (4, 5, 6)).astype(np.int16))
    image = read(tmp_path / "i.npy", axes="z,y,x", spacing_mm=(8.0, 1.5, 1.5)).case["image"]
    assert image.data.shape == (1, 1, 1, 4, 5, 6) and image.data.dtype == torch.int16 and image.grid.has_mm
    assert read(tmp_path / "k.npy", axes="kz,y,coil,x").case["kspace"].fourier_axes == ("z", "y", "x")


@pytest.mark.parametrize("axes", [None, "time,coil,y", "time,coil,y,q", "time,time,y,x", "coil,time,z,x"])
def test_npy_axes_must_be_stated(tmp_path, axes):
    np.save(tmp_path / "k.npy", np.zeros((5, 2, 6, 7), np.complex64))
    with pytest.raises(InputError, match="--axes"):
        read(tmp_path / "k.npy", axes=axes)


def test_pictures(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Pillow.fromarray(grey).save(tmp_path / "g.png")
    opened = read(tmp_path / "g.png")
    assert opened.kind == "picture" and opened.case["image"].grid.frame == "none"
    np.testing.assert_array_equal(opened.case["image"].data[0, 0, 0, 0], grey)
    deep = (np.arange(12, dtype=np.uint16) * 5000).reshape(3, 4)
    Pillow.fromarray(deep).save(tmp_path / "d.png")
    np.testing.assert_array_equal(read(tmp_path / "d.png").case["image"].data[0, 0, 0, 0], deep)
    colour = np.stack([grey, grey + 50, grey + 90], axis=-1)
    Pillow.fromarray(colour).save(tmp_path / "c.png")
    np.testing.assert_array_equal(read(tmp_path / "c.png").case["image"].data[0, 0, :, 0], colour.transpose(2, 0, 1))
    Pillow.fromarray(colour).save(tmp_path / "c.jpg")
    assert read(tmp_path / "c.jpg", spacing_mm=(1.0, 0.2, 0.2)).case["image"].grid.frame == "detector"


def test_bad_files_say_what_is_wrong(tmp_path):
    path = write_bart(tmp_path / "b", np.ones((4, 3, 2, 2)))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FormatError, match="as its header"):
        read(path)
    path.with_suffix(".hdr").unlink()
    with pytest.raises(FormatError, match="without its header"):
        read(path)
    with pytest.raises(UnsupportedError, match="MAPS"):
        read(write_bart(tmp_path / "m", np.ones((4, 3, 1, 2, 2))))
    broken = np.ones((2, 6, 7), np.complex64)
    broken[0, 0, 0] = np.inf
    np.save(tmp_path / "n.npy", broken)
    with pytest.raises(SignalError, match="k-space"):
        read(tmp_path / "n.npy", axes="coil,y,x")
    np.save(tmp_path / "o.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    with pytest.raises(FormatError, match="Python objects"):
        read(tmp_path / "o.npy", axes="y,x")
    Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)).save(tmp_path / "p.png")
    (tmp_path / "p.png").write_bytes((tmp_path / "p.png").read_bytes()[:-200])
    with pytest.raises(FormatError, match="picture"):
        read(tmp_path / "p.png")
    with pytest.raises(InputError, match="nothing at absent"):
        read(tmp_path / "absent")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(FormatError, match="an empty file"):
        read(tmp_path / "empty")
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 9)
    with pytest.raises(FormatError, match="in no known format"):
        read(tmp_path / "noise")


def test_no_permission(tmp_path, monkeypatch):
    """Simulated, since tests may run as a user who may read everything."""
    np.save(tmp_path / "k.npy", np.zeros((2, 3)))

    def refuse(self, *args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(InputError, match=r"no permission to read k\.npy"):
        read(tmp_path / "k.npy", axes="y,x")
