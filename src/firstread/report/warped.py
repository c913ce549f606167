"""What ``firstread warp`` writes: the warped image, labels or points, numbers, and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.records import Image, Note
from firstread.io.nifti import write_image
from firstread.io.points import PointTable, write_points
from firstread.report.cuts import checkerboard, cuts, overlay, tinted
from firstread.report.pictures import to_grey, window
from firstread.report.templates import environment

MARKER = "warp.json"
SCHEMA = "firstread.warp/1"
STATEMENT = "Research software. Not for clinical use."
POINTS_SHOWN = 20


@dataclass(frozen=True, eq=False)
class WarpedReport:
    """What was warped and how.

    Of images and labels: fixed (the image that gave the grid), before (as the headers place it there) and after,
    given (what was warped, where it lay), covered (share of the grid that lies in the image), names of labels. Of
    points: the table and where they are now.
    """

    interpolation: str
    inverse: bool
    hashes: Mapping[str, str]
    versions: Mapping[str, str]
    seconds: float
    peak_mb: float
    notes: tuple[Note, ...] = ()
    fixed: Image | None = None
    given: Image | None = None
    before: Image | None = None
    after: Image | None = None
    covered: float | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    table: PointTable | None = None
    moved_mm: Float[Tensor, "n 3"] | None = None


def write(report: WarpedReport, folder: Path) -> None:
    """``warped.nii.gz`` or ``points.csv``, ``warp.json`` and ``page.html`` into ``folder``, which exists."""
    if report.after is not None:
        labels = report.interpolation != "linear"
        data = report.after.data.round().to(torch.int32) if labels else report.after.data
        write_image(folder / "warped.nii.gz", replace(report.after, data=data))
    if report.table is not None and report.moved_mm is not None:
        write_points(folder / "points.csv", report.table, report.moved_mm)
    document = warped_document(report)
    (folder / MARKER).write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
                                 encoding="utf-8")
    page = environment().get_template("warped.html").render(statement=STATEMENT, document=document, rows=panels(report),
                                                            points=_points(report))
    (folder / "page.html").write_text(page, encoding="utf-8")


def warped_document(report: WarpedReport) -> dict[str, Any]:
    """All of ``warp.json``."""
    what = "points" if report.table is not None else "image" if report.interpolation == "linear" else "labels"
    files = {"points.csv": "the points"} if report.table is not None else {"warped.nii.gz": f"the {what} on the grid"}
    document: dict[str, Any] = {
        "schema": SCHEMA, "statement": STATEMENT, "kind": what, "direction": "fixed to moving" if report.inverse else
        "moving to fixed", "input_sha256": dict(report.hashes), "files": files,
        "warnings": [{"code": n.code, "text": n.text, "severity": n.severity} for n in report.notes],
        "versions": dict(report.versions), "seconds": round(report.seconds, 1), "peak_memory_mb": round(report.peak_mb)}
    if report.after is not None and report.covered is not None:
        shape = report.after.data.shape
        document |= {"interpolation": report.interpolation, "covered": round(report.covered, 4),
                     "shape_tzyx": [shape[1], *shape[3:]]}
        if what == "labels":
            given, after = (_volumes(image) for image in (report.given, report.after))
            document["labels"] = {str(v): {"name": report.names.get(v, f"label {v}"), "ml_given": given.get(v, 0.0),
                                           "ml": after.get(v, 0.0)} for v in sorted({*given, *after})}
    if report.table is not None and report.moved_mm is not None:
        way = (report.moved_mm - report.table.points_mm).norm(dim=1)
        document["points"] = {"count": len(way), "moved_mm": {"mean": round(float(way.mean()), 4),
                                                              "largest": round(float(way.max()), 4)}}
    return document


def panels(report: WarpedReport) -> list[dict[str, Any]]:
    """Planes of the grid's image with what was warped over it, before and after."""
    if report.fixed is None or report.before is None or report.after is None:
        return []
    fixed, before, after = (image.data[0, 0, 0].float().numpy() for image in (report.fixed, report.before,
                                                                              report.after))
    still = to_grey(fixed, *window(fixed))
    if report.interpolation != "linear":
        through = [float(np.median(axis)) for axis in np.nonzero(after)] if after.any() else None
        return [{"name": plane.name, "fixed": plane.uri(grey), "before": plane.uri(tinted(grey, one.astype(int))),
                 "after": plane.uri(tinted(grey, two.astype(int))), "checkerboard": None}
                for plane, (grey, one, two) in cuts([still, before, after], report.fixed.grid, through=through)]
    shown = [to_grey(values, *window(values)) for values in (before, after)]
    return [{"name": plane.name, "fixed": plane.uri(grey), "before": plane.uri(overlay(grey, one)),
             "after": plane.uri(overlay(grey, two)), "checkerboard": plane.uri(checkerboard(grey, two))}
            for plane, (grey, one, two) in cuts([still, *shown], report.fixed.grid)]


def _points(report: WarpedReport) -> list[dict[str, Any]]:
    if report.table is None or report.moved_mm is None:
        return []
    start = report.table.points_mm
    return [{"line": number + 2, "before": start[number].tolist(), "after": report.moved_mm[number].tolist(),
             "way": float((report.moved_mm[number] - start[number]).norm())}
            for number in range(min(POINTS_SHOWN, len(start)))]


def _volumes(image: Image | None) -> dict[int, float]:
    """Millilitres of every label in the first frame."""
    assert image is not None
    values, counts = image.data[0, 0].round().long().unique(return_counts=True)
    return {int(v): round(int(n) * float(image.grid.voxel_ml[0]), 4) for v, n in zip(values, counts, strict=True) if v}
