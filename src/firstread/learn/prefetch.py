"""Batches made ahead in a process of their own, in the order of their numbers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


class _Numbered(Dataset):
    """``batches`` as a data set: item k is batch ``first + k``."""

    def __init__(self, batches: Callable[[int], Any], first: int, last: int) -> None:
        self.batches, self.first, self.last = batches, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, item: int) -> Any:
        return self.batches(self.first + item)


def _serve(_: int) -> None:
    """One thread, and Ctrl-C left to the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


class Prefetched:
    """The same function of the step number as ``batches``, computed ahead by ``workers`` processes.

    Steps asked for in turn come from the workers; a jump starts them anew. last: one past the last step there will be.

    >>> ahead = Prefetched(float, last=3)
    >>> [ahead(step) for step in range(3)]
    [0.0, 1.0, 2.0]
    """

    def __init__(self, batches: Callable[[int], Any], *, last: int, workers: int = 1) -> None:
        self.batches, self.last, self.workers = batches, last, workers
        self._next = -1
        self._stream: Iterator[Any] = iter(())

    def __call__(self, step: int) -> Any:
        if step != self._next:
            loader = DataLoader(_Numbered(self.batches, step, self.last), batch_size=None, num_workers=self.workers,
                                worker_init_fn=_serve, prefetch_factor=4)
            self._stream = iter(loader)
        self._next = step + 1
        return next(self._stream)
