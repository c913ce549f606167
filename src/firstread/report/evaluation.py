"""What ``firstread segment evaluate`` writes: a table of numbers, their summary, a page with the worst cases first."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from firstread.report.pictures import picture
from firstread.report.templates import environment

MARKER = "metrics.json"
SCHEMA = "firstread.segment-evaluation/1"
STATEMENT = "Research software. Not for clinical use."
COLOURS = np.array([[0, 0, 0], [88, 150, 96], [64, 120, 220], [216, 82, 66], [232, 184, 72]], dtype=np.uint8)
PANEL = 260  # pixels of either side of a picture


@dataclass(frozen=True)
class Row:
    """One label of one case: numbers by metric, NaN where there is none."""

    case: str
    subject: str
    frame: int
    label: int
    name: str
    values: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Worst:
    """A case to look at: what ranks it, and the slice where most voxels differ, 0 to 4 as :func:`mistakes` says."""

    case: str
    frame: int
    value: float
    slice: int
    mistakes: Integer[np.ndarray, "y x"]
    aspect: float = 1.0


def mistakes(truth: Integer[np.ndarray, "*space"], predicted: Integer[np.ndarray, "*space"]
             ) -> Integer[np.ndarray, "*space"]:
    """0 where both say background, 1 the same label, 2 missed, 3 added, 4 another label.

    >>> mistakes(np.array([0, 1, 1, 0, 2]), np.array([0, 1, 0, 1, 1])).tolist()
    [0, 1, 2, 3, 4]
    """
    made = np.where(truth == predicted, np.where(truth > 0, 1, 0), 4)
    made[(truth > 0) & (predicted == 0)] = 2
    made[(truth == 0) & (predicted > 0)] = 3
    return made.astype(np.uint8)


def write(folder: Path, rows: Sequence[Row], document: Mapping[str, Any], worst: Sequence[Worst]) -> None:
    """``metrics.csv``, ``metrics.json`` and ``page.html`` into ``folder``, which exists."""
    metrics = list(document["metrics"])
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["case", "subject", "frame", "label", "name", *metrics])
        for row in rows:
            table.writerow([row.case, row.subject, row.frame, row.label, row.name,
                            *(f"{row.values[m]:.6g}" if math.isfinite(row.values[m]) else "" for m in metrics)])
    (folder / MARKER).write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
                                 encoding="utf-8")
    (folder / "page.html").write_text(page(rows, document, worst), encoding="utf-8")


def page(rows: Sequence[Row], document: Mapping[str, Any], worst: Sequence[Worst]) -> str:
    """The page; no network, no script."""
    pages = environment()
    pages.filters["number"] = _number
    pages.filters["interval"] = _interval
    ranked = sorted(rows, key=lambda r: (r.values["dice"] if math.isfinite(r.values["dice"]) else 2.0, r.case))
    return pages.get_template("evaluation.html").render(
        statement=STATEMENT, document=document, rows=ranked, strips=strips(rows),
        worst=[{"case": w.case, "frame": w.frame, "value": w.value, "slice": w.slice + 1, "src": _picture(w)}
               for w in worst])


def strips(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For each label the Dice of every case, as places from 0 to 100."""
    names = list(dict.fromkeys(row.name for row in rows))
    values = {name: [r.values["dice"] for r in rows if r.name == name and math.isfinite(r.values["dice"])]
              for name in names}
    return [{"name": name, "dots": [{"x": round(100 * v, 2), "y": 3 + 10 * (n * 0.618 % 1)}
                                    for n, v in enumerate(found)]} for name, found in values.items() if found]


def _picture(worst: Worst) -> str:
    from PIL import Image as Pillow

    rows, columns = (np.flatnonzero(worst.mistakes.any(axis=axis)) for axis in (1, 0))
    margin = 4
    shown = worst.mistakes[max(0, rows[0] - margin):rows[-1] + margin + 1,
                           max(0, columns[0] - margin):columns[-1] + margin + 1]
    height, width = shown.shape[0] * worst.aspect, shown.shape[1]
    factor = PANEL / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    made = Pillow.fromarray(COLOURS[shown]).resize(size, Pillow.Resampling.NEAREST)
    panel = Pillow.new("RGB", (PANEL, PANEL))
    panel.paste(made, ((PANEL - size[0]) // 2, (PANEL - size[1]) // 2))
    return picture(np.asarray(panel))


def _number(value: float | None, unit: str = "") -> str:
    """Three decimals for shares, two for mm and mL; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{2 if unit else 3}f}"


def _interval(found: Mapping[str, Any], unit: str = "") -> str:
    text = _number(found["mean"], unit)
    return text if found["lower"] is None else f"{text} [{_number(found['lower'], unit)}, " \
        f"{_number(found['upper'], unit)}]"
