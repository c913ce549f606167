"""What results of a DICOM image must refer to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FrameReference:
    """One source frame: its file, its SOP instance and its number in it (from zero)."""

    path: Path
    sop_uid: str
    frame: int


@dataclass(frozen=True)
class DicomSource:
    """The source frames of an image, ``frames[row][phase][slice]``; patient and study are read from the files.

    identify: whether results may carry the patient's name and identifiers.
    """

    frames: tuple[tuple[tuple[FrameReference, ...], ...], ...]
    study_uid: str
    series_uids: tuple[str, ...]
    identify: bool
