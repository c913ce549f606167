"""Motion through a series of files: ``firstread track``.

    cine (and labels of one frame) ─▶ TrackMotion ─▶ labels of all frames, motion.csv, track.json, page.html
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.canonical import onto
from firstread.analyze.register_motion import AFTER_NETWORK, TRACKING, TrackMotion, is_in_plane
from firstread.core.alignment import Motion
from firstread.core.case import Case
from firstread.core.errors import GeometryError, InputError, SettingError
from firstread.core.provenance import file_hash, peak_memory_mb, versions, weights_hash
from firstread.core.records import Image
from firstread.core.stage import Chain
from firstread.io.dicom.seg_read import open_seg, seg_files
from firstread.io.folder import check_free, new_folder
from firstread.io.open import read as open_file
from firstread.jobs.segment_pairs import grid_difference
from firstread.jobs.segment_seg import placed, values_of, values_used
from firstread.jobs.track_numbers import numbers
from firstread.jobs.warp import are_labels
from firstread.nets.velocity import VelocityNet
from firstread.ops.regions import dice
from firstread.ops.warp import apply_inverse, sample_labels
from firstread.report.tracked import MARKER, TrackedReport, write
from firstread.zoo.store import load

Progress = Callable[[str], None]
MARGIN, MANY = 0.4, 8  # of the labels' longer side, left around them; frames from which on motion is smooth in time


@dataclass(frozen=True)
class TrackSettings:
    """What a user can say.

    frame: the labelled frame, from 0; default: the first one with labels, or 0. periodic: whether the last frame is
    followed by the first. smooth_frames: sd of the smoothing over time; default 0.5 from 8 frames on. whole: track the
    whole image, not only around the labels. fields: write the displacement of every frame. spacing_mm: (z, y, x) where
    files state none. series: of a DICOM folder, by number, UID or description. weights: a network of motion by name or
    file, from whose motion a few steps go on, and its spread; None: optimization on the series alone.
    """

    frame: int | None = None
    periodic: bool = True
    smooth_frames: float | None = None
    whole: bool = False
    fields: bool = False
    spacing_mm: tuple[float, float, float] | None = None
    series: str | None = None
    weights: str | None = None


def track(path: Path, labels: Path | None, settings: TrackSettings | None = None, *,
          progress: Progress = lambda text: None) -> TrackedReport:
    """Where everything in one frame of a series goes, with the labels of that frame carried along.

    labels: of one frame, or of all frames, of which the first labelled one (or ``settings.frame``) is followed and the
    others are compared. Raises InputError for one frame, k-space, no labels in the frame or labels that are no whole
    numbers, or weights of something else, GeometryError for labels on another grid, SettingError for a frame that is
    not there, SignalError for NaN.
    """
    settings = settings or TrackSettings()
    started = time.perf_counter()
    network, factor, hashes = None, 1.0, {}
    if settings.weights is not None:
        network, factor = motion_network(settings.weights)
        hashes[f"weights {settings.weights}"] = weights_hash(network)
    image = _series(path, settings, progress)
    frames = image.data.shape[1]
    drawn, names = (None, {}) if labels is None else _labels(labels, image, settings)
    reference = _reference(drawn, settings, frames)
    start, size = (0, 0, 0), image.grid.shape
    if drawn is not None and not settings.whole:
        start, size = _box(drawn[:, reference], is_in_plane(image.grid))
    part = replace(image, data=_cut(image.data, start, size), grid=image.grid.crop(start, size))
    smooth = settings.smooth_frames if settings.smooth_frames is not None else 0.5 if frames >= MANY else 0.0
    stage = TrackMotion(reference=reference, periodic=settings.periodic, smooth_frames=smooth, network=network,
                        effort=TRACKING if network is None else AFTER_NETWORK, spread_factor=factor, progress=progress)
    case = Chain(stage)(Case({"image": part}))
    motion = cast(Motion, case["motion"])
    carried, overlap = None, {}
    inner = None if drawn is None else _cut(drawn, start, size)
    if inner is not None and drawn is not None:
        progress("carrying labels")
        moved = torch.stack([_carried(inner[:, reference], motion, frame) for frame in range(frames)], dim=1)
        carried = torch.zeros_like(drawn)
        z, y, x = (slice(s, s + n) for s, n in zip(start, size, strict=True))
        carried[..., z, y, x] = moved
        overlap = {frame: _overlap(drawn[:, frame], drawn[:, reference], carried[:, frame]) for frame in range(frames)
                   if frame != reference and bool(drawn[:, frame].any())}
    rows, folded = numbers(motion, None if inner is None else inner[:, reference], names)
    hashes = {file.name: file_hash(file) for file in (path, labels) if file is not None} | hashes
    return TrackedReport(case, image, motion, carried, names, overlap, rows, hashes, versions(),
                         time.perf_counter() - started, peak_memory_mb(), folded, settings.fields)


def track_to_folder(path: Path, labels: Path | None, folder: Path, settings: TrackSettings | None = None, *,
                    overwrite: bool = False, progress: Progress = lambda text: None) -> TrackedReport:
    """Write ``labels.nii.gz``, ``motion.csv``, ``track.json`` and ``page.html``; whole or not at all."""
    check_free(folder, marker=MARKER, overwrite=overwrite)
    report = track(path, labels, settings, progress=progress)
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        write(report, work)
    return report


def motion_network(weights: str) -> tuple[VelocityNet, float]:
    """A network of motion by name or file, and what its spread is multiplied with.

    Raises InputError for weights that are not there or are of something else.
    """
    weight = load(weights)
    settings, factor = weight.card.get("network"), weight.card.get("spread_factor_after_steps", 1.0)
    if not isinstance(settings, dict) or settings.keys() != VelocityNet(widths=(2,)).settings().keys():
        raise InputError(f"{weights}, which is no network of motion", expected="heart-motion, or the .safetensors of "
                         "`firstread train heart-motion` with its .json beside it", remedy="correct --weights")
    if not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise InputError(f"{weights}, whose card states a spread factor of {factor!r}", expected="a number above zero",
                         remedy="take the .json that was written beside it")
    try:
        return VelocityNet.from_weight(settings, weight.state), float(factor)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise InputError(f"{weights}, whose parameters are not those of the network in its card", expected="the .json "
                         "that was written beside it", remedy="put both back, or train it again") from error


def _series(path: Path, settings: TrackSettings, progress: Progress) -> Image:
    progress(f"opening {path.name}")
    image = open_file(path, spacing_mm=settings.spacing_mm, series=settings.series).case.get("image")
    if not isinstance(image, Image):
        raise InputError(f"{path.name}, which holds raw data", expected="images", remedy="reconstruct it first")
    if image.data.shape[1] < 2 or image.data.shape[2] != 1:
        raise InputError(f"{path.name} of {_count(image.data.shape[1], 'frame')} and "
                         f"{_count(image.data.shape[2], 'channel')}", expected="a series of two frames or more of one "
                         "channel", remedy="give a cine")
    image.grid.require_mm(f"tracking ({path.name})")
    return replace(image, data=(image.data.abs() if image.data.is_complex() else image.data).float())


def _labels(path: Path, image: Image, settings: TrackSettings) -> tuple[Float[Tensor, "batch time z y x"],
                                                                         dict[int, str]]:
    """Labels for every frame of the image; where the file has one frame, it is that of ``settings.frame``."""
    frames, name = image.data.shape[1], f"{path.name}, the labels"
    if objects := seg_files(path):
        files = [open_seg(file) for file in objects]
        values = values_of(files, {})
        found = placed(files, image.grid, values, frames=frames, source=image.source, name=name)
        return found[None].float(), values_used(values)
    read = open_file(path, spacing_mm=settings.spacing_mm).case.get("image")
    if not isinstance(read, Image) or not are_labels(read.data):
        raise InputError(f"{path.name}, which holds no labels", expected="whole numbers from 0 on, one per voxel",
                         remedy="give a segmentation")
    if (turned := onto(read.data, read.grid, image.grid)) is not None:
        read = replace(read, data=turned, grid=image.grid)
    if (apart := grid_difference(read.grid, image.grid)) is not None or read.batch != image.batch:
        raise GeometryError(f"{name}, with {apart or 'other parts'}", expected="labels on the grid of the series",
                            remedy="draw or resample them on it (firstread warp)")
    data = read.data[:, :, 0].float()
    if data.shape[1] not in (1, frames):
        raise GeometryError(f"{name}, of {data.shape[1]} frames for a series of {frames}",
                            expected="labels of one frame or of all", remedy="cut one frame out")
    if data.shape[1] == 1:
        at = settings.frame or 0
        _require_frame(at, frames)
        spread = data.new_zeros(data.shape[0], frames, *data.shape[2:])
        spread[:, at] = data[:, 0]
        data = spread
    return data, {}


def _reference(labels: Tensor | None, settings: TrackSettings, frames: int) -> int:
    if settings.frame is not None:
        _require_frame(settings.frame, frames)
    if labels is None:
        return settings.frame or 0
    drawn = [frame for frame in range(frames) if bool(labels[:, frame].any())]
    if not drawn:
        raise InputError("labels that are all zero", expected="one label or more in the frame that is followed",
                         remedy="give a segmentation")
    at = settings.frame if settings.frame is not None else drawn[0]
    if at not in drawn:
        raise InputError(f"no labels in frame {at}", expected="labels in the frame that is followed "
                         f"({', '.join(map(str, drawn[:8]))})", remedy="state it with --frame, counted from 0")
    return at


def _require_frame(frame: int, frames: int) -> None:
    if not 0 <= frame < frames:
        raise SettingError(f"frame {frame} of a series of {frames}", expected=f"a number from 0 to {frames - 1}",
                           remedy="correct --frame")


def _box(labels: Float[Tensor, "batch z y x"], in_plane: bool) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Start and size (z, y, x) of what is tracked: the labels and a margin; across slices none where none move."""
    inside = labels.any(dim=0)
    spans = []
    for axis in range(3):
        there = inside.any(dim=tuple(a for a in range(3) if a != axis)).nonzero()[:, 0]
        spans.append((int(there[0]), int(there[-1]) + 1))
    margin = round(MARGIN * max(end - begin for begin, end in spans[1:])) + 4
    wider = [0 if in_plane else margin, margin, margin]
    cut = [(max(0, begin - m), min(n, end + m)) for (begin, end), m, n in zip(spans, wider, inside.shape, strict=True)]
    return (cut[0][0], cut[1][0], cut[2][0]), (cut[0][1] - cut[0][0], cut[1][1] - cut[1][0], cut[2][1] - cut[2][0])


def _cut(data: Tensor, start: tuple[int, int, int], size: tuple[int, int, int]) -> Tensor:
    z, y, x = (slice(s, s + n) for s, n in zip(start, size, strict=True))
    return data[..., z, y, x]


def _carried(labels: Float[Tensor, "batch z y x"], motion: Motion, frame: int) -> Float[Tensor, "batch z y x"]:
    """Labels of the reference frame as they lie in another one."""
    if frame == motion.reference:
        return labels
    places = apply_inverse(motion.at(frame), motion.grid.points_mm(), tolerance_mm=0.01)
    return sample_labels(labels[:, None], motion.grid, places)[:, 0]


def _overlap(truth: Tensor, before: Tensor, after: Tensor) -> dict[int, tuple[float, float]]:
    values = [int(v) for v in truth.unique().tolist() if v]
    return {v: (float(dice(before == v, truth == v)), float(dice(after == v, truth == v))) for v in values}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
