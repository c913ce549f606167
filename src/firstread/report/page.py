"""reading.html: everything of a Reading on one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from firstread.core.reading import Person, Reading
from firstread.core.records import Phenotype
from firstread.report.bullseye import THICK_MM, THIN_MM, segments
from firstread.report.cine import cine
from firstread.report.curve import drawing
from firstread.report.document import NOT_FOR_CLINICAL_USE, first_value, frame_of, measured, notes, reading_document
from firstread.report.numbers import SHORT_UNIT, TITLES, cell, how, sentence, table
from firstread.report.ranges import CITATION
from firstread.report.rawdata import error_tables, raw_part
from firstread.report.templates import environment, script

TILES = ("LVEF", "LVEDV", "LVESV", "LVM", "RVEF", "LVCO")


def page(reading: Reading) -> str:
    """The HTML of a reading: no network, all text escaped, scripts admitted by their hash alone."""
    pages = environment()
    pages.filters["sentence"] = sentence
    return pages.get_template("page.html").render(
        **script(), **content(reading))


def content(reading: Reading) -> dict[str, Any]:
    """What the template shows, as text and numbers."""
    phenotypes = measured(reading.case)
    person = reading.person
    document = reading_document(reading)
    marks = {name: document["frames"][name]["index"] for name in ("ED", "ES")}
    raw = raw_part(reading.case)
    images = cine(reading.case)
    image_errors, other_errors = error_tables(reading.errors)
    curves = drawing(document["curves"], document["frames"]["times_s"], marks)
    return {
        "statement": NOT_FOR_CLINICAL_USE, "reading": reading, "document": document, "person": _person(person),
        "notes": notes(reading), "tiles": _tiles(phenotypes), "groups": table(phenotypes, person),
        "methods": _methods(phenotypes), "why_no_range": _why_no_range(person), "citation": CITATION,
        "sex_word": {"F": "women", "M": "men", None: None}[person.sex], "surface": person.body_surface_m2,
        "image_errors": image_errors, "other_errors": other_errors,
        "curves": curves, "images": images, "raw": raw, "segments": segments(phenotypes),
        "global_thickness": _global(phenotypes), "thickness": (THIN_MM, THICK_MM), "absent": _absent(phenotypes),
        "island": {"cine": images, "panels": raw["panels"] if raw else [],
                   "ed": frame_of(phenotypes.get("ED_frame")), "es": frame_of(phenotypes.get("ES_frame")),
                   "curve": None if curves is None else {"x": curves.x, "lines": [
                       {"kind": line.kind, "points": line.points, "values": line.values} for line in curves.lines]}},
    }



def _tiles(phenotypes: Mapping[str, Phenotype]) -> list[dict[str, Any]]:
    """The numbers that are looked at first."""
    tiles = []
    for name in TILES:
        if name not in phenotypes:
            continue
        phenotype = phenotypes[name]
        value, interval, reason = first_value(phenotype)
        shown = None if value is None else cell(value, interval, phenotype.unit, phenotype, None)
        side = {"LV": "LV ", "RV": "RV "}.get(name[:2], "")
        tiles.append({"name": name, "title": (side + TITLES[name].lower()), "cell": shown, "reason": reason,
                      "unit": SHORT_UNIT.get(phenotype.unit, phenotype.unit)})
    return tiles


def _methods(phenotypes: Mapping[str, Phenotype]) -> list[dict[str, Any]]:
    """Each way in which intervals were made, once, and whether it was calibrated on simulation."""
    found = {how(p): p.calibrated_on or "" for p in phenotypes.values() if first_value(p)[1]}
    return [{"text": text, "simulated": on.lower().startswith("simulat")} for text, on in found.items()]


def _why_no_range(person: Person) -> list[str]:
    """Why reference ranges, or those per body surface, are not shown, or are to be read with care."""
    reasons = []
    if person.sex is None:
        reasons.append("Reference ranges are not shown: the person's sex is not known (--sex F or M states it).")
    if person.body_surface_m2 is None:
        reasons.append("Values per body surface are not shown: height and weight are not known "
                       "(--height-cm and --weight-kg state them).")
    if person.sex is not None and person.age_years is not None and not 45 <= person.age_years <= 74:
        reasons.append(f"The ranges come from people of 45 to 74 years; this person is {person.age_years:.0f}.")
    return reasons


def _absent(phenotypes: Mapping[str, Phenotype]) -> list[dict[str, Any]]:
    """What could not be measured, grouped by the reason."""
    by_reason: dict[str, list[str]] = {}
    for name, phenotype in phenotypes.items():
        reason = first_value(phenotype)[2]
        if reason is not None:
            by_reason.setdefault(reason, []).append(name)
    return [{"reason": reason, "names": names} for reason, names in by_reason.items()]


def _global(phenotypes: Mapping[str, Phenotype]) -> str | None:
    phenotype = phenotypes.get("WT_Global")
    value = None if phenotype is None else first_value(phenotype)[0]
    return None if value is None else f"{value:.1f}"


def _person(person: Person) -> list[tuple[str, str]]:
    """What is known of the person, as label and text; the name only where the reading holds it."""
    surface = person.body_surface_m2
    facts = [("Name", person.name), ("Identifier", person.identifier),
             ("Sex", {"F": "female", "M": "male", None: None}[person.sex]),
             ("Age", _unit(person.age_years, "years")), ("Height", _unit(person.height_cm, "cm")),
             ("Weight", _unit(person.weight_kg, "kg")),
             ("Body surface", None if surface is None else f"{surface:.2f} m² (Mosteller)")]
    return [(label, text) for label, text in facts if text is not None]


def _unit(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:.0f} {unit}"
