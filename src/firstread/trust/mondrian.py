"""Mondrian conformal intervals: quantiles of their own for each group, so that coverage holds in each.

The groups must be a function of what is known before the truth: a feature (acceleration, SNR, age, scanner), or a
measured phenotype (the predicted ejection fraction). Source: Vovk, Gammerman and Shafer 2005, section 4.5.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from firstread.core.errors import FormatError, InputError, SettingError
from firstread.core.records import Features, Note, Phenotypes
from firstread.core.stage import Stage
from firstread.trust.intervals import Calibration, split_calibration, with_intervals
from firstread.trust.scores import Scores, member_rows, member_spread, number_of


@dataclass(frozen=True)
class Groups:
    """A partition by one number: group i holds ``edges[i - 1] <= x < edges[i]``.

    by: the name of a feature or of a measured phenotype; names: one more than edges. Edges that were found on the
    calibration cases themselves (terciles) make coverage approximate; fix them on other data where that matters.

    >>> Groups("LVEF", (40.0, 55.0), ("low", "middle", "high")).index(torch.tensor([39.0, 40.0, float("nan")])).tolist()
    [0, 1, -1]
    """

    by: str
    edges: tuple[float, ...]
    names: tuple[str, ...]

    def __post_init__(self):
        if len(self.names) != len(self.edges) + 1 or any(a >= b for a, b in pairwise(self.edges)):
            raise SettingError(f"edges {self.edges} for groups {self.names}",
                               expected="ascending edges and one name more than edges", remedy="correct the groups")

    @classmethod
    def terciles(cls, by: str, numbers: Float[Tensor, " case"]) -> Groups:
        """Low, middle and high third of ``numbers`` (NaN left out), edges rounded to four digits."""
        known = numbers[torch.isfinite(numbers)].double()
        cut = torch.quantile(known, torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)).tolist()
        low, high = (float(f"{edge:.4g}") for edge in cut)
        return cls(by, (low, high), (f"{by} < {low:g}", f"{low:g} <= {by} < {high:g}", f"{by} >= {high:g}"))

    def index(self, numbers: Float[Tensor, " case"]) -> Int[Tensor, " case"]:
        """The group of each case, -1 where the number is not finite."""
        edges = torch.tensor(self.edges, dtype=torch.float64, device=numbers.device)
        found = torch.bucketize(numbers.detach().double(), edges, right=True)
        return torch.where(torch.isfinite(numbers), found, -1)


@dataclass(frozen=True)
class GroupCalibration:
    """A split conformal calibration for each group, by the group's name."""

    groups: Groups
    calibrations: Mapping[str, Calibration]

    @property
    def level(self) -> float:
        return next(iter(self.calibrations.values())).level

    @property
    def members(self) -> int:
        return next(iter(self.calibrations.values())).members

    @property
    def method(self) -> str:
        return (f"Mondrian split conformal by {self.groups.by} ({len(self.groups.names)} groups), equal tails, "
                f"{f'over an ensemble of {self.members}' if self.members else 'on the number alone'}; "
                "per phenotype and group")

    def count(self, name: str, group: str) -> int:
        """Calibration cases of a phenotype in a group."""
        return self.calibrations[group].quantities[name].count

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> GroupCalibration:
        """Read what ``save`` wrote; InputError where there is no such file, FormatError where it is another."""
        if not path.is_file():
            raise InputError(f"no calibration {path.name}", expected="a JSON file of GroupCalibration.save",
                             remedy="check the path, or calibrate")
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
            groups = Groups(str(data["groups"]["by"]), tuple(map(float, data["groups"]["edges"])),
                            tuple(map(str, data["groups"]["names"])))
            return cls(groups, {name: Calibration.from_json(data["calibrations"][name]) for name in groups.names})
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{path.name}: a calibration by group without a valid {error}",
                              expected="what GroupCalibration.save writes", remedy="calibrate again") from error


def group_calibration(scores: Scores, groups: Groups, *, level: float) -> GroupCalibration:
    """Split conformal calibration in each group by itself.

    Raises SettingError that names the group with too few cases and the smallest number (19 at 90 %): calibrate on more
    cases of it, or join groups. Nothing falls back silently to the quantiles of all cases.
    """
    index = groups.index(scores.number(groups.by))
    parts = {name: scores.select(index == number) for number, name in enumerate(groups.names)}
    return GroupCalibration(groups, {name: split_calibration(part, level=level, of=f" in group {name!r}")
                                     for name, part in parts.items()})


class GroupIntervals(Stage):
    """Adds intervals to ``point`` with the quantiles of each case's group.

        [value + lower_g * scale, value + upper_g * scale],  scale = sd over members + floor

    members: one row per subject and draw; features: one row per subject, needed where the groups are by a feature. A
    case whose group is not known (the number is NaN) has no interval, and a note says so. Otherwise as
    :class:`~firstread.trust.intervals.ConformalIntervals`.
    """

    result: ClassVar[str] = "phenotypes.group_intervals"

    def __init__(self, *, calibration: GroupCalibration) -> None:
        super().__init__()
        if calibration.members == 0:
            raise SettingError("a calibration by group without members", expected="one over an ensemble",
                               remedy="collect the scores with the members' phenotypes")
        self.calibration = calibration

    def settings(self) -> str:
        one = next(iter(self.calibration.calibrations.values()))
        return f"level={one.level}, by={self.calibration.groups.by!r}, calibrated_on={one.calibrated_on!r}"

    def forward(self, point: Phenotypes, members: Phenotypes, features: Features | None) -> Phenotypes:
        made = self.calibration
        owner = member_rows(point.rows, members.rows, made.members)
        index = made.groups.index(number_of(made.groups.by, point, features))
        one = next(iter(made.calibrations.values()))
        names = [name for name, quantity in one.quantities.items()
                 if name in point.values and quantity.unit == point.values[name].unit]
        spreads = {name: member_spread(members.values.get(name), owner) for name in point.values}
        tails = {name: (self._tail(name, "lower", index), self._tail(name, "upper", index)) for name in names}
        found, bare = with_intervals(point, spreads, tails, {n: q.floor for n, q in one.quantities.items()},
                                     level=one.level, method=made.method, calibrated_on=one.calibrated_on)
        lost = [int(s) for s in point.rows.subject[index < 0]]
        if lost:
            found = found.noted(Note("unknown_group", f"No interval: {made.groups.by}, by which the intervals were "
                                     f"calibrated, is not known for subject {', '.join(map(str, lost))}."))
        bare = [name for name in bare if name not in names]
        return found.noted(Note("no_interval", f"No interval was calibrated for {', '.join(bare)}.",
                                "info")) if bare else found

    def _tail(self, name: str, side: str, index: Tensor) -> Tensor:
        """That quantile of each row's group; NaN where the group is not known."""
        by_group = [getattr(self.calibration.calibrations[group].quantities[name], side)
                    for group in self.calibration.groups.names]
        return torch.tensor([*by_group, float("nan")], dtype=torch.float64)[index.cpu()].to(index.device)
