"""Predicted labels beside true ones: every metric of every label, means over subjects, two methods in pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Integer
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.components import match_components
from firstread.ops.overlap import bounding_box, confusion_matrix, dice_of_counts, volume_similarity
from firstread.ops.skeleton import centreline_dice
from firstread.ops.surface import Definition, hausdorff_mm, mean_surface_distance, surface_dice, surface_distances
from firstread.trust.agreement import Estimate
from firstread.trust.bootstrap import paired_difference

Scores = dict[str, float]
"""A number for each metric; NaN where there is none."""


@dataclass(frozen=True)
class Metric:
    """title: for people; unit: mm, mL or none; best, worst: the value of agreement and of none (None: the diagonal of
    the image; NaN: no better or worse)."""

    title: str
    unit: str
    best: float
    worst: float | None

    @property
    def higher_is_better(self) -> bool:
        return self.best == 1.0


METRICS: dict[str, Metric] = {
    "dice": Metric("Dice", "", 1.0, 0.0),
    "hd95_mm": Metric("HD95", "mm", 0.0, None),
    "hd_mm": Metric("Hausdorff distance", "mm", 0.0, None),
    "assd_mm": Metric("ASSD", "mm", 0.0, None),
    "nsd": Metric("NSD", "", 1.0, 0.0),
    "volume_similarity": Metric("volume similarity", "", 1.0, 0.0),
    "cldice": Metric("clDice", "", 1.0, 0.0),
    "lesion_f1": Metric("lesion F1", "", 1.0, 0.0),
    "lesion_precision": Metric("lesion precision", "", 1.0, 0.0),
    "lesion_recall": Metric("lesion recall", "", 1.0, 0.0),
    "truth_ml": Metric("true volume", "mL", math.nan, math.nan),
    "predicted_ml": Metric("predicted volume", "mL", math.nan, math.nan),
}
IN_MM = ("hd95_mm", "hd_mm", "assd_mm", "nsd", "truth_ml", "predicted_ml")


@dataclass(frozen=True)
class ScoreSettings:
    """What is measured, and what is said of labels that are not there.

    tolerance_mm: of NSD; definition: of HD95 (:func:`~firstread.ops.surface.hausdorff_mm`), whose surface elements the
    other distances use too; minimum_iou: from which a lesion counts as found; cldice, lesions: measure these as well.
    both_empty: neither has the label: ``absent`` (no number, left out of means) or ``agree`` (Dice 1, 0 mm).
    one_empty: only one has it: ``worst`` (distances are the diagonal of the image) or ``absent`` (no distances);
    overlaps are 0 either way.
    """

    tolerance_mm: float = 1.0
    definition: Definition = "largest"
    minimum_iou: float = 0.0
    cldice: bool = False
    lesions: bool = False
    both_empty: Literal["absent", "agree"] = "absent"
    one_empty: Literal["worst", "absent"] = "worst"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of what is measured."""
        unwanted = (() if self.cldice else ("cldice",)) + (() if self.lesions else tuple(
            name for name in METRICS if name.startswith("lesion")))
        return tuple(name for name in METRICS if name not in unwanted)


def score_labels(truth: Integer[Tensor, "z y x"], predicted: Integer[Tensor, "depth height width"],
                 classes: Sequence[int], *, spacing_mm: tuple[float, float, float] | None,
                 settings: ScoreSettings | None = None) -> dict[int, Scores]:
    """All metrics of the label values ``classes`` in one volume.

    spacing_mm: along (z, y, x); None where unknown: nothing is measured in mm then. The boxes of all labels and the
    counts come first; everything else happens within a label's box. Raises SettingError for other shapes or values
    below zero.

    >>> truth = torch.zeros(4, 8, 8, dtype=torch.uint8); truth[1:3, 2:6, 2:6] = 1
    >>> found = score_labels(truth, truth.roll(1, dims=2), [1, 2], spacing_mm=(2.0, 1.0, 1.0))
    >>> found[1]["dice"], found[1]["hd95_mm"], found[2]["dice"]
    (0.75, 1.0, nan)
    """
    settings = settings or ScoreSettings()
    highest = max([int(t.max()) if t.numel() else 0 for t in (truth, predicted)] + list(classes))
    values = torch.arange(0) if highest < 256 else torch.unique(
        torch.cat((truth.unique(), predicted.unique(), torch.tensor([0, *classes]))))
    if highest > 255 and highest >= len(values):  # numbers of an atlas: count on, in their order
        small = [torch.searchsorted(values, t.contiguous().to(values.dtype)) for t in (truth, predicted)]
        places = torch.searchsorted(values, torch.tensor(list(classes), dtype=values.dtype)).tolist()
        found = score_labels(small[0], small[1], places, spacing_mm=spacing_mm, settings=settings)
        return dict(zip(classes, found.values(), strict=True))
    compact = [t.detach().cpu().to(torch.uint8 if highest < 256 else torch.int32) for t in (truth, predicted)]
    matrix = confusion_matrix(compact[0], compact[1], classes=highest + 1)
    overlap, sizes = dice_of_counts(matrix), (matrix.sum(dim=1), matrix.sum(dim=0))
    similar = volume_similarity(*sizes)
    box = bounding_box((compact[0] | compact[1]).numpy())
    inside = [t if box is None else t[box].contiguous() for t in compact]
    found = {}
    for value in classes:
        if int(sizes[0][value]) == 0 or int(sizes[1][value]) == 0:
            volumes = (int(sizes[0][value]), int(sizes[1][value]))
            found[value] = _empty(volumes, tuple(truth.shape), spacing_mm, settings)
            continue
        scores = {"dice": float(overlap[value]), "volume_similarity": float(similar[value])}
        masks = [t == value for t in inside]
        around = bounding_box((masks[0] | masks[1]).numpy())
        masks = [mask[around] for mask in masks]
        if spacing_mm is not None:
            scores |= _distances(masks, truth.shape, spacing_mm, settings)
        if settings.cldice:
            scores["cldice"] = centreline_dice(masks[0], masks[1])
        if settings.lesions:
            match = match_components(masks[0], masks[1], minimum_iou=settings.minimum_iou)
            scores |= {"lesion_precision": match.precision, "lesion_recall": match.recall, "lesion_f1": match.f1}
        found[value] = _complete(scores, (int(sizes[0][value]), int(sizes[1][value])), spacing_mm, settings)
    return found


def _distances(masks: Sequence[Tensor], shape: Sequence[int], spacing_mm: tuple[float, ...], settings: ScoreSettings
               ) -> Scores:
    elements: Literal["areas", "voxels"] = "areas" if settings.definition == "area-weighted" else "voxels"
    margin = [side for size in reversed(shape) for side in (int(size > 1),) * 2]  # an axis of length one is no axis
    one, two = (torch.nn.functional.pad(mask, margin) for mask in masks)
    distances = surface_distances(one, two, spacing_mm, elements=elements)
    return {"hd95_mm": hausdorff_mm(distances, percent=95, definition=settings.definition),
            "hd_mm": hausdorff_mm(distances, definition=settings.definition),
            "assd_mm": mean_surface_distance(distances),
            "nsd": surface_dice(distances, tolerance_mm=settings.tolerance_mm)}


def _empty(voxels: tuple[int, int], shape: tuple[int, ...], spacing_mm: tuple[float, ...] | None,
           settings: ScoreSettings) -> Scores:
    """The scores of a label that one of the two, or neither, has: see ScoreSettings."""
    scores = {}
    for name, metric in METRICS.items():
        if not any(voxels):
            scores[name] = metric.best if settings.both_empty == "agree" else math.nan
        elif metric.worst is not None:
            scores[name] = metric.worst
        elif settings.one_empty == "worst" and spacing_mm is not None:
            scores[name] = math.hypot(*(n * s for n, s in zip(shape, spacing_mm, strict=True)))
    if any(voxels):  # a share of nothing is no share
        scores["lesion_recall" if voxels[0] == 0 else "lesion_precision"] = math.nan
    return _complete(scores, voxels, spacing_mm, settings)


def _complete(scores: Scores, voxels: tuple[int, int], spacing_mm: tuple[float, ...] | None, settings: ScoreSettings
              ) -> Scores:
    if spacing_mm is not None:
        ml = math.prod(spacing_mm) / 1000
        scores |= {"truth_ml": voxels[0] * ml, "predicted_ml": voxels[1] * ml}
    known = {name: value for name, value in scores.items() if spacing_mm is not None or name not in IN_MM}
    return {name: known.get(name, math.nan) for name in settings.metrics}


@dataclass(frozen=True)
class Summary:
    """One metric of one label: mean over subjects (each the mean of its cases), with a 95 % bootstrap interval.

    subjects, cases: that have a number; missing: cases without; reason: why there is no interval or no mean.
    """

    mean: float
    lower: float
    upper: float
    median: float
    subjects: int
    cases: int
    missing: int
    reason: str = ""


def summarize(values: Sequence[float], subjects: Sequence[str], *, seed: int = 0) -> Summary:
    """Mean over subjects with a percentile bootstrap interval that draws subjects, of numbers case by case.

    >>> found = summarize([0.8, 0.6, 0.9, 1.0], ["a", "a", "b", "c"])
    >>> round(found.mean, 3), found.subjects, found.cases
    (0.867, 3, 4)
    """
    means = by_subject(values, subjects)
    cases = sum(map(math.isfinite, values))
    nothing = math.nan
    if not means:
        return Summary(nothing, nothing, nothing, nothing, 0, 0, len(values), "in no case")
    each = torch.tensor(list(means.values()), dtype=torch.float64)
    finite = torch.tensor([v for v in values if math.isfinite(v)], dtype=torch.float64)
    estimate, reason = Estimate(float(each.mean()), nothing, nothing), "an interval needs three subjects or more"
    if len(each) >= 3:
        estimate, reason = paired_difference(each[:, None], torch.zeros(len(each), 1), seed=seed), ""
    return Summary(estimate.value, estimate.lower, estimate.upper, float(finite.quantile(0.5)), len(each), cases,
                   len(values) - cases, reason)


def compare_methods(first: Sequence[float], second: Sequence[float], subjects: Sequence[str], *, seed: int = 0
                    ) -> tuple[Estimate, int]:
    """Mean difference ``first - second`` of the cases that both have a number for, paired by subject, and of how many.

    With a 95 % bootstrap interval over subjects. Raises SettingError for fewer than three subjects.
    """
    both = [math.isfinite(a) and math.isfinite(b) for a, b in zip(first, second, strict=True)]
    one, two = (by_subject([v if known else math.nan for v, known in zip(values, both, strict=True)], subjects)
                for values in (first, second))
    if len(one) < 3:
        raise SettingError(f"{len(one)} subject{'s' * (len(one) != 1)} with numbers of both methods",
                           expected="three or more", remedy="compare on more subjects")
    columns = [torch.tensor(list(side.values()), dtype=torch.float64)[:, None] for side in (one, two)]
    return paired_difference(columns[0], columns[1], seed=seed), len(one)


def by_subject(values: Sequence[float], subjects: Sequence[str]) -> Mapping[str, float]:
    """The mean of each subject's finite values, subjects without any left out."""
    groups: dict[str, list[float]] = {}
    for value, subject in zip(values, subjects, strict=True):
        if math.isfinite(value):
            groups.setdefault(subject, []).append(value)
    return {subject: sum(found) / len(found) for subject, found in groups.items()}
