"""The folder of a model while it is trained: refused, begun, gone on with, cleared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from firstread.chains.trained import CARD, PLAN, is_trained
from firstread.core.errors import FormatError, OutputError
from firstread.io.folder import check_writable
from firstread.jobs.segment_data import DataSet
from firstread.jobs.segment_prepare import data_hash, newest, plan_hash
from firstread.nets.plan import Plan
from firstread.nets.plan_file import read_plan

WORK, STATE, FINGERPRINT = "training", "state.json", "fingerprint.json"
_OTHER = {"plan": "another plan", "data": "other images or labels", "files": "other images or labels",
          "start": "other --start weights"}


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse, before any work, a folder that cannot be written, holds something else, or a finished model that nobody
    said to replace. Changes nothing. Raises OutputError."""
    check_writable(folder, beside=False)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not is_trained(folder) and not (folder / FINGERPRINT).is_file():
        raise OutputError(f"{folder} holds other files", expected="a new or empty folder, or a model's",
                          remedy="choose another with -o")
    if is_finished(folder) and not overwrite:
        raise OutputError(f"{folder} already holds a trained model", expected="a new folder",
                          remedy="choose another with -o, or add --overwrite")


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a model whose training has ended."""
    return (folder / CARD).is_file()


def check_planned(folder: Path, plan: Plan) -> None:
    """Refuse to put another plan beside the weights of a finished model. Raises OutputError."""
    if is_finished(folder) and (folder / PLAN).is_file() and read_plan(folder / PLAN) != plan:
        raise OutputError(f"{folder / PLAN}, the plan.json of a trained model", expected="the same plan: its weights "
                          "work with no other", remedy="choose another folder with -o, or train anew into this one, "
                          "without --only-plan")


def make_folder(folder: Path) -> None:
    """Raises OutputError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}, where nothing can be written ({error.strerror})", expected="a writable folder",
                          remedy="choose another with -o") from error


def clear(folder: Path) -> None:
    """Take out an earlier model, or what an interrupted training left; its card goes last, so that what is half cleared
    is not gone on with. The plan stays."""
    for weights in folder.glob("fold_*.safetensors"):
        weights.unlink()
    shutil.rmtree(folder / WORK, ignore_errors=True)
    for name in ("cv.json", "page.html", CARD):
        (folder / name).unlink(missing_ok=True)


def state_of(plan: Plan, data: DataSet, start: str | None) -> dict[str, Any]:
    """What has to be the same for a training to go on."""
    return {"plan": plan_hash(plan), "data": data_hash(data), "files": newest(data), "start": start}


def goes_on(folder: Path, state: dict[str, Any]) -> bool:
    """Whether an interrupted training of this state lies there, so that --overwrite has nothing to begin anew."""
    return not is_finished(folder) and _stored(folder) == state


def same_files(folder: Path, data: DataSet) -> bool:
    """Whether an interrupted training lies there that began with these files as they are."""
    before = None if is_finished(folder) else _stored(folder)
    return isinstance(before, dict) and (before.get("data"), before.get("files")) == (data_hash(data), newest(data))


def _stored(folder: Path) -> Any:
    try:
        return json.loads((folder / WORK / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def check_state(folder: Path, state: dict[str, Any]) -> None:
    """What lies in the work folder must be of this state; noted where nothing lies there. Raises FormatError."""
    path = folder / WORK / STATE
    if path.is_file():
        before = read_json(path, remedy="start anew with --overwrite")
        if before != state:
            other = list(dict.fromkeys(_OTHER[key] for key in state if before.get(key) != state[key]))
            raise FormatError(f"{folder}: a training that began with {' and '.join(other)}",
                              expected="the same, to go on with it", remedy="restore what was changed, choose another "
                              "folder with -o, or start anew with --overwrite")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(state))


def read_json(path: Path, *, remedy: str) -> Any:
    """Raises FormatError for a damaged file, which says what can be done."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path}, which is damaged", expected="what an interrupted training left",
                          remedy=remedy) from error


def write_whole(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)
