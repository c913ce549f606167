"""The few attributes that series are built from, out of a file's first kilobytes.

A walk over the tags of plain files (preamble, little endian, one image, nothing behind its pixels). It answers only
where pydicom reads the same; whatever is unusual it declines, and pydicom reads the file. ``bench/dicom_fuzz.py``
compares the two on mutated files. Source: DICOM PS3.5 chapter 7 and annex A.4, PS3.10 chapter 7.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from pydicom.charset import python_encoding
from pydicom.datadict import DicomDictionary, tag_for_keyword
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

# count, offset -> bytes, fewer at the end of the file
Reader = Callable[[int, int], bytes]

KEYWORDS = (
    "ImageType", "SOPClassUID", "SOPInstanceUID", "Modality", "SeriesDescription",
    "PatientName", "PatientID", "PatientSex", "PatientAge", "PatientSize", "PatientWeight", "SliceThickness",
    "EchoTime", "TriggerTime", "NominalInterval", "FrameTime", "CineRate", "HeartRate", "ImagerPixelSpacing",
    "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "AcquisitionNumber", "InstanceNumber",
    "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "TemporalPositionIdentifier",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "PixelSpacing",
    "BitsAllocated", "BitsStored", "PixelRepresentation", "RescaleIntercept", "RescaleSlope", "LossyImageCompression")
_DECLINED = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SequenceOfUltrasoundRegions",
             "FloatPixelData", "DoubleFloatPixelData")
_KEPT = {tag_for_keyword(name): name for name in KEYWORDS} | {tag_for_keyword(name): "" for name in _DECLINED}
_ABSENT = frozenset((*KEYWORDS, *_DECLINED, "PixelData"))

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_NATIVE = {name.encode(): name for name in (IMPLICIT, EXPLICIT)}
_ENCAPSULATED = {name.encode(): name for name in (
    "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91")}

_PIXELS, _ITEM, _ITEM_END, _ITEMS_END = 0x7FE00010, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CHARACTERS, _UNDEFINED = 0x00080005, 0xFFFFFFFF
_HEADER = {vr.encode(): 8 for vr in EXPLICIT_VR_LENGTH_16} | {vr.encode(): 12 for vr in EXPLICIT_VR_LENGTH_32}
_PIXEL_VR = (b"OW", b"OB", b"")  # none where VRs are implicit
_META_VR = {0x0000: b"UL", 0x0002: b"UI", 0x0010: b"UI"}
_explicit, _implicit, _long = (struct.Struct(f).unpack_from for f in ("<HH2sH", "<HHL", "<L"))
_DIRECTORY = b"1.2.840.10008.1.3.10"
_LONGEST, _DEEPEST, _FRAGMENTS, _LAYOUTS = 1024, 8, 64, 16
_SIZES = (8192, 1 << 20)


@dataclass(frozen=True, slots=True)
class Head:
    """Raw values by keyword, and where the pixels lie: (offset, length) of the native ones or of each fragment."""

    values: dict[str, bytes] = field(repr=False)
    syntax: str
    size: int
    pixels: tuple[tuple[int, int], ...]

    def value(self, keyword: str) -> bytes | None:
        """Raw bytes, None where absent. Raises KeyError for an attribute that is not among ``KEYWORDS``."""
        found = self.values.get(keyword)
        if found is None and keyword not in _ABSENT:
            raise KeyError(keyword)
        return found

    def __contains__(self, keyword: str) -> bool:
        return keyword == "PixelData" or self.value(keyword) is not None


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the elements of a file lie: ``expected`` are all bytes that the walk looked at, between the values.

    A file with the same bytes at the same places has the same layout, so it need not be walked.
    """

    fixed: struct.Struct
    expected: tuple[bytes, ...]
    names: tuple[str, ...]
    values: struct.Struct
    syntax: str
    pixels: tuple[int, int]


class HeadReader:
    """Heads of the files of one folder; those laid out as one of the last few are not walked again.

    >>> HeadReader().read(lambda count, offset: bytes(count), 4096) is None
    True
    """

    def __init__(self) -> None:
        self._layouts: list[_Layout] = []

    def read(self, read: Reader, size: int) -> Head | None:
        """The head of a plain file of ``size`` bytes; None where it is for pydicom to read."""
        for length in _SIZES:
            start = read(min(length, size), 0)
            if start[128:132] != b"DICM":
                return None
            try:
                layout = self._known(start) or self._learnt(start)
            except struct.error:  # the walk left what was read
                if length >= size:
                    return None
            else:
                return None if layout is None else _head(layout, start, read, size)
        return None

    def _known(self, start: bytes) -> _Layout | None:
        for place, layout in enumerate(self._layouts):
            if layout.pixels[0] <= len(start) and layout.fixed.unpack_from(start) == layout.expected:
                if place:
                    self._layouts.insert(0, self._layouts.pop(place))
                return layout
        return None

    def _learnt(self, start: bytes) -> _Layout | None:
        spans: list[tuple[int, int, str]] = []
        at, stated = _meta(start, spans)
        syntax = _NATIVE.get(stated) or _ENCAPSULATED.get(stated)
        if syntax is None or (syntax == IMPLICIT and _looks_explicit(start[at + 4:at + 6])):
            return None
        at, length = _elements(start, at, syntax == IMPLICIT, spans)
        if at < 0:
            return None
        layout = _layout(start, spans, syntax, (at, length))
        self._layouts = [layout, *self._layouts[:_LAYOUTS - 1]]
        return layout


def _layout(start: bytes, spans: list[tuple[int, int, str]], syntax: str, pixels: tuple[int, int]) -> _Layout:
    fixed, values, last, done = "128x", "", 128, 0
    for begin, end, name in spans:
        fixed += f"{begin - last}s{end - begin}x"
        last = end
        if name:
            values += f"{begin - done}x{end - begin}s"
            done = end
    format_ = struct.Struct(f"{fixed}{pixels[0] - last}s")
    return _Layout(format_, format_.unpack_from(start), tuple(name for _, _, name in spans if name),
                   struct.Struct(values), syntax, pixels)


def _head(layout: _Layout, start: bytes, read: Reader, size: int) -> Head | None:
    """The values of a file, where its pixels are whole and end it."""
    at, length = layout.pixels
    if layout.syntax.encode() in _NATIVE:
        pixels = ((at, length),) if 0 < length == size - at else ()
    else:
        pixels = fragments(read, at, size) if length == _UNDEFINED else ()
    return Head(dict(zip(layout.names, layout.values.unpack_from(start), strict=True)), layout.syntax, size,
                pixels) if pixels else None


def _looks_explicit(vr: bytes) -> bool:
    return vr.isalpha() and vr.isupper()


def _meta(head: bytes, spans: list[tuple[int, int, str]]) -> tuple[int, bytes]:
    """Where the file meta information ends, and its transfer syntax; empty where it is unusual."""
    at, last, syntax = 132, -1, b""
    while head[at:at + 2] == b"\2\0":
        _, element, vr, length = _explicit(head, at)
        step = _HEADER.get(vr)
        if step is None or element <= last or _META_VR.get(element, vr) != vr:
            return at, b""
        if step == 12:
            length = _long(head, at + 8)[0]
        at += step
        if length > _LONGEST or (element == 0 and length != 4):
            return at, b""
        if element == 0x0010:
            value = head[at:at + length]
            syntax = value[:-1] if value.endswith(b"\0") else value
        elif element == 0x0002 and head.startswith(_DIRECTORY, at):
            return at, b""
        elif element != 0x0002:
            spans.append((at, at + length, ""))
        last, at = element, at + length
    return at, syntax


def _elements(head: bytes, at: int, implicit: bool, spans: list[tuple[int, int, str]]) -> tuple[int, int]:
    """Add the spans of the values, named where they are kept; give place and length of the pixels.

    -1 where something is unusual. What a decision hangs on is no span: character sets and undefined lengths.
    """
    kept, header, last, vr = _KEPT, _HEADER, 0, b""
    while True:
        if implicit:
            group, element, length = _implicit(head, at)
            at += 8
        else:
            group, element, vr, length = _explicit(head, at)
            step = header.get(vr)
            if step is None:
                return -1, 0
            if step == 12:
                length = _long(head, at + 8)[0]
            at += step
        tag = group << 16 | element
        if tag <= last:
            return -1, 0
        last = tag
        if tag in kept:
            name = kept[tag]
            if not name or length > _LONGEST:
                return -1, 0
            spans.append((at, at + length, name))
        elif tag == _CHARACTERS:
            if length > _LONGEST or not _known(head[at:at + length], vr):
                return -1, 0
        elif tag >= _PIXELS:
            return (at, length) if tag == _PIXELS and vr in _PIXEL_VR else (-1, 0)
        elif length == _UNDEFINED:
            at = _behind_items(head, at, implicit, 0) if _is_sequence(tag, vr, implicit) else -1
            if at < 0:
                return -1, 0
            continue
        else:
            spans.append((at, at + length, ""))
        at += length


def _is_sequence(tag: int, vr: bytes, implicit: bool) -> bool:
    if implicit:
        return tag in DicomDictionary and DicomDictionary[tag][0] == "SQ"
    return vr == b"SQ"


def _known(characters: bytes, vr: bytes) -> bool:
    """Whether pydicom knows a Specific Character Set."""
    parts = characters.decode("latin-1").strip(" \0").split("\\")
    return vr in (b"CS", b"") and all(part.strip() in python_encoding for part in parts)


def _behind_items(head: bytes, at: int, implicit: bool, depth: int) -> int:
    """Where a sequence of undefined length ends; -1 where something is unusual."""
    while depth < _DEEPEST:
        group, element, length = _implicit(head, at)
        tag, at = group << 16 | element, at + 8
        if tag == _ITEMS_END:
            return at if length == 0 else -1
        if tag != _ITEM:
            return -1
        at = _behind_item(head, at, None if length == _UNDEFINED else at + length, implicit, depth)
        if at < 0:
            return -1
    return -1


def _behind_item(head: bytes, at: int, end: int | None, implicit: bool, depth: int) -> int:
    """Where an item ends: at ``end``, or behind its delimiter; -1 where something is unusual."""
    vr = b""
    while end is None or at < end:
        group, element, length = _implicit(head, at)
        tag = group << 16 | element
        if tag == _ITEM_END:
            return at + 8 if end is None and length == 0 else -1
        if not implicit:
            _, _, vr, length = _explicit(head, at)
            step = _HEADER.get(vr)
            if step is None:
                return -1
            length = _long(head, at + 8)[0] if step == 12 else length
            at += step
        else:
            at += 8
        if tag == _CHARACTERS and not _known(head[at:at + min(length, _LONGEST)], vr):
            return -1
        if length == _UNDEFINED:
            at = _behind_items(head, at, implicit, depth + 1) if _is_sequence(tag, vr, implicit) else -1
            if at < 0:
                return -1
        else:
            at += length
    return at if at == end else -1


def fragments(read: Reader, at: int, size: int) -> tuple[tuple[int, int], ...]:
    """(offset, length) of each fragment behind the offset table; none where the file does not end behind them.

    Nor where the table is no list of 4-byte offsets.
    """
    found: list[tuple[int, int]] = []
    while len(found) <= _FRAGMENTS:
        head = read(8, at)
        if len(head) < 8:
            return ()
        group, element, length = _implicit(head, 0)
        tag, at = group << 16 | element, at + 8
        if tag == _ITEMS_END:
            return tuple(found[1:]) if length == 0 and at == size else ()
        if tag != _ITEM or at + length > size or (not found and length % 4):
            return ()
        found.append((at, length))
        at += length
    return ()
