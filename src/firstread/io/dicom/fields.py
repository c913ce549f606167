"""Attributes of a DICOM data set, read leniently: absent, empty and malformed values are None."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from firstread.io.dicom.head import Head

Header = Dataset | Head
_LONGEST = 1 << 26


def _value(dataset: Header, keyword: str) -> tuple[Any, bool]:
    """The element's value and whether it is big endian; bytes where pydicom has not converted it yet."""
    if isinstance(dataset, Head):
        return dataset.value(keyword), False
    tag = _tag(keyword)
    try:
        element = dataset.get_item(tag, keep_deferred=True)
        if _too_long(element):
            return None, False
        if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
            return element.value, not element.is_little_endian
        return dataset[tag].value, False
    except KeyError:
        return None, False
    except Exception:  # a malformed value can raise anything in pydicom's conversion; it counts as absent
        return None, False


def _too_long(element: Any) -> bool:
    """Whether a value that is still in the file claims more bytes than an attribute has."""
    return isinstance(element, RawDataElement) and element.value is None and _LONGEST < element.length < 0xFFFFFFFF


@cache
def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)


def text(dataset: Header, keyword: str) -> str | None:
    """The value as text, several values joined by backslashes."""
    value, _ = _value(dataset, keyword)
    if isinstance(value, bytes):
        return _decoded(value)
    if value is None:
        return None
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        found = str(value).strip()
    else:
        found = "\\".join(str(part) for part in value)
    return found or None


@lru_cache(maxsize=512)  # most values are those of the file before
def _decoded(value: bytes) -> str | None:
    return value.decode("latin-1").strip(" \0\t\r\n") or None


def numbers(dataset: Header, keyword: str, count: int) -> tuple[float, ...] | None:
    """``count`` finite numbers out of a text value (DS, IS), or out of a converted one."""
    found = text(dataset, keyword)
    return None if found is None else _parsed(found, count)


@lru_cache(maxsize=512)
def _parsed(found: str, count: int) -> tuple[float, ...] | None:
    try:
        values = tuple(float(part) for part in found.split("\\"))
    except ValueError:
        return None
    return values if len(values) == count and all(abs(v) < 1e300 for v in values) else None


def number(dataset: Header, keyword: str) -> float | None:
    """One finite number out of a text value (DS, IS), or out of a converted one."""
    found = numbers(dataset, keyword, 1)
    return None if found is None else found[0]


def binary(dataset: Header, keyword: str, format_: str) -> float | None:
    """One number of a binary element; ``format_`` is a ``struct`` letter (``H`` US, ``d`` FD, ``f`` FL)."""
    value, big = _value(dataset, keyword)
    if isinstance(value, bytes):
        size = struct.calcsize(format_)
        return float(struct.unpack((">" if big else "<") + format_, value[:size])[0]) if len(value) >= size else None
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def count(dataset: Header, keyword: str) -> int | None:
    """An unsigned short (US)."""
    found = binary(dataset, keyword, "H")
    return None if found is None else int(found)


def items(dataset: Header, keyword: str) -> Iterator[Dataset]:
    """The items of a sequence; none where it is absent or not a sequence."""
    if isinstance(dataset, Head) or keyword not in dataset:  # a head has no sequences
        return
    try:
        tag = _tag(keyword)
        if _too_long(dataset.get_item(tag, keep_deferred=True)):
            return
        value = dataset[tag].value
    except Exception:  # as above
        return
    if isinstance(value, Sequence):
        yield from value


def first(dataset: Header, *keywords: str) -> Dataset:
    """The first item of nested sequences; an empty data set where one of them is absent."""
    found = dataset
    for keyword in keywords:
        found = next(items(found, keyword), Dataset())
    return found if isinstance(found, Dataset) else Dataset()
