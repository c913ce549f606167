"""Wall thickness on the 16 segments of the American Heart Association (Cerqueira et al., Circulation 2002;105:539)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from firstread.core.records import Phenotype
from firstread.report.document import first_value
from firstread.report.numbers import how

WALLS = ("anterior", "anteroseptal", "inferoseptal", "inferior", "inferolateral", "anterolateral")
APEX = ("anterior", "septal", "inferior", "lateral")
NAMES = (*(f"basal {w}" for w in WALLS), *(f"mid {w}" for w in WALLS), *(f"apical {w}" for w in APEX))
RADII = ((70.0, 98.0), (42.0, 70.0), (16.0, 42.0))
THIN_MM, THICK_MM = 4.0, 16.0


@dataclass(frozen=True)
class Segment:
    """One field of the bullseye; shade runs from 0 (thin) to 100 (thick)."""

    number: int
    name: str
    path: str
    label_x: float
    label_y: float
    value: str | None
    interval: str | None
    how: str | None
    reason: str | None
    shade: float


def segments(phenotypes: Mapping[str, Phenotype]) -> list[Segment]:
    """The 16 segments from ``WT_AHA_1`` … ``WT_AHA_16``; empty where no wall thickness was asked for."""
    if not any(name.startswith("WT_AHA_") for name in phenotypes):
        return []
    return [_segment(number, phenotypes.get(f"WT_AHA_{number}")) for number in range(1, 17)]


def place(number: int) -> tuple[float, float, float, float]:
    """Inner and outer radius, first and last angle (degrees, counter-clockwise from the right) of a segment.

    Anterior is at the top, the septum at the left.

    >>> place(1), place(14)
    ((70.0, 98.0, 60.0, 120.0), (16.0, 42.0, 135.0, 225.0))
    """
    ring = 0 if number <= 6 else 1 if number <= 12 else 2
    step = 60.0 if ring < 2 else 90.0
    centre = 90 + step * ((number - 1) % 6 if ring < 2 else number - 13)
    inner, outer = RADII[ring]
    return inner, outer, centre - step / 2, centre + step / 2


def sector(inner: float, outer: float, first: float, last: float) -> str:
    """The SVG path of a ring's sector around the origin, y downwards."""
    def at(radius: float, degrees: float) -> str:
        angle = math.radians(degrees)
        return f"{radius * math.cos(angle):.2f} {-radius * math.sin(angle):.2f}"

    return (f"M{at(outer, first)}A{outer:g} {outer:g} 0 0 0 {at(outer, last)}"
            f"L{at(inner, last)}A{inner:g} {inner:g} 0 0 1 {at(inner, first)}Z")


def _segment(number: int, phenotype: Phenotype | None) -> Segment:
    inner, outer, first, last = place(number)
    middle, radius = math.radians((first + last) / 2), (inner + outer) / 2
    value, interval, reason = (None, None, "Not measured.") if phenotype is None else first_value(phenotype)
    return Segment(
        number, NAMES[number - 1], sector(inner, outer, first, last),
        round(radius * math.cos(middle), 1), round(-radius * math.sin(middle), 1),
        None if value is None else f"{value:.1f}",
        None if interval is None else f"{interval[0]:.1f} – {interval[1]:.1f}",
        how(phenotype) if phenotype is not None and interval is not None else None, reason,
        0.0 if value is None else round(100 * min(1.0, max(0.0, (value - THIN_MM) / (THICK_MM - THIN_MM))), 1))
