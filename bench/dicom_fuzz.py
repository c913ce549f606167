"""Mutated DICOM files: where the tag walker answers, pydicom must read the same.

``python bench/dicom_fuzz.py --count 1000000 --seed 0 --state fuzz.json`` makes the files in memory, one for each
(seed, number), and asks ``firstread.io.dicom.head.HeadReader`` for each, once when it
has seen nothing and once when it has just read the unchanged file. Where it answers, ``pydicom.dcmread`` must
succeed and agree on every attribute, the transfer syntax and the place of the pixels; where it declines nothing is
claimed. ``--state`` keeps the count, so that a run goes on where it was stopped. Ends with exit code 1 at the first
difference and tells the file's number.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pydicom
from pydicom.encaps import generate_fragments, parse_basic_offsets
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from firstread.io.dicom import fields
from firstread.io.dicom.head import IMPLICIT, KEYWORDS, Head, HeadReader

SYNTAXES = (IMPLICIT, "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90")
VRS = [str(vr) for vr in (*EXPLICIT_VR_LENGTH_16, *EXPLICIT_VR_LENGTH_32)]
_LONG = {str(vr) for vr in EXPLICIT_VR_LENGTH_32}
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _ITEMS_END = (struct.pack("<HH", 0xFFFE, e) for e in (0xE000, 0xE00D, 0xE0DD))
_NUMBERS = (0, 1, 2, 3, 4, 6, 8, 16, 255, 1024, 1025, 2048, 4096, 65535, 2**31, _UNDEFINED)

# tag, VR, value: what a CT or MR file has, in order
_USUAL = (
    (0x00080005, "CS", b"ISO_IR 100"), (0x00080008, "CS", b"ORIGINAL\\PRIMARY\\M\\NONE "),
    (0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.4\0"), (0x00080018, "UI", b"1.2.826.0.1.3680043.8.498.77"),
    (0x00080020, "DA", b"20200101"), (0x00080060, "CS", b"MR"), (0x00080070, "LO", b"None"),
    (0x0008103E, "LO", b"SAX cine"), (0x00100010, "PN", b"Quux^Zeb"), (0x00100020, "LO", b"77123 "),
    (0x00100040, "CS", b"F "), (0x00101010, "AS", b"061Y"), (0x00101020, "DS", b"1.68"), (0x00180050, "DS", b"8 "),
    (0x00180081, "DS", b"1.4 "), (0x00181060, "DS", b"40"), (0x00181062, "IS", b"900 "), (0x00181088, "IS", b"67"),
    (0x00181314, "DS", b"50"), (0x00190010, "LO", b"MAKER 1 "), (0x00191001, "UN", b"\1\2\3\4"),
    (0x0020000D, "UI", b"1.2.826.0.1.3680043.8.498.1\0"), (0x0020000E, "UI", b"1.2.826.0.1.3680043.8.498.2\0"),
    (0x00200011, "IS", b"5 "), (0x00200012, "IS", b"1 "), (0x00200013, "IS", b"12"),
    (0x00200032, "DS", b"-50\\20\\30 "), (0x00200037, "DS", b"1\\0\\0\\0\\1\\0"), (0x00200052, "UI", b"1.2.3\0"),
    (0x00280002, "US", b"\1\0"), (0x00280004, "CS", b"MONOCHROME2 "), (0x00280010, "US", b"\3\0"),
    (0x00280011, "US", b"\4\0"), (0x00280030, "DS", b"1.5\\1.25"), (0x00280100, "US", b"\x10\0"),
    (0x00280101, "US", b"\x0c\0"), (0x00280102, "US", b"\x0b\0"), (0x00280103, "US", b"\0\0"),
    (0x00281052, "DS", b"-1024 "), (0x00281053, "DS", b"1 "))
_CHARACTER_SETS = (b"", b"ISO_IR 192", b"ISO 2022 IR 6\\ISO 2022 IR 87", b"\\ISO 2022 IR 149", b"nonsense", b"\xff\xfe")
_TAGS = {keyword: pydicom.tag.Tag(keyword) for keyword in KEYWORDS}
_ABSENT = [pydicom.tag.Tag(keyword) for keyword in (
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SequenceOfUltrasoundRegions",
    "FloatPixelData", "DoubleFloatPixelData")]


def element(tag: int, vr: str, value: bytes, *, implicit: bool = False, length: int | None = None) -> bytes:
    """A data element; ``length`` where it is to claim another one than its value has."""
    claimed = len(value) if length is None else length
    place = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return place + struct.pack("<L", claimed & _UNDEFINED) + value
    if vr in _LONG:
        return place + vr.encode("latin-1") + b"\0\0" + struct.pack("<L", claimed & _UNDEFINED) + value
    return place + vr.encode("latin-1") + struct.pack("<H", claimed & 0xFFFF) + value


def template(draw: random.Random, syntax: str) -> tuple[list[bytes], list[bytes]]:
    """Elements of the file meta information and of the data set of a small valid file."""
    implicit = syntax == IMPLICIT
    stated = [element(0x00020002, "UI", b"1.2.840.10008.5.1.4.1.1.4\0"), element(0x00020003, "UI", b"1.2.3.4\0"),
              element(0x00020010, "UI", syntax.encode() + b"\0" * (len(syntax) % 2)),
              element(0x00020012, "UI", b"1.2.9\0"), element(0x00020013, "SH", b"FUZZ")]
    meta = [element(0x00020000, "UL", struct.pack("<L", sum(map(len, stated)))),
            element(0x00020001, "OB", b"\0\1"), *stated]
    dropped = draw.choice((0.0, 0.1, 0.5))
    data = [element(tag, vr, value, implicit=implicit) for tag, vr, value in _USUAL if draw.random() >= dropped]
    for tag in (0x00081140, 0x00101002, 0x00400275):
        if draw.random() < 0.2:
            data.append(sequence(draw, tag, implicit, depth=0, clean=draw.random() < 0.8))
    data.sort(key=lambda stored: struct.unpack_from("<HH", stored))
    pixels = bytes(draw.getrandbits(8) for _ in range(24))
    if syntax in (IMPLICIT, "1.2.840.10008.1.2.1"):
        data.append(element(0x7FE00010, "OW", pixels, implicit=implicit))
    else:
        parts = [b"", *(pixels[:draw.randrange(0, 25, 2)] for _ in range(draw.choice((1, 1, 1, 2, 3))))]
        items = b"".join(_ITEM + struct.pack("<L", len(part)) + part for part in parts) + _ITEMS_END + bytes(4)
        data.append(element(0x7FE00010, "OB", items, length=_UNDEFINED))
    return meta, data


def sequence(draw: random.Random, tag: int, implicit: bool, *, depth: int, clean: bool = False) -> bytes:
    """A sequence with items of stated and undefined length; unless ``clean`` now and then with something wrong."""
    items = b""
    for _ in range(draw.randrange(3)):
        inner = b""
        for _ in range(draw.randrange(3)):
            if depth < 3 and draw.random() < 0.3:
                inner += sequence(draw, 0x00081115, implicit, depth=depth + 1, clean=clean)
            elif clean:
                inner += element(*draw.choice(_USUAL), implicit=implicit)
            else:
                inner += some_element(draw, implicit)
        if draw.random() < 0.5:
            items += _ITEM + struct.pack("<L", _UNDEFINED) + inner + _ITEM_END + bytes(4)
        else:
            wrong = draw.choice((0, 0, 0, 0, 0, 1, -1, 8)) if inner and not clean else 0
            items += _ITEM + struct.pack("<L", (len(inner) + wrong) & _UNDEFINED) + inner
    vr = "SQ" if clean else draw.choice(("SQ", "SQ", "SQ", "SQ", "UN"))
    if draw.random() < 0.6:
        return element(tag, vr, items + _ITEMS_END + bytes(4), implicit=implicit, length=_UNDEFINED)
    return element(tag, vr, items, implicit=implicit)


def some_element(draw: random.Random, implicit: bool) -> bytes:
    """A usual element, or one with a tag, VR, value or length that is not."""
    tag, vr, value = draw.choice(_USUAL)
    kind = draw.randrange(7)
    if kind == 0:
        tag = draw.choice((0x00090010, 0x00291010, 0x00080000, 0x00020010, 0x00000002, 0x7FE00008, 0x7FE00010,
                           0x52009229, 0x52009230, 0x00186011, 0xFFFEE00D, 0xFFFEE0DD, 0xFFFCFFFC,
                           draw.getrandbits(32)))
    elif kind == 1:
        vr = draw.choice((*VRS, "ZZ", "OX", "ab", "\0\0", "A\0"))
    elif kind == 2:
        value = draw.randbytes(draw.choice((0, 1, 2, 3, 4, 5, 8, 16, 80, 1024, 1026, 2050)))
    elif kind == 3:
        tag, vr, value = 0x00080005, "CS", draw.choice(_CHARACTER_SETS)
    elif kind == 4:
        return element(tag, vr, value, implicit=implicit, length=draw.choice((*_NUMBERS, len(value) + 1)))
    elif kind == 5:
        return sequence(draw, draw.choice((tag, 0x00081140, 0x00091010)), implicit, depth=2)
    return element(tag, vr, value, implicit=implicit)


def mutated(seed: int, number: int) -> tuple[bytes, bytes]:
    """The ``number``th file, unchanged and with up to three changes of elements and of bytes; one in five has none."""
    draw = random.Random(seed << 40 | number)
    syntax = draw.choice(SYNTAXES)
    meta, data = template(draw, syntax)
    whole = joined(meta, data)
    for _ in range(draw.choice((0, 0, 0, 0, 1, 1, 2, 3))):
        change_elements(draw, draw.choice((meta, data, data, data)), syntax == IMPLICIT)
    stored = bytearray(joined(meta, data))
    for _ in range(draw.choice((0, 0, 0, 1, 1, 1, 2, 3))):
        change_bytes(draw, stored)
    return whole, bytes(stored)


def joined(meta: list[bytes], data: list[bytes]) -> bytes:
    return bytes(128) + b"DICM" + b"".join(meta) + b"".join(data)


def change_elements(draw: random.Random, elements: list[bytes], implicit: bool) -> None:
    """Swap, repeat, drop, insert or alter an element."""
    if not elements:
        return
    at = draw.randrange(len(elements))
    kind = draw.randrange(7)
    if kind == 0:
        other = draw.randrange(len(elements))
        elements[at], elements[other] = elements[other], elements[at]
    elif kind == 1:
        elements.insert(draw.choice((at, len(elements))), elements[at])
    elif kind == 2:
        del elements[at]
    elif kind == 3:
        elements.insert(at, some_element(draw, implicit))
    elif kind == 4:
        place = draw.choice((at, len(elements)))
        elements.insert(place, sequence(draw, draw.choice((0x00081140, 0x00091010, 0x00400275)), implicit, depth=0))
    elif kind == 5 and len(elements[at]) >= 8:
        vr = draw.choice((*VRS, "ZZ", "UN", "SQ", "ab", "\0\0")).encode("latin-1")
        elements[at] = elements[at][:4] + vr + elements[at][6:]
    elif len(elements[at]) >= 8:
        length = struct.pack("<L", draw.choice(_NUMBERS) & _UNDEFINED)
        size = draw.choice((2, 4))
        elements[at] = elements[at][:8 - size] + length[:size] + elements[at][8:]


def change_bytes(draw: random.Random, stored: bytearray) -> None:
    """Flip a bit, overwrite, delete, insert, cut off or append."""
    if not stored:
        return
    kind, at = draw.randrange(9), draw.randrange(min(len(stored), draw.choice((300, 700, len(stored)))))
    piece = draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", _ITEM, _ITEM_END, _ITEMS_END, b"\x08\0",
                         b"SQ", b"UN", b"\\", draw.randbytes(draw.randrange(1, 5))))
    if kind < 4:
        stored[at] ^= 1 << draw.randrange(8)
    elif kind == 4:
        stored[at:at + len(piece)] = piece
    elif kind == 5:
        del stored[at:at + draw.choice((1, 2, 4, 8, 50))]
    elif kind == 6:
        stored[at:at] = piece
    elif kind == 7:
        del stored[draw.choice((at, len(stored) - draw.randrange(1, 9))):]
    else:
        stored += draw.choice((piece, bytes(2), element(0xFFFCFFFC, "OB", bytes(4)), some_element(draw, False)))


def difference(head: Head, stored: bytes) -> str | None:
    """What pydicom reads otherwise than the walker, or None."""
    try:
        dataset = pydicom.dcmread(io.BytesIO(stored), force=True)
    except Exception as error:  # whatever it is, the walker should have declined
        return f"pydicom raises {type(error).__name__}: {error}"
    if str(dataset.file_meta.TransferSyntaxUID) != head.syntax:
        return "transfer syntax"
    for keyword, tag in _TAGS.items():
        raw = dataset.get_item(tag, keep_deferred=True)
        if (raw is None) != (keyword not in head):
            return f"presence of {keyword}"
        if raw is not None and raw.value != head.value(keyword):  # equal bytes are read equally
            ways: tuple[Callable, ...] = (fields.text, fields.number, fields.count)
            if raw.value and any(way(dataset, keyword) != way(head, keyword) for way in ways):
                return f"value of {keyword}"
            if not raw.value and any(way(part, keyword) is not None for way in ways for part in (dataset, head)):
                return f"value of {keyword}"
    if any(tag in dataset for tag in _ABSENT):
        return "a sequence or pixels that the walker does not read"
    return None if "PixelData" in dataset and _same_pixels(head, stored, dataset) else "pixels"


def _same_pixels(head: Head, stored: bytes, dataset: pydicom.Dataset) -> bool:
    raw = dataset.get_item("PixelData")
    found = [stored[at:at + length] for at, length in head.pixels]
    if raw.length != _UNDEFINED:
        return head.pixels == ((raw.value_tell, raw.length),) and raw.value == found[0]
    buffer = io.BytesIO(raw.value)
    try:
        parse_basic_offsets(buffer)
        return list(generate_fragments(buffer)) == found
    except ValueError:  # pydicom refuses what the walker took
        return False


def compare(seed: int, number: int) -> tuple[bool, str | None]:
    """Whether the walker answered for this file, and what differs."""
    whole, stored = mutated(seed, number)
    fresh, experienced = HeadReader(), HeadReader()
    experienced.read(_reader(whole), len(whole))
    heads = [reader.read(_reader(stored), len(stored)) for reader in (fresh, experienced)]
    if heads[0] != heads[1]:
        return True, "what was read before"
    return heads[0] is not None, None if heads[0] is None else difference(heads[0], stored)


def _reader(stored: bytes) -> Callable[[int, int], bytes]:
    return lambda count, offset: stored[offset:offset + count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, help="JSON file that keeps how far the run has come")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    pydicom.config.logger.setLevel("CRITICAL")
    done = {"seed": arguments.seed, "files": 0, "answered": 0, "differences": 0}
    if arguments.state and arguments.state.exists():
        done = json.loads(arguments.state.read_text())
    for number in range(done["files"], arguments.count):
        answered, differs = compare(done["seed"], number)
        done["files"] += 1
        done["answered"] += answered
        if differs:
            print(f"file {number} of seed {done['seed']}: {differs}")
            sys.exit(1)
        if arguments.state and done["files"] % 5000 == 0:
            arguments.state.write_text(json.dumps(done))
    if arguments.state:
        arguments.state.write_text(json.dumps(done))
    print(json.dumps(done))


if __name__ == "__main__":
    main()
