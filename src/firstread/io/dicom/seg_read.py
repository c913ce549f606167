"""DICOM Segmentation objects as label values on an image's grid.

Each frame says where it lies (plane position and orientation, pixel measures); its pixels are put onto the voxels of
the grid at those places, so the order of frames does not matter and planes without a frame are background. Nothing is
interpolated: a segmentation whose pixels do not fall onto the voxels is refused. Source: DICOM PS3.3 A.51, C.8.20.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import torch
from jaxtyping import Integer
from pydicom.dataset import Dataset
from torch import Tensor

from firstread.core.errors import FormatError, GeometryError, UnsupportedError
from firstread.core.geometry import Grid

STORAGE = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
NEAR = 0.1  # of a voxel


@dataclass(frozen=True, eq=False)
class SegFrame:
    """One frame: its number in the file, its segment (None where pixels hold segment numbers), where its first pixel
    lies and the steps to the next column and row, in LPS+ millimetres. apart_mm: stated distance of slices; thick_mm:
    their thickness."""

    index: int
    segment: int | None
    origin: tuple[float, ...]
    column: tuple[float, ...]
    row: tuple[float, ...]
    apart_mm: float | None
    thick_mm: float | None


@dataclass(frozen=True, eq=False)
class SegFile:
    """The header of one object. segments: label by number; referred: instances that it was drawn on."""

    path: Path
    segments: dict[int, str]
    frames: tuple[SegFrame, ...]
    referred: frozenset[str]
    instance: int
    size: tuple[int, int]


def seg_files(path: Path) -> list[Path]:
    """The DICOM SEG objects at a path: the file itself, or those of a folder, by name; empty where there is none."""
    candidates = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else []
    found = []
    for candidate in candidates:
        with candidate.open("rb") as stream:
            if stream.read(132)[128:] != b"DICM":
                continue
        try:
            header = pydicom.dcmread(candidate, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        except (pydicom.errors.InvalidDicomError, OSError, ValueError, KeyError, AttributeError):
            continue  # what it is instead is said by who reads images
        if str(header.get("SOPClassUID", "")) in STORAGE:
            found.append(candidate)
    return found


def open_seg(path: Path) -> SegFile:
    """The segments and frames of an object, its pixels left in the file.

    Raises FormatError for a damaged one, or one whose frames do not say where they lie.
    """
    try:
        stored = pydicom.dcmread(path, stop_before_pixels=True)
        segments = {int(s.SegmentNumber): str(s.get("SegmentLabel", "") or f"segment {s.SegmentNumber}").strip()
                    for s in stored.SegmentSequence if int(s.SegmentNumber) > 0}  # 0: the background of label maps
        shared = stored.SharedFunctionalGroupsSequence[0] if stored.get("SharedFunctionalGroupsSequence") else Dataset()
        per_frame = stored.PerFrameFunctionalGroupsSequence
        labelmap = str(stored.get("SegmentationType", "BINARY")) == "LABELMAP"
        frames = tuple(_frame(number, group, shared, labelmap) for number, group in enumerate(per_frame))
        count = int(stored.get("NumberOfFrames") or 1)  # some leave it out where there is one
        if not frames or len(frames) != count:
            raise FormatError(f"{path.name}, a DICOM SEG that counts {count} frames and places {len(frames)}",
                              expected="a place for each frame", remedy="export it again")
        referred = frozenset(str(i.ReferencedSOPInstanceUID) for s in stored.get("ReferencedSeriesSequence", ())
                             for i in s.get("ReferencedInstanceSequence", ()))
        return SegFile(path, segments, frames, referred, int(stored.get("InstanceNumber") or 0),
                       (int(stored.Rows), int(stored.Columns)))
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OSError,
            pydicom.errors.InvalidDicomError) as error:
        raise FormatError(f"{path.name}, a DICOM SEG that cannot be used ({type(error).__name__}: {error})",
                          expected="segments, and frames with position, orientation and pixel spacing",
                          remedy="export it again") from error


def place_seg(files: Sequence[SegFile], grid: Grid, values: Mapping[str, int]) -> Integer[Tensor, "z y x"]:
    """Label values on a grid of one row; values: by label of the segments.

    Axes may be permuted and flipped, frames missing, cropped, or in any order. Raises GeometryError where pixels do not
    fall onto voxels or labelled ones lie outside the grid, FormatError where segments of different values overlap.
    """
    if grid.frame != "patient" or grid.affine.shape[0] != 1:
        raise GeometryError(f"a DICOM SEG for an image of {grid.affine.shape[0]} parts, frame {grid.frame!r}",
                            expected="one volume with a place in the patient", remedy="give labels as NIfTI")
    made = np.zeros(grid.shape, np.int32)
    owner: dict[int, str] = {}
    inverse = torch.linalg.inv(grid.affine[0]).numpy()
    for file in files:
        pixels = _pixels(file)
        for frame in file.frames:
            places, inside = _places(frame, file, inverse, grid.shape)
            plane = pixels[frame.index]
            for number in [frame.segment] if frame.segment is not None else [int(v) for v in np.unique(plane) if v]:
                mask = plane > 0 if frame.segment is not None else plane == number
                label = _label(file, number)
                value = values[label]
                if (mask & ~inside).any():
                    raise GeometryError(f"{file.path.name}: {int((mask & ~inside).sum())} labelled pixels of "
                                        f"{label!r} outside the image", expected="labels drawn on this image",
                                        remedy="check that image and labels belong together")
                z, y, x = (axis[mask] for axis in places)
                before = made[z, y, x]
                if (clash := (before > 0) & (before != value)).any():
                    raise FormatError(f"{file.path.name}: {int(clash.sum())} voxels of a plane both in "
                                      f"{owner[int(before[clash][0])]!r} and in {label!r}",
                                      expected="segments that do not overlap", remedy="leave one of them out")
                made[z, y, x] = value
                owner[value] = label
    return torch.from_numpy(made)


def grid_of(files: Sequence[SegFile]) -> Grid:
    """The smallest grid that holds the frames of all files, along the frames' own axes.

    Slices are as far apart as the files state, where all planes fit that, else as the nearest two planes are. Raises
    GeometryError for a single plane of no stated thickness.
    """
    frames = [(file, frame) for file in files for frame in file.frames]
    if not frames:
        raise GeometryError("DICOM SEG without frames", expected="a frame or more", remedy="export it again")
    first = frames[0][1]
    column, row = np.array(first.column), np.array(first.row)
    normal = np.cross(column, row) / np.linalg.norm(np.cross(column, row))
    along = sorted({round(float(np.array(frame.origin) @ normal), 3) for _, frame in frames})
    apart = [b - a for a, b in pairwise(along) if b - a > 0.01]
    stated = first.apart_mm or 0.0
    if stated > 0 and all(abs(a / stated - round(a / stated)) < NEAR for a in apart):
        step = stated
    else:
        step = min(apart, default=first.thick_mm or 0.0)
    if step <= 0:
        raise GeometryError(f"{files[0].path.name}, one plane without a thickness", expected="planes at distances",
                            remedy="compare it on the image's grid")
    places = np.stack([np.linalg.solve(np.stack((column, row, normal * step), axis=1),
                                       np.array(frame.origin) - np.array(first.origin)) for _, frame in frames])
    low = np.round(places.min(axis=0))
    size = [max(p[a] - low[a] + (file.size[1 - a] if a < 2 else 1) for p, (file, _) in zip(places, frames, strict=True))
            for a in range(3)]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = column, row, normal * step
    affine[:3, 3] = np.array(first.origin) + affine[:3, :3] @ low
    x, y, z = (round(float(n)) for n in size)
    return Grid(torch.from_numpy(affine)[None], (z, y, x))


def _frame(index: int, own: Dataset, shared: Dataset, labelmap: bool) -> SegFrame:
    def group(name: str) -> Any:
        return (own[name] if name in own else shared[name]).value[0]

    place = [float(v) for v in group("PlanePositionSequence").ImagePositionPatient]
    turn = [float(v) for v in group("PlaneOrientationSequence").ImageOrientationPatient]
    measures = group("PixelMeasuresSequence")
    down, right = (float(v) for v in measures.PixelSpacing)
    apart, thick = (None if v is None else abs(float(v)) for v in
                    (measures.get("SpacingBetweenSlices"), measures.get("SliceThickness")))
    segment = None if labelmap else int(group("SegmentIdentificationSequence").ReferencedSegmentNumber)
    if not np.isfinite([*place, *turn, down, right]).all() or min(down, right) <= 0:
        raise ValueError(f"frame {index + 1} at no place")
    return SegFrame(index, segment, tuple(place), tuple(right * v for v in turn[:3]), tuple(down * v for v in turn[3:]),
                    apart, thick)


def _label(file: SegFile, number: int) -> str:
    if number not in file.segments:
        raise FormatError(f"{file.path.name} with a frame of segment {number}, which it does not list",
                          expected=f"one of {sorted(file.segments)}", remedy="export it again")
    return file.segments[number]


def _pixels(file: SegFile) -> np.ndarray:
    """Frames of zeros and ones, or of segment numbers; fractions count from one half on."""
    try:
        stored = pydicom.dcmread(file.path)
        pixels = stored.pixel_array.reshape(-1, *file.size)
        kind = str(stored.get("SegmentationType", "BINARY"))
        if kind == "FRACTIONAL":
            pixels = (2 * pixels.astype(np.int32) >= int(stored.MaximumFractionalValue)).astype(np.uint8)
    except (AttributeError, ValueError, KeyError, RuntimeError, NotImplementedError, OSError, EOFError) as error:
        raise FormatError(f"{file.path.name}, whose pixels cannot be read ({type(error).__name__})",
                          expected="a complete DICOM SEG", remedy="export or copy it again") from error
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise UnsupportedError(f"{file.path.name}, a segmentation of type {kind}",
                               expected="BINARY, FRACTIONAL or LABELMAP", remedy="export it as BINARY")
    return pixels


def _places(frame: SegFrame, file: SegFile, inverse: np.ndarray, shape: tuple[int, int, int]
            ) -> tuple[list[np.ndarray], np.ndarray]:
    """Index (z, y, x) of every pixel of a frame, and which of them are inside the grid."""
    rows, columns = file.size
    start = inverse[:3, :3] @ np.array(frame.origin) + inverse[:3, 3]
    right, down = inverse[:3, :3] @ np.array(frame.column), inverse[:3, :3] @ np.array(frame.row)
    far = start + right * (columns - 1) + down * (rows - 1)
    steps = [np.round(v) for v in (right, down)]
    ends = np.round(start), np.round(start) + steps[0] * (columns - 1) + steps[1] * (rows - 1)
    fits = all(np.abs(step).sum() == 1 for step in steps) and not (steps[0] * steps[1]).any()
    if not fits or max(np.abs(start - ends[0]).max(), np.abs(far - ends[1]).max()) > NEAR:
        raise GeometryError(f"{file.path.name}: frame {frame.index + 1}, whose pixels do not fall onto the image's "
                            "voxels", expected="labels on the image's own grid, perhaps turned or with planes left out",
                            remedy="resample the labels onto the image's grid (nearest neighbour)")
    j, i = np.meshgrid(np.arange(columns), np.arange(rows))
    xyz = [(ends[0][a] + steps[0][a] * j + steps[1][a] * i).astype(np.int64) for a in range(3)]
    inside = np.ones(file.size, bool)
    for axis, size in zip(xyz, shape[::-1], strict=True):
        inside &= (axis >= 0) & (axis < size)
    return [axis.clip(0, size - 1) for axis, size in zip(xyz[::-1], shape, strict=True)], inside
