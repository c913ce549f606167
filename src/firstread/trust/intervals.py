"""ConformalIntervals: intervals for measured numbers from the spread of an ensemble, calibrated on held-out cases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import ChainError, FormatError, InputError, SettingError
from firstread.core.records import Note, Phenotype, Phenotypes, Rows
from firstread.core.stage import Stage
from firstread.trust.conformal import equal_tails, normalized_errors, smallest_calibration

FLOORS: Mapping[str, float] = {"mL": 3.0, "%": 1.5, "g": 4.0, "L/min": 0.2, "mm": 0.3, "1/min": 1.0}
"""Added to the spread, by unit: about half of what two careful readers differ by. Fixed before any calibration."""


@dataclass(frozen=True)
class Quantity:
    """How one phenotype's interval is made: ``lower`` and ``upper`` times ``spread + floor``; from ``count`` cases."""

    lower: float
    upper: float
    floor: float
    count: int
    unit: str


@dataclass(frozen=True)
class Calibration:
    """What split conformal calibration found, as stored in JSON.

    level: nominal coverage, per phenotype (marginal); members: size of the ensemble; calibrated_on: the data, in words;
    weights: hash of each default weight that the calibrated chain used; excluded: cases left out, by phenotype.
    """

    level: float
    members: int
    calibrated_on: str
    quantities: Mapping[str, Quantity]
    weights: Mapping[str, str] = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return f"normalized split conformal, equal tails, over an ensemble of {self.members}; marginal per phenotype"

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what ``save`` wrote; InputError where there is no such file, FormatError where it is another."""
        if not path.is_file():
            raise InputError(f"no calibration {path.name}", expected="a JSON file written by Calibration.save",
                             remedy="check the path, or calibrate")
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except json.JSONDecodeError as error:
            raise FormatError(f"{path.name}: {error}", expected="JSON", remedy="calibrate again") from error

    @classmethod
    def from_json(cls, data: Any) -> Calibration:
        """From parsed JSON; FormatError where fields are missing or of another kind."""
        try:
            quantities = {name: Quantity(float(q["lower"]), float(q["upper"]), float(q["floor"]), int(q["count"]),
                                         str(q["unit"])) for name, q in data["quantities"].items()}
            return cls(float(data["level"]), int(data["members"]), str(data["calibrated_on"]), quantities,
                       dict(data.get("weights", {})), dict(data.get("excluded", {})))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"a calibration without a valid {error}", expected="what Calibration.save writes",
                              remedy="calibrate again") from error


class ConformalIntervals(Stage):
    """Adds intervals to the ``point`` phenotypes from those of the ensemble's ``members``.

        [value + lower * scale, value + upper * scale],  scale = sd over members + floor

    It reaches at least to the value itself and is clipped to what is possible (>= 0; % also <= 100). Where the
    calibration cases were measured too low, it reaches further up than down.

    point: one row per subject; members: one row per subject and draw (a draw is a member of the ensemble). Phenotypes
    that were not calibrated, or whose spread is unknown, keep their value without an interval, and a note names them.
    The intervals have no gradient. Errors: ChainError where the members are not the calibrated number of each subject.

    >>> from firstread.core.records import Rows
    >>> calibration = Calibration(0.9, 2, "an example", {"LVEF": Quantity(-2.0, 2.0, 1.0, 99, "%")})
    >>> point = Phenotypes(Rows.subjects(), {"LVEF": Phenotype(torch.tensor([60.0]), "%")})
    >>> members = replace(point.draws(2), values={"LVEF": Phenotype(torch.tensor([59.0, 61.0]), "%")})
    >>> found = ConformalIntervals(calibration=calibration)(point, members)["LVEF"]
    >>> round(found.lower.item(), 2), round(found.upper.item(), 2)
    (55.17, 64.83)
    """

    result: ClassVar[str] = "phenotypes.intervals"

    def __init__(self, *, calibration: Calibration) -> None:
        super().__init__()
        self.calibration = calibration

    def settings(self) -> str:
        return f"level={self.calibration.level}, calibrated_on={self.calibration.calibrated_on!r}"

    def forward(self, point: Phenotypes, members: Phenotypes) -> Phenotypes:
        owner = member_rows(point.rows, members.rows, self.calibration.members)
        values, bare = dict(point.values), []
        for name, phenotype in point.values.items():
            if phenotype.value is None:
                continue
            spread = member_spread(members.values.get(name), owner)
            quantity = self.calibration.quantities.get(name)
            if quantity is None or spread is None or quantity.unit != phenotype.unit:
                bare.append(name)
                continue
            value = phenotype.value.detach()
            scale = spread.to(value) + quantity.floor
            if not bool(torch.isfinite(scale).any()):
                bare.append(name)
                continue
            top = 100.0 if phenotype.unit == "%" else float("inf")
            values[name] = replace(phenotype, lower=(value + min(quantity.lower, 0.0) * scale).clamp(0.0, top),
                                   upper=(value + max(quantity.upper, 0.0) * scale).clamp(0.0, top),
                                   level=self.calibration.level, method=self.calibration.method,
                                   calibrated_on=self.calibration.calibrated_on)
        made = replace(point, values=values)
        note = Note("no_interval", f"No interval was calibrated for {', '.join(bare)}.", "info")
        return made.noted(note) if bare else made


def member_rows(point: Rows, members: Rows, count: int) -> Float[Tensor, "batch members"] | Tensor:
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


def calibrate(point: Phenotypes, members: Phenotypes, truth: Mapping[str, Float[Tensor, " batch"]], *, level: float,
              calibrated_on: str, weights: Mapping[str, str] | None = None,
              floors: Mapping[str, float] = FLOORS) -> Calibration:
    """Split conformal calibration of every phenotype that has a truth, one quantile on each side.

    truth: the true value of each row of ``point``, by phenotype; calibration cases must have trained nothing.
    floors: by unit. A case that could not be measured, or without truth (NaN), is left out and counted. Raises
    SettingError where fewer cases remain than the level needs (19 at 90 %).
    """
    subjects = len(point.rows.subject)
    if subjects == 0 or len(members.rows.subject) % subjects or len(members.rows.subject) < 2 * subjects:
        raise SettingError(f"{len(members.rows.subject)} member rows for {subjects} subjects",
                           expected="two or more members of every subject",
                           remedy="measure every member of the ensemble")
    count = len(members.rows.subject) // subjects
    owner = member_rows(point.rows, members.rows, count)
    quantities, excluded = {}, {}
    for name, true in truth.items():
        phenotype = point.values[name]
        spread = member_spread(members.values.get(name), owner)
        if phenotype.value is None or spread is None:
            raise SettingError(f"no measured value of {name} to calibrate", expected="a value and a spread per case",
                               remedy=f"leave {name} out of the truth ({phenotype.reason or 'no members'})")
        value, true = phenotype.value.detach().double(), true.double()
        usable = torch.isfinite(value) & torch.isfinite(spread) & torch.isfinite(true)
        least = smallest_calibration((1 + level) / 2)
        if usable.sum() < least:
            raise SettingError(f"{int(usable.sum())} usable cases to calibrate {name} at level {level}",
                               expected=f"{least} or more",
                               remedy="calibrate on more cases, or lower the level")
        floor = floors[phenotype.unit]
        errors = normalized_errors(true[usable], value[usable], spread[usable], floor)
        quantities[name] = Quantity(*equal_tails(errors, level), floor, int(usable.sum()), phenotype.unit)
        if not usable.all():
            excluded[name] = int((~usable).sum())
    return Calibration(level, count, calibrated_on, quantities, dict(weights or {}), excluded)
