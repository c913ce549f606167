"""The recipes of the default weights by name; a recipe is a module with SUMMARY and ``train``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from firstread.core.errors import InputError

MODULES = {"brain-tissue": "brain_tissue", "ct-primal-dual": "ct_primal_dual", "denoise": "denoise",
           "direct-from-kspace": "direct_from_kspace", "endpoint": "endpoint", "heart-cascade": "heart_cascade",
           "heart-d5-c10-s": "heart_d5_c10_s", "heart-d5-c5-s": "heart_d5_c5_s", "heart-lax": "heart_long_axis",
           "heart-motion": "heart_motion", "heart-prior": "heart_prior", "heart-recurrent": "heart_recurrent",
           "heart-sax": "heart_segment", "heart-sax-sunnybrook": "heart_segment_sunnybrook",
           "heart-superres": "heart_superres", "heart-superres-shape": "heart_superres_shape", "modl": "modl",
           "prompt": "prompt_network", "varnet": "varnet", "varnet-ssdu": "varnet_ssdu"}


@runtime_checkable
class Recipe(Protocol):
    """How one default weight is trained."""

    SUMMARY: str

    def train(self, out: Path, device: str, steps: int | None, data: Path | None) -> None:
        """Train into ``out``; interrupted and called again it goes on."""


def names() -> list[str]:
    """All recipes."""
    return sorted(MODULES)


def find(name: str) -> Recipe:
    """The recipe of a default weight.

    Raises InputError for a name that has none.
    """
    if name not in MODULES:
        raise InputError(f"a recipe named {name!r}", expected=f"one of {', '.join(names())}",
                         remedy="see `firstread train --list`")
    return cast(Recipe, importlib.import_module(f"firstread.recipes.{MODULES[name]}"))
