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

from firstread.core.errors import FormatError, InputError, SettingError
from firstread.core.records import Note, Phenotypes
from firstread.core.stage import Stage
from firstread.trust.conformal import equal_tails, smallest_calibration
from firstread.trust.full_novelty import FullNovelty
from firstread.trust.scores import FLOORS, Scores, collect_scores, member_rows, member_spread
from firstread.trust.shift import Novelty, novelty_from_json

READ_OFF = ("frame", "1/min")
"""Units of what needs no interval: which frame was taken, and the heart rate that the file states."""


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
    weights: hash of each default weight that the calibrated chain used; excluded: cases left out, by phenotype; cases:
    fingerprints of the calibration cases, where they were given; novelty: how unlike the calibration cases an input is,
    where their inputs were described, so that a guard can refuse intervals; group: of which of several groups of cases.
    """

    level: float
    members: int
    calibrated_on: str
    quantities: Mapping[str, Quantity]
    weights: Mapping[str, str] = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)
    cases: tuple[str, ...] = ()
    novelty: Novelty | FullNovelty | None = None
    group: str = ""

    @property
    def method(self) -> str:
        over = f"per phenotype in the group {self.group}" if self.group else "marginal per phenotype"
        if self.members == 0:
            return f"split conformal on the number alone, equal tails; {over}"
        return f"normalized split conformal, equal tails, over an ensemble of {self.members}; {over}"

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(self.as_json(), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def as_json(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(replace(self, novelty=None)) | {"novelty": self.novelty and self.novelty.as_json()}

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
                       dict(data.get("weights", {})), dict(data.get("excluded", {})), tuple(data.get("cases", ())),
                       novelty_from_json(data["novelty"]) if data.get("novelty") else None,
                       str(data.get("group", "")))
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

    >>> from firstread.core.records import Phenotype, Rows
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
        spreads = {name: member_spread(members.values.get(name), owner) for name in point.values}
        return with_quantities(point, spreads, self.calibration)


class PlainIntervals(Stage):
    """Adds intervals of one width for all cases, conformal on the final number alone: the baseline of all others.

        [value + lower * floor, value + upper * floor]

    calibration: made without members (``calibrate(point, None, …)``). Clipping, notes and gradients as
    :class:`ConformalIntervals`; SettingError for a calibration that needs members.

    >>> from firstread.core.records import Phenotype, Rows
    >>> calibration = Calibration(0.9, 0, "an example", {"LVEF": Quantity(-2.0, 2.0, 1.5, 99, "%")})
    >>> point = Phenotypes(Rows.subjects(), {"LVEF": Phenotype(torch.tensor([60.0]), "%")})
    >>> PlainIntervals(calibration=calibration)(point)["LVEF"].upper.item()
    63.0
    """

    result: ClassVar[str] = "phenotypes.plain_intervals"

    def __init__(self, *, calibration: Calibration) -> None:
        super().__init__()
        if calibration.members:
            raise SettingError(f"a calibration over an ensemble of {calibration.members}",
                               expected="one made without members", remedy="use ConformalIntervals, or calibrate again")
        self.calibration = calibration

    def settings(self) -> str:
        return f"level={self.calibration.level}, calibrated_on={self.calibration.calibrated_on!r}"

    def forward(self, point: Phenotypes) -> Phenotypes:
        none = torch.zeros(len(point.rows.subject), dtype=torch.float64)
        return with_quantities(point, dict.fromkeys(point.values, none), self.calibration)


def with_quantities(point: Phenotypes, spreads: Mapping[str, Tensor | None], calibration: Calibration) -> Phenotypes:
    """``point`` with the intervals of a calibration, one ``Quantity`` per phenotype for all rows."""
    tails = {name: (torch.full_like(spread, quantity.lower), torch.full_like(spread, quantity.upper))
             for name, quantity in calibration.quantities.items()
             if (spread := spreads.get(name)) is not None and quantity.unit == point.values[name].unit}
    floors = {name: quantity.floor for name, quantity in calibration.quantities.items()}
    made, bare = with_intervals(point, spreads, tails, floors, level=calibration.level, method=calibration.method,
                                calibrated_on=calibration.calibrated_on)
    note = Note("no_interval", f"No interval was calibrated for {', '.join(bare)}.", "info")
    return made.noted(note) if bare else made


def with_intervals(point: Phenotypes, spreads: Mapping[str, Tensor | None], tails: Mapping[str, tuple[Tensor, Tensor]],
                   floors: Mapping[str, float], *, level: float, method: str,
                   calibrated_on: str) -> tuple[Phenotypes, list[str]]:
    """``point`` with ``[value + lower * scale, value + upper * scale]``, and the names left without any interval.

    Frames and rates are read off, not estimated: without a calibration they are not named.

    spreads: by phenotype ``[batch]``, or None; tails: lower and upper by phenotype, ``[batch]`` each. A row where a
    tail is NaN or infinite has no interval (NaN).
    """
    values, bare = dict(point.values), []
    for name, phenotype in point.values.items():
        if phenotype.value is None:
            continue
        spread = spreads.get(name)
        if spread is None or name not in tails:
            bare += [] if name not in tails and phenotype.unit in READ_OFF else [name]
            continue
        value = phenotype.value.detach()
        scale = spread.to(value) + floors[name]
        low, high = (tail.to(value) for tail in tails[name])
        scale = torch.where(torch.isfinite(low) & torch.isfinite(high), scale, torch.nan)
        if not bool(torch.isfinite(scale).any()):
            bare.append(name)
            continue
        top = 100.0 if phenotype.unit == "%" else float("inf")
        values[name] = replace(phenotype, lower=(value + low.clamp_max(0.0) * scale).clamp(0.0, top),
                               upper=(value + high.clamp_min(0.0) * scale).clamp(0.0, top), level=level,
                               method=method, calibrated_on=calibrated_on)
    return replace(point, values=values), bare


def calibrate(point: Phenotypes, members: Phenotypes | None, truth: Mapping[str, Float[Tensor, " batch"]], *,
              level: float, calibrated_on: str, weights: Mapping[str, str] | None = None,
              floors: Mapping[str, float] = FLOORS, cases: tuple[str, ...] = (),
              trained_on: tuple[str, ...] = ()) -> Calibration:
    """Split conformal calibration of every phenotype that has a truth, one quantile on each side.

    truth: the true value of each row of ``point``, by phenotype; calibration cases must have trained nothing, which is
    checked where ``cases`` and ``trained_on`` give their fingerprints. members: None for conformal on the number alone.
    floors: by unit. A case that could not be measured, or without truth (NaN), is left out and counted. Raises
    SettingError where fewer cases remain than the level needs (19 at 90 %).
    """
    scores = collect_scores(point, members, truth, calibrated_on=calibrated_on, floors=floors, cases=cases,
                            trained_on=trained_on)
    return split_calibration(scores, level=level, weights=weights)


def split_calibration(scores: Scores, *, level: float, weights: Mapping[str, str] | None = None,
                      of: str = "") -> Calibration:
    """Split conformal calibration from scores; ``of``: how the error for too few cases calls them."""
    quantities, excluded = {}, {}
    least = smallest_calibration((1 + level) / 2)
    for name, errors in scores.errors.items():
        usable = torch.isfinite(errors)
        if usable.sum() < least:
            raise SettingError(f"{int(usable.sum())} usable cases{of} to calibrate {name} at level {level}",
                               expected=f"{least} or more", remedy="calibrate on more cases, or lower the level")
        quantities[name] = Quantity(*equal_tails(errors[usable], level), scores.floors[name], int(usable.sum()),
                                    scores.units[name])
        if not usable.all():
            excluded[name] = int((~usable).sum())
    return Calibration(level, scores.members, scores.calibrated_on, quantities, dict(weights or {}), excluded,
                       scores.cases)
