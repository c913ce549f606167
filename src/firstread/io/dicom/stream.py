"""A file whose reads take no more memory than the file has bytes, whatever length a damaged element claims."""

from __future__ import annotations

import io
import os
from pathlib import Path

_SMALL = 1 << 20


class BoundedReader(io.BufferedReader):
    """``open(path, "rb")`` with reads cut at the end of the file before memory is taken."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(str(path)))  # pydicom opens its name again for values left in the file
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _SMALL:
            size = max(0, min(size, self.size - self.tell()))
        return super().read(size)


def read_at(descriptor: int, count: int, offset: int) -> bytes:
    """``count`` bytes of an open file from ``offset`` on, fewer at its end."""
    return os.pread(descriptor, count, offset)
