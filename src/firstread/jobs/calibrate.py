"""Intervals of one's own: readings and a reader's true numbers in, a calibration for ``firstread read`` out.

    readings ─┬▶ normalized errors ─▶ quantiles of each phenotype (and group) ─┐
    truths   ─┘                                                                 ├▶ calibration
    readings ───▶ features of the images ─▶ what an unlike scan looks like ─────┘
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from firstread.core.errors import FirstreadError, InputError, OutputError, SettingError
from firstread.core.records import Image, KSpace
from firstread.io.open import read as open_file
from firstread.jobs.calibrate_files import Measured, Table, read_readings, read_table
from firstread.trust.by_name import NamedCalibrations
from firstread.trust.conformal import normalized_errors
from firstread.trust.fingerprints import frame_fingerprints
from firstread.trust.full_novelty import full_novelty
from firstread.trust.intervals import Calibration, split_calibration
from firstread.trust.scores import FLOORS, Scores

FACTOR = 5.0
"""True numbers that are by the median this much above or below the measured ones are in another unit."""


@dataclass(frozen=True)
class Wish:
    """What is asked. level: nominal coverage; by: the table's column of groups; about: the cases, in words, which stand
    in every interval; trained_on: scans that trained the model (a folder, a file), or a text file of fingerprints."""

    level: float = 0.9
    by: str | None = None
    about: str | None = None
    trained_on: Path | None = None

    def __post_init__(self):
        if not 0 < self.level < 1:
            raise SettingError(f"a level of {self.level:g}", expected="a share above 0 and below 1, such as 0.9",
                               remedy="correct --level")


def calibrate_to_file(readings: Path, table: Path, output: Path, wish: Wish | None = None, *, overwrite: bool = False,
                      progress: Callable[[str], None] = lambda text: None) -> Calibration | NamedCalibrations:
    """Calibrate on the readings of a folder and the true numbers of a table, and write the result, whole or not at all.

    Raises InputError and SettingError, one sentence each, for whatever is wrong with the cases; OutputError where the
    file cannot be written.
    """
    wish = wish or Wish()
    if output.exists() and (output.is_dir() or not overwrite):
        raise OutputError(f"{output.name} is there already", expected="a new file", remedy="choose another with -o"
                          + ("" if output.is_dir() else ", or add --overwrite"))
    truths = read_table(table, by=wish.by)
    progress(f"{table.name}: {len(truths.truth)} subjects")
    found = read_readings(readings)
    progress(f"{readings.name}: {len(found)} readings")
    cases = paired(found, truths, progress)
    if wish.trained_on is not None:
        require_unseen(cases, fingerprints_of(wish.trained_on, progress))
    made = calibrated(cases, truths, wish, progress)
    _write(output, made.as_json())
    return made


def paired(found: Sequence[Measured], table: Table, progress: Callable[[str], None]) -> list[Measured]:
    """The readings whose subject is in the table, all by one chain; what is left out is said."""
    cases = [one for one in found if one.subject in table.truth]
    if not cases:
        raise InputError(f"no subject of the table ({_some(list(table.truth))}) among the readings "
                         f"({_some([one.subject for one in found])})", expected="the readings' folders named as the "
                         "column subject names them", remedy="rename the folders, or correct the column")
    bare = [one.subject for one in found if one.subject not in table.truth]
    unread = sorted(set(table.truth) - {one.subject for one in found})
    if bare:
        progress(f"left out, without true numbers: {_some(bare)}")
    if unread:
        progress(f"left out, without a reading: {_some(unread)}")
    if refused := [one.subject for one in cases if one.refused]:
        progress(f"used, though unlike the cases of their present intervals: {_some(refused)}")
    first = cases[0]
    for one in cases:
        if one.weights != first.weights or one.members != first.members:
            raise InputError(f"readings of different chains: {first.subject} by {_chain(first)}, {one.subject} by "
                             f"{_chain(one)}", expected="all from images, or all from raw signal, by one model",
                             remedy="read them in one way, or calibrate apart")
    return cases


def calibrated(cases: Sequence[Measured], table: Table, wish: Wish, progress: Callable[[str], None]
               ) -> Calibration | NamedCalibrations:
    """One calibration of all cases, or one for each group; SettingError for too few (says the smallest number)."""
    names = _phenotypes(cases, table)
    if wish.by is None:
        return _of(cases, table, names, wish, progress)
    unknown = [one.subject for one in cases if not table.groups[one.subject]]
    if unknown:
        raise InputError(f"no {wish.by} of {_some(unknown)}", expected="a group for every subject",
                         remedy="complete the column, or leave them out")
    groups = sorted({table.groups[one.subject] for one in cases})
    return NamedCalibrations(wish.by, {group: _of([one for one in cases if table.groups[one.subject] == group], table,
                                                  names, wish, progress, group=group) for group in groups})


def _of(cases: Sequence[Measured], table: Table, names: Sequence[str], wish: Wish, progress: Callable[[str], None], *,
        group: str = "") -> Calibration:
    scores = scores_of(cases, table, names, wish.about or f"{len(cases)} readings of the scans of one's own, and the "
                       "numbers of a reader")
    of = f" in the group {group}" if group else ""
    made = split_calibration(scores, level=wish.level, weights=cases[0].weights, of=of)
    features = tuple(name for name in cases[0].features if all(name in one.features for one in cases))
    table_of = torch.tensor([[one.features[name] for name in features] for one in cases], dtype=torch.float64)
    made = replace(made, novelty=full_novelty(table_of, features, calibrated_on=scores.calibrated_on),
                   group=f"{wish.by} = {group}" if group else "")
    for name, quantity in made.quantities.items():
        lost = made.excluded.get(name, 0)
        progress(f"{name}{of}: {quantity.count} cases" + (f", {lost} left out (not measured, or no truth)" if lost
                                                          else ""))
    return made


def scores_of(cases: Sequence[Measured], table: Table, names: Sequence[str], about: str) -> Scores:
    """The normalized errors of readings, NaN where a number was not measured or is not known."""
    members = cases[0].members if cases[0].members > 1 else 0
    errors, values = {}, {}
    for name in names:
        values[name], truth, spread = (torch.tensor(column, dtype=torch.float64) for column in zip(*(
            (one.values.get(name, torch.nan), table.truth[one.subject][name],
             one.spread.get(name, torch.nan) if members else 0.0) for one in cases), strict=True))
        errors[name] = normalized_errors(truth, values[name], spread, FLOORS[cases[0].units[name]])
    units = {name: cases[0].units[name] for name in names}
    marks = tuple(one.fingerprints[0] for one in cases) if all(one.fingerprints for one in cases) else ()
    return Scores(errors, values, {name: FLOORS[unit] for name, unit in units.items()}, units, members, about,
                  cases=marks)


def _phenotypes(cases: Sequence[Measured], table: Table) -> list[str]:
    """The table's columns that are phenotypes, in the readings' units."""
    known = {name: unit for one in cases for name, unit in one.units.items() if unit in FLOORS}
    names = [name for name in table.names if name in known]
    if not names:
        raise InputError(f"no phenotype among the columns {', '.join(table.names) or 'none'}",
                         expected=f"some of {', '.join(known)}", remedy="name the columns as the readings name them")
    for name in names:
        if name in table.units and table.units[name] != known[name]:
            raise InputError(f"{name} in {table.units[name]}", expected=f"{known[name]}, as in the readings",
                             remedy="convert the column")
        ratios = sorted(table.truth[one.subject][name] / one.values[name] for one in cases if one.values.get(name))
        ratios = [ratio for ratio in ratios if ratio == ratio]
        if ratios and not 1 / FACTOR < (middle := ratios[len(ratios) // 2]) < FACTOR:
            raise InputError(f"{name} in another unit: by the median {middle:.3g} times the measured values",
                             expected=f"numbers in {known[name]}", remedy="convert the column")
    return names


def require_unseen(cases: Sequence[Measured], trained_on: Mapping[str, str]) -> None:
    """Raise SettingError where a frame of a case is among the fingerprints of what trained the model."""
    seen = [one.subject for one in cases if any(mark in trained_on for mark in one.fingerprints)]
    if seen:
        raise SettingError(f"{len(seen)} of {len(cases)} readings are of scans that trained the model ({_some(seen)})",
                           expected="cases that no part of the chain has seen", remedy="leave them out")


def fingerprints_of(source: Path, progress: Callable[[str], None]) -> dict[str, str]:
    """Fingerprints of training scans, with the scan of each: of a text file, one a line, or of the scans themselves."""
    if not source.exists():
        raise InputError(f"nothing at {source.name}", expected="a folder of scans, or a text file of fingerprints",
                         remedy="correct --trained-on")
    if source.suffix == ".txt":
        return {line.strip(): source.name for line in source.read_text(encoding="utf-8").splitlines() if line.strip()}
    found: dict[str, str] = {}
    scans = sorted(source.iterdir()) if source.is_dir() else [source]
    for number, scan in enumerate(scans, start=1):
        try:
            records = open_file(scan).case.values()
        except FirstreadError as error:
            progress(f"no training scan: {scan.name} ({error.got})")
            continue
        progress(f"training scan {number} of {len(scans)}")
        found |= {mark: scan.name for record in records if isinstance(record, Image | KSpace)
                  for mark in frame_fingerprints(record)}
    if not found:
        raise InputError(f"no scan in {source.name}", expected="the scans that trained the model",
                         remedy="correct --trained-on")
    return found


def _chain(one: Measured) -> str:
    return ", ".join(f"{stage} {made[:8]}" for stage, made in one.weights.items()) or "stages without weights"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _write(path: Path, data: Mapping[str, Any]) -> None:
    """JSON that is there whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}", expected="a place that can be written",
                          remedy="choose another with -o") from error
    finally:
        if part.is_file():
            part.unlink()
