"""advice.md: an advice document (``firstread.advice/1``) as a short page of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SCHEMA = "firstread.advice/1"
QUALITY = {
    "few_slices": ("acquisition", "acquire slices from the valve plane to the apex"),
    "missing_slice": ("acquisition", "acquire the missing slice again"),
    "short_beats": ("acquisition", "acquire again, with spare heartbeats or fewer views per beat"),
    "large_pixels": ("acquisition", "acquire pixels of 2.5 mm or less"),
    "assumed_spacing": ("input", "state the spacing with --spacing"),
    "not_at_r_wave": ("acquisition", "trigger on the R wave, or export the sequence from its first frame"),
    "few_pixels": ("segmentation", "look at the contours at end-diastole and correct them"),
    "broken_ventricle": ("segmentation", "look at the slices without a left ventricle between others and correct them"),
    "no_right_ventricle": ("segmentation", "look at the middle slice and correct the right ventricle"),
    "negative_stroke_volume": ("segmentation", "look at the ventricle in the end-diastolic and the end-systolic frame "
                               "and correct it"),
    "diastole_not_largest": ("segmentation", "look at the first frame and the one of largest volume"),
    "shifted_input": ("acquisition or reconstruction", "calibrate on scans of this kind (firstread calibrate)"),
    "not_a_heart_stack": ("input", "give a short-axis stack"),
    "no_intervals": ("calibration", "calibrate intervals for these weights"),
}


def quality_advice(warnings: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Which stage each warning that is known here comes from, and what to do.

    >>> quality_advice([{"code": "few_slices", "text": "4 slices."}])[0]["stage"]
    'acquisition'
    """
    return [{"code": w["code"], "text": w["text"], "stage": QUALITY[w["code"]][0], "do": QUALITY[w["code"]][1]}
            for w in warnings if w["code"] in QUALITY]


def advice_text(document: Mapping[str, Any]) -> str:
    """The advice as Markdown that also reads well in a terminal."""
    name = document["endpoint"]
    parts = [f"# Advice on {name}\n", _interval(name, document["interval"])]
    if document["quality"]:
        parts.append("\n## Quality checks\n\n" + "\n".join(
            f"- {q['text']} Comes from: {q['stage']}. To do: {q['do']}." for q in document["quality"]))
    if document["shares"]:
        parts.append("\n## Where the spread comes from\n\n" + _shares(document))
    if document["slices"]:
        parts.append("\n## What to look at or acquire next\n")
        parts.append(f"Shares of the variance of {name} between the draws (slices and frames counted from 0):\n")
        parts.append("- slices: " + _ranked(document["slices"], "slice"))
        parts.append("- frames: " + _ranked(document["frames"], "frame"))
    if document["lines"]:
        parts.append(_lines(name, document["lines"]))
    if document["cannot_tell"]:
        parts.append("\n## What this cannot tell\n\n" + "\n".join(f"- {text}" for text in document["cannot_tell"]))
    return "\n".join(parts) + "\n\nResearch software. Not for clinical use.\n"


def _interval(name: str, interval: Mapping[str, Any] | None) -> str:
    if interval is None:
        return f"{name} was not measured."
    unit = interval["unit"]
    if interval["interval"] is None:
        return f"{name} is {interval['value']:.1f} {unit}; no interval was made."
    low, high = interval["interval"]
    level = f"{100 * interval['level']:.0f} % interval"
    text = f"{name} is {interval['value']:.1f} {unit}, {level} {low:.1f} to {high:.1f}."
    if interval["seen"] is not None:
        text += (f"\nThe draws below show {100 * interval['seen']:.0f} % of its variance; the rest is error that they "
                 "do not show and that calibration found.")
    return text


def _shares(document: Mapping[str, Any]) -> str:
    design = document["design"]
    drawn = [f"{design['noise']} draws of the measurement noise"] if design["noise"] > 1 else []
    drawn += [f"{len(design['methods'])} reconstructions ({', '.join(design['methods'])})"] if design["methods"] else []
    drawn += [f"{design['members']} members of the segmentation"]
    rows = ["| number | spread (sd) | stage | first-order share | total share |", "|---|---|---|---|---|"]
    for name, entry in document["shares"].items():
        for stage in entry["stages"]:
            rows.append(f"| {name} | {entry['sd']:.2g} {entry['unit']} | {stage['stage']} | {_percent(stage['first'])} "
                        f"| {_percent(stage['total'])} |")
    return (" x ".join(drawn) + ", all combinations; shares in % with 90 % bootstrap intervals over the draws.\n\n"
            + "\n".join(rows))


def _percent(estimate: Sequence[float] | None) -> str:
    if estimate is None or estimate[0] is None:
        return "unknown"
    value, low, high = (round(100 * v) for v in estimate)
    return f"{value} [{low}, {high}]"


def _ranked(table: Sequence[Mapping[str, Any]], what: str, most: int = 4) -> str:
    best = sorted(table, key=lambda entry: -entry["share"])[:most]
    return ", ".join(f"{entry[what]} ({100 * entry['share']:.0f} %)" for entry in best)


def _lines(name: str, lines: Mapping[str, Any]) -> str:
    files = f" ({', '.join(lines['files'])})" if lines["files"] else ""
    begin, end, random = (f"{lines[key]:.2g}" for key in ("sd", "sd_after", "sd_random"))
    said = f"- lines: {lines['count']} more in every frame{files}; to first order the spread of {name} between\n  the "
    if lines["sd_after"] < lines["sd"]:
        return f"{said}reconstructions falls from {begin} to {end} (with as many at random: {random})"
    return (f"{said}reconstructions does not fall ({begin} now, {end} then, with as many at random {random}): "
            "these lines are not\n  seen to help, and no pattern is written")
