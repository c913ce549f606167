"""Default weights: one safetensors file and one card (JSON) each, found by name.

A card says what the weight is for, which recipe, seed and data made it, its numbers with intervals, and its limits.
Weights are stored in half precision and loaded in single.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from firstread.core.errors import FormatError, InputError

_HOME = Path(str(files("firstread.zoo"))) / "weights"


@dataclass(frozen=True)
class Weight:
    """A default weight. card: the parsed card; state: parameter name to float32 tensor."""

    name: str
    card: dict[str, Any]
    state: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The parameters below ``prefix.`` with the prefix removed."""
        return {k.removeprefix(prefix + "."): v for k, v in self.state.items() if k.startswith(prefix + ".")}


def names() -> list[str]:
    """The default weights at hand."""
    return sorted(path.stem for path in _HOME.glob("*.safetensors"))


def asset(file_name: str) -> Path:
    """A file beside the default weights, which may not be there."""
    return _HOME / file_name


def card(name: str) -> dict[str, Any]:
    """The card of a default weight.

    Raises InputError for a name that is not there.
    """
    path = _HOME / f"{name}.json"
    if not path.is_file():
        raise InputError(f"a weight named {name!r}", expected=f"one of {names()}", remedy="see `firstread zoo`")
    return json.loads(path.read_text(encoding="utf-8"))


def load(name: str | Path) -> Weight:
    """A default weight by name, or one's own by the path of its ``.safetensors`` file (card beside it).

    Raises InputError for a name or file that is not there, FormatError for a damaged one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(name) if Path(name).suffix == ".safetensors" else _HOME / f"{name}.safetensors"
    if not path.is_file():
        raise InputError(f"no weight {str(name)!r}", expected=f"one of {names()}, or a .safetensors file",
                         remedy="see `firstread zoo`, or train it with `firstread train`")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path.name}: {error}", expected="a safetensors file", remedy="train it again") from error
    about = path.with_suffix(".json")
    try:
        card = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    except ValueError as error:
        raise FormatError(f"{about.name}, which is no JSON ({error})", expected="the card of the weight beside it",
                          remedy="copy it again, or train the weight again") from error
    return Weight(path.stem, card, {name: tensor.float() if tensor.is_floating_point() else tensor
                                    for name, tensor in state.items()})
