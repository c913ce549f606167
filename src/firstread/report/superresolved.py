"""What ``firstread restore superres`` writes: the volume, what was done, a page with before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from firstread.core.case import Case
from firstread.core.records import Image, Note
from firstread.io.nifti import write_image
from firstread.report.cuts import Plane, upright
from firstread.report.pictures import to_grey, window
from firstread.report.templates import environment

MARKER = "restore.json"
SCHEMA = "firstread.superres/1"
STATEMENT = "Research software. Not for clinical use."
PANEL = 420  # pixels of the longer side of a picture
TITLES = {"model": "least squares with the slice profile", "cubic": "cubic interpolation",
          "linear": "linear interpolation", "learned": "a trained network"}


@dataclass(frozen=True)
class ViewFit:
    """A file of long-axis views: its slices, the lowest correlation with the stack, the share of pixels within it."""

    name: str
    slices: int
    correlation: float
    inside: float


@dataclass(frozen=True, eq=False)
class SuperResolvedReport:
    """A stack before, the volume after, and how.

    thickness_from: ``stated``, ``file`` or ``unknown``; unexplained: root mean square of what the volume leaves
    unexplained of the slices, over that of the slices; None where the thickness is unknown; hashes: of the stack, then
    of the views.
    """

    case: Case
    before: Image
    after: Image
    method: str
    factor: int
    thickness_from: str
    views: tuple[ViewFit, ...]
    unexplained: float | None
    notes: tuple[Note, ...]
    hashes: tuple[str, ...]
    weight: str | None
    versions: Mapping[str, str]
    seconds: float
    peak_mb: float


def write(report: SuperResolvedReport, folder: Path) -> None:
    """``image.nii.gz``, ``restore.json`` and ``page.html`` into ``folder``, which exists."""
    write_image(folder / "image.nii.gz", report.after)
    document = superresolved_document(report)
    (folder / MARKER).write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
                                 encoding="utf-8")
    (folder / "page.html").write_text(page(report, document), encoding="utf-8")


def superresolved_document(report: SuperResolvedReport) -> dict[str, Any]:
    """All of ``restore.json``."""
    thickness = report.before.grid.thickness_mm
    return {
        "schema": SCHEMA, "statement": STATEMENT, "title": "Finer through the slices",
        "method": report.method, "factor": report.factor,
        "input_sha256": report.hashes[0], "weight_sha256": report.weight,
        "before": _image(report.before), "image": {"file": "image.nii.gz", **_image(report.after)},
        "thickness_mm": None if thickness is None else round(float(thickness[0]), 4),
        "thickness_from": report.thickness_from,
        "views": [{"name": view.name, "sha256": digest, "slices": view.slices,
                   "correlation": round(view.correlation, 3), "inside": round(view.inside, 3)}
                  for view, digest in zip(report.views, report.hashes[1:], strict=True)],
        "unexplained": None if report.unexplained is None else round(report.unexplained, 5),
        "warnings": [{"code": n.code, "text": n.text, "severity": n.severity} for n in report.notes],
        "trail": [{"stage": s.stage, "settings": s.settings, "weights": s.weights, "seconds": round(s.seconds, 2)}
                  for s in report.case.trail],
        "versions": dict(report.versions), "seconds": round(report.seconds, 1), "peak_memory_mb": round(report.peak_mb)}


def page(report: SuperResolvedReport, document: Mapping[str, Any]) -> str:
    """The page: cuts across the slices and one between two of them, before and after; no network, no script."""
    return environment().get_template("superresolved.html").render(
        statement=STATEMENT, document=document, how=TITLES[report.method], rows=panels(report))


def panels(report: SuperResolvedReport) -> list[dict[str, Any]]:
    """The first frame in two planes across the slices, through what moves most (or the middle), and one along them.

    The slices are shown as what they are, thick blocks; both in the grey window of the slices.
    """
    stack, volume = (np.asarray(image.data[0, 0, 0].abs().float()) for image in (report.before, report.after))
    low, high = window(stack)
    blocks, places = stack.repeat(report.factor, axis=0), np.indices(volume.shape, dtype=np.int32)
    turned, spacing = upright([blocks, volume, *places], report.after.grid)
    grey = [to_grey(part, low, high) for part in turned[:2]]
    through, rows = _through(report), []
    for number, axis_of in enumerate(turned[2:]):
        axis = next((k for k in range(3) if np.ptp(axis_of, axis=k).any()), number)
        line = np.moveaxis(axis_of, axis, 0)[:, 0, 0]
        index = int(np.flatnonzero(line == through[number])[0])
        plane = Plane("", tuple(s for k, s in enumerate(spacing) if k != axis))
        before, after = (plane.uri(np.take(part, index, axis=axis), size=PANEL) for part in grey)
        rows.append({"name": ("along the slices, between two of them", "across the slices, a row of pixels",
                              "across the slices, a column of pixels")[number], "before": before, "after": after})
    return rows[1:] + rows[:1]


def _through(report: SuperResolvedReport) -> tuple[int, int, int]:
    """Voxel (z, y, x) of the volume that the planes pass: a border between two slices in the middle of the stack; in
    plane where the middle slice changes most over time, the middle of a still image."""
    depth = report.before.data.shape[3]
    frames = np.asarray(report.before.data[0, :, 0, depth // 2].abs().float())
    centre = [(n - 1) / 2 for n in frames.shape[1:]]
    if len(frames) > 1 and (weight := frames.var(axis=0)).any():
        centre = _centroid(weight * (weight > np.percentile(weight, 95)))
    return depth // 2 * report.factor, round(centre[0]), round(centre[1])


def _centroid(weight: Float[np.ndarray, "y x"]) -> list[float]:
    return [float((weight * where).sum() / weight.sum()) for where in np.indices(weight.shape)]


def _image(image: Image) -> dict[str, Any]:
    return {"shape_tzyx": [image.data.shape[i] for i in (1, 3, 4, 5)],
            "spacing_zyx_mm": [round(s, 4) for s in image.grid.spacing_mm[0].tolist()]}
