"""A damaged header can claim any size: it is compared with what the file can hold before memory is taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

from firstread.core.errors import FormatError


@contextmanager
def damaged_hdf5(path: Path) -> Iterator[None]:
    """Whatever h5py raises over a damaged file, as a FormatError."""
    try:
        yield
    except PermissionError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise FormatError(f"{path.name}, a damaged or cut-off HDF5 file", expected="a complete file",
                          remedy="copy or convert it again") from error


def shown(text: str, length: int = 40) -> str:
    """Text of a file as it may stand in a message: printable, on one line, not longer than ``length``.

    >>> shown("MR\\n\\x00")
    'MR'
    """
    return "".join(c for c in text if c.isprintable())[:length]


SMALL = 64 * 2**20
LARGEST = 64 * 2**30


def require_plausible(shape: tuple[int, ...], item_bytes: int, file_bytes: int, *, ratio: float, what: str) -> None:
    """Refuse an array that a file of ``file_bytes`` cannot hold at a compression of ``ratio``.

    Arrays below 64 MiB pass, since they do no harm; above 64 GiB none does.

    >>> require_plausible((256, 256, 20), 2, 3_000_000, ratio=1.0, what="NIfTI file")
    """
    if any(size < 1 for size in shape):
        raise FormatError(f"a {what} of shape {shape}", expected="one element or more along each axis",
                          remedy="export the file again")
    claimed = prod(int(size) for size in shape) * item_bytes
    if claimed > LARGEST or (claimed > SMALL and claimed > ratio * file_bytes):
        raise FormatError(f"a {what} of {file_bytes / 1e6:.1f} MB that claims {claimed / 1e6:.0f} MB of data",
                          expected="a header that fits its file", remedy="the file is damaged: export it again")
