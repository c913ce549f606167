"""The DICOM files of a folder, each parsed once and without its pixels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from firstread.core.errors import FormatError
from firstread.io.dicom import fields
from firstread.io.dicom.fields import Header
from firstread.io.dicom.frames import has_pixels
from firstread.io.dicom.head import Head, HeadReader
from firstread.io.dicom.stream import BoundedReader, read_at

# transfer syntax to (implicit VR, little endian)
_PLAIN = {"1.2.840.10008.1.2": (True, True), "1.2.840.10008.1.2.1": (False, True),
          "1.2.840.10008.1.2.2": (False, False)}
_DEFER = 2048  # bytes above which an element stays in the file until it is asked for


@dataclass(frozen=True)
class Found:
    """A folder's DICOM images and how many other files it holds: not DICOM, damaged, without pixels."""

    images: list[tuple[Path, Header]]
    other: int
    damaged: int
    pixelless: int


def looks_like_dicom(head: bytes) -> bool:
    """Whether 132 bytes begin a DICOM file, with a preamble or (group 0002 or 0008 first) without.

    >>> looks_like_dicom(bytes(128) + b"DICM"), looks_like_dicom(b"plain text")
    (True, False)
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8 or head[0] not in (2, 8) or head[1] != 0 or head[3] != 0:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or int.from_bytes(head[4:8], "little") < 1024


def read_header(path: Path) -> Dataset:
    """All attributes as they stand in the file; pixels and other large values stay there.

    Errors: FormatError where the file is not DICOM, damaged or cut off.
    """
    try:
        dataset = _read_plainly(path)
        if dataset is None:
            with BoundedReader(path) as stream:
                dataset = pydicom.dcmread(stream, defer_size=_DEFER, force=True)
    except PermissionError:
        raise
    except Exception as error:  # a damaged file can raise anything in a parser
        raise FormatError(f"{path.name}, a damaged or cut-off DICOM file", expected="a complete one",
                          remedy="export or copy it again") from error
    if len(dataset) == 0:  # pydicom gives up on all elements where one is cut off
        raise FormatError(f"{path.name}, a cut-off DICOM file", expected="a complete one",
                          remedy="export or copy it again")
    return dataset


def _read_plainly(path: Path) -> Dataset | None:
    """The parts of pydicom's reader that an uncompressed, undeflated file with a preamble needs; else None.

    Half of ``dcmread``'s time goes into what such a file does not need.
    """
    with BoundedReader(path) as stream:
        if stream.read(132)[128:] != b"DICM":
            return None
        meta = read_dataset(stream, False, True, stop_when=_behind_meta)
        syntax = fields.text(meta, "TransferSyntaxUID")
        if syntax not in _PLAIN:
            return None
        start = stream.tell()
        dataset = read_dataset(stream, *_PLAIN[syntax], defer_size=_DEFER)
        if not len(dataset) and stream.seek(0, os.SEEK_END) > start:
            return None
    dataset.file_meta = FileMetaDataset(meta)
    dataset.filename, dataset.buffer = str(path), None  # whence pydicom takes a value left in the file
    dataset.fileobj_type, dataset.timestamp = open, None
    dataset.set_original_encoding(*_PLAIN[syntax])
    return dataset


def _behind_meta(tag: BaseTag, representation: str | None, length: int) -> bool:
    return tag >> 16 != 2


def find_images(folder: Path, *, walker: HeadReader | None = None) -> Found:
    """Every DICOM image below ``folder``; hidden files and DICOMDIR are passed over.

    walker: reads plain files instead of pydicom, several times faster; None leaves all to pydicom.
    """
    images: list[tuple[Path, Header]] = []
    other = damaged = pixelless = 0
    for path in _files(folder):
        start, head = _head(path, walker)
        if head is None and not looks_like_dicom(start):
            other, damaged = (other, damaged + 1) if path.suffix.lower() == ".dcm" else (other + 1, damaged)
            continue
        try:
            dataset = head or read_header(path)
        except FormatError:
            damaged += 1
            continue
        if has_pixels(dataset):
            images.append((path, dataset))
        else:
            pixelless += 1
    return Found(images, other, damaged, pixelless)


def _head(path: Path, walker: HeadReader | None) -> tuple[bytes, Head | None]:
    """The first bytes and, of a plain file, the attributes that series are built from."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        head = None if walker is None else walker.read(partial(read_at, descriptor), os.fstat(descriptor).st_size)
        return b"" if head else os.pread(descriptor, 132, 0), head
    finally:
        os.close(descriptor)


def _files(folder: Path) -> Iterator[Path]:
    """In order of names, those of a folder before those of its folders."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # as os.walk does: what cannot be listed holds nothing
        return
    visible = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in visible:
        if entry.name.upper() != "DICOMDIR" and entry.is_file():
            yield Path(entry.path)
    for entry in visible:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
