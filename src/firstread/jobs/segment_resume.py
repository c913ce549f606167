"""What an earlier, unfinished run left of a folder of segmentations, for the next one to keep."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from firstread.core.errors import FormatError, InputError
from firstread.core.provenance import file_hash


@dataclass(frozen=True)
class Earlier:
    """finished: what the document of an earlier run says of its images, by name; failed: what of those that failed."""

    finished: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: list[dict[str, Any]] = field(default_factory=list)

    def failed_but(self, tried: Collection[Sequence[str]]) -> list[dict[str, Any]]:
        """What failed, without the images that were tried again; tried: the file names of each.

        >>> Earlier(failed=[{"input": ["a.nii"], "reason": "NaN"}]).failed_but([["b.nii"]])
        [{'input': ['a.nii'], 'reason': 'NaN'}]
        """
        again = [list(names) for names in tried]
        return [row for row in self.failed if row["input"] not in again]


def earlier_in(document: Path, head: Mapping[str, Any]) -> Earlier:
    """What the document of an earlier run says; nothing where there is none.

    head: what a run says of itself before its images. Raises InputError where it was another model or other settings,
    FormatError for a document of another form.
    """
    if not document.is_file():
        return Earlier()
    now = json.loads(json.dumps(head))
    try:
        stored = json.loads(document.read_text(encoding="utf-8"))
        if stored["schema"] != now["schema"]:
            raise ValueError(f"schema {stored['schema']!r}")
        earlier = Earlier({row["name"]: _checked(row) for row in stored["images"]},
                          [_with_texts(row, ("input",)) for row in stored["failed"]])
        options = {key for key in {**stored["settings"], **now["settings"]}
                   if stored["settings"].get(key) != now["settings"].get(key)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{document.name} in {document.parent.name} of another form ({error})",
                          expected=head["schema"],
                          remedy="run without --resume, with --overwrite") from error
    different = [key for key in ("weights", "classes") if stored.get(key) != now[key]]
    if options:
        different.append(f"settings ({', '.join(sorted(options))})")
    if different:
        raise InputError(f"--resume in {document.parent.name}, made with other {' and '.join(different)}",
                         expected="the same model and options",
                         remedy="give those, or --overwrite in place of --resume")
    return earlier


def _checked(row: dict[str, Any]) -> dict[str, Any]:
    """A finished image's row whose files are its own and lie in the folder. Raises ValueError, KeyError, TypeError."""
    name = row["name"]
    for file in _with_texts(row, ("input", "sha256", "files"))["files"]:
        path = PurePosixPath(file)
        if not file.startswith(name) or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{file!r} as a file of {name}")
    return row


def _with_texts(row: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    for key in keys:
        if not isinstance(row[key], list) or not row[key] or not all(isinstance(text, str) for text in row[key]):
            raise ValueError(f"{key} {row[key]!r}")
    return row


def kept(row: Mapping[str, Any] | None, parts: Sequence[Path] | None, folder: Path, work: Path
         ) -> dict[str, Any] | None:
    """An earlier result of the same files, copied; None where there is none. parts: None where any files will do."""
    if row is None or (parts is not None and row["sha256"] != [file_hash(p) for p in parts]):
        return None
    paths = [folder / file.partition(" (")[0] for file in row["files"]]
    if not all(path.is_file() for path in paths):
        return None
    for path in paths:
        to = work / path.relative_to(folder)
        to.parent.mkdir(exist_ok=True)
        shutil.copy2(path, to)
    return dict(row)
