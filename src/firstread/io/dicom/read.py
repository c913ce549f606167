"""A DICOM file or folder to an Image."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from firstread.core.errors import FormatError, InputError
from firstread.core.reading import Person
from firstread.core.records import Image, Note, Rows
from firstread.io.arrays import as_tensor
from firstread.io.dicom import fields, pixels
from firstread.io.dicom.fields import Header
from firstread.io.dicom.files import find_images, looks_like_dicom, read_header
from firstread.io.dicom.frames import Frame, require_image
from firstread.io.dicom.head import HeadReader
from firstread.io.dicom.series import choose, series_in
from firstread.io.dicom.source import DicomSource, FrameReference
from firstread.io.dicom.volume import Layout, arrange


def read(path: Path, *, series: str | None = None, spacing_mm: tuple[float, float, float] | None = None,
         identify: bool = False) -> tuple[Image, Person]:
    """The images of one series (or of one stack stored as a series per slice) and what they say of the person.

    Errors: InputError (no DICOM, several series), FormatError, UnsupportedError, GeometryError (missing slice).
    """
    notes: list[Note] = []
    images = _one(path) if path.is_file() else _folder(path, notes)
    chosen, why = choose(series_in(images), series)
    notes.extend(why)
    if chosen.broken is not None:
        raise chosen.broken
    layout = arrange(chosen.frames, notes, spacing_mm)
    flat = [frame for row in layout.frames for phase in row for frame in phase]
    data = _records(pixels.load(flat, notes), layout)
    if any(fields.text(header, "LossyImageCompression") == "01" for header in chosen.headers):
        notes.append(Note("lossy", "The images were compressed with loss.", "info"))
    source = DicomSource(tuple(tuple(tuple(_reference(frame) for frame in phase) for phase in row)
                               for row in layout.frames), chosen.study_uid, chosen.uids, identify)
    image = Image(Rows.parts(len(layout.frames)), data, layout.grid,
                  None if layout.times_s is None else torch.from_numpy(layout.times_s),
                  None if layout.cycle_s is None else torch.from_numpy(layout.cycle_s), source, notes=tuple(notes))
    return image, person_of(chosen.headers[0], identify=identify)


def check(path: Path, *, series: str | None = None, spacing_mm: tuple[float, float, float] | None = None) -> None:
    """Raises what :func:`read` would raise for the headers and the choice of a series; no pixel is read."""
    notes: list[Note] = []
    chosen, _ = choose(series_in(_one(path) if path.is_file() else _folder(path, notes)), series)
    if chosen.broken is not None:
        raise chosen.broken
    arrange(chosen.frames, notes, spacing_mm)


def _one(path: Path) -> list[tuple[Path, Header]]:
    with path.open("rb") as stream:
        head = stream.read(132)
    if not looks_like_dicom(head):
        raise FormatError(f"{path.name}, which is not a DICOM file", expected="a file that begins as DICOM does",
                          remedy="check what was exported")
    dataset = read_header(path)
    require_image(dataset)
    return [(path, dataset)]


def _folder(path: Path, notes: list[Note]) -> list[tuple[Path, Header]]:
    found = find_images(path, walker=HeadReader())
    if not found.images:
        held = f"{found.other + found.damaged + found.pixelless} files, none a DICOM image" if (
            found.other + found.damaged + found.pixelless) else "nothing"
        raise InputError(f"a folder that holds {held}", expected="DICOM images", remedy="check the path")
    if found.damaged:
        notes.append(Note("damaged_files", f"{found.damaged} damaged files in the folder were passed over."))
    if found.other:
        notes.append(Note("other_files", f"{found.other} files that are not DICOM were passed over.", "info"))
    return found.images


def _records(values: np.ndarray, layout: Layout) -> torch.Tensor:
    """``[frame, channel, y, x]`` to ``[row, time, channel, z, y, x]``."""
    rows, phases, slices = len(layout.frames), len(layout.frames[0]), len(layout.frames[0][0])
    shaped = values.reshape(rows, phases, slices, *values.shape[1:])
    return as_tensor(shaped).transpose(2, 3)


def _reference(frame: Frame) -> FrameReference:
    return FrameReference(frame.storage.path, frame.sop_uid, frame.index)


def person_of(header: Header, *, identify: bool = False) -> Person:
    """Sex, age, height and weight where they are plausible; name and identifier only where asked for."""
    sex = fields.text(header, "PatientSex")
    age = re.fullmatch(r"(\d{3})([YMWD])", fields.text(header, "PatientAge") or "")
    years = None if age is None else int(age[1]) / {"Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}[age[2]]
    height, weight = fields.number(header, "PatientSize"), fields.number(header, "PatientWeight")
    return Person(sex="F" if sex == "F" else "M" if sex == "M" else None, age_years=years,
                  height_cm=None if height is None or not 0.2 < height < 2.8 else height * 100,
                  weight_kg=None if weight is None or not 0.2 < weight < 500 else weight,
                  name=fields.text(header, "PatientName") if identify else None,
                  identifier=fields.text(header, "PatientID") if identify else None)
