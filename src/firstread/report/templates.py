"""How every page is filled: all text escaped, every name known, the style and the one script inside it."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> Environment:
    """Jinja over the templates of this room, with ``css`` known to all."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True)
    made.globals["css"] = Markup(_asset("page.css"))
    return made


def script() -> dict[str, Any]:
    """``script``, and ``script_hash`` by which alone the page admits it."""
    from markupsafe import Markup

    text = _asset("page.js")
    return {"script": Markup(text), "script_hash": base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}


def _asset(name: str) -> str:
    return files("firstread.report").joinpath(name).read_text(encoding="utf-8")
