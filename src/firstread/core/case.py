"""A Case: the named records of one or more subjects, and a seed. Frozen; adding gives a new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch

from firstread.core.errors import MissingRecordError
from firstread.core.provenance import Step
from firstread.core.records import Note, Record


@dataclass(frozen=True, eq=False)
class Case(Mapping[str, Record]):
    """Named records: ``case["sax"]``, ``case["sax.labels"]``.

    seed: what all random draws of a chain on this case come from; trail: the stages that ran.
    """

    records: Mapping[str, Record]
    seed: int = 0
    trail: tuple[Step, ...] = field(default=())

    def __post_init__(self):
        object.__setattr__(self, "records", MappingProxyType(dict(self.records)))

    def __getitem__(self, name: str) -> Record:
        if name not in self.records:
            raise MissingRecordError(f"no record named {name!r}", expected=f"one of {sorted(self.records)}",
                                     remedy="check the name, or add the stage that writes it")
        return self.records[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The record ``name``, or ``default`` where the case has none (indexing raises MissingRecordError)."""
        return self.records.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self.records

    def __iter__(self) -> Iterator[str]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def adding(self, name: str, record: Record, step: Step | None = None) -> Case:
        """A new case with one more record and, where a stage made it, one more step of the trail."""
        return replace(self, records={**self.records, name: record}, trail=self.trail + ((step,) if step else ()))

    def draws(self, count: int) -> Case:
        """Every record ``count`` times, as draws of the same subjects."""
        return replace(self, records={name: record.draws(count) for name, record in self.records.items()})

    def to(self, device: torch.device | str) -> Case:
        return replace(self, records={name: record.to(device) for name, record in self.records.items()})

    @property
    def notes(self) -> tuple[Note, ...]:
        """The notes of all records, each once, in the order in which they arose."""
        return tuple(dict.fromkeys(note for record in self.records.values() for note in record.notes))
