"""Plans as files: written to be read and edited by people, read strictly, compared line by line."""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from firstread.core.errors import FormatError
from firstread.nets.plan import SCHEMA, Plan


def write_plan(plan: Plan, path: Path) -> None:
    """The plan as JSON, lists on one line."""
    part = path.with_name(path.name + ".part")
    part.write_text(_pretty(plan.as_dict()) + "\n", encoding="utf-8")
    part.replace(path)


def read_plan(path: Path) -> Plan:
    """A plan from JSON. Raises FormatError for anything that is no plan of this version, SettingError for bad values.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path.name}, which cannot be read as JSON ({type(error).__name__})",
                          expected="a plan of `firstread segment train`", remedy="make it with --only-plan") from error
    return plan_from(document, path.name)


def plan_from(document: Any, name: str) -> Plan:
    """The same from what was read as JSON; name: of where it stood, for errors."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        found = document.get("schema", "no schema") if isinstance(document, dict) else "no object"
        raise FormatError(f"{name} with {found!r}", expected=f"a plan of the form {SCHEMA}",
                          remedy="make it with --only-plan of this version")
    return _made(Plan, document, name)


def plan_difference(one: Plan, other: Plan) -> list[str]:
    """What differs, one line each: ``network.widths: (16, 32) -> (32, 64)``; empty where the plans are the same."""
    first, second = _flat(one.as_dict()), _flat(other.as_dict())
    keys = list(dict.fromkeys([*first, *second]))
    return [f"{key}: {first.get(key, 'absent')} -> {second.get(key, 'absent')}" for key in keys
            if first.get(key, "absent") != second.get(key, "absent")]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{name}.{key}" if name else key).items()}
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        return {k: v for number, inner in enumerate(value) for k, v in _flat(inner, f"{name}[{number}]").items()}
    return {name: value}


def _pretty(value: Any, indent: int = 0) -> str:
    if isinstance(value, dict) and value and any(isinstance(v, dict | list | tuple) for v in value.values()):
        inner = ",\n".join(f"{' ' * (indent + 1)}{json.dumps(k)}: {_pretty(v, indent + 1)}" for k, v in value.items())
        return "{\n" + inner + "\n" + " " * indent + "}"
    if isinstance(value, dict) and len(value) > 3:
        inner = ",\n".join(f"{' ' * (indent + 1)}{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items())
        return "{\n" + inner + "\n" + " " * indent + "}"
    if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
        inner = ",\n".join(f"{' ' * (indent + 1)}{_pretty(v, indent + 1)}" for v in value)
        return "[\n" + inner + "\n" + " " * indent + "]"
    return json.dumps(value, ensure_ascii=False)


def _made(kind: Any, value: Any, where: str) -> Any:
    """``value`` of JSON as ``kind``: dataclasses by their fields, lists as tuples; strict about names and types."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        if not isinstance(value, dict) or (unknown := [k for k in value if k not in hints]):
            raise FormatError(f"{where} with {unknown if isinstance(value, dict) else value!r}",
                              expected=f"an object of {', '.join(hints)}", remedy="correct the plan")
        missing = [f.name for f in dataclasses.fields(kind) if f.name not in value
                   and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
        if missing:
            raise FormatError(f"{where} without {', '.join(missing)}", expected="all of them",
                              remedy="correct the plan")
        return kind(**{k: _made(hints[k], v, f"{where}: {k}") for k, v in value.items()})
    origin = get_origin(kind)
    if origin is tuple:
        inner = get_args(kind)
        if isinstance(value, list) and (inner[-1] is Ellipsis or len(inner) == len(value)):
            each = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
            return tuple(_made(k, v, where) for k, v in zip(each, value, strict=True))
    elif origin in (Union, types.UnionType):
        return None if value is None else _made(get_args(kind)[0], value, where)
    elif origin is Literal:
        if value in get_args(kind):
            return value
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif (origin or kind) in (dict, int, str, bool) and type(value) is (origin or kind):
        return value
    raise FormatError(f"{where} = {value!r}", expected=str(getattr(kind, "__name__", kind)),
                      remedy="correct the plan")
