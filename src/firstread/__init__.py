"""Firstread: raw scanner signal or medical images in, a reading out, as one differentiable program."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "Case": "core.case",
    "Chain": "core.stage",
    "Stage": "core.stage",
    "wrap": "core.wrap",
    "Key": "core.keys",
    "Grid": "core.geometry",
    "Transform": "core.geometry",
    "Image": "core.records",
    "KSpace": "core.records",
    "Labels": "core.records",
    "SoftLabels": "core.records",
    "HardLabels": "core.records",
    "Phenotype": "core.records",
    "Phenotypes": "core.records",
    "Rows": "core.records",
    "FirstreadError": "core.errors",
}
__all__ = [*_HOME, "__version__"]  # noqa: PLE0604

if TYPE_CHECKING:
    from firstread.core.case import Case as Case
    from firstread.core.errors import FirstreadError as FirstreadError
    from firstread.core.geometry import Grid as Grid
    from firstread.core.geometry import Transform as Transform
    from firstread.core.keys import Key as Key
    from firstread.core.records import HardLabels as HardLabels
    from firstread.core.records import Image as Image
    from firstread.core.records import KSpace as KSpace
    from firstread.core.records import Labels as Labels
    from firstread.core.records import Phenotype as Phenotype
    from firstread.core.records import Phenotypes as Phenotypes
    from firstread.core.records import Rows as Rows
    from firstread.core.records import SoftLabels as SoftLabels
    from firstread.core.stage import Chain as Chain
    from firstread.core.stage import Stage as Stage
    from firstread.core.wrap import wrap as wrap


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"firstread.{_HOME[name]}"), name)
    raise AttributeError(f"module 'firstread' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
