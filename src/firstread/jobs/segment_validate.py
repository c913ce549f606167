"""Cross-validation of a segmentation: every case by the network that has not seen its patient."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from firstread.analyze.trained import SegmentByPlan
from firstread.core.records import Image, SoftLabels
from firstread.jobs.segment_data import Sample, class_indices, load_sample
from firstread.jobs.segment_prepare import annotated_of
from firstread.jobs.segment_rare import Shown, shown_in
from firstread.nets.plan import Plan
from firstread.ops.regions import dice
from firstread.trust.segmentation import summarize


def split_patients(samples: Sequence[Sample], count: int, *, seed: int = 0) -> list[list[int]]:
    """Numbers of the samples held out in each fold; all of a patient's lie in one.

    Patients are drawn in random order, each into the fold that holds the fewest samples so far.
    """
    patients = sorted({s.patient for s in samples})
    order = torch.randperm(len(patients), generator=torch.Generator().manual_seed(seed)).tolist()
    folds: list[list[int]] = [[] for _ in range(count)]
    for place in order:
        smallest = min(range(count), key=lambda k: len(folds[k]))
        folds[smallest] += [n for n, s in enumerate(samples) if s.patient == patients[place]]
    return [sorted(fold) for fold in folds]


def validate(network: nn.Module, plan: Plan, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """:func:`score` of a network of a plan."""
    return score(SegmentByPlan(networks=[network], plan=plan).eval(), plan, samples)


def score(stage: Callable[[Image], SoftLabels], plan: Plan, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Dice of every annotated class of each sample, on its own grid, all frames together; None where neither has it.

    ``absent`` are the annotated classes that the truth of a sample does not show: Dice 0 where the result does.
    stage: whose classes are the plan's, in their order.
    """
    known = {c.value: index for index, c in enumerate(plan.classes)}
    rows = []
    for sample in samples:
        image, values = load_sample(sample)
        truth = class_indices(values, known, plan.ignored_value, sample.name)
        with torch.no_grad():
            found = stage(image).data[0].argmax(dim=1)
        counted = truth != 255
        annotated = annotated_of(sample, plan)
        found_dice: dict[str, float | None] = {}
        absent = []
        for index, name in enumerate(plan.names):
            if index == 0 or not bool(annotated[index]):
                continue
            one, other = (found == index) & counted, truth == index
            if not bool(other.any()):
                absent.append(name)
            joined = (1, 1, -1)  # frames and slices in one volume
            empty = not bool(one.any() or other.any())
            found_dice[name] = None if empty else round(float(dice(one.reshape(joined), other.reshape(joined))), 5)
        rows.append({"case": sample.name, "patient": sample.patient, "dice": found_dice, "absent": absent})
    return rows


def summary(rows: Sequence[Mapping[str, Any]], names: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Mean Dice by class and over classes with 95 % bootstrap intervals over patients, as plain values.

    Of a class that most patients lack only the patients that have it count. patients: with a number; having, asked:
    whose truth shows the class, and in whom it was looked for.

    >>> rows = [{"patient": p, "dice": {"a": d}} for p, d in (("one", 0.5), ("one", 0.7), ("two", 0.8))]
    >>> summary(rows, ["a"])["a"]["mean"]
    0.7
    """
    shown = {name: shown_of(rows, name) for name in names}
    counted = [row["dice"] for row in counting(rows, names)]
    table = {}
    for name in names:
        about, having = _over_patients(rows, [dice.get(name) for dice in counted], seed), len(shown[name].those)
        if shown[name].left_out and not having:
            about["reason"] = "in the truth of no patient"
        elif shown[name].left_out:
            about["reason"] = "; ".join(filter(None, (f"in {having} of {having + len(shown[name].lacking)} patients",
                                                      about["reason"])))
        table[name] = {**about, "having": having, "asked": having + len(shown[name].lacking)}
    return {**table, "mean of classes": _over_patients(rows, [_mean(dice.values()) for dice in counted], seed)}


def counting(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows with None for what does not count: the Dice of patients that lack a class which most of them lack."""
    left_out = {name: shown_of(rows, name).left_out for name in names}
    return [{**row, "dice": {name: None if row["patient"] in left_out.get(name, ()) else value
                             for name, value in row["dice"].items()}} for row in rows]


def shown_of(rows: Sequence[Mapping[str, Any]], name: str) -> Shown:
    """Which patients a class is shown in; rows: as of :func:`score`."""
    return shown_in((row["patient"], row["dice"][name] is not None and name not in row.get("absent", ()),
                     row["dice"][name] is not None) for row in rows if name in row["dice"])


def _over_patients(rows: Sequence[Mapping[str, Any]], values: Sequence[float | None], seed: int) -> dict[str, Any]:
    found = summarize([math.nan if v is None else v for v in values], [row["patient"] for row in rows], seed=seed)
    mean, lower, upper = (round(v, 4) if math.isfinite(v) else None for v in (found.mean, found.lower, found.upper))
    return {"mean": mean, "lower": lower, "upper": upper, "patients": found.subjects, "reason": found.reason}


def _mean(values: Any) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
