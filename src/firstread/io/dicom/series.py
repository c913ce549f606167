"""Which frames belong together, and which of several series to read."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from firstread.core.errors import FormatError, InputError
from firstread.core.records import Note
from firstread.io.dicom import fields
from firstread.io.dicom.fields import Header
from firstread.io.dicom.frames import Frame, frames_of
from firstread.io.limits import shown

CHOOSE = "choose with --series NUMBER or UID, or give a folder with that series alone"
_DEGREE = np.cos(np.deg2rad(1.0))


@dataclass(frozen=True)
class Series:
    """Frames of one series, or of several that form one stack; ``broken``: why a file of it could not be understood."""

    study_uid: str
    uids: tuple[str, ...]
    number: int | None
    description: str
    modality: str
    reference_uid: str
    kind: str
    frames: tuple[Frame, ...]
    headers: tuple[Header, ...] = field(repr=False)
    broken: FormatError | None = None

    @property
    def slices(self) -> int:
        """Distinct slice positions."""
        return len({_place(frame) for frame in self.frames})

    @property
    def phases(self) -> int:
        return len(self.frames) // max(1, self.slices)

    def told(self) -> str:
        """A line to choose by, without anything that identifies the patient."""
        named = f" {self.description!r}" if self.description else ""
        joined = f" (+{len(self.uids) - 1} more)" if len(self.uids) > 1 else ""
        number = "?" if self.number is None else self.number
        return f"{number}{joined}{named} {self.modality} {self.slices} x {self.phases}"


def series_in(images: list[tuple[Path, Header]]) -> list[Series]:
    """All series, split by image type and echo, those with one slice each joined to stacks."""
    parts: dict[tuple, list[tuple[Path, Header]]] = defaultdict(list)
    for path, dataset in images:
        parts[_key(dataset)].append((path, dataset))
    return _joined([_series(key, members) for key, members in parts.items()])


def choose(found: list[Series], wanted: str | None) -> tuple[Series, list[Note]]:
    """The series that ``wanted`` names (number, UID or description); without it the only one, or the only cine stack.

    Errors: InputError where none or several fit, or where the folder mixes studies.
    """
    if wanted is not None:
        fitting = [s for s in found if wanted in s.uids or str(s.number) == wanted] or [
            s for s in found if wanted.strip().lower() == s.description.lower()]
        if len(fitting) != 1:
            raise InputError(f"{len(fitting) or 'no'} series named {wanted!r}", expected=f"one of: {_listed(found)}",
                             remedy="name one by number or UID (--series)")
        return fitting[0], []
    studies = len({s.study_uid for s in found})
    if studies > 1:
        raise InputError(f"images of {studies} studies in one folder ({_listed(found)})", expected="one study, or one "
                         "series chosen", remedy=CHOOSE)
    if len(found) == 1:
        return found[0], []
    cines = [s for s in found if s.slices >= 3 and s.phases >= 8]
    if len(cines) != 1:
        raise InputError(f"{len(found)} series in one folder ({_listed(found)})", expected="one series, or one that is "
                         "clearly the cine stack", remedy=CHOOSE)
    return cines[0], [Note("series_chosen", f"The only cine stack of {len(found)} series was read "
                           f"({cines[0].told()}).")]


def _listed(found: list[Series]) -> str:
    told = sorted((s.told() for s in found), key=lambda line: (len(line.split()[0]), line))
    return ", ".join(told[:8]) + (f" and {len(told) - 8} more" if len(told) > 8 else "")


def _key(dataset: Header) -> tuple:
    """Study, series, size, and kind of image (magnitude or phase …): what never mixes in one record."""
    kind = (fields.text(dataset, "ImageType") or "").split("\\")[2:3]
    return (fields.text(dataset, "StudyInstanceUID") or "", fields.text(dataset, "SeriesInstanceUID") or "",
            fields.count(dataset, "Rows"), fields.count(dataset, "Columns"), kind[0] if kind else "")


def _series(key: tuple, members: list[tuple[Path, Header]]) -> Series:
    frames: list[Frame] = []
    broken = None
    for path, dataset in members:
        try:
            frames.extend(frames_of(path, dataset))
        except FormatError as error:
            broken = error
    head = members[0][1]
    number = fields.number(head, "SeriesNumber")
    return Series(key[0], (key[1],), None if number is None else int(number), _description(head),
                  shown(fields.text(head, "Modality") or "?", 16), fields.text(head, "FrameOfReferenceUID") or "",
                  key[4],
                  tuple(frames), tuple(dataset for _, dataset in members), broken)


def _description(dataset: Header) -> str:
    """The series description without words of the patient's name or identifier, at most 40 characters."""
    described = fields.text(dataset, "SeriesDescription") or ""
    private = " ".join(fields.text(dataset, name) or "" for name in ("PatientName", "PatientID"))
    words = {word.lower() for word in private.replace("^", " ").replace("=", " ").split()}
    kept = [word for word in described.split() if word.lower().strip(",.;:()") not in words]
    return shown(" ".join(kept))


def _place(frame: Frame) -> tuple:
    return () if frame.affine is None else tuple(np.round(frame.affine[:3].ravel(), 2).tolist())


def _joined(parts: list[Series]) -> list[Series]:
    """Series of one slice each, parallel and alike, at different places, become one; all others stay."""
    joined: list[list[Series]] = []
    for part in sorted(parts, key=lambda s: (s.number is None, s.number or 0, s.uids)):
        home = next((group for group in joined if _belongs(part, group)), None)
        if home is None:
            joined.append([part])
        else:
            home.append(part)
    return [group[0] if len(group) == 1 else replace(
        group[0], uids=tuple(s.uids[0] for s in group), frames=tuple(f for s in group for f in s.frames),
        headers=tuple(h for s in group for h in s.headers),
        broken=next((s.broken for s in group if s.broken), None)) for group in joined]


def _belongs(part: Series, group: list[Series]) -> bool:
    other = group[0]
    if not part.frames or not other.frames or part.slices != 1 or other.slices != 1:
        return False
    one, two = part.frames[0], other.frames[0]
    if one.affine is None or two.affine is None or not part.reference_uid:
        return False
    alike = (part.study_uid == other.study_uid and part.reference_uid == other.reference_uid
             and part.modality == other.modality and part.kind == other.kind and one.storage.shape == two.storage.shape
             and len(part.frames) == len(other.frames) and one.thickness_mm == two.thickness_mm
             and abs((one.echo or 0) - (two.echo or 0)) <= 0.1 * (one.echo or 1))
    size = [np.linalg.norm(frame.affine[:3], axis=0) for frame in (one, two) if frame.affine is not None]
    if not alike or np.abs(size[0][:2] - size[1][:2]).max() > 1e-3 * size[0][0]:
        return False
    unit = [frame.affine[:3, :3] / length[:3] for frame, length in zip((one, two), size, strict=True)
            if frame.affine is not None]
    parallel = bool((np.einsum("ij,ij->j", unit[0], unit[1]) > _DEGREE).all())
    places = [s.frames[0].affine[:3, 3] @ unit[0][:, 2] for s in group if s.frames[0].affine is not None]
    here = one.affine[:3, 3] @ unit[0][:, 2]
    return parallel and bool(min(abs(here - place) for place in places) > 0.1)
