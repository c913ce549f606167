"""Raw data in the layouts of research programs: fastMRI .h5, BART .cfl/.hdr, .npy with stated axes.

Sign: in all three an image is the centred inverse transform, ``exp(+2πi k·x)``, zero frequency at ``N // 2``: fastMRI's
``ifft2c``, ``bart fft -i -u``, ``fftshift(ifft(ifftshift(k)))``.
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import h5py
import numpy as np
import torch

from firstread.core.errors import FormatError, UnsupportedError
from firstread.core.geometry import Grid
from firstread.core.reading import Person
from firstread.core.records import Image, KSpace, Note
from firstread.io.arrays import as_tensor, require_finite
from firstread.io.fourier import remove_oversampling
from firstread.io.limits import damaged_hdf5, require_plausible
from firstread.io.mrd_layout import parse_header
from firstread.io.stated import Spacing, grid_of, kspace_of, record_of

# BART's axes in order (bart/src/misc/mri.h)
_BART = ("READ", "PHS1", "PHS2", "COIL", "MAPS", "TE", "COEFF", "COEFF2", "ITER", "CSHIFT", "TIME", "TIME2", "LEVEL",
         "SLICE", "AVG", "BATCH")
_BART_TIME = ("TE", "TIME", "TIME2")


def is_fastmri(file: h5py.File) -> bool:
    """Whether an HDF5 file holds k-space as fastMRI stores it."""
    return isinstance(file.get("kspace"), h5py.Dataset)


def read_fastmri(path: Path, *, spacing_mm: Spacing | None = None, identify: bool = False) -> tuple[KSpace, Person]:
    """fastMRI: ``kspace`` [slice, coil, row, column] (or without coil).

    Rows (readout) become y and columns (phase encoding) x. Readout oversampling is removed to the matrix of
    ``ismrmrd_header``; the mask is ``mask`` where there is one, else the columns that are not zero.
    """
    with damaged_hdf5(path), h5py.File(path, "r") as file:
        stored = file["kspace"]
        if stored.ndim not in (3, 4) or stored.dtype.kind != "c":
            raise UnsupportedError(f"fastMRI k-space of shape {stored.shape} and type {stored.dtype}", expected=
                                   "complex [slice, coil, row, column] or [slice, row, column]",
                                   remedy="pass such a file")
        require_plausible(stored.shape, 8, path.stat().st_size, ratio=1100.0, what="fastMRI file")
        data = as_tensor(stored[()])
        text = file["ismrmrd_header"][()] if "ismrmrd_header" in file else None
        header = parse_header(text, identify=identify) if isinstance(text, bytes | str) else None
        columns = np.asarray(file["mask"][()]).reshape(-1) if isinstance(file.get("mask"), h5py.Dataset) else None
    data = data[:, None] if data.ndim == 3 else data
    require_finite(data, "k-space")
    data = data.movedim(0, 1)[None, None]
    slices, rows, width = data.shape[3:]
    if columns is None:
        sampled = (data != 0).any(dim=2, keepdim=True).any(dim=-2, keepdim=True)
    else:
        if columns.size != width:
            raise FormatError(f"a fastMRI mask of {columns.size} columns", expected=f"{width}, as the k-space has",
                              remedy="pass a consistent file")
        sampled = torch.from_numpy(columns.astype(bool)).reshape(1, 1, 1, 1, 1, width)
    notes: list[Note] = []
    if header is None:
        grid, shape = grid_of((slices, rows, width), spacing_mm, notes), None
        return kspace_of(data, grid, sampled, ("y", "x"), shape, notes), Person()
    kept = min(rows, round(rows * header.reconstructed_mm[0] / header.encoded_mm[0]))
    shape_x = min(width, round(width * header.reconstructed_mm[1] / header.encoded_mm[1]))
    spacing = spacing_mm or (header.reconstructed_mm[2], header.reconstructed_mm[0] / kept,
                             header.encoded_mm[1] / width)
    notes.append(Note("orientation_unknown", "fastMRI files state no slice position: slices are taken as stacked side "
                      "by side."))
    grid = Grid.from_spacing((slices, kept, width), spacing, frame="detector")
    data = remove_oversampling(data, kept, axis=-2)
    shape = None if shape_x == width else (slices, kept, shape_x)
    return kspace_of(data, grid, sampled, ("y", "x"), shape, notes), header.person


def read_bart(path: Path, *, spacing_mm: Spacing | None = None) -> KSpace:
    """BART's .cfl (complex64, first axis fastest) with its .hdr (a line of up to 16 sizes).

    READ is x, PHS1 y, PHS2 z (then encoded), SLICE z, COIL the coil; one of TE, TIME and TIME2 may run over frames.
    """
    array = load_bart(path)
    sizes = array.shape
    named = dict(zip(_BART, sizes, strict=True))
    times = [name for name in _BART_TIME if named[name] > 1]
    used = {"READ", "PHS1", "PHS2", "COIL", "SLICE", *times[:1]}
    over = [name for name, size in named.items() if size > 1 and name not in used]
    if over or (named["PHS2"] > 1 and named["SLICE"] > 1):
        raise UnsupportedError(f"a BART file with several entries along {', '.join(over) or 'PHS2 and SLICE'}",
                               expected="READ, PHS1, COIL, PHS2 or SLICE, and one of TE, TIME, TIME2",
                               remedy="take one with `bart slice`")
    depth = "PHS2" if named["PHS2"] > 1 else "SLICE"
    order = [times[0] if times else "TIME", "COIL", depth, "PHS1", "READ"]
    rest = [name for name in _BART if name not in order]
    array = array.transpose([_BART.index(name) for name in (*rest, *order)]).reshape([named[name] for name in order])
    data = as_tensor(array)[None]
    require_finite(data, "k-space")
    notes: list[Note] = []
    grid = grid_of(tuple(data.shape[3:]), spacing_mm, notes)
    fourier = ("z", "y", "x") if named["PHS2"] > 1 else ("y", "x")
    return kspace_of(data, grid, (data != 0).any(dim=2, keepdim=True), fourier, None, notes)


def load_bart(path: Path) -> np.ndarray:
    """BART's array, with all of its 16 axes in their order.

    Raises FormatError where header or data are missing or do not fit.
    """
    base = path.with_suffix("")
    sizes = _bart_sizes(base.with_suffix(".hdr"))
    stored = base.with_suffix(".cfl")
    if not stored.is_file():
        raise FormatError("a BART header without its .cfl file", expected="NAME.hdr and NAME.cfl side by side",
                          remedy="copy both")
    if stored.stat().st_size != 8 * prod(sizes):
        raise FormatError(f"a BART file of {stored.stat().st_size} bytes", expected=f"{8 * prod(sizes)}, as its header "
                          "says", remedy="it is cut off or damaged: copy it again")
    return np.fromfile(stored, dtype="<c8").reshape(sizes[::-1]).transpose()


def read_npy(path: Path, *, axes: str | None, spacing_mm: Spacing | None = None) -> KSpace | Image:
    """A .npy array whose axes are stated, such as ``time,coil,y,x``: k-space where one is ``coil``, else an image.

    Axes: time, coil (or channel), z, y, x; ``kz`` instead of ``z`` where k-space is encoded along it too.
    """
    return record_of(load_npy(path), axes, spacing_mm)


def load_npy(path: Path) -> np.ndarray:
    """The array of a .npy file.

    Raises FormatError for a damaged file, UnsupportedError for one without numbers.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except PermissionError:
        raise
    except Exception as error:  # numpy evaluates the header, so that a damaged one can raise anything
        raise FormatError("a damaged or cut-off .npy file", expected="one array without Python objects",
                          remedy="save it again with numpy.save") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufc" or array.size == 0:
        raise UnsupportedError("a .npy file without numbers", expected="one array of numbers", remedy="save such a one")
    return np.asarray(array)


def _bart_sizes(header: Path) -> tuple[int, ...]:
    if not header.is_file():
        raise FormatError("a BART .cfl file without its header", expected="NAME.hdr and NAME.cfl side by side",
                          remedy="copy both")
    with header.open("rb") as stream:
        lines = stream.read(4096).decode("ascii", errors="replace").splitlines()
    texts = next((line.split() for line in lines if line.strip() and not line.startswith("#")), [])
    try:
        sizes = tuple(int(text) for text in texts)
    except ValueError:
        sizes = ()
    if not 1 <= len(sizes) <= 16 or min(sizes) < 1 or max(sizes) > 2**31:
        raise FormatError("a BART header without sizes", expected="a line of up to 16 numbers under '# Dimensions'",
                          remedy="write it again")
    return sizes + (1,) * (16 - len(sizes))
