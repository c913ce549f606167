"""Calibrations of named groups (a scanner, a site, a sex): each case is read with that of its own group.

The Mondrian case for groups that have names. Groups that are cut by a number: :mod:`firstread.trust.mondrian`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstread.core.errors import FormatError, InputError
from firstread.trust.intervals import Calibration


@dataclass(frozen=True)
class NamedCalibrations:
    """A split conformal calibration of each group; by: what the groups are (the column of a table, say)."""

    by: str
    calibrations: Mapping[str, Calibration]

    def of(self, group: str | None) -> Calibration:
        """That of a group; InputError, naming all groups, where there is none of that name.

        >>> NamedCalibrations("scanner", {"A": Calibration(0.9, 0, "…", {}), "B": Calibration(0.9, 0, "…", {})}).of("C")
        Traceback (most recent call last):
          ...
        firstread.core.errors.InputError: group C; expected a group (scanner) that was calibrated: A, B; state it ...
        """
        if group is None or group not in self.calibrations:
            raise InputError("no group stated" if group is None else f"group {group}",
                             expected=f"a group ({self.by}) that was calibrated: {', '.join(self.calibrations)}",
                             remedy="state it with --group, or calibrate on cases of it")
        return self.calibrations[group]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"by": self.by, "groups": {name: each.as_json() for name, each in self.calibrations.items()}}


def open_calibration(path: Path, group: str | None = None) -> Calibration:
    """The calibration of a file of ``firstread calibrate`` or ``Calibration.save``, of one of its groups if it has any.

    Raises InputError where there is no such file, or no such group, FormatError where the file is another.
    """
    if not path.is_file():
        raise InputError(f"no calibration {path.name}", expected="a JSON file written by `firstread calibrate`",
                         remedy="check the path, or calibrate")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path.name}: {error}", expected="JSON", remedy="calibrate again") from error
    if not isinstance(data, dict) or not isinstance(data.get("groups", {}), dict):
        raise FormatError(f"{path.name}: another JSON", expected="a file of `firstread calibrate`",
                          remedy="calibrate again")
    if "groups" in data and "by" in data:
        every = {str(name): Calibration.from_json(each) for name, each in data["groups"].items()}
        return NamedCalibrations(str(data["by"]), every).of(group)
    if group is not None:
        raise InputError(f"group {group} of a calibration without groups", expected="no --group",
                         remedy="leave it out, or calibrate with --by")
    return Calibration.from_json(data)
