"""The end of the chain: a Reading is what is shown, stored and signed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from firstread.core.case import Case
from firstread.core.records import Note


@dataclass(frozen=True)
class Person:
    """What is known of the person imaged; ``name`` and ``identifier`` only where identification was asked for."""

    sex: Literal["F", "M"] | None = None
    age_years: float | None = None
    height_cm: float | None = None
    weight_kg: float | None = None
    name: str | None = None
    identifier: str | None = None

    @property
    def body_surface_m2(self) -> float | None:
        """Mosteller: ``sqrt(height_cm * weight_kg / 3600)``."""
        if self.height_cm is None or self.weight_kg is None:
            return None
        return (self.height_cm * self.weight_kg / 3600) ** 0.5


@dataclass(frozen=True)
class Basis:
    """What intervals rest on, so that they can be calibrated on this reading: ``firstread calibrate``.

    members: size of the ensemble, 1 for a single network; spread: standard deviation over its members, by phenotype;
    features: numbers that describe the image, by name; fingerprints: of the data of each frame.
    """

    members: int
    spread: Mapping[str, float]
    features: Mapping[str, float]
    fingerprints: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """A case that was read.

    case: its records by name (``image``, ``labels``, ``phenotypes``; from raw data also ``kspace``, ``zero_filled``;
    in simulations ``truth.image``, ``truth.labels``); input_name, input_hash: what was read (SHA-256);
    versions: of everything that the result depends on; errors: reconstruction errors where the truth is known;
    stated: what the user said about the input, by name, without what might name a person; basis: what a calibration
    on this reading needs, None where nothing was measured; draws: by phenotype, its values in posterior draws of the
    reconstruction (NaN where a draw lacks it), where they were asked for.
    """

    case: Case
    person: Person
    input_name: str
    input_kind: str
    input_hash: str
    versions: Mapping[str, str]
    seconds: float
    peak_mb: float
    notes: tuple[Note, ...] = ()
    errors: Mapping[str, float] = field(default_factory=dict)
    stated: Mapping[str, Any] = field(default_factory=dict)
    basis: Basis | None = None
    draws: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
