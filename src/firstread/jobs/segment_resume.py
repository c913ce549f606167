"""What an earlier, unfinished run left of a folder of segmentations, for the next one to keep."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from firstread.core.errors import FormatError, InputError
from firstread.core.provenance import file_hash


def finished_in(document: Path, head: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By name, what the document of an earlier run says of its images; nothing where there is none.

    head: what a run says of itself before its images. Raises InputError where it was another model or other settings,
    FormatError for a document of another form.
    """
    if not document.is_file():
        return {}
    try:
        stored = json.loads(document.read_text(encoding="utf-8"))
        rows = {row["name"]: row for row in stored["images"]}
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{document.name} in {document.parent.name} of another form ({error})",
                          expected=head["schema"],
                          remedy="run without --resume, with --overwrite") from error
    now = json.loads(json.dumps(head))
    different = [key for key in ("weights", "settings", "classes") if stored.get(key) != now[key]]
    if different:
        raise InputError(f"--resume in {document.parent.name}, made with other {' and '.join(different)}",
                         expected="the same model and options",
                         remedy="give those, or --overwrite in place of --resume")
    return rows


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
