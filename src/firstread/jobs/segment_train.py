"""``firstread segment train``: images and labels in, a trained model folder out.

    files ─▶ fingerprint.json ─▶ plan.json ─▶ training/ (kept until the end) ─▶ fold_K.safetensors
                                                   └▶ held-out patients ─▶ cv.json, page.html ─▶ card.json

Killed at any point, the same command goes on; ``card.json`` is written last and says that all is there.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from firstread.chains.trained import CARD, PLAN, SCHEMA, trained_network
from firstread.core.errors import InputError
from firstread.core.provenance import versions, weights_hash
from firstread.jobs.segment_data import DataSet, check_named, counted, find_data
from firstread.jobs.segment_fold import SELF, trained_fold
from firstread.jobs.segment_folder import (
    FINGERPRINT,
    STATE,
    WORK,
    check_folder,
    check_planned,
    check_state,
    clear,
    goes_on,
    is_finished,
    make_folder,
    read_json,
    same_files,
    state_of,
    write_whole,
)
from firstread.jobs.segment_prepare import annotated_of, data_hash, fingerprint_of, plan_hash, prepare_cases
from firstread.jobs.segment_validate import counting, shown_of, split_patients, summary, validate
from firstread.jobs.segment_weights import start_from
from firstread.learn.fingerprint import SCHEMA as FACTS
from firstread.learn.patches import PreparedCase
from firstread.learn.planning import plan_for
from firstread.nets.build import build_network
from firstread.nets.plan import Plan
from firstread.nets.plan_file import read_plan, write_plan
from firstread.report.segment_training import write_page
from firstread.zoo.store import load

Progress = Callable[[str], None]


@dataclass(frozen=True)
class TrainSettings:
    """What a user can say. steps, folds, seed: instead of the plan's; plan: a file to use; start: weights to begin
    from, a name of ``firstread zoo``, a .safetensors file, or ``self`` (learned first from the same images without
    their labels); workers: processes that make patches ahead."""

    steps: int | None = None
    folds: int | None = None
    seed: int | None = None
    plan: Path | None = None
    only_plan: bool = False
    start: str | None = None
    device: str = "cpu"
    workers: int = 0


def train_segmenter(source: Path, folder: Path, settings: TrainSettings | None = None, *, overwrite: bool = False,
                    progress: Progress = lambda text: None) -> dict[str, Any]:
    """Train on a data set into a model folder; the card, or with ``only_plan`` the plan, as plain values.

    Raises InputError and its kinds for the data, FormatError for a plan or checkpoint that does not fit, OutputError
    for a folder that holds something else, SettingError for a plan that makes no training.
    """
    settings = settings or TrainSettings()
    check_folder(folder, overwrite)
    data = find_data(source)
    stated = _stated_plan(folder, settings)
    if not settings.only_plan:
        _check_start(data, stated, settings)
    found = _fingerprint(data, folder, progress, anew=overwrite and not same_files(folder, data))
    check_named(data, found["each"])
    plan = _plan(found, data, stated, settings)
    for sample in data.samples:
        annotated_of(sample, plan)
    work, state = folder / WORK, state_of(plan, data, settings.start)
    if settings.only_plan:
        check_planned(folder, plan)
        if (work / STATE).is_file() and not overwrite:
            check_state(folder, state)
    else:
        _check_start(data, plan, settings)
        if overwrite and not goes_on(folder, state):  # what can be refused is known to be right by now
            clear(folder)
        check_state(folder, state)
    write_whole(folder / FINGERPRINT, json.dumps(found, indent=1, ensure_ascii=False))
    write_plan(plan, folder / PLAN)
    if settings.only_plan:
        return plan.as_dict()
    cases = prepare_cases(data, plan, work / "cases", progress=progress)
    folds = split_patients(data.samples, plan.training.folds, seed=plan.training.seed) if plan.training.folds else [[]]
    names = [f"fold_{k}.safetensors" for k in range(len(folds))] if plan.training.folds else ["fold_all.safetensors"]
    rows: list[dict[str, Any]] = []
    unseen: list[str] = []
    started = time.perf_counter()
    for number, (held, name) in enumerate(zip(folds, names, strict=True)):
        training = [case for n, case in enumerate(cases) if n not in set(held)]
        progress(f"fold {number + 1} of {len(folds)}: {counted(len(training), 'case')} to train on, {len(held)} held "
                 "out")
        for called in missing_classes(cases, set(held), plan):
            unseen.append(f"Fold {number + 1} was trained without class {called}, which only its held-out cases show: "
                          "what was measured of it there says nothing.")
            progress(f"  {unseen[-1]}")
        network = trained_fold(training, plan, folder / name, work / f"{Path(name).stem}.pt", number,
                               start=settings.start, device=settings.device, workers=settings.workers)
        scores = work / f"{Path(name).stem}.json"
        if held and not scores.is_file():
            progress(f"fold {number + 1}: segmenting {counted(len(held), 'held-out case')}")
            made = validate(network.cpu(), plan, [data.samples[n] for n in held])
            write_whole(scores, json.dumps([{**row, "fold": number} for row in made]))
        rows += read_json(scores, remedy="remove that file: this fold is measured anew") if held else []
    card = _card(plan, found, names, rows, data, folder, time.perf_counter() - started, settings)
    card["warnings"] += unseen
    if rows:
        found_cv = {"schema": "firstread.segment-cv/1", "summary": card["validation"], "warnings": card["warnings"],
                    "cases": rows}
        write_whole(folder / "cv.json", json.dumps(found_cv, indent=1))
    write_page(folder / "page.html", plan.as_dict(), found, card, counting(rows, plan.names[1:]))
    write_whole(folder / CARD, json.dumps(card, indent=1, ensure_ascii=False))
    shutil.rmtree(work, ignore_errors=True)
    return card


def _fingerprint(data: DataSet, folder: Path, progress: Progress, *, anew: bool) -> dict[str, Any]:
    """The stored one where it is of these files, else a new one, kept at once unless a finished model lies there."""
    path = folder / FINGERPRINT
    if path.is_file() and not anew:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.get("schema") == FACTS and found.get("data") == data_hash(data):
                return found
        except (ValueError, AttributeError):
            progress("fingerprint.json cannot be read: made anew")
    found = fingerprint_of(data, progress=progress)
    make_folder(folder)
    if not is_finished(folder):
        write_whole(path, json.dumps(found, indent=1, ensure_ascii=False))
    return found


def _stated_plan(folder: Path, settings: TrainSettings) -> Plan | None:
    """The stated plan, else the one in the folder, where there is one."""
    path = settings.plan or folder / PLAN
    if settings.plan is not None and not path.is_file():
        raise InputError(f"no plan at {path.name}", expected="a plan.json", remedy="make it with --only-plan")
    return read_plan(path) if path.is_file() else None


def _plan(found: dict[str, Any], data: DataSet, stated_plan: Plan | None, settings: TrainSettings) -> Plan:
    """The stated plan, else the rules'; steps, folds and seed as the command says."""
    plan = stated_plan or plan_for(found, ignored_value=data.ignored)
    stated = {k: v for k in ("steps", "folds", "seed") if (v := getattr(settings, k)) is not None}
    plan = replace(plan, training=replace(plan.training, **stated))
    if settings.steps is not None:
        warmup = min(plan.training.warmup, max(1, settings.steps // 5))
        plan = replace(plan, training=replace(plan.training, warmup=warmup))
    unknown = [c["value"] for c in found["classes"] if c["value"] not in {p.value for p in plan.classes}
               and c["value"] != plan.ignored_value]
    if unknown:
        raise InputError(f"label values {unknown} in the data that the plan does not know",
                         expected=f"{[c.value for c in plan.classes]}",
                         remedy="add them to `classes` of plan.json, or correct the labels")
    if len(plan.normalization) != len(found["modalities"]):
        raise InputError(f"images of {len(found['modalities'])} channels", expected=f"{len(plan.normalization)}, as "
                         "the plan has", remedy="use the plan of this data set")
    return plan


def _check_start(data: DataSet, plan: Plan | None, settings: TrainSettings) -> None:
    """What can be refused before long work: folds beyond the patients, a network that cannot be made, weights that are
    not there or do not fit it."""
    patients = len({sample.patient for sample in data.samples})
    folds = settings.folds if settings.folds is not None else plan.training.folds if plan is not None else 0
    if folds == 1 or folds > patients:
        raise InputError(f"{counted(patients, 'patient')} for {counted(folds, 'fold')}",
                         expected="two folds or more, one patient or more in each", remedy="use fewer --folds; "
                         "--folds 0 trains one network on everything and validates nothing")
    network = build_network(plan) if plan is not None else None
    if settings.start not in (None, SELF):
        if network is not None:
            start_from(network, settings.start)
        else:
            load(settings.start)


def missing_classes(cases: Sequence[PreparedCase], held: Collection[int], plan: Plan) -> list[str]:
    """The names of the classes that no case outside ``held`` shows."""
    shown = {index for number, case in enumerate(cases) if number not in held
             for index, where in case.places.items() if len(where)}
    return [c.name for index, c in enumerate(plan.classes) if index and index not in shown]


def _card(plan: Plan, found: dict[str, Any], names: list[str], rows: list[dict[str, Any]], data: DataSet, folder: Path,
          seconds: float, settings: TrainSettings) -> dict[str, Any]:
    """What the model is, what it was trained on, and how well it did."""
    few = [c for c in found["classes"] if c["value"] and c["patients"] < 2]
    warnings = [f"Class {c['name']} is in {counted(c['patients'], 'patient')} only: what was measured "
                "of it says nothing about others." for c in few] if rows else [
                    "Trained on all patients: nothing was held out, nothing was validated."]
    warnings += [note for name in plan.names[1:] if rows and (note := shown_of(rows, name).note(f"Class {name}"))]
    network = build_network(plan)
    if settings.start not in (None, SELF) and (left := start_from(network, settings.start)):
        warnings.append(f"Of the network {len(left)} parameters did not fit those of {settings.start} and began at "
                        "random.")
    return {"schema": SCHEMA, "statement": "Research software. Not for clinical use.", "networks": names,
            "hashes": [weights_hash(trained_network(plan, folder / name)) for name in names],
            "classes": list(plan.names), "mode": plan.mode, "plan": plan_hash(plan), "started_from": settings.start,
            "network": plan.network.name or plan.network.kind,
            "parameters": sum(p.numel() for p in network.parameters()),
            "data": {"cases": found["cases"], "patients": found["patients"], "hash": data_hash(data)},
            "validation": summary(rows, plan.names[1:], seed=plan.training.seed) if rows else None,
            "validated": "each case by the network that had not seen its patient; mean over patients, 95 % bootstrap "
                         "interval over patients" if rows else None,
            "warnings": warnings, "seconds": round(seconds, 1), "versions": versions()}
