"""All files of a reading, written into one folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from firstread.core.reading import Reading
from firstread.core.records import Note
from firstread.io.dicom.source import DicomSource
from firstread.report.cine import hard_labels
from firstread.report.document import reading_json
from firstread.report.page import page

PAGE_BYTES = 15_000_000
NO_SEG = Note("no_dicom_seg", "No DICOM segmentation was written: the images have no position in the patient.")


def write(reading: Reading, folder: Path) -> None:
    """Write ``reading.html``, ``reading.json``, ``labels.nii.gz`` and, from DICOM input, DICOM SEG into ``folder``.

    folder: exists; the caller renames it when all is written. Without a record ``labels`` there are no label files.
    Images without a position in the patient cannot have a DICOM SEG; the reading then says so.
    Raises OSError where the folder cannot be written, OutputError where labels do not fit their source.
    """
    labels = hard_labels(reading.case)
    if labels is not None:
        from firstread.io.nifti import write_labels

        write_labels(folder / "labels.nii.gz", labels)
        if isinstance(labels.source, DicomSource) and labels.grid.frame == "patient":
            from firstread.io.dicom.seg import write_seg

            write_seg(labels, labels.source, folder)
        elif isinstance(labels.source, DicomSource):
            reading = replace(reading, notes=(*reading.notes, NO_SEG))
    (folder / "reading.json").write_text(reading_json(reading), encoding="utf-8")
    (folder / "reading.html").write_text(page(reading), encoding="utf-8")
