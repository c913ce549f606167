"""What ``firstread register`` writes: the warped image, the transforms both ways, numbers, and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.alignment import Alignment
from firstread.core.case import Case
from firstread.core.records import Image, Note
from firstread.io.nifti import write_image
from firstread.io.transforms import parts, write_affine, write_composite, write_field
from firstread.report.cuts import checkerboard, cuts, growth, overlay
from firstread.report.pictures import to_grey, window
from firstread.report.templates import environment

MARKER = "transform.json"
SCHEMA = "firstread.register/1"
STATEMENT = "Research software. Not for clinical use."
METRICS = {"mi": "mutual information", "lncc": "local correlation", "ngf": "normalized gradient fields",
           "ssd": "negative mean squared difference"}


@dataclass(frozen=True)
class Overlap:
    """Dice by label of the fixed image, before and after."""

    before: Mapping[int, float]
    after: Mapping[int, float]


@dataclass(frozen=True, eq=False)
class RegisteredReport:
    """A registration and what is shown of it.

    before, after: the moving image on the fixed grid, as the headers place it, and aligned; jacobian: of the forward
    transform; moved_mm: mean and largest way of a voxel; round_trip_mm: the same there and back again; labels: the
    moving labels, aligned; notes: about the transform, beside those of the case.
    """

    case: Case
    kind: str
    fixed: Image
    before: Image
    after: Image
    alignment: Alignment
    jacobian: Float[Tensor, "batch z y x"]
    moved_mm: tuple[float, float]
    round_trip_mm: tuple[float, float]
    notes: tuple[Note, ...]
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
        "there_and_back_mm": {"mean": _number(report.round_trip_mm[0]), "largest": _number(report.round_trip_mm[1])},
        "jacobian": {"least": _number(jacobian.min()), "1st percentile": _number(thin.quantile(0.01)),
                     "99th percentile": _number(thin.quantile(0.99)), "largest": _number(jacobian.max()),
                     "folded_voxels": int((jacobian <= 0).sum()), "voxels": jacobian.numel()},
        "random_draws": "none",
        "warnings": [{"code": n.code, "text": n.text, "severity": n.severity} for n in (*report.notes,
                     *report.case.notes)],
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
    volumes = [*(to_grey(values, *window(values)) for values in (fixed, before, after)), report.jacobian[0].numpy()]
    return [{"name": f"{plane.name}, in the middle", "fixed": plane.uri(still),
             "before": plane.uri(overlay(still, start)), "after": plane.uri(overlay(still, end)),
             "checkerboard": plane.uri(checkerboard(still, end)),
             "growth": plane.uri(growth(factor)) if report.alignment.forward.displacement_mm is not None else None}
            for plane, (still, start, end, factor) in cuts(volumes, report.fixed.grid)]


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)


def _number(value: Tensor | float) -> float:
    return float(f"{float(value):.7g}")
