"""The table of measured numbers: value, interval, reference range, and all of it per body surface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from firstread.core.reading import Person
from firstread.core.records import Phenotype
from firstread.report.document import FRAMES, first_value
from firstread.report.ranges import WHY_ABSENT, Range, reference_range

TITLES = {
    "LVEDV": "End-diastolic volume", "LVESV": "End-systolic volume", "LVSV": "Stroke volume",
    "LVEF": "Ejection fraction", "LVCO": "Cardiac output", "LVM": "Mass",
    "RVEDV": "End-diastolic volume", "RVESV": "End-systolic volume", "RVSV": "Stroke volume",
    "RVEF": "Ejection fraction", "HR": "Heart rate",
    "LV_volume": "Volume in this frame", "RV_volume": "Volume in this frame",
}
GROUPS = {
    "Left ventricle": ("LV_volume", "LVEDV", "LVESV", "LVSV", "LVEF", "LVCO", "LVM"),
    "Right ventricle": ("RV_volume", "RVEDV", "RVESV", "RVSV", "RVEF"),
    "Rhythm": ("HR",),
}
INDEXED = ("LVEDV", "LVESV", "LVSV", "LVCO", "LVM", "RVEDV", "RVESV", "RVSV")
DECIMALS = {"mL": 0, "%": 0, "g": 0, "mm": 1, "L/min": 1, "1/min": 0}
SHORT_UNIT = {"1/min": "min⁻¹"}


@dataclass(frozen=True)
class Ruler:
    """Where value and interval lie on the reference range, in percent of the ruler's width."""

    range_left: float
    range_width: float
    interval_left: float
    interval_width: float
    value: float


@dataclass(frozen=True)
class Cell:
    """One number as text, with its interval and range; ``sure`` where the whole interval lies on one side of an end."""

    value: str
    unit: str
    interval: str | None
    how: str | None
    range: str | None
    place: str | None
    sure: bool
    ruler: Ruler | None


@dataclass(frozen=True)
class Row:
    """One line of the table: the number itself, and per m² of body surface where that is usual and known."""

    name: str
    title: str
    cell: Cell | None
    indexed: Cell | None
    reason: str | None
    no_range: str | None


def table(phenotypes: Mapping[str, Phenotype], person: Person) -> dict[str, list[Row]]:
    """Rows by group, groups without any phenotype left out."""
    groups = {group: [row(name, phenotypes[name], person) for name in names if name in phenotypes]
              for group, names in GROUPS.items()}
    rest = [n for n in phenotypes if n not in TITLES and not n.startswith("WT_") and n not in FRAMES.values()]
    groups["Other"] = [row(name, phenotypes[name], person) for name in rest]
    return {group: rows for group, rows in groups.items() if rows}


def row(name: str, phenotype: Phenotype, person: Person) -> Row:
    """One phenotype as a line of the table."""
    title = TITLES.get(name, name)
    value, interval, reason = first_value(phenotype)
    if value is None:
        return Row(name, title, None, None, reason, None)
    surface = person.body_surface_m2
    indexed = None
    if surface and name in INDEXED:
        scaled = None if interval is None else (interval[0] / surface, interval[1] / surface)
        indexed = cell(value / surface, scaled, f"{phenotype.unit}/m²", phenotype,
                       reference_range(name, person.sex, per_m2=True))
    span = reference_range(name, person.sex)
    missing = WHY_ABSENT.get(name) if person.sex is not None and span is None else None
    return Row(name, title, cell(value, interval, phenotype.unit, phenotype, span), indexed, None, missing)


def sentence(text: str) -> str:
    """A reason as a sentence: capital first, full stop last.

    >>> sentence("no LV was found")
    'No LV was found.'
    """
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def cell(value: float, interval: tuple[float, float] | None, unit: str, phenotype: Phenotype,
         span: Range | None) -> Cell:
    """A number with everything that is said about it; its place in the range is that of the rounded number shown."""
    digits = decimals(unit, value)
    ends = None if span is None or interval is None else [span.place(round(end, digits)) for end in interval]
    return Cell(
        value=f"{value:.{digits}f}", unit=SHORT_UNIT.get(unit, unit),
        interval=None if interval is None else f"{interval[0]:.{digits}f} – {interval[1]:.{digits}f}",
        how=None if interval is None else how(phenotype),
        range=None if span is None else f"{span.lower:g} – {span.upper:g}",
        place=None if span is None else span.place(round(value, digits)),
        sure=ends is None or ends[0] == ends[1],
        ruler=None if span is None else ruler(value, interval or (value, value), span))


def how(phenotype: Phenotype) -> str:
    """How an interval came about, in one line.

    >>> how(Phenotype(None, "mL", level=0.9, method="split conformal", calibrated_on="simulation", reason="example"))
    '90 % interval, split conformal, calibrated on simulation'
    """
    level = "Interval" if phenotype.level is None else f"{100 * phenotype.level:g} % interval"
    parts = [level, phenotype.method, phenotype.calibrated_on and f"calibrated on {phenotype.calibrated_on}"]
    return ", ".join(part for part in parts if part)


def decimals(unit: str, value: float) -> int:
    """Decimals that a clinician expects of ``unit``; one more below ten millilitres or grams.

    >>> decimals("mL", 154.2), decimals("mL", 8.4), decimals("L/min/m²", 3.1)
    (0, 1, 1)
    """
    base = DECIMALS.get(unit.removesuffix("/m²"), 2)
    return 1 if base == 0 and abs(value) < 10 else base


def ruler(value: float, interval: tuple[float, float], span: Range) -> Ruler:
    """The range fills the middle; the ruler grows where value or interval lie far outside."""
    width = span.upper - span.lower
    low = min(span.lower - 0.35 * width, interval[0], value)
    high = max(span.upper + 0.35 * width, interval[1], value)
    percent = [100 * (v - low) / (high - low) for v in (span.lower, span.upper, *interval, value)]
    left, right, lower, upper, point = (round(p, 2) for p in percent)
    return Ruler(left, round(right - left, 2), lower, round(upper - lower, 2), point)
