"""What all flowing objects share: tensors whose first axis is the batch, mapped without mutation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

B = TypeVar("B", bound="Batched")


class Batched:
    """A frozen dataclass in which every tensor has the batch as its first axis."""

    def map(self: B, change: Callable[[Tensor], Tensor]) -> B:
        """The same object with ``change`` applied to every tensor in it."""
        return _map(self, change)

    def tensors(self) -> list[Tensor]:
        """All tensors in it, in field order."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map(note)
        return found

    def select(self: B, index: Tensor) -> B:
        """The batch rows at ``index``."""
        return self.map(lambda tensor: tensor.index_select(0, index.to(tensor.device)))

    def repeat_rows(self: B, times: int) -> B:
        """Every batch row ``times`` times, the copies of one row side by side."""
        return self.map(lambda tensor: tensor.repeat_interleave(times, dim=0))

    def to(self: B, device: torch.device | str) -> B:
        return self.map(lambda tensor: tensor.to(device))

    def detach(self: B) -> B:
        return self.map(lambda tensor: tensor.detach())


def concatenate(parts: Sequence[B]) -> B:
    """One object whose batch is that of all ``parts`` in turn; what is not a tensor comes from the first."""
    columns = zip(*(part.tensors() for part in parts), strict=True)
    joined = iter([torch.cat(column, dim=0) for column in columns])
    return parts[0].map(lambda _: next(joined))


def _map(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if is_dataclass(value) and isinstance(value, Batched):
        changed = {}
        for field in fields(value):
            old = getattr(value, field.name)
            new = _map(old, change)
            if new is not old:
                changed[field.name] = new
        return replace(value, **changed) if changed else value
    if isinstance(value, Mapping):
        mapped = {name: _map(item, change) for name, item in value.items()}
        return MappingProxyType(mapped) if any(mapped[k] is not value[k] for k in mapped) else value
    return value
