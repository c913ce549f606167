"""reading.json: it fits its schema, is strict, and names nobody."""

import json
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest
import torch
from fake_reading import METHOD, SCRIPT, phenotype, reading

from firstread.core.reading import Person
from firstread.core.records import Phenotype, Phenotypes, Rows
from firstread.report.document import reading_document, reading_json

SCHEMA = json.loads(files("firstread.report").joinpath("reading.schema.json").read_text())
KINDS = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}


OF_OBJECTS = ("required", "properties", "additionalProperties")


def faults(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """What in ``value`` does not fit ``schema``: those keywords of JSON Schema that ours uses."""
    found: list[str] = []
    for keyword, rule in schema.items():
        if keyword in OF_OBJECTS and not isinstance(value, dict):
            continue  # they say nothing of other kinds; "type" does
        match keyword:
            case "$ref":
                found += faults(value, SCHEMA["$defs"][rule.removeprefix("#/$defs/")], where)
            case "oneOf":
                if sum(not faults(value, option, where) for option in rule) != 1:
                    found.append(f"{where}: not exactly one of the options")
            case "const" | "enum":
                if value not in (rule if keyword == "enum" else [rule]):
                    found.append(f"{where}: {value!r}")
            case "type":
                kinds = [rule] if isinstance(rule, str) else rule
                if not any(isinstance(value, KINDS[k]) and not isinstance(value, bool) for k in kinds):
                    found.append(f"{where}: {value!r} is no {kinds}")
            case "required":
                found += [f"{where}: no {key}" for key in rule if key not in value]
            case "properties":
                known = {key: sub for key, sub in rule.items() if key in value}
                found += [f for key, sub in known.items() for f in faults(value[key], sub, f"{where}.{key}")]
            case "additionalProperties":
                extra = [key for key in value if key not in schema.get("properties", {})]
                found += [f"{where}: unknown {key}" for key in extra] if rule is False else [
                    f for key in extra for f in faults(value[key], rule, f"{where}.{key}")]
            case "items":
                found += [f for i, item in enumerate(value or []) for f in faults(item, rule, f"{where}[{i}]")]
            case "minItems" | "maxItems":
                if value is not None and (len(value) < rule if keyword == "minItems" else len(value) > rule):
                    found.append(f"{where}: {len(value)} items")
            case "$schema" | "$id" | "title" | "$defs":
                continue
            case _:
                raise AssertionError(f"keyword {keyword} is not checked")
    return found


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")
    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("options", [{}, {"raw": True, "size": 32}, {"frames": 1}, {"heart": False, "frames": 1},
                                     {"person": Person(sex="F", age_years=58.0, height_cm=168.0, weight_kg=66.0)}])
def test_fits_its_schema(options):
    assert faults(strict(reading_json(reading(**{"size": 32, "slices": 2, **options}))), SCHEMA) == []


def test_the_check_itself_finds_faults():
    document = strict(reading_json(reading(size=32, slices=2)))
    assert faults({**document, "not_for_clinical_use": False}, SCHEMA)
    assert faults({**document, "surprise": 1}, SCHEMA)
    assert faults({k: v for k, v in document.items() if k != "seed"}, SCHEMA)
    document["phenotypes"]["LVEF"]["interval"] = [1.0]
    assert faults(document, SCHEMA)


def test_values_intervals_and_reasons():
    found = reading_document(reading(size=32, slices=2))["phenotypes"]
    assert found["LVEDV"] == {"value": pytest.approx(178.2), "unit": "mL", "interval": pytest.approx([166.1, 190.3]),
                              "level": 0.9, "method": METHOD, "calibrated_on": "simulation"}
    reason = "no endocardial contour falls into this segment"
    assert found["WT_AHA_15"] == {"value": None, "unit": "mm", "reason": reason}
    assert "ED_frame" not in found


def test_a_single_frame_says_why_there_is_no_ejection_fraction():
    document = reading_document(reading(frames=1, size=32, slices=2))
    assert document["phenotypes"]["LVEF"]["value"] is None
    assert document["phenotypes"]["LVEF"]["reason"]
    assert document["frames"]["ES"]["index"] is None
    assert document["curves"] == {}


def test_what_is_not_finite_becomes_null_with_a_reason():
    one = reading(heart=False, frames=1, size=16, slices=1)
    bad = Phenotypes(Rows.subjects(1), {
        "LVEDV": phenotype(float("nan"), "mL"),
        "LVESV": Phenotype(torch.tensor([50.0]), "mL", torch.tensor([float("-inf")]), torch.tensor([60.0]), 0.9, "m"),
    }, {"LV_volume_ml": torch.tensor([[float("inf"), 1.0]])})
    document = strict(reading_json(replace(one, case=one.case.adding("phenotypes", bad), seconds=float("nan"))))
    assert document["phenotypes"]["LVEDV"]["value"] is None and document["phenotypes"]["LVEDV"]["reason"]
    assert document["phenotypes"]["LVESV"]["interval"] is None
    assert document["curves"]["LV_volume_ml"] == [None, 1.0]
    assert document["seconds"] is None
    assert faults(document, SCHEMA) == []


def test_nobody_is_named():
    named = reading(size=32, slices=2, person=Person(sex="F", name="Doe^Jane", identifier="4711-MRN"))
    text = reading_json(named)
    assert "Doe" not in text and "4711" not in text


def test_notes_come_once_with_warnings_first():
    found = reading_document(reading(size=32, slices=2))["warnings"]
    assert [n["code"] for n in found] == ["trigger_times", "slice_order"]
    assert SCRIPT in found[0]["text"]
