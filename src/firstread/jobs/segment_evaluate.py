"""``firstread segment evaluate``: predicted label files beside true ones.

    pairs by file name ─▶ grids and values checked ─▶ scores of every label ─▶ metrics.csv, metrics.json, page.html
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from firstread.core.errors import FirstreadError, InputError
from firstread.core.provenance import file_hash, versions
from firstread.io.folder import check_free, new_folder
from firstread.jobs.segment_data import counted, patient_of
from firstread.jobs.segment_pairs import label_names, pair_files, read_pair, segment_names
from firstread.jobs.segment_rare import Shown, shown_in
from firstread.report.evaluation import MARKER, SCHEMA, STATEMENT, Row, Worst, mistakes, write
from firstread.trust.segmentation import METRICS, ScoreSettings, compare_methods, score_labels, summarize

Progress = Callable[[str], None]
Result = TypeVar("Result")
SHOWN = 3  # worst cases with a picture


@dataclass(frozen=True)
class EvaluateSettings:
    """labels: a JSON file or a comma-separated list of names; against: a second set of predictions; scores: what is
    measured."""

    labels: str | None = None
    against: Path | None = None
    scores: ScoreSettings = field(default_factory=ScoreSettings)
    seed: int = 0


def evaluate_to_folder(predictions: Path, truths: Path, folder: Path, settings: EvaluateSettings | None = None, *,
                       overwrite: bool = False, progress: Progress = lambda text: None) -> dict[str, Any]:
    """Write ``metrics.csv``, ``metrics.json`` and ``page.html``, whole or not at all; gives metrics.json.

    Raises InputError for files without a partner or labels that no truth has, GeometryError for other grids (saying
    how they differ), FormatError for values that are no labels, and whatever reading a file may raise.
    """
    settings = settings or EvaluateSettings()
    check_free(folder, marker=MARKER, overwrite=overwrite)
    started = time.perf_counter()
    names = None if settings.labels is None else label_names(settings.labels)
    pairs = pair_files(predictions, truths)
    second = None if settings.against is None else _named_second(pair_files, settings.against, truths)
    rows, worst, notes, shown = _score(pairs, names, settings.scores, progress)
    document: dict[str, Any] = {
        "schema": SCHEMA, "statement": STATEMENT, "predictions": predictions.name, "truths": truths.name,
        "predictions_sha256": file_hash(predictions), "truths_sha256": file_hash(truths),
        "cases": len({row.case for row in rows}), "subjects": len({row.subject for row in rows}),
        "metrics": {name: {"title": METRICS[name].title, "unit": METRICS[name].unit}
                    for name in settings.scores.metrics},
        "settings": asdict(settings.scores), "conventions": _conventions(settings.scores),
        "warnings": [*notes, *_rare_notes(rows, shown)], "labels": _summaries(rows, shown, settings),
        "comparison": None, "versions": versions()}
    if settings.against is not None and second is not None:
        progress(f"against {settings.against.name}")
        others, _, more, _ = _named_second(_score, second, names, settings.scores, progress)
        document["comparison"] = {"against": settings.against.name, "against_sha256": file_hash(settings.against),
                                  "labels": _differences(rows, others, shown, settings)}
        document["warnings"] += [note for note in more if note not in notes]
    document["seconds"] = round(time.perf_counter() - started, 1)
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        write(work, rows, document, worst)
    return document


def _named_second(work: Callable[..., Result], *arguments: Any) -> Result:
    """``work(*arguments)`` on the second predictions, whose errors say so."""
    try:
        return work(*arguments)
    except FirstreadError as error:
        raise type(error)(f"--against: {error.got}", expected=error.expected, remedy=error.remedy) from error


def _score(pairs: Mapping[str, tuple[Path, Path]], names: Mapping[int, str] | None, settings: ScoreSettings,
           progress: Progress) -> tuple[list[Row], list[Worst], list[str], dict[int, Shown]]:
    """Rows of all cases, labels that a case lacks included; pictures of the worst; notes; whom each label is in."""
    segments, called = segment_names(pairs.values(), names)
    made: list[tuple[str, int, dict[int, dict[str, float]]]] = []
    present: list[tuple[str, set[int], set[int]]] = []
    known, strange, flat, turned, worst = set(names or ()), {}, [], [], []
    for number, (case, (predicted, true)) in enumerate(pairs.items(), start=1):
        progress(f"{number} of {len(pairs)}  {case}")
        pair = read_pair(predicted, true, case, segments)
        truth, found = pair.truth, pair.prediction
        z, y, x = pair.grid.spacing_mm[0].tolist()
        spacing = (z, y, x) if pair.grid.has_mm else None
        values = [set(torch.unique(t).tolist()) - {0} for t in (truth, found)]
        if names is not None and values[0] - known:
            raise InputError(f"{case}: the truth has label values {sorted(values[0] - known)}",
                             expected=f"those of --labels: {sorted(known)}", remedy="name all of them")
        known |= values[0]
        present.append((patient_of(case), values[0], values[1]))
        strange |= {value: case for value in sorted(values[1]) if value not in strange}
        if spacing is None:
            flat.append(case)
        if pair.turned:
            turned.append(case)
        for frame in range(len(truth)):
            scores = score_labels(truth[frame], found[frame], sorted(values[0] | values[1] | set(names or ())),
                                  spacing_mm=spacing, settings=settings)
            made.append((case, frame, scores))
            worst = _ranked(worst, case, frame, scores, truth[frame], found[frame], spacing)
    if extra := sorted(set(strange) - known):
        raise InputError(f"{strange[extra[0]]}: predicted label values {extra} that no truth has",
                         expected=f"some of {sorted(known)}", remedy="correct the predictions, or state all labels "
                         "with --labels")
    if not known:
        raise InputError("no labels in any truth", expected="values above 0 somewhere", remedy="check the folder, "
                         "or name the labels with --labels")
    nothing = torch.zeros(1, 1, 1, dtype=torch.uint8)
    rows = []
    for case, frame, scores in made:
        for value in sorted(known):
            absent = None if case in flat else (1.0, 1.0, 1.0)  # a label that neither has: no voxels to measure
            found = scores.get(value) or score_labels(nothing, nothing, [value], spacing_mm=absent,
                                                      settings=settings)[value]
            rows.append(Row(case, patient_of(case), frame, value, called.get(value, f"label {value}"), found))
    notes = [f"{counted(len(flat), 'case')} state{'s' * (len(flat) == 1)} no spacing: nothing in mm or mL is measured "
             "there."] if flat else []
    if turned:
        one = len(turned) == 1
        notes.append(f"{counted(len(turned), 'prediction')} {'lies' if one else 'lie'} on the voxels of "
                     f"{'its' if one else 'their'} truth with axes in another order or sense "
                     f"({', '.join(turned[:3])}{' …' * (len(turned) > 3)}): turned as their headers say.")
    shown = {value: shown_in((subject, value in truths, value in results) for subject, truths, results in present)
             for value in known} if settings.both_empty == "absent" else {}
    return rows, worst, notes, shown


def _rare_notes(rows: Sequence[Row], shown: Mapping[int, Shown]) -> list[str]:
    names = {row.label: row.name for row in rows}
    return [note for value, about in sorted(shown.items()) if (note := about.note(names[value]))]


def _value(row: Row, metric: str, shown: Mapping[int, Shown]) -> float:
    """What counts in means: of a label that most subjects lack, volumes aside, only the subjects that have it."""
    left_out = row.label in shown and row.subject in shown[row.label].left_out
    return math.nan if left_out and not math.isnan(METRICS[metric].best) else row.values[metric]


def _ranked(worst: list[Worst], case: str, frame: int, scores: Mapping[int, Mapping[str, float]], truth: Tensor,
            found: Tensor, spacing: tuple[float, ...] | None) -> list[Worst]:
    """The worst cases so far with this one among them, if it is one; ranked by the lowest Dice of any label."""
    dice = [score["dice"] for score in scores.values() if math.isfinite(score["dice"])]
    lowest = min(dice, default=1.0)
    if lowest == 1.0 or (len(worst) == SHOWN and lowest >= worst[-1].value):
        return worst
    place = int((truth != found).flatten(1).sum(dim=1).argmax())
    aspect = 1.0 if spacing is None else spacing[1] / spacing[2]
    one = Worst(case, frame, lowest, place, mistakes(truth[place].numpy(), found[place].numpy()), aspect)
    return sorted([*worst, one], key=lambda w: w.value)[:SHOWN]


def _summaries(rows: Sequence[Row], shown: Mapping[int, Shown], settings: EvaluateSettings) -> list[dict[str, Any]]:
    table = []
    for value, name in dict.fromkeys((row.label, row.name) for row in rows):
        chosen = [row for row in rows if row.label == value]
        summary = {metric: _plain(asdict(summarize([_value(row, metric, shown) for row in chosen],
                                                   [row.subject for row in chosen], seed=settings.seed)))
                   for metric in settings.scores.metrics}
        table.append({"value": value, "name": name, "summary": summary})
    return table


def _differences(rows: Sequence[Row], others: Sequence[Row], shown: Mapping[int, Shown], settings: EvaluateSettings
                 ) -> list[dict[str, Any]]:
    """Ours minus the others' by label and metric, with what the interval says."""
    second = {(row.case, row.frame, row.label): row.values for row in others}
    table = []
    for value, name in dict.fromkeys((row.label, row.name) for row in rows):
        chosen = [row for row in rows if row.label == value]
        entry: dict[str, Any] = {}
        for metric in settings.scores.metrics:
            pairs = [(_value(row, metric, shown), second.get((row.case, row.frame, value), {}).get(metric, math.nan))
                     for row in chosen]
            try:
                found, subjects = compare_methods([a for a, _ in pairs], [b for _, b in pairs],
                                                  [row.subject for row in chosen], seed=settings.seed)
            except FirstreadError as error:
                entry[metric] = {"mean": None, "lower": None, "upper": None, "subjects": 0, "verdict": error.got}
                continue
            entry[metric] = _plain({"mean": found.value, "lower": found.lower, "upper": found.upper,
                                    "subjects": subjects, "verdict": _verdict(metric, found.lower, found.upper)})
        table.append({"value": value, "name": name, "difference": entry})
    return table


def _verdict(metric: str, lower: float, upper: float) -> str:
    if lower <= 0 <= upper:
        return "no clear difference"
    return "better" if (lower > 0) == METRICS[metric].higher_is_better else "worse"


def _conventions(settings: ScoreSettings) -> str:
    both = {"absent": "no number, left out of the mean", "agree": "full agreement (Dice 1, 0 mm)"}[settings.both_empty]
    one = {"worst": "the diagonal of the image", "absent": "none"}[settings.one_empty]
    rare = " Of a label that most subjects lack, volumes aside, only the subjects that have it count." \
        if settings.both_empty == "absent" else ""
    lesions = f" Lesions are matched one to one, intersection over union above {settings.minimum_iou:g}." \
        if settings.lesions else ""
    return (f"HD95: {settings.definition}. NSD within {settings.tolerance_mm:g} mm. A label that neither has: {both}; "
            f"that only one has: overlaps 0, distances {one}.{rare}{lesions} Each subject counts once: the mean of its "
            "cases.")


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers for JSON: null where there is none."""
    return {key: (round(value, 6) if math.isfinite(value) else None) if isinstance(value, float) else value
            for key, value in found.items()}
