"""From what files store to what records hold: dtypes, finite values."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from firstread.core.errors import SignalError, UnsupportedError


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor of a dtype that torch computes with: int16 stays, wider integers become int32, floats float32.

    >>> as_tensor(np.array([1, 40000], dtype=">u2")).dtype
    torch.int32
    """
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b" or (kind == "u" and size == 1):
        wanted = np.uint8
    elif kind == "i" and size <= 2:
        wanted = np.int16
    elif kind in "iu" and size == 2:
        wanted = np.int16 if array.size == 0 or array.max() < 2**15 else np.int32
    elif kind in "iu":
        fits = array.size == 0 or (array.min() >= -(2**31) and array.max() < 2**31)
        wanted = np.int32 if fits else np.float32
    elif kind == "f":
        wanted = np.float32
    elif kind == "c":
        wanted = np.complex64
    else:
        raise UnsupportedError(f"elements of type {array.dtype}", expected="integers, floats or complex numbers",
                               remedy="convert the file to one of them")
    changed = np.ascontiguousarray(array, dtype=wanted)
    return torch.from_numpy(changed if changed.flags.writeable else changed.copy())


def require_finite(data: Tensor, what: str) -> None:
    """Refuse NaN and infinity.

    >>> require_finite(torch.zeros(3), "image")
    """
    if (data.is_floating_point() or data.is_complex()) and not bool(torch.isfinite(data).all()):
        broken = int((~torch.isfinite(data)).sum())
        raise SignalError(f"{broken} NaN or infinite values in the {what}", expected="finite values only",
                          remedy="export it again, or set them to zero if they mean 'not measured'")
