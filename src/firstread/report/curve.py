"""The volume curves as a drawing: scales, ticks and paths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 480, 242
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 26, 40


@dataclass(frozen=True)
class Line:
    """One curve: name for the legend, kind for its colour, path, and the points (x, y) by frame."""

    name: str
    kind: str
    path: str
    points: list[tuple[float, float] | None]
    values: list[float | None]


@dataclass(frozen=True)
class Drawing:
    """All that the template draws; x holds the place of every frame."""

    lines: list[Line]
    x: list[float]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    x_title: str
    marks: list[tuple[str, float]]


def drawing(curves: Mapping[str, Sequence[float | None]], times_s: Sequence[float | None] | None,
            marks: Mapping[str, int | None]) -> Drawing | None:
    """The volume curves (``LV_volume_ml``, ``RV_volume_ml``) over time in ms, or over frames where times are unknown.

    None where there are fewer than two frames.
    """
    volumes = {name: list(values) for name, values in curves.items() if name.endswith("_volume_ml") and len(values) > 1}
    known = [v for values in volumes.values() for v in values if v is not None]
    if not known:
        return None
    count = max(len(values) for values in volumes.values())
    timed = times_s is not None and len(times_s) == count and all(t is not None for t in times_s)
    places = [float(i + 1) for i in range(count)]
    if timed and times_s is not None:
        places = [1000 * float(t or 0) for t in times_s]
    first, last = min(places), max(places)
    x = [LEFT + (WIDTH - LEFT - RIGHT) * (p - first) / ((last - first) or 1) for p in places]
    y_marks = ticks(0.0, max(known) * 1.05)
    top = y_marks[-1] or 1.0

    def height(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top

    lines = []
    for name, values in volumes.items():
        points = [None if v is None else (round(x[i], 1), round(height(v), 1)) for i, v in enumerate(values)]
        short = name.removesuffix("_volume_ml")
        lines.append(Line(short, short.lower(), path(points), points, values))
    x_marks = [t for t in ticks(first, last) if first <= t <= last and (timed or t == round(t))]
    return Drawing(
        lines, [round(v, 1) for v in x],
        [(round(LEFT + (WIDTH - LEFT - RIGHT) * (t - first) / ((last - first) or 1), 1), f"{t:g}") for t in x_marks],
        [(round(height(t), 1), f"{t:g}") for t in y_marks], "Time after the R wave (ms)" if timed else "Frame",
        [(name, round(x[index], 1)) for name, index in marks.items() if index is not None and 0 <= index < count])


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers that cover ``low`` to ``high`` in steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0.0, 163.0)
    [0.0, 50.0, 100.0, 150.0, 200.0]
    """
    raw = max(high - low, 1e-9) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [float(step * i) for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def path(points: Sequence[tuple[float, float] | None]) -> str:
    """An SVG path through the points, broken where one is missing.

    >>> path([(0.0, 1.0), (2.0, 3.0), None, (4.0, 5.0)])
    'M0 1L2 3M4 5'
    """
    pieces, pen_down = [], False
    for point in points:
        if point is not None:
            pieces.append(f"{'L' if pen_down else 'M'}{point[0]:g} {point[1]:g}")
        pen_down = point is not None
    return "".join(pieces)
