"""What a calibration is made of, from files: readings of ``firstread read``, and a table of true numbers."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstread.core.errors import FormatError, InputError

SCHEMA = "firstread.reading/1"
READING = "reading.json"
HEADING = re.compile(r"^\s*(\S+?)\s*(?:[(\[]\s*(.+?)\s*[)\]])?\s*$")


@dataclass(frozen=True)
class Measured:
    """What a reading says of one subject.

    values, units: by phenotype, of those with a value; refused: whether its own intervals were refused as unlike the
    cases they were calibrated on; weights: hash of each stage that has weights.
    """

    subject: str
    values: Mapping[str, float]
    units: Mapping[str, str]
    members: int
    spread: Mapping[str, float]
    features: Mapping[str, float]
    fingerprints: tuple[str, ...]
    sha256: str
    weights: Mapping[str, str]
    refused: bool


@dataclass(frozen=True)
class Table:
    """True numbers by subject and phenotype, NaN where a cell is empty; units where the heading states one; groups by
    subject where a column of them was asked for."""

    truth: Mapping[str, Mapping[str, float]]
    names: tuple[str, ...]
    units: Mapping[str, str]
    groups: Mapping[str, str]


def read_readings(folder: Path) -> list[Measured]:
    """Every reading in a folder: ``SUBJECT/reading.json`` at any depth, or ``SUBJECT.json``; by subject.

    Raises InputError where there is none, where two are of one subject or of one scan, or one was made without what
    calibration needs; FormatError for a damaged file.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder.name}", expected="a folder with the readings of `firstread read`",
                         remedy="check the path")
    files = [*folder.rglob(READING), *(file for file in folder.glob("*.json") if file.name != READING)]
    found = [one for file in sorted(files) if (one := _measured(file)) is not None]
    if not found:
        raise InputError(f"no reading in {folder.name}", expected="a folder of each subject, written by "
                         "`firstread read`, or their reading.json as SUBJECT.json", remedy="check the path")
    _once([one.subject for one in found], "readings of the subject", "one reading of each subject")
    owners: dict[str, str] = {}
    for one in found:
        for mark in (one.sha256, *one.fingerprints):
            if owners.setdefault(mark, one.subject) != one.subject:
                raise InputError(f"the same scan in the readings {owners[mark]} and {one.subject}",
                                 expected="every scan once", remedy="leave one of them out")
    return found


def _measured(file: Path) -> Measured | None:
    """One reading; None for JSON of another kind beside the readings."""
    subject = file.parent.name if file.name == READING else file.stem
    try:
        data: Any = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"the reading of {subject}: {error}", expected="JSON as `firstread read` writes it",
                          remedy="read the scan again") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        if file.name != READING:
            return None
        raise FormatError(f"the reading of {subject}, of another form", expected=SCHEMA, remedy="read the scan again")
    basis = data.get("basis")
    if basis is None:
        raise InputError(f"the reading of {subject}, in which nothing was measured or kept for calibration",
                         expected="readings of hearts, made by this version", remedy="read it again, or take it out")
    if any(step["stage"] == "adapted_cascade" for step in data["trail"]):
        raise InputError(f"the reading of {subject}, whose reconstruction was fitted to its scan",
                         expected="readings that were all made by one chain", remedy="read it without --adapt")
    known = {name: p for name, p in data["phenotypes"].items() if p["value"] is not None}
    numbers = {key: {name: float(v) for name, v in basis[key].items() if v is not None}
               for key in ("spread", "features")}
    return Measured(subject, {name: float(p["value"]) for name, p in known.items()},
                    {name: p["unit"] for name, p in data["phenotypes"].items()}, int(basis["members"]),
                    numbers["spread"], numbers["features"], tuple(basis["fingerprints"]), data["input"]["sha256"],
                    {step["stage"]: step["weights"] for step in data["trail"] if step["weights"] is not None},
                    any(note["code"] == "shifted_input" for note in data["warnings"]))


def read_table(file: Path, *, by: str | None = None) -> Table:
    """A CSV file with a heading: ``subject``, a column for each phenotype (``LVEF``, ``LVEDV (mL)``), others ignored.

    by: the column of the groups. Cells that are empty, ``NaN`` or ``NA`` are unknown. Separators: comma, semicolon or
    tab. Raises InputError where there is no such file, heading, column or number, and for a subject in two rows.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"no table {file.name}", expected="a CSV file of true numbers", remedy="check the path") \
            from error
    except UnicodeDecodeError as error:
        raise FormatError(f"{file.name}, which is no text", expected="a CSV file in UTF-8",
                          remedy="export the table as CSV") from error
    head = text.split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=separator) if any(row)]
    columns = [HEADING.match(cell) for cell in rows[0]] if rows else []
    titles = [match.group(1) if match else "" for match in columns]
    if "subject" not in titles or (by is not None and by not in rows[0]):
        raise InputError(f"{file.name} with the columns {', '.join(rows[0]) if rows else 'none'}",
                         expected="a heading with subject" + (f" and {by}" if by else ""),
                         remedy="name the columns in the first row")
    _once(titles, f"columns of {file.name} called", "every column once")
    key, place = titles.index("subject"), None if by is None else rows[0].index(by)
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(titles):
            raise InputError(f"{len(row)} cells in row {number} of {file.name}", expected=f"{len(titles)}, as in the "
                             "heading", remedy="correct the row (decimals are written with a point)")
    _once([row[key] for row in rows[1:]], "rows of the subject", "one row for each subject")
    used = [i for i in range(len(titles)) if i not in (key, place)]
    truth = {row[key]: {titles[i]: row[i] for i in used} for row in rows[1:]}
    units = {titles[i]: match.group(2) for i in used if (match := columns[i]) is not None and match.group(2)}
    groups = {} if place is None else {row[key]: row[place] for row in rows[1:]}
    return Table({subject: _Cells(cells, subject) for subject, cells in truth.items()},
                 tuple(titles[i] for i in used), units, groups)


class _Cells(Mapping[str, float]):
    """A row's cells as numbers, parsed when they are asked for: columns that are no phenotypes may hold anything."""

    def __init__(self, cells: Mapping[str, str], subject: str):
        self._cells, self._subject = cells, subject

    def __getitem__(self, name: str) -> float:
        text = self._cells[name]
        if text.lower() in ("", "nan", "na", "n/a", "-"):
            return math.nan
        try:
            value = float(text)
        except ValueError:
            raise InputError(f"{name} of {self._subject}: {text!r}", expected="a number with a decimal point, or an "
                             "empty cell", remedy="correct the table") from None
        if not 0 <= value < math.inf:
            raise InputError(f"{name} of {self._subject}: {text}", expected="a finite number, not below zero",
                             remedy="correct the table")
        return value

    def __iter__(self):
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)


def _once(names: Sequence[str], what: str, expected: str) -> None:
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise InputError(f"several {what} {twice[0]}", expected=expected, remedy="leave all but one out")
