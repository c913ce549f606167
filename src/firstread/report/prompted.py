"""What ``firstread segment prompt`` writes: the mask, numbers, a page with the prompts and the mask on the image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from firstread.core.case import Case
from firstread.core.geometry import Grid
from firstread.core.prompts import Prompts
from firstread.core.records import HardLabels, Image
from firstread.io.nifti import write_labels
from firstread.report.contours import outlines
from firstread.report.pictures import magnitude, picture, to_grey, window
from firstread.report.templates import environment

MARKER = "prompt.json"
SCHEMA = "firstread.segment-prompt/1"
STATEMENT = "Research software. Not for clinical use."
LARGE, SMALL, MOST = 520, 150, 40  # pixels of the longer side of a picture; pictures of either row


@dataclass(frozen=True, eq=False)
class PromptedReport:
    """A mask and what it was made of. method: in words; given: the prompts as the user wrote them."""

    case: Case
    image: Image
    prompts: Prompts
    labels: HardLabels
    method: str
    given: Mapping[str, Any]
    hash: str
    versions: Mapping[str, str]
    seconds: float


def write(report: PromptedReport, folder: Path, *, files: Sequence[str] = ()) -> dict[str, Any]:
    """``mask.nii.gz``, ``prompt.json`` and ``page.html`` into ``folder``, which exists. files: others written there."""
    write_labels(folder / "mask.nii.gz", report.labels)
    document = prompted_document(report, ["mask.nii.gz", *files])
    (folder / MARKER).write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
                                 encoding="utf-8")
    (folder / "page.html").write_text(page(report, document), encoding="utf-8")
    return document


def prompted_document(report: PromptedReport, files: Sequence[str]) -> dict[str, Any]:
    """All of ``prompt.json``."""
    labels = report.labels
    inside = (labels.data[0, :, 0] > 0)
    voxels = inside.sum(dim=(1, 2, 3)).tolist()
    ml = float(labels.grid.voxel_ml[0]) if labels.grid.has_mm else None
    return {"schema": SCHEMA, "statement": STATEMENT, "name": labels.names[1], "method": report.method,
            "prompts": dict(report.given), "input_sha256": report.hash, "files": list(files), "voxels": voxels,
            "volume_ml": None if ml is None else [round(n * ml, 3) for n in voxels],
            "slices": [[z for z, some in enumerate(row) if some] for row in inside.any(-1).any(-1).tolist()],
            "warnings": [{"code": n.code, "text": n.text, "severity": n.severity} for n in report.case.notes],
            "trail": [{"stage": s.stage, "settings": s.settings, "weights": s.weights, "seconds": round(s.seconds, 2)}
                      for s in report.case.trail],
            "versions": dict(report.versions), "seconds": round(report.seconds, 1)}


def page(report: PromptedReport, document: Mapping[str, Any]) -> str:
    """The page: the prompted slice large, the mask in all slices and frames small; no network, no script."""
    image, grid = report.image, report.image.grid
    inside = report.labels.data[0, :, 0].cpu().numpy() > 0
    frame = int(report.prompts.frame[0])
    marks = _marks(report.prompts, grid)
    shown = max((z for z, _, _ in marks), key=lambda z: (inside[frame, z].sum(), -z))
    held = np.flatnonzero(inside[frame].any(axis=(1, 2)))
    slices = sorted({*held.tolist(), *(z for z, _, _ in marks)})
    frames = np.flatnonzero(inside[:, shown].any(axis=(1, 2))).tolist() if len(inside) > 1 else []
    views = {(t, z) for t, z in [(frame, z) for z in _few(slices)] + [(t, shown) for t in _few(frames)]}
    pixels = {z: magnitude(image, [(0, z)])[:, 0] for z in {z for _, z in views} | {shown}}
    low, high = window(pixels[shown][frame])

    def view(t: int, z: int, side: int) -> dict[str, Any]:
        own = [mark for place, kind, mark in marks if place == z and t == frame]
        return _view(to_grey(pixels[z][t], low, high), inside[t, z], own, grid, side)

    return environment().get_template("prompted.html").render(
        statement=STATEMENT, document=document, frame=frame, shown=shown, large=view(frame, shown, LARGE),
        slices=[(z, view(frame, z, SMALL)) for z in _few(slices)] if grid.shape[0] > 1 else [],
        frames=[(t, view(t, shown, SMALL)) for t in _few(frames)])


def _marks(prompts: Prompts, grid: Grid) -> list[tuple[int, str, dict[str, Any]]]:
    """Slice, kind and what to draw of each prompt, in pixels."""
    found = []
    for place, sign in zip(grid.to_index(prompts.points_mm)[0], prompts.positive[0].tolist(), strict=True):
        x, y, z = place.tolist()
        found.append((round(z), "point", {"kind": "on" if sign else "off", "x": x, "y": y}))
    for corners in grid.to_index(prompts.boxes_mm)[0]:
        (x0, y0, z0), (x1, y1, z1) = corners.amin(0).tolist(), corners.amax(0).tolist()
        found.append(((round(z0) + round(z1)) // 2, "box", {"kind": "box", "x0": x0, "y0": y0, "x1": x1, "y1": y1}))
    return found


def _few(places: Sequence[int]) -> list[int]:
    """All, or the most that a page shows, evenly spaced."""
    if len(places) <= MOST:
        return list(places)
    return [places[i] for i in np.linspace(0, len(places) - 1, MOST).round().astype(int)]


def _view(grey: np.ndarray, mask: Bool[np.ndarray, "y x"], marks: Sequence[Mapping[str, Any]], grid: Grid, side: int
          ) -> dict[str, Any]:
    """A plane as shown: the picture, and outlines and prompts in its pixels, turned as patients are shown."""
    height, width = mask.shape
    flips = _flips(grid)

    def turned(x: float, y: float) -> tuple[float, float]:
        return (width - 1 - x if flips[1] else x) + 0.5, (height - 1 - y if flips[0] else y) + 0.5

    pixels = grey.transpose(1, 2, 0) if len(grey) == 3 else grey[0]
    pixels = np.ascontiguousarray(np.flip(pixels, [axis for axis in (0, 1) if flips[axis]]))
    dy, dx = grid.spacing_mm[0, 1:].tolist()
    scale = side / max(height * dy, width * dx)
    drawn = []
    for mark in marks:
        if mark["kind"] == "box":
            (x0, y0), (x1, y1) = turned(mark["x0"], mark["y0"]), turned(mark["x1"], mark["y1"])
            drawn.append({"kind": "box", "x": min(x0, x1) - 0.5, "y": min(y0, y1) - 0.5, "width": abs(x1 - x0) + 1,
                          "height": abs(y1 - y0) + 1})
        else:
            x, y = turned(mark["x"], mark["y"])
            drawn.append({"kind": mark["kind"], "x": x, "y": y, "rx": 4 / (scale * dx), "ry": 4 / (scale * dy)})
    return {"picture": picture(pixels), "width": width, "height": height, "marks": drawn,
            "shown": (round(width * dx * scale), round(height * dy * scale)),
            "path": "".join(_path(line, turned) for line in outlines(mask))}


def _path(line: Float[np.ndarray, "n 2"], turned: Any) -> str:
    points = [turned(float(x), float(y)) for x, y in line]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"


def _flips(grid: Grid) -> tuple[bool, bool]:
    """Whether rows and columns run against how patients are shown: left to the right, back and feet downwards."""
    if grid.frame != "patient":
        return False, False
    found = []
    for column in (1, 0):
        vector = grid.affine[0, :3, column]
        axis = int(vector.abs().argmax())
        found.append(bool(vector[axis] > 0) == (axis == 2))
    return found[0], found[1]
