"""Windows that keep tiled inference under a set amount of memory.

What a network holds at most is found by letting it run once over a small window while every tensor it makes is counted,
and grows with the voxels of the window; what the tiles hold beside it is known::

    peak = V (classes + 1) + k w (held + channels),   in numbers, V voxels of the image, k windows of w voxels at once
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from firstread.core.errors import SettingError

STEP, SMALLEST, SPARE = 8, 16, 1.1


class CountedBytes(TorchDispatchMode):
    """Within it, bytes of the tensors that operators make are counted: ``now`` and at most (``peak``).

    >>> with CountedBytes() as counted:
    ...     made = (torch.zeros(1000) + 1).sum()
    >>> counted.peak, counted.now
    (8000, 4)

    Not counted: what an operator takes and gives back inside itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch's own switch: True, its default, would load torch's compiler, which takes 60 MB and seconds."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, Tensor):  # what was there before, of which only views are made
                self._known.setdefault(given.untyped_storage(), 0)
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                size = self._known[storage] = storage.nbytes()
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._less, size)
        return out

    def _less(self, size: int) -> None:
        self.now -= size


@dataclass(frozen=True)
class TileMemory:
    """What tiles of a network take. held: bytes for each voxel of a window, at most; classes, channels: out and in."""

    held: float
    classes: int
    channels: int

    @classmethod
    def of(cls, network: Callable[[Tensor], Tensor], channels: int, axes: int, *, size: int = 2 * SMALLEST,
           device: torch.device | None = None) -> TileMemory:
        """Measured on one window of ``size`` voxels along each axis, without gradient."""
        window = torch.zeros(1, channels, *(size,) * axes, device=device)
        with torch.no_grad(), CountedBytes() as counted:
            made = network(window)
        return cls(counted.peak / size**axes, made.shape[1], channels)

    def peak(self, batch: int, space: Sequence[int], window: Sequence[int], at_once: int) -> int:
        """Bytes of tiled inference beyond the image, at most, with a tenth to spare for what operators take inside."""
        padded = [max(s, w) for s, w in zip(space, window, strict=True)]
        enlarged = self.channels * batch * math.prod(padded) if padded != list(space) else 0
        seen = at_once * math.prod(window)
        inside = seen * max(self.held + 4 * self.channels, 4 * (self.channels + 2 * self.classes))
        sums = math.prod(padded) * (batch * self.classes + 1) + math.prod(window)
        return int(SPARE * inside + 4 * (sums + enlarged))

    def windows(self, batch: int, space: Sequence[int], window: tuple[int, ...], at_once: int, memory: int,
                *, beside: int = 0) -> tuple[tuple[int, ...], int]:
        """The largest windows, and how many of them at once, that stay under ``memory`` bytes with ``beside`` others.

        Fewer at once come first, then smaller windows, of the stated shape in steps of an eighth, a multiple of STEP
        voxels. Raises SettingError, with the least that works, where not even the smallest stay under it.
        """
        least = None
        for tried, count in _choices(window, at_once):
            peak = beside + self.peak(batch, space, tried, count)
            if peak <= memory:
                return tried, count
            least = peak if least is None else min(least, peak)
        size = "x".join(map(str, space))
        raise SettingError(f"a memory of {mebibytes(memory)} for {self.classes} classes of {size} voxels",
                           expected=f"{mebibytes(least or 0)} or more",
                           remedy="give more, or segment a part of the image")


def mebibytes(count: float) -> str:
    """Bytes, rounded up to a MiB.

    >>> mebibytes(2**30), mebibytes(2**30 + 1)
    ('1024 MiB', '1025 MiB')
    """
    return f"{math.ceil(count / 2**20)} MiB"


def _choices(window: tuple[int, ...], at_once: int) -> Iterator[tuple[tuple[int, ...], int]]:
    for count in range(at_once, 0, -1):
        yield window, count
    for eighths in range(7, 0, -1):
        smaller = tuple(w if w <= SMALLEST else max(SMALLEST, STEP * math.floor(eighths * w / (8 * STEP)))
                        for w in window)
        yield smaller, 1
