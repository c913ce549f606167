"""Contours of a label map as vector paths, for the page."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Integer

HEART = (("LV endocardium", (1,)), ("LV epicardium", (1, 2)), ("RV endocardium", (3,)))


def outlines(mask: Bool[np.ndarray, "y x"]) -> list[Float[np.ndarray, "n 2"]]:
    """Closed outlines (x, y) of a mask, in pixels; pixel centres are whole numbers.

    The staircase of pixel edges is smoothed by moving each vertex to the mean of itself (1/2) and its neighbours
    (1/4 each), twice; outlines of one or two pixels stay as they are.

    >>> outlines(np.pad(np.ones((3, 3), bool), 2))[0].mean(axis=0).tolist()
    [3.0, 3.0]
    """
    from contourpy import contour_generator

    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return []
    columns = np.flatnonzero(mask.any(axis=0))
    padded = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1).astype(np.float64)
    corner = np.array([columns[0] - 1.0, rows[0] - 1.0])
    lines = [np.asarray(line)[:-1] + corner for line in contour_generator(z=padded).lines(0.5)]
    return [_smooth(_smooth(line)) if len(line) > 8 else line for line in lines]


def contour_names(names: tuple[str, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """Which outlines to draw for label names: the heart's borders, otherwise one a class.

    >>> contour_names(("background", "lesion"))
    [('lesion', (1,))]
    """
    if names == ("background", "LV cavity", "LV myocardium", "RV cavity"):
        return list(HEART)
    return [(name, (index,)) for index, name in enumerate(names) if index > 0]


def encode(lines: list[Float[np.ndarray, "_ 2"]], *, step: int = 1) -> str:
    """Outlines as text: tenths of a pixel, ``x y dx dy …``, outlines split by ``;``; every ``step``-th vertex.

    >>> encode([np.array([[1.0, 2.0], [3.0, 2.0], [3.0, 4.0]])])
    '10 20 20 0 0 20'
    """
    return ";".join(_text(line[::step] if len(line) > 3 * step else line) for line in lines)


def region_of_interest(labels: Integer[np.ndarray, "time z y x"], *, margin: float = 0.3) -> list[int] | None:
    """The box ``[x0, y0, x1, y1)`` around all labels, wider by ``margin`` of its longer side, inside the picture."""
    inside = np.asarray(np.any(labels > 0, axis=(0, 1)))
    if not inside.any():
        return None
    ys, xs = np.nonzero(inside.any(axis=1))[0], np.nonzero(inside.any(axis=0))[0]
    half = (0.5 + margin) * max(ys[-1] - ys[0] + 1, xs[-1] - xs[0] + 1)
    box = []
    for low, high, size in ((xs[0], xs[-1], inside.shape[1]), (ys[0], ys[-1], inside.shape[0])):
        centre = (low + high + 1) / 2
        box.append((max(0, round(centre - half)), min(size, round(centre + half))))
    return [box[0][0], box[1][0], box[0][1], box[1][1]]


def _smooth(points: np.ndarray) -> np.ndarray:
    return (2 * points + np.roll(points, 1, axis=0) + np.roll(points, -1, axis=0)) / 4


def _text(points: np.ndarray) -> str:
    tenths = np.round(points * 10).astype(int)
    return " ".join(map(str, np.diff(tenths, axis=0, prepend=np.zeros((1, 2), int)).reshape(-1).tolist()))
