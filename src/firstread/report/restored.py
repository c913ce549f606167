"""What ``firstread restore denoise|gibbs|bias`` writes: the image, what was done, a page with before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from firstread.core.case import Case
from firstread.core.records import Image
from firstread.io.nifti import write_image
from firstread.report.pictures import magnitude, picture, slice_places, to_grey, window
from firstread.report.templates import environment

MARKER = "restore.json"
SCHEMA = "firstread.restore/1"
STATEMENT = "Research software. Not for clinical use."
PANEL = 260  # pixels of the longer side of a picture


@dataclass(frozen=True, eq=False)
class RestoredReport:
    """An image before and after, and where it comes from.

    title: what was done; removed: root mean square of the difference over the root mean square of the image; divided:
    the image was divided by what was removed, which is then shown as a factor.
    """

    case: Case
    before: Image
    after: Image
    title: str
    hash: str
    removed: float
    versions: Mapping[str, str]
    seconds: float
    peak_mb: float
    divided: bool = False


def write(report: RestoredReport, folder: Path) -> None:
    """``image.nii.gz``, ``restore.json`` and ``page.html`` into ``folder``, which exists."""
    write_image(folder / "image.nii.gz", report.after)
    document = restored_document(report)
    (folder / MARKER).write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
                                 encoding="utf-8")
    (folder / "page.html").write_text(page(report, document), encoding="utf-8")


def restored_document(report: RestoredReport) -> dict[str, Any]:
    """All of ``restore.json``."""
    return {
        "schema": SCHEMA, "statement": STATEMENT, "title": report.title, "input_sha256": report.hash,
        "image": {"file": "image.nii.gz", "shape_tzyx": [report.after.data.shape[i] for i in (1, 3, 4, 5)]},
        "removed": round(report.removed, 5),
        "warnings": [{"code": n.code, "text": n.text, "severity": n.severity} for n in report.case.notes],
        "trail": [{"stage": s.stage, "settings": s.settings, "weights": s.weights, "seconds": round(s.seconds, 2)}
                  for s in report.case.trail],
        "versions": dict(report.versions), "seconds": round(report.seconds, 1), "peak_memory_mb": round(report.peak_mb)}


def page(report: RestoredReport, document: Mapping[str, Any]) -> str:
    """The page: slices before, after, and what was taken away; no network, no script."""
    pages = environment()
    return pages.get_template("restored.html").render(
        statement=STATEMENT, document=document, rows=panels(report), divided=report.divided)


def panels(report: RestoredReport) -> list[dict[str, Any]]:
    """Up to three slices of the first frame: before and after in one grey window, the difference (or the logarithm of
    the factor, where the image was divided) about grey."""
    places = slice_places(report.before)
    chosen = sorted({len(places) // 4, len(places) // 2, 3 * len(places) // 4})
    before, after = (magnitude(image, [places[i] for i in chosen])[0, :, 0] for image in (report.before, report.after))
    low, high = window(before)
    apart, unit = before - after, high - low
    if report.divided:
        seen, unit = (before > 0) & (after > 0), 1.0
        apart = np.log(np.where(seen, before, 1) / np.where(seen, after, 1))
    reach = max(float(np.percentile(np.abs(apart), 99.5)), 1e-3 * unit)
    said = float(np.exp(reach)) if report.divided else 100 * reach / unit
    return [{"slice": number + 1, "before": _picture(to_grey(before[i], low, high)),
             "after": _picture(to_grey(after[i], low, high)), "apart": _picture(to_grey(apart[i], -reach, reach)),
             "reach": said} for i, number in enumerate(chosen)]


def _picture(grey: Float[np.ndarray, "y x"] | np.ndarray) -> str:
    from PIL import Image as Pillow

    factor = PANEL / max(grey.shape)
    size = (max(1, round(grey.shape[1] * factor)), max(1, round(grey.shape[0] * factor)))
    return picture(np.asarray(Pillow.fromarray(np.ascontiguousarray(grey)).resize(size)))
