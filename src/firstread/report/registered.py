"""What ``firstread register`` writes: the warped image, the transforms both ways, numbers, and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from firstread.core.alignment import Alignment
from firstread.core.case import Case
from firstread.core.geometry import Grid
from firstread.core.records import Image
from firstread.io.nifti import write_image
from firstread.io.transforms import parts, write_affine, write_composite, write_field
from firstread.report.pictures import picture, to_grey, window
from firstread.report.templates import environment

MARKER = "transform.json"
SCHEMA = "firstread.register/1"
STATEMENT = "Research software. Not for clinical use."
METRICS = {"mi": "mutual information", "lncc": "local correlation", "ngf": "normalized gradient fields",
           "ssd": "negative mean squared difference"}
PANEL, SQUARES, LOG2_RANGE = 230, 8, 1.0  # pixels of a picture; fields of the checkerboard; volume halved to doubled


@dataclass(frozen=True)
class Overlap:
    """Dice by label of the fixed image, before and after."""

    before: Mapping[int, float]
    after: Mapping[int, float]


@dataclass(frozen=True, eq=False)
class RegisteredReport:
    """A registration and what is shown of it.

    before, after: the moving image on the fixed grid, as the headers place it, and aligned; jacobian: of the forward
    transform; moved_mm: mean and largest way of a voxel; labels: the moving labels, aligned.
    """

    case: Case
    kind: str
    fixed: Image
    before: Image
    after: Image
    alignment: Alignment
    jacobian: Float[Tensor, "batch z y x"]
    moved_mm: tuple[float, float]
    labels: Image | None
    overlap: Overlap | None
    hashes: Mapping[str, str]
    versions: Mapping[str, str]
    seconds: float
    peak_mb: float


def write(report: RegisteredReport, folder: Path) -> None:
    """``warped.nii.gz``, the transforms, ``transform.json`` and ``page.html`` into ``folder``, which exists."""
    write_image(folder / "warped.nii.gz", report.after)
    if report.labels is not None:
        write_image(folder / "warped_labels.nii.gz",
                    replace(report.labels, data=report.labels.data.round().to(torch.int32)))
    names = write_transforms(report.alignment, folder)
    document = registered_document(report, names)
    (folder / MARKER).write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
                                 encoding="utf-8")
    (folder / "page.html").write_text(page(report, document), encoding="utf-8")


def write_transforms(alignment: Alignment, folder: Path) -> dict[str, str]:
    """The transform in the files of ITK and ANTs, both ways; what each file is."""
    forward, backward = alignment.forward, alignment.backward
    write_affine(folder / "0GenericAffine.mat", forward.matrix[0])
    names = {"0GenericAffine.mat": "ANTs: the affine part"}
    if forward.displacement_mm is None:
        write_affine(folder / "transform.tfm", forward.matrix[0])
        write_affine(folder / "inverse.tfm", backward.matrix[0])
        return {"transform.tfm": "ITK: fixed to moving", "inverse.tfm": "ITK: moving to fixed", **names}
    for name, transform in (("transform.h5", forward), ("inverse.h5", backward)):
        write_composite(folder / name, transform)
    for name, transform in (("1Warp.nii.gz", forward), ("1InverseWarp.nii.gz", backward)):
        _, field, grid, _ = parts(transform)
        assert field is not None and grid is not None
        write_field(folder / name, field, grid)
    return {"transform.h5": "ITK: fixed to moving, whole", "inverse.h5": "ITK: moving to fixed, whole", **names,
            "1Warp.nii.gz": "ANTs: the field, applied before the affine",
            "1InverseWarp.nii.gz": "ANTs: the inverse field, applied after the inverse affine"}


def registered_document(report: RegisteredReport, names: Mapping[str, str]) -> dict[str, Any]:
    """All of ``transform.json``."""
    alignment, jacobian = report.alignment, report.jacobian
    thin = jacobian.flatten()[:: max(1, jacobian.numel() // 1_000_000)]
    document: dict[str, Any] = {
        "schema": SCHEMA, "statement": STATEMENT, "kind": report.kind, "input_sha256": dict(report.hashes),
        "files": {"warped.nii.gz": "the moving image on the fixed grid", **names},
        "metric": {"name": alignment.metric, "before": _number(alignment.before[0]),
                   "after": _number(alignment.after[0])},
        "matrix_lps_mm": [[_number(v) for v in row] for row in alignment.forward.matrix[0]],
        "moved_mm": {"mean": _number(report.moved_mm[0]), "largest": _number(report.moved_mm[1])},
        "jacobian": {"least": _number(jacobian.min()), "1st percentile": _number(thin.quantile(0.01)),
                     "99th percentile": _number(thin.quantile(0.99)), "largest": _number(jacobian.max()),
                     "folded_voxels": int((jacobian <= 0).sum()), "voxels": jacobian.numel()},
        "random_draws": "none",
        "warnings": [{"code": n.code, "text": n.text, "severity": n.severity} for n in report.case.notes],
        "trail": [{"stage": s.stage, "settings": s.settings, "seconds": round(s.seconds, 2)}
                  for s in report.case.trail],
        "versions": dict(report.versions), "seconds": round(report.seconds, 1), "peak_memory_mb": round(report.peak_mb)}
    if report.labels is not None:
        document["files"]["warped_labels.nii.gz"] = "the moving labels on the fixed grid"
    if report.overlap is not None:
        before, after = report.overlap.before, report.overlap.after
        document["dice"] = {"mean": {"before": _number(_mean(before)), "after": _number(_mean(after))},
                            "labels": {str(v): [_number(before[v]), _number(after[v])] for v in before}}
    return document


def page(report: RegisteredReport, document: Mapping[str, Any]) -> str:
    """The page: overlays before and after, checkerboard, change of volume, numbers; no network, no script."""
    pages = environment()
    return pages.get_template("registered.html").render(
        statement=STATEMENT, document=document, rows=panels(report),
        metric=METRICS[report.alignment.metric])


def panels(report: RegisteredReport) -> list[dict[str, Any]]:
    """The middle plane across each axis (one for a single slice), as a patient is shown: head up, left on the right."""
    fixed, before, after = (image.data[0, 0, 0].float().numpy() for image in (report.fixed, report.before,
                                                                              report.after))
    jacobian = report.jacobian[0].numpy()
    turned, spacing = upright([*(to_grey(values, *window(values)) for values in (fixed, before, after)), jacobian],
                              report.fixed.grid)
    found = []
    for axis, name in enumerate(("axial", "coronal", "sagittal") if report.fixed.grid.frame == "patient"
                                else ("across z", "across y", "across x")):
        shape = turned[0].shape
        if min(shape) == 1 and shape[axis] > 1:
            continue
        still, start, end, growth = (np.take(v, shape[axis] // 2, axis=axis) for v in turned)
        aspect = tuple(s for k, s in enumerate(spacing) if k != axis)
        found.append({"name": f"{name}, in the middle", "fixed": _picture(still, aspect),
                      "before": _picture(overlay(still, start), aspect), "after": _picture(overlay(still, end), aspect),
                      "checkerboard": _picture(checkerboard(still, end), aspect),
                      "growth": _picture(_growth(growth), aspect)
                      if report.alignment.forward.displacement_mm is not None else None})
    return found


def upright(volumes: list[np.ndarray], grid: Grid) -> tuple[list[np.ndarray], list[float]]:
    """Volumes of a patient with axes feet-ward, back-ward and left-ward, as pictures are shown, and their spacing.

    >>> grid = Grid.from_spacing((2, 1, 1), (3.0, 1.0, 1.0))
    >>> turned, spacing = upright([np.array([[[1]], [[2]]])], grid)
    >>> turned[0].ravel().tolist(), spacing
    ([2, 1], [3.0, 1.0, 1.0])
    """
    spacing = grid.spacing_mm[0].tolist()
    if grid.frame != "patient":
        return volumes, spacing
    from nibabel.orientations import apply_orientation, io_orientation

    turns = io_orientation(grid.affine[0].numpy())
    order = [int(np.flatnonzero(turns[:, 0] == world)[0]) for world in (2, 1, 0)]  # array axes x, y, z along S, P, L
    turned = [apply_orientation(v.transpose(2, 1, 0), turns).transpose(2, 1, 0)[::-1] for v in volumes]
    return turned, [spacing[2 - axis] for axis in order]


def overlay(fixed: UInt8[np.ndarray, "y x"], moving: UInt8[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x 3"]:
    """Fixed in green, moving in magenta: grey where both agree.

    >>> overlay(np.full((1, 1), 200, np.uint8), np.full((1, 1), 100, np.uint8)).tolist()
    [[[100, 200, 100]]]
    """
    return np.stack((moving, fixed, moving), axis=-1)


def checkerboard(fixed: UInt8[np.ndarray, "y x"], moving: UInt8[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x"]:
    """Fields of the fixed and of the moving image in turn: edges run on where they are aligned."""
    size = max(1, max(fixed.shape) // SQUARES)
    y, x = np.indices(fixed.shape) // size
    return np.where((y + x) % 2 == 0, fixed, moving)


def _growth(jacobian: np.ndarray) -> UInt8[np.ndarray, "y x 3"]:
    """log2 of the Jacobian, blue where volume shrinks by half, red where it doubles; folds black."""
    from matplotlib import colormaps

    level = np.log2(np.clip(jacobian, 1e-3, None))
    colours = (colormaps["coolwarm"](np.clip(level / LOG2_RANGE, -1, 1) / 2 + 0.5)[..., :3] * 255).round()
    colours[jacobian <= 0] = 0
    return colours.astype(np.uint8)


def _picture(pixels: np.ndarray, spacing: tuple[float, ...]) -> str:
    from PIL import Image as Pillow

    size = np.array(pixels.shape[:2]) * np.array(spacing)
    height, width = (max(1, round(n)) for n in size * (PANEL / size.max()))
    return picture(np.asarray(Pillow.fromarray(np.ascontiguousarray(pixels)).resize((width, height))))


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)


def _number(value: Tensor | float) -> float:
    return float(f"{float(value):.7g}")
