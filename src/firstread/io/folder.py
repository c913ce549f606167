"""Result folders appear whole or not at all: written beside, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firstread.core.errors import OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_free(folder: Path, *, marker: str, overwrite: bool) -> None:
    """Refuse, before any work, an output folder that cannot be written or that holds something.

    marker: the file that tells that a folder is one of our results; only such a folder is ever replaced.

    Raises OutputError.
    """
    check_writable(folder, beside=True)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / marker).is_file():
        raise OutputError(f"{folder} holds other files", expected="a new or empty folder, or an earlier result",
                          remedy="choose another with -o")
    if not overwrite:
        raise OutputError(f"{folder} already holds a result", expected="a new or empty folder",
                          remedy="choose another with -o, or add --overwrite")


def check_writable(folder: Path, *, beside: bool) -> None:
    """Refuse, before any work, a folder in which nothing can be written, or with ``beside`` nothing beside it.

    Raises OutputError, for a file in its place too.
    """
    try:
        for path in (folder, *folder.absolute().parents):
            if path.exists() and not path.is_dir():
                raise OutputError(f"{path} is a file", expected="a folder for the result",
                                  remedy="choose another with -o")
        at = _existing_parent(folder.resolve().parent if beside else folder.resolve())
        os.rmdir(tempfile.mkdtemp(prefix=".firstread-", dir=at))  # permission bits do not tell everything
    except OSError as error:
        raise OutputError(f"{folder}, where nothing can be written ({error.strerror})", expected="a writable folder",
                          remedy="choose another with -o") from error


@contextmanager
def new_folder(folder: Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that becomes it when the block ends well; removed otherwise.

    Raises OutputError where the folder cannot be written, holds something else, or the disk is full.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as home, new_folder(Path(home) / "out", marker="a.txt") as work:
    ...     _ = (work / "a.txt").write_text("whole")
    """
    check_free(folder, marker=marker, overwrite=overwrite)
    target = folder.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield work
        work.chmod(0o755)
        old = None
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            target.rename(old / "was")
        work.rename(target)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if error.errno in (*_FULL, errno.EACCES, errno.EROFS, errno.EIO):
            raise _unwritable(folder, error) from error
        raise
    finally:
        if work.exists():
            shutil.rmtree(work, ignore_errors=True)


def _existing_parent(folder: Path) -> Path:
    for parent in (folder, *folder.absolute().parents):
        if parent.is_dir():
            return parent
    return Path("/")


def _unwritable(folder: Path, error: OSError) -> OutputError:
    full = error.errno in _FULL
    return OutputError(f"{folder}: {error.strerror}", expected="a folder that can be written",
                       remedy="free some space and run again" if full else "choose another with -o")
