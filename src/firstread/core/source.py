"""A Source yields Cases: subjects of a cohort, tiles of a slide, frames of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from firstread.core.case import Case


@runtime_checkable
class Source(Protocol):
    """Anything that can be iterated over for cases; ``chain.over(source)`` is the one loop."""

    def __iter__(self) -> Iterator[Case]: ...
