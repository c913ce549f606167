"""What ``firstread reconstruct`` writes: the image as NIfTI, a page, and all settings as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from firstread.core.reading import Reading
from firstread.core.records import Image
from firstread.io.dicom.mr import write_mr
from firstread.io.nifti import write_image
from firstread.io.scan import Scan
from firstread.report.cine import cine
from firstread.report.document import notes, reading_document
from firstread.report.rawdata import raw_part, rays_part
from firstread.report.templates import environment, script

MARKER, DICOM = "reconstruction.json", "dicom"
SCHEMA = "firstread.reconstruction/1"
STATEMENT = "Research software. Not for clinical use."
_SHARED = ("not_for_clinical_use", "input", "warnings", "trail", "seed", "versions", "seconds", "peak_memory_mb")


def write(reading: Reading, folder: Path, *, complex_parts: bool = False) -> None:
    """Write ``image.nii.gz`` (magnitude of complex images), ``page.html`` and ``reconstruction.json`` into ``folder``.

    complex_parts: also ``image_real.nii.gz`` and ``image_imaginary.nii.gz``. Where the raw data state the place in the
    patient, a series of DICOM MR images is written into ``dicom/``.
    folder: exists; the caller renames it when all is written.
    """
    image = reading.case["image"]
    assert isinstance(image, Image)
    parts = {"image": (image.data.abs() if image.data.is_complex() else image.data).float()}
    if complex_parts:
        data = image.data if image.data.is_complex() else image.data + 0j
        parts |= {"image_real": data.real, "image_imaginary": data.imag}
    for name, data in parts.items():
        write_image(folder / f"{name}.nii.gz", replace(image, data=data.contiguous()))
    written = [f"{name}.nii.gz" for name in parts]
    if isinstance(image.source, Scan) and image.grid.frame == "patient":
        (folder / DICOM).mkdir()
        write_mr(image, image.source, folder / DICOM, method=reading.case.trail[-1].stage)
        written.append(f"{DICOM}/")
    document = reconstruction_document(reading, written)
    (folder / MARKER).write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
                                 encoding="utf-8")
    (folder / "page.html").write_text(page(reading, written), encoding="utf-8")


def reconstruction_document(reading: Reading, written: list[str]) -> dict[str, Any]:
    """All of ``reconstruction.json``: the input's hash, settings, timing, warnings, trail and files written."""
    document = reading_document(reading)
    image = reading.case["image"]
    assert isinstance(image, Image)
    spacing = image.grid.spacing_mm[0].tolist() if image.grid.has_mm else None
    return {"schema": SCHEMA, "statement": STATEMENT, **{key: document[key] for key in _SHARED},
            "image": {"shape": list(image.data.shape), "axes": "batch, time, channel, z, y, x",
                      "spacing_mm": spacing, "frame": image.grid.frame}, "files": written}


def page(reading: Reading, written: list[str]) -> str:
    """The page: image, sampling pattern, zero-filled image, settings, timing, warnings, trail; no network."""
    pages = environment()
    images, raw = cine(reading.case), raw_part(reading.case)
    island = {"cine": images, "panels": raw["panels"] if raw else [], "ed": None, "es": None, "curve": None}
    return pages.get_template("reconstruction.html").render(
        **script(), statement=STATEMENT,
        reading=reading, document=reconstruction_document(reading, written), notes=notes(reading), images=images,
        raw=raw, rays=rays_part(reading.case), island=island)
