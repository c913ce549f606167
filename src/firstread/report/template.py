"""What ``firstread template`` writes: the template, every image's way into it, numbers, and a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from firstread.core.geometry import Transform
from firstread.core.records import Image, Note
from firstread.io.nifti import write_image
from firstread.io.transforms import write_composite
from firstread.report.cuts import cuts
from firstread.report.pictures import to_grey
from firstread.report.templates import environment

MARKER = "template.json"
SCHEMA = "firstread.template/1"
STATEMENT = "Research software. Not for clinical use."
SHOWN = 12  # images on the page


@dataclass(frozen=True, eq=False)
class Member:
    """One image of the template.

    forward: places of the template to places of the image; aligned, seen: the image on the template's grid by the
    linear transform alone and by the whole; likeness: local correlation with the template then; moved_mm: mean and
    largest way of the deformation.
    """

    name: str
    forward: Transform
    backward: Transform
    aligned: Float[Tensor, "z y x"]
    seen: Float[Tensor, "z y x"]
    likeness: tuple[float, float]
    moved_mm: tuple[float, float]
    folds: int


@dataclass(frozen=True, eq=False)
class TemplateReport:
    """before, after: the mean of the images by the linear transforms alone, and the template."""

    before: Image
    after: Image
    members: tuple[Member, ...]
    first: str
    rounds: int
    hashes: Mapping[str, str]
    versions: Mapping[str, str]
    seconds: float
    peak_mb: float
    notes: tuple[Note, ...] = ()


def write(report: TemplateReport, folder: Path) -> None:
    """``template.nii.gz``, ``images/``, ``transforms/``, ``template.json`` and ``page.html`` into ``folder``."""
    write_image(folder / "template.nii.gz", report.after)
    (folder / "images").mkdir()
    (folder / "transforms").mkdir()
    for member in report.members:
        write_image(folder / "images" / f"{member.name}.nii.gz",
                    replace(report.after, data=member.seen[None, None, None]))
        write_composite(folder / "transforms" / f"{member.name}.h5", member.forward)
        write_composite(folder / "transforms" / f"{member.name}_inverse.h5", member.backward)
    document = template_document(report)
    (folder / MARKER).write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
                                 encoding="utf-8")
    page = environment().get_template("template.html").render(statement=STATEMENT, document=document,
                                                              rows=_planes(report), faces=_faces(report))
    (folder / "page.html").write_text(page, encoding="utf-8")


def template_document(report: TemplateReport) -> dict[str, Any]:
    """All of ``template.json``."""
    return {
        "schema": SCHEMA, "statement": STATEMENT, "input_sha256": dict(report.hashes), "first": report.first,
        "rounds": report.rounds, "shape_zyx": list(report.after.grid.shape),
        "files": {"template.nii.gz": "the template, 0 to 1", "images/": "every image in the template",
                  "transforms/NAME.h5": "ITK: template to image, whole (for firstread warp)",
                  "transforms/NAME_inverse.h5": "ITK: image to template, whole"},
        "images": {member.name: {
            "local_correlation": {"linear": round(member.likeness[0], 4), "template": round(member.likeness[1], 4)},
            "deformation_mm": {"mean": round(member.moved_mm[0], 3), "largest": round(member.moved_mm[1], 3)},
            "folded_voxels": member.folds} for member in report.members},
        "warnings": [{"code": n.code, "text": n.text, "severity": n.severity} for n in report.notes],
        "versions": dict(report.versions), "seconds": round(report.seconds, 1),
        "peak_memory_mb": round(report.peak_mb)}


def _planes(report: TemplateReport) -> list[dict[str, str]]:
    volumes = [to_grey(image.data[0, 0, 0].numpy(), 0.0, 1.0) for image in (report.before, report.after)]
    return [{"name": plane.name, "before": plane.uri(one), "after": plane.uri(two)}
            for plane, (one, two) in cuts(volumes, report.after.grid)]


def _faces(report: TemplateReport) -> list[dict[str, str]]:
    """The first plane of every image, by the linear transform and in the template."""
    found = []
    for member in report.members[:SHOWN]:
        plane, (one, two) = next(cuts([to_grey(v.numpy(), 0.0, 1.0) for v in (member.aligned, member.seen)],
                                      report.after.grid))
        found.append({"name": member.name, "before": plane.uri(one), "after": plane.uri(two)})
    return found
