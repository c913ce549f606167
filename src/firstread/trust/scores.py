"""Scores of calibration cases: the normalized errors that every kind of conformal interval is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from firstread.core.errors import ChainError, FormatError, InputError, MissingRecordError, SettingError
from firstread.core.records import Features, Phenotype, Phenotypes, Rows
from firstread.trust.conformal import normalized_errors
from firstread.trust.fingerprints import require_disjoint

FLOORS: Mapping[str, float] = {"mL": 3.0, "%": 1.5, "g": 4.0, "L/min": 0.2, "mm": 0.3, "1/min": 1.0}
"""Added to the spread, by unit: about half of what two careful readers differ by. Fixed before any calibration."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Errors of calibration cases in units of the expected error, with what is known of each case beside them.

    errors: by phenotype ``[case]``, NaN where a case has no measured value, spread or truth; values: what was measured;
    floors, units: by phenotype; members: size of the ensemble, 0 where no spread was used; calibrated_on: the data, in
    words; features: numbers that describe each case, by name ``[case]``; cases: a fingerprint of each, or nothing.
    """

    errors: Mapping[str, Float[Tensor, " case"]]
    values: Mapping[str, Float[Tensor, " case"]]
    floors: Mapping[str, float]
    units: Mapping[str, str]
    members: int
    calibrated_on: str
    features: Mapping[str, Float[Tensor, " case"]] = field(default_factory=dict)
    cases: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Cases, usable or not."""
        return len(next(iter(self.errors.values())))

    def number(self, name: str) -> Float[Tensor, " case"]:
        """The feature ``name``, or the measured phenotype of that name, of each case."""
        known = {**self.values, **self.features}
        if name not in known:
            raise SettingError(f"no number {name!r} of the calibration cases", expected=f"one of {sorted(known)}",
                               remedy="give it as a feature when collecting the scores")
        return known[name]

    def select(self, chosen: Tensor) -> Scores:
        """The cases at ``chosen`` (indices, or a mask)."""
        index = chosen.nonzero().flatten() if chosen.dtype == torch.bool else chosen
        tables = [{n: t[index] for n, t in table.items()} for table in (self.errors, self.values, self.features)]
        cases = tuple(self.cases[i] for i in index.tolist()) if self.cases else ()
        return Scores(tables[0], tables[1], self.floors, self.units, self.members, self.calibrated_on, tables[2], cases)

    def save(self, path: Path) -> None:
        """Write as JSON; NaN becomes null."""
        tables = {name: {n: [v if v == v else None for v in t.tolist()] for n, t in table.items()} for name, table
                  in (("errors", self.errors), ("values", self.values), ("features", self.features))}
        plain = {"floors": dict(self.floors), "units": dict(self.units), "members": self.members,
                 "calibrated_on": self.calibrated_on, "cases": self.cases}
        path.write_text(json.dumps(tables | plain, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what ``save`` wrote; InputError where there is no such file, FormatError where it is another."""
        if not path.is_file():
            raise InputError(f"no scores {path.name}", expected="a JSON file written by Scores.save",
                             remedy="check the path, or collect the scores")
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
            tables = [{n: torch.tensor([float("nan") if v is None else v for v in t], dtype=torch.float64)
                       for n, t in data[name].items()} for name in ("errors", "values", "features")]
            return cls(tables[0], tables[1], dict(data["floors"]), dict(data["units"]), int(data["members"]),
                       str(data["calibrated_on"]), tables[2], tuple(data["cases"]))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{path.name}: scores without a valid {error}", expected="what Scores.save writes",
                              remedy="collect the scores again") from error


def collect_scores(point: Phenotypes, members: Phenotypes | None, truth: Mapping[str, Float[Tensor, " batch"]], *,
                   calibrated_on: str, floors: Mapping[str, float] = FLOORS, features: Features | None = None,
                   cases: tuple[str, ...] = (), trained_on: tuple[str, ...] = ()) -> Scores:
    """The normalized errors of calibration cases, ``(truth - value) / (sd over members + floor)``.

    point: one row per subject; members: one per subject and draw, or None for errors in units of the floor alone
    (conformal on the final number, the baseline); truth: the true value of each row of ``point``, by phenotype, NaN
    where unknown; features: one row per subject; cases, trained_on: fingerprints of the calibration and the training
    cases (:mod:`firstread.trust.fingerprints`). Raises SettingError for members that are not two or more of every
    subject, for a phenotype without any value, and where a calibration case was trained on.

    >>> point = Phenotypes(Rows.subjects(2), {"LVEF": Phenotype(torch.tensor([60.0, 50.0]), "%")})
    >>> collect_scores(point, None, {"LVEF": torch.tensor([63.0, 47.0])}, calibrated_on="two").errors["LVEF"].tolist()
    [2.0, -2.0]
    """
    if trained_on and not cases:
        raise SettingError("fingerprints of the training cases alone", expected="those of the calibration cases too",
                           remedy="give cases=fingerprints(record) of the calibration cases")
    require_disjoint(cases, trained_on)
    subjects = len(point.rows.subject)
    if cases and len(cases) != subjects:
        raise SettingError(f"{len(cases)} fingerprints of {subjects} subjects", expected="one of each subject",
                           remedy="take firstread.trust.fingerprints.fingerprints of the same records")
    count, owner = 0, None
    if members is not None:
        if subjects == 0 or len(members.rows.subject) % subjects or len(members.rows.subject) < 2 * subjects:
            raise SettingError(f"{len(members.rows.subject)} member rows for {subjects} subjects",
                               expected="two or more members of every subject",
                               remedy="measure every member of the ensemble")
        count = len(members.rows.subject) // subjects
        owner = member_rows(point.rows, members.rows, count)
    errors, values, used, units = {}, {}, {}, {}
    for name, true in truth.items():
        phenotype = point.values[name]
        spread = (torch.zeros(subjects, dtype=torch.float64) if members is None or owner is None
                  else member_spread(members.values.get(name), owner))
        if phenotype.value is None or spread is None:
            raise SettingError(f"no measured value of {name} to calibrate", expected="a value and a spread per case",
                               remedy=f"leave {name} out of the truth ({phenotype.reason or 'no members'})")
        values[name], units[name] = phenotype.value.detach().double(), phenotype.unit
        used[name] = floors[phenotype.unit]
        found = normalized_errors(true.double(), values[name], spread, used[name])
        errors[name] = torch.where(torch.isfinite(found), found, torch.nan)
    described = {}
    if features is not None:
        described = dict(zip(features.names, feature_rows(point.rows, features).unbind(dim=1), strict=True))
    return Scores(errors, values, used, units, count, calibrated_on, described, cases)


def member_rows(point: Rows, members: Rows, count: int) -> Int[Tensor, "batch members"]:
    """For every row of ``point``, the rows of ``members`` of the same subject: ``[batch, count]``."""
    table = [(members.subject == subject).nonzero().flatten() for subject in point.subject.cpu()]
    sizes = sorted({len(rows) for rows in table})
    if sizes != [count] or len(set(point.subject.tolist())) != len(point.subject):
        raise ChainError(f"{' or '.join(map(str, sizes))} members per subject for intervals",
                         expected=f"one consensus row and the calibrated ensemble of {count} per subject",
                         remedy="use the ensemble that was calibrated, or calibrate again")
    return torch.stack(table)


def member_spread(phenotype: Phenotype | None, owner: Tensor) -> Float[Tensor, " batch"] | None:
    """Standard deviation over the members (n - 1 in the divisor); None where the members have no value."""
    if phenotype is None or phenotype.value is None or owner.shape[1] < 2:
        return None
    return phenotype.value.detach().double()[owner].std(dim=1)


def feature_rows(point: Rows, features: Features) -> Float[Tensor, "batch feature"]:
    """The features of each row of ``point``; ChainError unless there is one row of them per subject."""
    table = [(features.rows.subject == subject).nonzero().flatten() for subject in point.subject.cpu()]
    if any(len(rows) != 1 for rows in table):
        raise ChainError(f"{sorted({len(rows) for rows in table})} rows of features per subject", expected="one",
                         remedy="average the features over the parts and draws of a subject")
    return features.data.detach().double()[torch.cat(table)]


def number_of(name: str, point: Phenotypes, features: Features | None) -> Float[Tensor, " batch"]:
    """The feature ``name``, or else the measured phenotype of that name, of each row of ``point``.

    Raises MissingRecordError where there is neither, ChainError unless there is one row of features per subject.
    """
    if features is not None and name in features.names:
        return feature_rows(point.rows, features)[:, features.names.index(name)]
    phenotype = point.values.get(name)
    if phenotype is not None and phenotype.value is not None:
        return phenotype.value.detach().double()
    known = [name for name, phenotype in point.values.items() if phenotype.value is not None]
    known += features.names if features is not None else ()
    raise MissingRecordError(f"no number {name!r} of the case", expected=f"one of {sorted(known)}",
                             remedy="add it to the features of the case")
