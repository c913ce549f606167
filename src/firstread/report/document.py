"""reading.json: a Reading as plain values, schema ``firstread.reading/1`` (docs/reading-json.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, TypeVar

from firstread.core.case import Case
from firstread.core.reading import Basis, Person, Reading
from firstread.core.records import Image, Note, Phenotype, Phenotypes, Record

R = TypeVar("R", bound=Record)

SCHEMA = "firstread.reading/1"
NOT_FOR_CLINICAL_USE = "Research software. Not for clinical use: a clinician must check every contour and number."
FRAMES = {"ED": "ED_frame", "ES": "ES_frame"}


def reading_document(reading: Reading) -> dict[str, Any]:
    """All that ``reading.json`` holds, as dictionaries, lists, numbers and strings; nothing that names the person.

    Absent numbers are null with a reason; no value is NaN or infinite.
    """
    case = reading.case
    phenotypes = measured(case)
    return {
        "schema": SCHEMA,
        "not_for_clinical_use": True,
        "statement": NOT_FOR_CLINICAL_USE,
        "input": {"name": reading.input_name, "kind": reading.input_kind, "sha256": reading.input_hash,
                  "stated": dict(reading.stated)},
        "person": _person(reading.person),
        "phenotypes": {name: _phenotype(p) | _draws(reading.draws.get(name)) for name, p in phenotypes.items()
                       if name not in FRAMES.values()},
        "frames": {short: _frame(phenotypes.get(name)) for short, name in FRAMES.items()} | {"times_s": _times(case)},
        "curves": curves(case),
        "basis": None if reading.basis is None else _basis(reading.basis),
        "errors": {name: _number(value) for name, value in reading.errors.items()},
        "warnings": [{"code": n.code, "text": n.text, "severity": n.severity} for n in notes(reading)],
        "trail": [{"stage": s.stage, "settings": s.settings, "weights": s.weights, "seconds": _number(s.seconds),
                   "peak_memory_mb": _number(s.peak_mb)} for s in case.trail],
        "seed": case.seed,
        "versions": dict(reading.versions),
        "seconds": _number(reading.seconds),
        "peak_memory_mb": _number(reading.peak_mb),
    }


def reading_json(reading: Reading) -> str:
    """The text of ``reading.json``, strict JSON."""
    return json.dumps(reading_document(reading), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def find(case: Case, name: str, kind: type[R]) -> R | None:
    """The record ``name`` where the case has it and it is of the kind."""
    record = case.get(name)
    return record if isinstance(record, kind) else None


def measured(case: Case) -> Mapping[str, Phenotype]:
    """The measurements of the record ``phenotypes`` by name; empty where a case has none."""
    record = find(case, "phenotypes", Phenotypes)
    return {} if record is None else record.values


def curves(case: Case) -> dict[str, list[float | None]]:
    """The curves over time of the first row, by name."""
    record = find(case, "phenotypes", Phenotypes)
    return {} if record is None else {name: [_number(v) for v in curve[0].tolist()]
                                      for name, curve in record.curves.items()}


def frame_of(phenotype: Phenotype | None) -> int | None:
    """The frame index that a phenotype such as ``ED_frame`` holds, from 0."""
    value = None if phenotype is None or phenotype.value is None else _number(phenotype.value[0].item())
    return None if value is None else round(value)


def notes(reading: Reading) -> list[Note]:
    """The notes of the reading and of its records, each once, warnings first."""
    every = dict.fromkeys((*reading.notes, *reading.case.notes))
    rows = max((record.batch for record in reading.case.values()), default=1)
    if rows > 1:
        text = f"The case has {rows} rows (subjects, parts or draws); values are those of the first."
        every[Note("several_rows", text, "info")] = None
    return sorted(every, key=lambda note: note.severity != "warning")


def first_value(phenotype: Phenotype) -> tuple[float | None, tuple[float, float] | None, str | None]:
    """Value, interval and, where there is no value, the reason, of the first row."""
    if phenotype.value is None:
        return None, None, phenotype.reason
    value = _number(phenotype.value[0].item())
    if value is None:
        return None, None, "the measurement gave no finite number"
    if phenotype.lower is None or phenotype.upper is None:
        return value, None, None
    lower, upper = _number(phenotype.lower[0].item()), _number(phenotype.upper[0].item())
    return value, None if lower is None or upper is None else (lower, upper), None


def _phenotype(phenotype: Phenotype) -> dict[str, Any]:
    value, interval, reason = first_value(phenotype)
    if value is None:
        return {"value": None, "unit": phenotype.unit, "reason": reason}
    known = interval is not None
    return {"value": value, "unit": phenotype.unit, "interval": list(interval) if interval else None,
            "level": phenotype.level if known else None, "method": phenotype.method if known else None,
            "calibrated_on": phenotype.calibrated_on if known else None}


def _draws(values: Sequence[float] | None) -> dict[str, Any]:
    """What posterior draws say of a phenotype; nothing where they were not asked for."""
    if values is None:
        return {}
    known = [value for value in values if math.isfinite(value)]
    return {"draws": {"mean": _number(mean(known)), "sd": _number(stdev(known)) if len(known) > 1 else None,
                      "values": [_number(value) for value in values]}}


def _frame(phenotype: Phenotype | None) -> dict[str, Any]:
    index = frame_of(phenotype)
    reason = phenotype.reason if phenotype is not None else "nothing was measured"
    return {"index": index} if index is not None else {"index": None, "reason": reason or "not a finite number"}


def _times(case: Case) -> list[float | None] | None:
    image = find(case, "image", Image)
    if image is None or image.times_s is None:
        return None
    return [_number(t) for t in image.times_s[0].double().mean(dim=1).tolist()]


def _person(person: Person) -> dict[str, Any]:
    surface = person.body_surface_m2
    return {"sex": person.sex, "age_years": _number(person.age_years), "height_cm": _number(person.height_cm),
            "weight_kg": _number(person.weight_kg), "body_surface_m2": _number(surface)}


def _basis(basis: Basis) -> dict[str, Any]:
    return {"members": basis.members, "spread": {name: _number(value) for name, value in basis.spread.items()},
            "features": {name: _number(value) for name, value in basis.features.items()},
            "fingerprints": list(basis.fingerprints)}


def _number(value: float | None) -> float | None:
    """A finite number rounded to 7 significant digits, or None."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.7g}")
