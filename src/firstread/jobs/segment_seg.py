"""DICOM SEG as labels of training and evaluation: which value each segment has, and which frame of a series it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Integer
from torch import Tensor

from firstread.core.errors import GeometryError, InputError
from firstread.core.geometry import Grid
from firstread.io.dicom.seg_read import SegFile, place_seg
from firstread.io.dicom.source import DicomSource


def values_of(files: Sequence[SegFile], names: Mapping[int, str], *, ignored: int | None = None) -> dict[str, int]:
    """The value of every segment's label.

    names: stated for the values: matched by label (case, spaces and the like aside), or, where no label at all is among
    them, by segment number. Where none are stated, the segments' own numbers, if all files use them alike, else the
    labels in alphabetical order. Raises InputError for a segment that the stated names do not know.

    >>> values_of([], {1: "liver"})
    {}
    """
    listed = list(dict.fromkeys((number, label) for file in files for number, label in file.segments.items()))
    labels = sorted({label for _, label in listed})
    by_number = {label: number for number, label in listed}
    alike = len({number for number, _ in listed}) == len(listed) == len(labels)
    if not names:
        return by_number if alike else {label: place for place, label in enumerate(labels, start=1)}
    known = {_plain(name): value for value, name in names.items() if value}
    if ignored is not None:
        known["ignore"] = ignored
    if alike and not any(_plain(label) in known for label in labels) and set(by_number.values()) <= set(known.values()):
        return by_number
    unknown = [label for label in labels if _plain(label) not in known]
    if unknown:
        at = next(file for file in files if unknown[0] in file.segments.values())
        raise InputError(f"{at.path.name} with the segment {unknown[0]!r}",
                         expected=f"one of {', '.join(name for value, name in names.items() if value)}",
                         remedy="name it there, or take the segment out")
    return {label: known[_plain(label)] for label in labels}


def require_numbers(files: Sequence[SegFile], values: Mapping[str, int], *, remedy: str) -> None:
    """Refuse values that are not the segments' own numbers, where labels in other files say numbers alone."""
    for file in files:
        for number, label in file.segments.items():
            if values[label] != number:
                raise InputError(f"{file.path.name}, whose segment {number}, {label!r}, is another in other files, "
                                 "beside labels that are numbers alone", expected="names of the values", remedy=remedy)


def values_used(values: Mapping[str, int]) -> dict[int, str]:
    """Names by value, the background first.

    >>> values_used({"tumour": 2, "liver": 1})
    {0: 'background', 1: 'liver', 2: 'tumour'}
    """
    return {0: "background", **{value: label for label, value in sorted(values.items(), key=lambda pair: pair[1])}}


def placed(files: Sequence[SegFile], grid: Grid, values: Mapping[str, int], *, frames: int, source: object,
           name: str) -> Integer[Tensor, "time z y x"]:
    """Label values of every frame of an image.

    Of a series over time each object belongs to the frame whose instances it refers to, or, where instances do not tell
    frames apart (NIfTI, multi-frame files), to the frame of its place among the instance numbers. Raises GeometryError
    where a frame has none.
    """
    try:
        if frames == 1:
            return place_seg(files, grid, values)[None]
        groups = _by_frame(files, frames, source)
        return torch.stack([place_seg(group, grid, values) for group in groups])
    except GeometryError as error:
        raise GeometryError(f"{name}: {error.got}", expected=error.expected, remedy=error.remedy) from error


def phases_of(files: Sequence[SegFile]) -> int:
    """How many frames over time objects are of by themselves: each one of its own where no two share an instance."""
    referred = [file.referred for file in files]
    apart = all(referred) and len(frozenset().union(*referred)) == sum(len(r) for r in referred)
    return len(files) if len(files) > 1 and apart else 1


def _by_frame(files: Sequence[SegFile], frames: int, source: object) -> list[list[SegFile]]:
    groups: list[list[SegFile]] = [[] for _ in range(frames)]
    homes: dict[str, set[int]] = {}
    if isinstance(source, DicomSource):
        for phase, reference in ((p, r) for row in source.frames for p, slices in enumerate(row) for r in slices):
            homes.setdefault(reference.sop_uid, set()).add(phase)
    if homes and all(len(phases) == 1 for phases in homes.values()):
        for file in files:
            found = set().union(*(homes[uid] for uid in file.referred if uid in homes))
            if len(found) == 1:
                groups[found.pop()].append(file)
    elif len(files) == frames:
        groups = [[file] for file in sorted(files, key=lambda f: (f.instance, f.path.name))]
    if empty := [str(number + 1) for number, group in enumerate(groups) if not group]:
        raise GeometryError(f"{len(files)} DICOM SEG objects, none for frame {', '.join(empty[:5])}",
                            expected=f"one for each of {frames} frames", remedy="give labels for every frame")
    return groups


def _plain(label: str) -> str:
    return re.sub(r"[\W_]+", "", label.casefold())
