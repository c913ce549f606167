"""What ``firstread track`` writes: labels of all frames, numbers by frame, and a page that plays them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.alignment import Motion
from firstread.core.case import Case
from firstread.core.records import HardLabels, Image
from firstread.io.nifti import write_image
from firstread.io.transforms import write_field
from firstread.report.cine import cine
from firstread.report.curve import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, path, ticks
from firstread.report.pictures import coloured, picture, to_grey, window
from firstread.report.templates import environment, script

MARKER = "track.json"
SCHEMA = "firstread.track/1"
STATEMENT = "Research software. Not for clinical use."
FLAT = 0.01  # the drawing of volumes spans at least this much about 1, so that rounding is not magnified
STRIP, STRIP_PIXELS = 8, 1000  # slices whose spread the page shows, and about how wide together
COLUMNS = ("frame", "time_s", "label", "moved_mm", "most_mm", "volume", "radial", "circumferential", "spread_mm")


@dataclass(frozen=True)
class Row:
    """One label in one frame.

    moved_mm, most_mm: mean and largest way from the reference frame; volume: ratio to it, from the Jacobian;
    radial, circumferential: median Lagrangian strain about the label's own centre in every slice, where the label is a
    ring around it (heart muscle), else None; spread_mm: mean standard deviation of a point's place (root of the sum
    over axes), where the method knows it.
    """

    frame: int
    time_s: float | None
    label: str
    moved_mm: float
    most_mm: float
    volume: float
    radial: float | None
    circumferential: float | None
    spread_mm: float | None = None


@dataclass(frozen=True, eq=False)
class TrackedReport:
    """A tracked series.

    image: all of it; motion: on the part that was tracked; labels: of every frame, or None; names of labels; overlap:
    by frame and label Dice of labels drawn there with those of the reference frame, at rest and carried; folded: the
    share of voxels, of all frames, where the motion folds; fields: whether to write displacements.
    """

    case: Case
    image: Image
    motion: Motion
    labels: Float[Tensor, "batch time z y x"] | None
    names: Mapping[int, str]
    overlap: Mapping[int, Mapping[int, tuple[float, float]]]
    rows: Sequence[Row]
    hashes: Mapping[str, str]
    versions: Mapping[str, str]
    seconds: float
    peak_mb: float
    folded: float
    fields: bool


def write(report: TrackedReport, folder: Path) -> None:
    """``labels.nii.gz``, ``motion.csv``, ``spread.nii.gz``, ``fields/``, ``track.json`` and ``page.html``."""
    if report.labels is not None:
        write_image(folder / "labels.nii.gz", replace(report.image, data=report.labels[:, :, None].to(torch.int32)))
    with (folder / "motion.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in report.rows:
            writer.writerow(["" if (value := getattr(row, name)) is None else f"{value:.5g}"
                             if isinstance(value, float) else value for name in COLUMNS])
    if (spread := spread_image(report)) is not None:
        write_image(folder / "spread.nii.gz", spread)
    if report.fields:
        (folder / "fields").mkdir()
        for frame in range(report.motion.displacement_mm.shape[1]):
            write_field(folder / "fields" / f"frame_{frame:03d}.nii.gz", report.motion.displacement_mm[0, frame],
                        report.motion.grid)
    document = tracked_document(report)
    (folder / MARKER).write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
                                 encoding="utf-8")
    (folder / "page.html").write_text(page(report, document), encoding="utf-8")


def spread_image(report: TrackedReport) -> Image | None:
    """The standard deviation of each point's place in mm in every frame, on the tracked part; None where unknown."""
    motion = report.motion
    if motion.spread_mm is None:
        return None
    return replace(report.image, data=motion.spread_mm.norm(dim=2)[:, :, None], grid=motion.grid)


def tracked_document(report: TrackedReport) -> dict[str, Any]:
    """All of ``track.json``; the numbers of every frame are in ``motion.csv``."""
    motion = report.motion
    files = {"motion.csv": "way, volume and strain of every label in every frame"}
    if report.labels is not None:
        files["labels.nii.gz"] = "the labels, carried to all frames"
    if motion.spread_mm is not None:
        files["spread.nii.gz"] = "standard deviation of each point's place in every frame, mm, on the tracked part"
    if report.fields:
        files["fields/"] = f"displacements from frame {motion.reference} to each frame, as ITK and ANTs keep them"
    return {
        "schema": SCHEMA, "statement": STATEMENT, "input_sha256": dict(report.hashes), "files": files,
        "reference_frame": motion.reference, "frames": motion.displacement_mm.shape[1], "in_plane": motion.in_plane,
        "tracked_voxels_zyx": list(motion.grid.shape),
        "labels": {label: _extremes([row for row in report.rows if row.label == label], motion.reference)
                   for label in dict.fromkeys(row.label for row in report.rows)},
        "folded": round(100 * report.folded, 5),
        "dice": {str(frame): {report.names.get(v, f"label {v}"): [round(d, 4) for d in pair] for v, pair in
                              found.items()} for frame, found in report.overlap.items()},
        "warnings": [{"code": n.code, "text": n.text, "severity": n.severity} for n in report.case.notes],
        "trail": [{"stage": s.stage, "settings": s.settings, "seconds": round(s.seconds, 2)}
                  for s in report.case.trail],
        "versions": dict(report.versions), "seconds": round(report.seconds, 1), "peak_memory_mb": round(report.peak_mb)}


def page(report: TrackedReport, document: Mapping[str, Any]) -> str:
    """The page: the series with the carried outlines, the numbers, volume over time; no network."""
    shown = Case({"image": report.image})
    if report.labels is not None:
        values = [int(v) for v in report.labels.unique().tolist() if v]
        names = ("background", *(report.names.get(value, f"label {value}") for value in values))
        number = sum(((report.labels == value) * place for place, value in enumerate(values, start=1)),
                     torch.zeros_like(report.labels, dtype=torch.int64))
        shown = shown.adding("labels", HardLabels(report.image.rows, number[:, :, None].to(torch.uint8),
                                                  report.image.grid, names))
    images = cine(shown)
    island = {"cine": images, "panels": [], "ed": None, "es": None, "curve": None}
    return environment().get_template("tracked.html").render(
        **script(), statement=STATEMENT, document=document, images=images, island=island,
        drawing=volumes(report.rows) if report.labels is not None else None, spread=spread_drawing(report))


def spread_drawing(report: TrackedReport) -> dict[str, Any] | None:
    """The spread in the frame where it is largest, in colour over the reference frame, in up to ``STRIP`` slices."""
    spread = spread_image(report)
    if spread is None:
        return None
    frame = int(spread.data[0].flatten(1).mean(dim=1).argmax())
    shown = np.unique(np.linspace(0, spread.grid.shape[0] - 1, STRIP).round().astype(int))
    grey = report.case["image"].data[0, report.motion.reference, 0, shown].numpy()
    values = spread.data[0, frame, 0, shown].numpy()
    most = max(float(np.quantile(values, 0.99)), 0.1)
    both = 0.5 * to_grey(grey, *window(grey))[..., None] + 0.5 * coloured(values, most)
    strip = np.concatenate(list(both.round().astype(np.uint8)), axis=1)
    scale = max(1, round(STRIP_PIXELS / strip.shape[1]))
    return {"frame": frame, "most": most, "uri": picture(strip.repeat(scale, axis=0).repeat(scale, axis=1))}


def volumes(rows: Sequence[Row]) -> dict[str, Any]:
    """Volume of every label relative to the reference frame, as lines of a drawing."""
    frames = [row.frame for row in rows if row.label == rows[0].label]
    low, high = (least(end, *(row.volume for row in rows)) for least, end in ((min, 1 - FLAT), (max, 1 + FLAT)))
    marks = ticks(low, high)
    low, high = marks[0], marks[-1]

    def place(frame: int, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * frame / max(frames)
        return round(x, 1), round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low), 1)

    lines = [{"name": label, "path": path([place(row.frame, row.volume) for row in rows if row.label == label])}
             for label in dict.fromkeys(row.label for row in rows)]
    whole = [int(t) for t in ticks(0, max(frames)) if t == int(t) <= max(frames)]
    return {"lines": lines, "y_ticks": [(place(0, mark)[1], f"{mark:g}") for mark in marks],
            "x_ticks": [(place(frame, low)[0], f"{frame + 1}") for frame in whole]}


def _extremes(rows: Sequence[Row], reference: int) -> dict[str, Any]:
    """Where each number lies furthest from the reference frame, and its value there."""
    found: dict[str, Any] = {}
    for name, rest in (("moved_mm", 0.0), ("volume", 1.0), ("radial", 0.0), ("circumferential", 0.0),
                       ("spread_mm", 0.0)):
        known = [(abs(value - rest), row.frame, value) for row in rows
                 if row.frame != reference and (value := getattr(row, name)) is not None]
        found[name] = None if not known else {"frame": max(known)[1], "value": float(f"{max(known)[2]:.5g}")}
    return found

