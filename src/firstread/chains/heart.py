"""The heart chain: a short-axis cine, or the raw signal of one, to cardiac phenotypes with intervals.

    kspace ─┬▶ zero_filled
            └▶ image ─┬▶ labels.members ─┬▶ labels ─▶ phenotypes.point ──────────┐
                      │                  └▶ labels.hard ─▶ phenotypes.members ─▶ phenotypes.intervals ─┐
                      └▶ features ───────────────────────────────────────────────────────────────▶ phenotypes

The segmentation is a small ensemble: its members are draws of one subject, measured one by one, and their spread
scales the calibrated intervals; an image unlike those of the calibration cases loses them. A model trained elsewhere
takes the segmentation's place, each fold a member.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from firstread.analyze.classes import MapClasses, heart_sources
from firstread.analyze.consensus import Consensus, Harden
from firstread.analyze.foreign import ForeignSegment
from firstread.analyze.segment import Segment
from firstread.chains.models import open_segmenter
from firstread.chains.trained import networks_of
from firstread.core.case import Case
from firstread.core.errors import InputError
from firstread.core.provenance import weights_hash
from firstread.core.reading import Basis
from firstread.core.records import Features, Image, KSpace, Phenotypes
from firstread.core.stage import Chain, Stage
from firstread.measure.cardiac import CardiacFunction
from firstread.nets.cascade import DeepCascade
from firstread.reconstruct.cascade import Cascade
from firstread.reconstruct.direct import ZeroFilled
from firstread.trust.describe import DescribeImage
from firstread.trust.fingerprints import frame_fingerprints
from firstread.trust.intervals import Calibration, ConformalIntervals, PlainIntervals
from firstread.trust.scores import member_rows, member_spread
from firstread.trust.shift import ShiftGuard
from firstread.zoo.store import asset, load

SEGMENTATION, RECONSTRUCTION = "heart-sax", "heart-cascade"
CALIBRATIONS = {"k-space": "heart-intervals", "images": "heart-intervals-images"}
REFUSE_BELOW = 0.02
"""Intervals are refused for an input that fewer than this share of calibration cases are as unlike the others as; with
fewer than 50 of them, for one that is stranger than all."""
WARN_BELOW = 0.05
Phase = Literal["ED", "ES"]


def heart_chain(*, raw: bool, weights: str | None = None, phase: Phase | None = None,
                segmenter: Sequence[Stage] | None = None, calibration: Calibration | None = None) -> Chain:
    """The chain of ``firstread read``.

    raw: begin with k-space, not with images; weights: of the segmentation, a default weight's name or a file, where it
    holds a reconstruction too (``firstread train endpoint``) of both;
    phase: what a single frame shows; segmenter: stages in the place of the default ones (:func:`foreign_segmentation`).
    Intervals are added where they were calibrated for exactly these weights; calibration: another than the stored one.
    What a calibration rests on (:func:`basis_of`) is measured with and without one.

    >>> print(heart_chain(raw=False).describe().splitlines()[0])
    segment(image: Image) -> labels.members
    """
    stages = (*(reconstruction(weights) if raw else ()), *(segmentation(weights) if segmenter is None else segmenter))
    if calibration is None:
        calibration = calibration_of(stages, "k-space" if raw else "images")
    elif not made_with(calibration, stages):
        raise InputError(f"a calibration of other weights (of {', '.join(sorted(calibration.weights)) or 'no stage'})",
                         expected="one that was made with exactly this model, from the same kind of input",
                         remedy="calibrate with this model")
    steps = [*stages, *measurement(phase, calibration)]
    made = {step.writes for step in steps}
    return Chain(*steps, *(step for step in described(phase) if step.writes not in made)).eval()


def reconstruction(weights: str | None = None) -> tuple[Stage, ...]:
    """K-space to image, by the default cascade or the one in ``weights``; the zero-filled image is kept beside it."""
    chosen = None if weights is None else load(weights)
    if chosen is not None and "cascade" in chosen.card:
        network = DeepCascade.from_weight(chosen.card["cascade"], chosen.part("cascade"))
    else:
        weight = load(RECONSTRUCTION)
        network = DeepCascade.from_weight(weight.card["network"], weight.state)
    return ZeroFilled(), Cascade(network=network).using(reads={"kspace": "kspace"}, writes="image")


def segmentation(weights: str | None = None) -> tuple[Stage, ...]:
    """Image to the labels of every member of the ensemble, and to their consensus."""
    return (Segment(networks=networks_of(load(weights or SEGMENTATION))).using(reads={"image": "image"}),
            Consensus().using(reads={"labels": "labels.members"}))


def foreign_segmentation(path: str | Path, classes: Mapping[str, str] | None = None, *,
                         watch: Callable[[str], None] | None = None) -> tuple[Stage, ...]:
    """Image to members and consensus by a model trained elsewhere, each fold a member.

    classes: which of the model's are LV, MYO and RV, by number or name; needed where its names do not say so. watch: is
    told now and then how far a slow model is. Raises InputError where a class is not found, and what opening the model
    may raise.
    """
    stage = open_segmenter(path, members=True).using(reads={"image": "image"}, writes="labels.model")
    if watch is not None and isinstance(stage, ForeignSegment):
        stage.watch = watch
    mapped = MapClasses(sources=heart_sources(stage.classes, classes))
    return (stage, mapped.using(reads={"labels": "labels.model"}, writes="labels.members"),
            Consensus().using(reads={"labels": "labels.members"}))


def described(phase: Phase | None = None) -> tuple[Stage, ...]:
    """What intervals rest on: phenotypes of every member of the ensemble, and features of the image."""
    return (Harden().using(reads={"labels": "labels.members"}),
            CardiacFunction(phase=phase, warn=False).using(reads={"labels": "labels.hard"},
                                                           writes="phenotypes.members"),
            DescribeImage().using(reads={"image": "image"}))


def measurement(phase: Phase | None = None, calibration: Calibration | None = None) -> tuple[Stage, ...]:
    """Labels to phenotypes; with a calibration also to intervals, which an input unlike the calibration cases loses."""
    function = CardiacFunction(phase=phase).using(reads={"labels": "labels"})
    if calibration is None:
        return (function,)
    novelty = calibration.novelty
    writes = "phenotypes" if novelty is None else "phenotypes.intervals"
    harden, members, features = described(phase)
    point: tuple[Stage, ...] = (function.using(writes="phenotypes.point"),)
    intervals: Stage
    if calibration.members == 0:
        intervals = PlainIntervals(calibration=calibration).using(reads={"point": "phenotypes.point"}, writes=writes)
    else:
        point += (harden, members)
        intervals = ConformalIntervals(calibration=calibration).using(
            reads={"point": "phenotypes.point", "members": "phenotypes.members"}, writes=writes)
    if novelty is None:
        return (*point, intervals)
    refuse_below = max(REFUSE_BELOW, 1 / novelty.count)
    guard = ShiftGuard(novelty=novelty, refuse_below=refuse_below, warn_below=max(WARN_BELOW, refuse_below))
    return (*point, intervals, features, guard.using(
        reads={"phenotypes": "phenotypes.intervals", "features": "features"}, writes="phenotypes"))


def basis_of(case: Case) -> Basis | None:
    """What a calibration on a case needs, of one that :func:`heart_chain` has measured; None for several rows."""
    point = cast(Phenotypes, case["phenotypes.point" if "phenotypes.point" in case else "phenotypes"])
    members, features = cast(Phenotypes, case["phenotypes.members"]), cast(Features, case["features"])
    if len(point.rows.subject) != 1:
        return None
    count = len(members.rows.subject)
    owner = member_rows(point.rows, members.rows, count)
    spreads = {name: member_spread(members.values.get(name), owner) for name in point.values}
    known = {name: float(spread[0]) for name, spread in spreads.items() if spread is not None}
    data = cast(Image | KSpace, case["kspace" if "kspace" in case else "image"])
    return Basis(count, {name: spread for name, spread in known.items() if math.isfinite(spread)},
                 {name: float(value) for name, value in zip(features.names, features.data[0], strict=True)
                  if math.isfinite(float(value))}, frame_fingerprints(data))


def calibration_of(stages: Sequence[Stage], source: Literal["k-space", "images"]) -> Calibration | None:
    """The stored calibration for readings from ``source``, or None where it was made with other weights."""
    path = asset(f"{CALIBRATIONS[source]}.json")
    if not path.is_file():
        return None
    calibration = Calibration.load(path)
    return calibration if made_with(calibration, stages) else None


def made_with(calibration: Calibration, stages: Sequence[Stage]) -> bool:
    """Whether a calibration was made with exactly the weights of these stages, no fewer and no more."""
    return dict(calibration.weights) == {stage.name: made for stage in stages
                                         if (made := weights_hash(stage)) is not None}
