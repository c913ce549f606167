"""Freed memory stays with the process: a reading asks for the same large arrays again and again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc to serve large arrays from its heap and not to give freed ones back; whether it took it.

    Otherwise every array above 32 MiB is mapped anew, and each of its pages is a fault: about a fifth of a reading's
    processor time (54 to 43 s in the demonstration), at the price of a larger peak (1.5 to 1.9 GB). Elsewhere than on
    Linux with glibc nothing is changed.
    """
    return _set((_TRIM_THRESHOLD, 2**31 - 1), (_MMAP_MAX, 0))


def give_back_freed_memory() -> bool:
    """The opposite, for who has set a limit: arrays above 1 MiB are mapped, and given back when freed, so that the
    process holds what its tensors hold; whether glibc took it."""
    return _set((_TRIM_THRESHOLD, 2**20), (_MMAP_THRESHOLD, 2**20), (_MMAP_MAX, 65536))


def _set(*settings: tuple[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(bool(mallopt(*setting)) for setting in settings)
