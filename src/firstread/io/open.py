"""The one door for files: what is it (by content), then the reader for it."""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firstread.core.case import Case
from firstread.core.emission import Emission
from firstread.core.errors import FirstreadError, FormatError, InputError
from firstread.core.reading import Person
from firstread.core.records import KSpace, Record
from firstread.core.sinogram import Sinogram
from firstread.io.limits import damaged_hdf5
from firstread.io.opened import Kind, Opened

__all__ = ["Opened", "check", "detect", "read"]

_MATLAB = (b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file")
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_KNOWN = "a DICOM folder or file, NIfTI, ISMRMRD, fastMRI or rays .h5, BART .cfl, .mat, .npy, twix .dat, PNG or JPEG"


def read(path: Path, *, axes: str | None = None, variable: str | None = None,
         spacing_mm: tuple[float, float, float] | None = None, series: str | None = None, identify: bool = False
         ) -> Opened:
    """Read a file or folder of any supported format into a Case with one record.

    Its name is ``image``, or of raw data ``kspace``, ``sinogram`` (CT) or ``emission`` (PET).

    axes: of a .npy or .mat array, such as ``time,coil,y,x``; variable: which array of a .mat file; spacing_mm: (z, y,
    x), where the file states none or a wrong one; series: which DICOM series (number, UID or description); identify:
    keep the patient's name and identifier.

    Errors: InputError and its kinds FormatError and UnsupportedError, GeometryError, SignalError; each one sentence.
    """
    path = located(path)
    with _named(path), _understood(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parsers warn with values of the file; what matters is a Note or an error
        kind = detect(path)
        record, person = _reader(kind, path, axes, variable, spacing_mm, series, identify)
    names = {KSpace: "kspace", Sinogram: "sinogram", Emission: "emission"}
    return Opened(Case({names.get(type(record), "image"): record}), person, kind)


def check(path: Path, *, spacing_mm: tuple[float, float, float] | None = None, series: str | None = None) -> None:
    """Whether :func:`read` would take the file or folder, by its headers alone (NIfTI, DICOM; others by their kind).

    Errors: as :func:`read`; values that are no numbers, and data that are cut off, are found on reading alone.
    """
    path = located(path)
    with _named(path), _understood(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = detect(path)
        if kind == "DICOM":
            from firstread.io.dicom.read import check as check_dicom

            check_dicom(path, series=series, spacing_mm=spacing_mm)
        elif kind == "NIfTI":
            from firstread.io import nifti

            nifti.check(path, spacing_mm=spacing_mm)


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Errors of the system in one sentence."""
    try:
        yield
    except PermissionError as error:
        raise InputError(f"no permission to read {path.name}", expected="a readable file or folder",
                         remedy="change its permissions") from error
    except FileNotFoundError as error:
        raise InputError(f"nothing at {path.name}", expected=_KNOWN, remedy="check the path") from error
    except (OSError, MemoryError, OverflowError) as error:
        raise FormatError(f"{path.name}, which cannot be read ({type(error).__name__})", expected="a complete file",
                          remedy="export or copy it again") from error


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of a reader say which file they are about."""
    try:
        yield
    except FirstreadError as error:
        if path.name in str(error):
            raise
        raise type(error)(f"{path.name}: {error.got}", expected=error.expected, remedy=error.remedy) from error


def located(path: Path) -> Path:
    """The file that is meant: BART names a pair of files by what they share."""
    if path.exists():
        return path
    stored = path.with_name(path.name + ".cfl")
    return stored if stored.is_file() else path


def detect(path: Path) -> Kind:
    """The format of a file or folder, by its content.

    Errors: InputError where nothing is there, FormatError where it is none of the known formats.
    """
    if path.is_dir():
        return "DICOM"
    if not path.exists():
        raise InputError(f"nothing at {path.name}", expected=_KNOWN, remedy="check the path")
    with path.open("rb") as stream:
        head = stream.read(1024)
    if head[:2] == b"\x1f\x8b":
        return "NIfTI" if _is_nifti(_inflated(path)) else _unknown(path, head)
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return _hdf5_kind(path)
    if head.startswith(_MATLAB):
        return "MATLAB"
    if head[:6] == b"\x93NUMPY":
        return "npy"
    if head.startswith(_PICTURES):
        return "picture"
    if _is_nifti(head):
        return "NIfTI"
    if path.suffix == ".cfl" or head.startswith(b"# Dimensions"):
        return "BART"
    from firstread.io.dicom.files import looks_like_dicom

    if looks_like_dicom(head):
        return "DICOM"
    named: dict[str, Kind] = {".dat": "twix", ".mat": "MATLAB"}  # twix and MATLAB 4 begin with nothing of their own
    return named[path.suffix.lower()] if path.suffix.lower() in named and head else _unknown(path, head)


def _reader(kind: Kind, path: Path, axes: str | None, variable: str | None,
            spacing_mm: tuple[float, float, float] | None, series: str | None, identify: bool) -> tuple[Record, Person]:
    if kind == "DICOM":
        from firstread.io.dicom.read import read as read_dicom

        return read_dicom(path, series=series, spacing_mm=spacing_mm, identify=identify)
    if kind == "NIfTI":
        from firstread.io import nifti

        return nifti.read(path, spacing_mm=spacing_mm), Person()
    if kind == "picture":
        from firstread.io import picture

        return picture.read(path, spacing_mm=spacing_mm), Person()
    if kind == "ISMRMRD":
        from firstread.io import ismrmrd

        return ismrmrd.read(path, identify=identify)
    if kind == "MATLAB":
        from firstread.io import mat

        return mat.read(path, axes=axes, variable=variable, spacing_mm=spacing_mm), Person()
    if kind == "rays":
        from firstread.io.rays import read_rays

        return read_rays(path), Person()
    if kind == "twix":
        from firstread.io import twix

        return twix.read(path, identify=identify)
    from firstread.io import rawdata

    if kind == "fastMRI":
        return rawdata.read_fastmri(path, spacing_mm=spacing_mm, identify=identify)
    if kind == "BART":
        return rawdata.read_bart(path, spacing_mm=spacing_mm), Person()
    return rawdata.read_npy(path, axes=axes, spacing_mm=spacing_mm), Person()


def _is_nifti(head: bytes) -> bool:
    sizes = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    return len(head) >= 8 and bool(sizes & {348, 540})


def _inflated(path: Path) -> bytes:
    try:
        with gzip.open(path) as stream:
            return stream.read(352)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FormatError(f"{path.name}, a damaged or cut-off gzip file", expected="a complete file",
                          remedy="copy it again") from error


def _hdf5_kind(path: Path) -> Kind:
    import h5py

    from firstread.io.ismrmrd import is_ismrmrd
    from firstread.io.rawdata import is_fastmri
    from firstread.io.rays import is_rays

    with damaged_hdf5(path), h5py.File(path, "r") as file:
        if is_ismrmrd(file):
            return "ISMRMRD"
        if is_rays(file):
            return "rays"
        if path.suffix.lower() == ".mat":
            return "MATLAB"
        if is_fastmri(file):
            return "fastMRI"
    raise FormatError(f"{path.name}, an HDF5 file of unknown layout", expected="ISMRMRD (dataset/xml and "
                      "dataset/data), fastMRI (kspace) or rays (attribute format)", remedy="convert it to ISMRMRD")


def _unknown(path: Path, head: bytes) -> Kind:
    text = head.isascii() and b"\0" not in head
    what = "an empty file" if not head else "a text file" if text else "in no known format"
    raise FormatError(f"{path.name}, which is {what}", expected=_KNOWN, remedy="check what was exported")
