"""``model.json``: what stands beside a network file that does not say how it was trained.

    {"axes": "zyx", "spacing_mm": [1.5, 1.5, 1.5], "window": [64, 64, 64],
     "intensity": [{"scheme": "zscore"}], "classes": ["background", "heart"]}

axes: of the network's input behind batch and channel, three letters for volumes, two for slices; spacing_mm and window
in their order, spacing_mm null where the network takes any; intensity: one for each channel (core/preparation.py);
classes: background first. Where it says nothing else: ``outputs`` softmax (others: ``sigmoid``, one region a head,
``probabilities``), ``overlap`` 0.5, ``mirror`` [], ``orientation`` null (or "RAS"), ``crop`` false, ``order`` 1 of the
resampling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from firstread.core.errors import FormatError, InputError, SettingError
from firstread.core.preparation import Activation, Intensity, Preparation, Resampling

REQUIRED = ("axes", "spacing_mm", "window", "intensity", "classes")
OPTIONAL: dict[str, Any] = {"outputs": "softmax", "overlap": 0.5, "mirror": [], "orientation": None, "crop": False,
                            "order": 1}
EXAMPLE = ('{"axes": "zyx", "spacing_mm": [1.5, 1.5, 1.5], "window": [64, 64, 64], '
           '"intensity": [{"scheme": "zscore"}], "classes": ["background", "heart"]}')
_ACTIVATIONS: dict[str, Activation] = {"softmax": "softmax", "sigmoid": "sigmoid", "probabilities": "none"}


def beside(path: Path) -> Path:
    """The file that describes the network ``path``: of its own name, or ``model.json``, in the same folder.

    Raises InputError where there is none.
    """
    for found in (path.with_suffix(".json"), path.with_name("model.json")):
        if found.is_file():
            return found
    raise InputError(f"{path.name}, which does not say how it was trained", expected=f"{path.stem}.json or model.json "
                     f"beside it", remedy=f"write one such as {EXAMPLE}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises FormatError for a file that is none, InputError for one that is not there.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no {path.name} in {path.parent.name}", expected="the whole folder of the model",
                         remedy="copy it again") from error
    except (OSError, ValueError) as error:
        raise FormatError(f"{path.name}, which cannot be read as JSON", expected="a complete file",
                          remedy="copy it again") from error
    if not isinstance(found, dict):
        raise FormatError(f"{path.name}, which holds a {type(found).__name__}", expected="a JSON object",
                          remedy="copy it again")
    return found


def fault(name: str, error: Exception) -> str:
    """What is wrong in the file ``name``, as the error from looking a value up or turning it into a number says it.

    >>> fault("plans.json", KeyError("spacing")), fault("plans.json", ValueError("two is no number"))
    ("plans.json without 'spacing'", 'plans.json with a value that cannot be used (two is no number)')
    """
    if isinstance(error, KeyError):
        return f"{name} without {error}"
    return f"{name} with a value that cannot be used ({str(error).strip() or type(error).__name__})"


def preparation_of(stated: Mapping[str, Any], name: str) -> tuple[Preparation, tuple[str, ...], Activation]:
    """What is stated, as values: the preparation, the classes, what the outputs are.

    Raises InputError that names what is missing, unknown or no such value.
    """
    missing = [key for key in REQUIRED if key not in stated]
    unknown = sorted(set(stated) - set(REQUIRED) - set(OPTIONAL))
    if missing or unknown:
        raise InputError(f"{name} without {', '.join(missing)}" if missing else f"{name} with {', '.join(unknown)}",
                         expected=f"{', '.join(REQUIRED)}, and of {', '.join(OPTIONAL)} what is not as usual",
                         remedy=f"state it, such as {EXAMPLE}")
    said = {**OPTIONAL, **stated}
    try:
        intensity = tuple(_intensity(one) for one in said["intensity"])
        spacing = None if said["spacing_mm"] is None else tuple(float(s) for s in said["spacing_mm"])
        classes = tuple(str(c) for c in said["classes"])
        plan = Preparation(channels=intensity, window=tuple(int(w) for w in said["window"]), spacing_mm=spacing,
                           order=axes_order(said["axes"]), orientation=said["orientation"], crop=bool(said["crop"]),
                           image=Resampling(order=said["order"], apart=False), logits=Resampling(order=1, apart=False),
                           overlap=float(said["overlap"]), mirror=tuple(int(m) for m in said["mirror"]))
        activation = _ACTIVATIONS[said["outputs"]]
        if len(plan.window) != len(said["axes"]) or said["orientation"] not in (None, "RAS"):
            raise ValueError("axes")
    except (TypeError, ValueError, KeyError, SettingError) as error:
        reason = str(error).strip("'")
        raise InputError(f"{name} with a value that is none ({reason})", expected=f"values such as {EXAMPLE}",
                         remedy=f"correct {name}") from error
    return plan, classes, activation


def axes_order(axes: str) -> tuple[int, int, int]:
    """The network's axes among (z, y, x); of slices, z goes ahead.

    >>> axes_order("xyz"), axes_order("yx")
    ((2, 1, 0), (0, 1, 2))
    """
    full = axes if len(axes) == 3 else "z" + axes
    if sorted(full) != ["x", "y", "z"]:
        raise ValueError(f"axes {axes!r}")
    first, second, third = ("zyx".index(a) for a in full)
    return first, second, third


def _intensity(stated: Mapping[str, Any]) -> Intensity:
    known = {field.name for field in fields(Intensity)}
    if not isinstance(stated, Mapping) or not set(stated) <= known or \
            stated.get("scheme", "fixed") not in ("fixed", "zscore", "minmax"):
        raise ValueError(f"intensity {stated!r}, known are {', '.join(sorted(known))}")
    return Intensity(**stated)
