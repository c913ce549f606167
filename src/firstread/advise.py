"""Feedback upstream: a reading and the scan that it was made of in, advice out.

    reading ─▶ interval, quality checks ─┐
    scan ─▶ draws of every stage ─▶ shares of variance; slices, frames and lines to acquire next ─┴▶ advice
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from firstread.acquire.active import lines_of
from firstread.acquire.next_lines import NextLines, fewest_lacking, next_lines
from firstread.analyze.segment import Segment
from firstread.chains.feedback import (
    ENDPOINTS,
    Draws,
    draw_images,
    draw_kspace,
    slice_frame_shares,
)
from firstread.chains.heart import heart_chain
from firstread.chains.scope import about_heart
from firstread.core.case import Case
from firstread.core.errors import FirstreadError, FormatError, InputError
from firstread.core.keys import Key
from firstread.core.provenance import file_hash, weights_hash
from firstread.core.records import Image, KSpace
from firstread.core.stage import Chain
from firstread.io import pattern
from firstread.io.folder import check_free, new_folder
from firstread.io.open import detect, located
from firstread.io.open import read as open_file
from firstread.read import MARKER as READING
from firstread.read import Progress, Settings, no_heart
from firstread.reconstruct.iterative import TemporalTV
from firstread.report.advice import SCHEMA, advice_text, quality_advice

MARKER = "advice.json"
SHOWN = ("LVEF", "LVEDV", "LVESV", "LVM", "RVEDV", "RVEF")


@dataclass(frozen=True)
class Question:
    """What is asked.

    endpoint: LVEF, LVEDV or LVESV; draws: of the measurement noise; lines: how many more in every frame (and slice).
    """

    endpoint: str = "LVEF"
    draws: int = 4
    lines: int = 4

    def __post_init__(self):
        if self.endpoint not in ENDPOINTS:
            raise InputError(f"the endpoint {self.endpoint!r}", expected=f"one of {', '.join(ENDPOINTS)}",
                             remedy="correct --endpoint")
        for name, value, least in (("draws", self.draws, 2), ("lines", self.lines, 1)):
            if value < least:
                raise InputError(f"{value} {name}", expected=f"{least} or more", remedy=f"correct --{name}")


@dataclass(frozen=True, eq=False)
class Advice:
    """The document ``advice.json`` and, from raw signal, the pattern of lines to measure next."""

    document: Mapping[str, Any]
    lines: NextLines | None

    @property
    def text(self) -> str:
        return advice_text(self.document)


def advise(reading: Path, source: Path | None = None, question: Question | None = None,
           settings: Settings | None = None, *, progress: Progress = lambda text: None) -> Advice:
    """Advice on a reading.

    reading: its folder; source: the file or folder that was read, found to be the same by its hash. Without it the
    advice rests on the reading alone and says what it cannot tell. settings: what is to differ from the reading's.

    Raises InputError where there is no reading or the source is another, and whatever reading the source may raise.
    """
    question, document = question or Question(), read_document(reading)
    settings = (settings or Settings()).filled(document["input"].get("stated", {}))
    interval = _interval(document, question.endpoint)
    made: dict[str, Any] = {
        "schema": SCHEMA, "endpoint": question.endpoint,
        "input": {key: document["input"][key] for key in ("kind", "sha256")}, "interval": interval,
        "quality": quality_advice(document["warnings"]), "design": None, "shares": {}, "slices": [], "frames": [],
        "lines": None, "cannot_tell": [], "seed": settings.seed}
    if source is None:
        made["cannot_tell"] = ["Without the scan (--input) it cannot be said which stage the interval comes from, nor "
                               "what to acquire next; a reading keeps the scan's hash, not its signal or its place."]
        return Advice(made, None)
    source = located(source)
    detect(source)
    if file_hash(source) != document["input"]["sha256"]:
        raise InputError(f"{source.name}, which is not what was read", expected="the input of this reading, by "
                         "its hash", remedy="give the file or folder that the reading was made of")
    opened = open_file(source, axes=settings.axes, variable=settings.variable, spacing_mm=settings.spacing_mm,
                       series=settings.series)
    if (reason := no_heart(opened.case, opened.kind)) is not None:
        raise InputError(f"no measurement to advise on: {reason}", expected="a short-axis MR stack",
                         remedy="advise on the reading of a heart")
    raw = any(isinstance(record, KSpace) for record in opened.case.values())
    chain = heart_chain(raw=raw, weights=settings.weights, phase=settings.phase)
    if settings.adapt:
        made["cannot_tell"].append("The reading's reconstruction was fitted to this scan; the draws are made by the "
                                   "network as it was before.")
    _same_weights(chain, document)
    return advise_case(opened.case, chain, question, made, seed=settings.seed, progress=progress)


def advise_case(case: Case, chain: Chain, question: Question, made: dict[str, Any], *, seed: int = 0,
                progress: Progress = lambda text: None) -> Advice:
    """Draw every stage of ``chain`` on a case, and complete the document ``made``."""
    segment = cast(Segment, chain.stage("labels.members"))
    kspace, lines = case.get("kspace"), None
    if isinstance(kspace, KSpace):
        _require_lacking(kspace, question.lines)
        methods = {"cascade": chain.stage("image"), "temporal total variation": TemporalTV()}
        with torch.no_grad():
            progress("  where the heart is, and which frames decide")
            scope = about_heart(kspace, methods["temporal total variation"], segment)
            progress(f"  {scope.scan.data.shape[-1]} of {scope.image.data.shape[-1]} columns, {len(scope.frames)} of "
                     f"{scope.image.data.shape[1]} frames")
            draws = draw_kspace(scope, methods, segment, draws=question.draws, seed=seed, endpoint=question.endpoint,
                                watch=progress)
        unseen = ["The draws hold the noise as measured and two ways to reconstruct; what neither way can see in lines "
                  "never measured, and errors that all members share, are not in these shares."]
    else:
        draws = draw_images(cast(Image, case["image"]), segment)
        unseen = ["The input holds images, not raw signal: shares of acquisition and reconstruction, and lines to "
                  "measure next, cannot be told; the shares of slices and frames are those of the segmentation."]
    made |= {"design": {"noise": draws.volumes_ml.shape[0], "methods": list(draws.methods),
                        "members": draws.volumes_ml.shape[2], "confidence": 0.9},
             "shares": _shares(draws, seed)}
    unseen += [note.text for note in draws.notes if note.code == "noise_from_edges"]
    if question.endpoint not in made["shares"]:
        made["cannot_tell"] += [*unseen, f"{question.endpoint} was not measured in every draw, or never differed."]
        return Advice(made, None)
    volumes = draws.volumes_ml.flatten(0, 2)
    table = slice_frame_shares(volumes, question.endpoint)
    made["slices"] = [{"slice": z, "share": _number(share)} for z, share in enumerate(table.sum(dim=0).tolist())]
    made["frames"] = [{"frame": t, "share": _number(share)} for t, share in enumerate(table.sum(dim=1).tolist())]
    if isinstance(kspace, KSpace):
        try:
            lines = _lines(kspace, draws, question, seed)
            made["lines"] = {"count": question.lines, "sd": _number(lines.sd), "sd_after": _number(lines.sd_after),
                             "sd_random": _number(lines.sd_random), "files": []}
        except FirstreadError as error:
            unseen.append(f"Which lines to measure next cannot be told: {error}")
    if made["interval"] is not None and made["interval"]["interval"] is not None:
        made["interval"]["seen"] = _seen(made["interval"], made["shares"][question.endpoint]["sd"])
    return Advice({**made, "cannot_tell": [*made["cannot_tell"], *unseen]}, lines)


def advise_to_folder(reading: Path, folder: Path, source: Path | None = None, question: Question | None = None,
                     settings: Settings | None = None, *, overwrite: bool = False,
                     progress: Progress = lambda text: None) -> Advice:
    """Write ``advice.json``, ``advice.md`` and, from raw signal, ``next_lines`` for JSON, BART and ISMRMRD."""
    check_free(folder, marker=MARKER, overwrite=overwrite)
    advice = advise(reading, source, question, settings, progress=progress)
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        if advice.lines is not None and advice.lines.sd_after < advice.lines.sd:
            names = ["next_lines.json", "next_lines.cfl", "next_lines.h5"]
            for name in names:
                pattern.write(work / name, advice.lines.mask)
            advice = Advice({**advice.document, "lines": {**advice.document["lines"], "files": names}}, advice.lines)
        text = json.dumps(advice.document, indent=1, ensure_ascii=False, allow_nan=False)
        (work / MARKER).write_text(text + "\n", encoding="utf-8")
        (work / "advice.md").write_text(advice.text, encoding="utf-8")
    return advice


def read_document(folder: Path) -> dict[str, Any]:
    """The reading.json in a folder; InputError where there is none, FormatError where it is no reading."""
    path = folder / READING
    if not path.is_file():
        raise InputError(f"no {READING} in {folder.name or folder}", expected="a folder that `firstread read` wrote",
                         remedy="read the scan first, then advise on the result")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not document["schema"].startswith("firstread.reading/"):
            raise KeyError("schema")
        for key in ("input", "phenotypes", "warnings", "trail"):
            document[key]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{READING} without a valid {error}", expected="what `firstread read` writes",
                          remedy="read the scan again") from error
    return document


def _same_weights(chain: Chain, document: Mapping[str, Any]) -> None:
    read_with = {step["stage"]: step["weights"] for step in document["trail"] if step["weights"] is not None}
    if "segment" not in read_with and read_with.keys() & {"foreign_segment", "segment_by_plan"}:
        raise InputError("a reading with --model", expected="one by Firstread's own segmentation",
                         remedy="read the scan without --model, and ask for advice on that reading")
    for stage in chain.steps:
        made = weights_hash(stage)
        if stage.name in read_with and made != read_with[stage.name]:
            raise InputError(f"other weights of {stage.name} than those of the reading", expected="the same weights",
                             remedy="name them with --weights, or read the scan again")


def _shares(draws: Draws, seed: int) -> dict[str, Any]:
    """By phenotype its spread and the stages' shares; numbers missing in a draw, or that never differ, are left out."""
    found = {}
    for name in SHOWN:
        table = draws.values.get(name)
        if table is None or not bool(torch.isfinite(table).all()) or not bool((table != table.flatten()[0]).any()):
            continue
        shares = draws.shares(name, seed=seed)
        stages = [{"stage": share.stage, **{kind: [_number(v) for v in (e.value, e.lower, e.upper)]
                                            for kind, e in (("first", share.first), ("total", share.total))
                                            if e is not None}} for share in shares.stages]
        found[name] = {"sd": _number(shares.variance ** 0.5), "unit": draws.units[name], "stages": stages}
    return found


def _require_lacking(kspace: KSpace, count: int) -> None:
    """Raises InputError for more lines than some frame lacks, where any are left."""
    fewest = fewest_lacking(lines_of(kspace)[0])
    if 0 < fewest < count:
        raise InputError(f"{count} more lines in every frame", expected=f"at most the {fewest} that every frame still "
                         "lacks in some slice", remedy="correct --lines")


def _lines(kspace: KSpace, draws: Draws, question: Question, seed: int) -> NextLines:
    contributions = cast(torch.Tensor, draws.lines).flatten(0, 1)
    if contributions.shape[-1] != kspace.data.shape[-2]:
        raise InputError("a reconstruction that was cropped along the phase-encode axis", expected="as many rows as "
                         "lines", remedy="write the pattern by other means")
    return next_lines(contributions, lines_of(kspace)[0], question.lines, generator=Key(seed, "advise").generator(0))


def _interval(document: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    entry = document["phenotypes"].get(name)
    if entry is None or entry["value"] is None:
        return None
    return {"value": entry["value"], "unit": entry["unit"], "interval": entry["interval"], "level": entry["level"],
            "seen": None}


def _seen(interval: Mapping[str, Any], sd: float) -> float:
    """The draws' share of the interval's variance, taking half its width as so many standard deviations of a normal."""
    low, high = interval["interval"]
    normal = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor((1 + interval["level"]) / 2)).item()
    return min(1.0, (sd / max((high - low) / 2 / normal, 1e-12)) ** 2)


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
