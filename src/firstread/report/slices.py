"""What ``firstread restore slices`` writes: the volume, the table of all slices, a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.case import Case
from firstread.core.records import Image
from firstread.core.slices import SliceVolume
from firstread.io.nifti import write_image
from firstread.report.pictures import picture, to_grey, window
from firstread.report.templates import environment

MARKER = "slices.json"
SCHEMA = "firstread.slices/1"
STATEMENT = "Research software. Not for clinical use."
PANEL = 240  # pixels of the longer side of a view


@dataclass(frozen=True, eq=False)
class SlicesReport:
    """A volume and where it comes from; before: the template stack on the volume's grid; hashes: of the stacks."""

    case: Case
    volume: SliceVolume
    before: Float[Tensor, "z y x"]
    hashes: tuple[str, ...]
    mask_hash: str | None
    resolution_mm: float
    versions: Mapping[str, str]
    seconds: float
    peak_mb: float


def write(report: SlicesReport, folder: Path) -> None:
    """``volume.nii.gz``, ``slices.json`` and ``page.html`` into ``folder``, which exists."""
    volume = report.volume
    write_image(folder / "volume.nii.gz", Image(volume.rows, volume.data.detach().float(), volume.grid))
    document = slices_document(report)
    (folder / MARKER).write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
                                 encoding="utf-8")
    (folder / "page.html").write_text(page(report, document), encoding="utf-8")


def slices_document(report: SlicesReport) -> dict[str, Any]:
    """All of ``slices.json``: by stack and slice weight, pose, NCC, scale and, where it is excluded, why."""
    volume = report.volume
    assert volume.poses is not None and volume.weights is not None
    moves = motion(volume)
    stacks = []
    for row, digest in enumerate(report.hashes):
        own = [i for i, s in enumerate(volume.stack) if s == row]
        stacks.append({"stack": row + 1, "sha256": digest, "slices": [_slice(volume, i, moves) for i in own]})
    return {
        "schema": SCHEMA, "statement": STATEMENT,
        "volume": {"file": "volume.nii.gz", "shape_zyx": list(volume.grid.shape), "spacing_mm": report.resolution_mm,
                   "affine_lps": _rounded(volume.grid.affine[0])},
        "template": {"stack": volume.template + 1, "reason": volume.template_reason},
        "mask_sha256": report.mask_hash,
        "pose": "4 x 4, LPS+ millimetres of the scan to those of the volume",
        "used": volume.states.count("used"), "excluded": volume.states.count("excluded"),
        "outside": volume.states.count("outside"), "stacks": stacks,
        "warnings": [{"code": n.code, "text": n.text, "severity": n.severity} for n in report.case.notes],
        "trail": [{"stage": s.stage, "settings": s.settings, "seconds": round(s.seconds, 2)}
                  for s in report.case.trail],
        "versions": dict(report.versions), "seconds": round(report.seconds, 1), "peak_memory_mb": round(report.peak_mb)}


def motion(volume: SliceVolume) -> Float[Tensor, "slice 2"]:
    """By slice, the displacement (mm) of the volume's centre and the rotation (degrees) from where the scanner put it.
    """
    assert volume.poses is not None
    poses = volume.poses[0]
    shape = volume.grid.shape
    centre = volume.grid.to_mm(torch.tensor([[(n - 1) / 2 for n in shape[::-1]]], dtype=torch.float64)[None])[0, 0]
    back = torch.linalg.inv(poses)
    shift = (back[:, :3, :3] @ centre + back[:, :3, 3] - centre).norm(dim=1)
    cosine = (poses[:, :3, :3].diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2
    return torch.stack((shift, torch.rad2deg(torch.acos(cosine.clamp(-1, 1)))), dim=1)


def page(report: SlicesReport, document: Mapping[str, Any]) -> str:
    """The page: volume beside the template stack, weights of all slices, motion, exclusions; no network, no script."""
    pages = environment()
    volume = report.volume
    after = volume.data[0, 0, 0].detach().float().cpu().numpy()
    moves = motion(volume)
    rows = []
    for stack in document["stacks"]:
        own = [i for i, s in enumerate(volume.stack) if s == stack["stack"] - 1]
        rows.append({"number": stack["stack"], "cells": stack["slices"], "path": _path(moves[own, 0], _top(moves, 0)),
                     "turn": _path(moves[own, 1], _top(moves, 1)),
                     "used": sum(s["state"] == "used" for s in stack["slices"]),
                     "shown": sum(s["state"] != "outside" for s in stack["slices"])})
    left_out = [(row["number"], s) for row in rows for s in row["cells"] if s["state"] == "excluded"]
    return pages.get_template("slices.html").render(
        statement=STATEMENT, document=document, rows=rows, left_out=left_out,
        top_mm=_top(moves, 0), top_deg=_top(moves, 1),
        views=list(zip(("plane of the template", "across it", "across it, turned"),
                       views(report.before.detach().float().cpu().numpy()), views(after), strict=True)))


def views(volume: Float[np.ndarray, "z y x"]) -> list[str]:
    """Three orthogonal middle planes as PNG data URIs, in one grey window."""
    from PIL import Image as Pillow

    low, high = window(volume[volume > 0] if (volume > 0).any() else volume)
    grey = to_grey(volume, min(low, 0.0), high)
    z, y, x = (n // 2 for n in grey.shape)
    made = []
    for plane in (grey[z], grey[::-1, y], grey[::-1, :, x]):
        factor = PANEL / max(plane.shape)
        size = (max(1, round(plane.shape[1] * factor)), max(1, round(plane.shape[0] * factor)))
        made.append(picture(np.asarray(Pillow.fromarray(np.ascontiguousarray(plane)).resize(size))))
    return made


def _slice(volume: SliceVolume, i: int, moves: Tensor) -> dict[str, Any]:
    assert volume.poses is not None and volume.weights is not None
    assert volume.ncc is not None and volume.scales is not None
    return {"slice": volume.number[i] + 1, "state": volume.states[i], "reason": volume.reasons[i],
            "weight": round(float(volume.weights[0, i]), 3), "ncc": round(float(volume.ncc[0, i]), 3),
            "scale": round(float(volume.scales[0, i]), 3), "moved_mm": round(float(moves[i, 0]), 2),
            "turned_deg": round(float(moves[i, 1]), 2), "pose": _rounded(volume.poses[0, i])}


def _rounded(matrix: Tensor) -> list[list[float]]:
    return [[round(v, 6) for v in row] for row in matrix.tolist()]


def _top(moves: Tensor, column: int) -> float:
    return max(1.0, float(torch.quantile(moves[:, column], 0.98)))


def _path(values: Tensor, top: float) -> str:
    """An SVG path over 300 x 40, zero at the bottom."""
    step = 300 / max(1, len(values) - 1)
    points = [f"{i * step:.1f},{40 - 38 * min(1.0, v / top):.1f}" for i, v in enumerate(values.tolist())]
    return "M" + " L".join(points)
