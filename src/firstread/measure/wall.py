"""Wall thickness at end-diastole: distance from endocardial contour points to the nearest epicardial point.

Conventions of ukbb_cardiac: contours are smoothed by a spline (smoothing 0.05 per point and coordinate, in pixels) and
resampled to four times as many points; each endocardial point is joined to the nearest epicardial one in world
millimetres; a segment's value is the mean over its points. Contours run half-way between pixels of either class.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from firstread.measure.aha import Slice, base_to_apex, heart_axes, segment_of, thirds

SMALLEST_PIXELS = 10
SEGMENTS = 16


def outline(mask: Bool[np.ndarray, "y x"]) -> Float[np.ndarray, "n 2"]:
    """The longest closed contour of a mask as points (x, y) in pixels, half-way between inside and outside.

    Holes are filled first. The first point is not repeated; an empty mask gives no points.

    >>> import numpy as np
    >>> sorted(outline(np.pad(np.ones((1, 1), bool), 1)).tolist())
    [[0.5, 1.0], [1.0, 0.5], [1.0, 1.5], [1.5, 1.0]]
    """
    from contourpy import LineType, contour_generator
    from scipy import ndimage

    filled = ndimage.binary_fill_holes(mask)
    padded = np.pad(filled, 1).astype(float)
    lines = contour_generator(z=padded, line_type=LineType.Separate).lines(0.5)
    if not lines:
        return np.zeros((0, 2))
    longest = max(lines, key=len)
    return np.asarray(longest[:-1] - 1, dtype=float)


def smooth_contour(points: Float[np.ndarray, "n 2"], *, smoothing: float = 0.05,
                   factor: int = 4) -> Float[np.ndarray, "m 2"]:
    """A closed contour through a periodic cubic smoothing spline, at ``factor`` times as many points.

    The spline's residual sum of squares is ``smoothing`` per point and coordinate (pixel squared).
    """
    from scipy.interpolate import splev, splprep

    count = len(points)
    closed = np.concatenate((points, points[:1]))
    spline, _ = splprep(closed.T, u=np.arange(count + 1) / count, s=2 * smoothing * count, per=1)
    return np.stack(splev(np.arange(factor * count) / (factor * count), spline), axis=1)


def wall_thickness_mm(piece: Slice) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]] | None:
    """Endocardial points of one slice in millimetres, and the wall's thickness at each of them.

    None where the cavity or the muscle has fewer than 10 pixels. Where the muscle leaves the cavity open, both contours
    meet and the thickness is about zero, as in ukbb_cardiac.
    """
    from scipy.spatial import cKDTree

    if piece.cavity.sum() < SMALLEST_PIXELS or piece.muscle.sum() < SMALLEST_PIXELS:
        return None
    inner, outer = outline(piece.cavity), outline(piece.cavity | piece.muscle)
    if min(len(inner), len(outer)) < 8:
        return None
    endocardium = piece.to_mm(smooth_contour(inner))
    epicardium = piece.to_mm(smooth_contour(outer, factor=8))
    distance, _ = cKDTree(epicardium).query(endocardium)
    return endocardium, distance


def segment_thickness_mm(slices: list[Slice]) -> tuple[Float[np.ndarray, " 16"], float, str | None]:
    """Mean wall thickness of the 16 segments and of the whole wall, from the slices of one heart in any order.

    A segment that no point falls into is NaN. The third result says why there are no segments, or is None.
    """
    usable = [s for s in slices if s.cavity.sum() >= SMALLEST_PIXELS and s.muscle.sum() >= SMALLEST_PIXELS]
    empty = np.full(SEGMENTS, np.nan)
    if not usable:
        return empty, float("nan"), f"no slice has {SMALLEST_PIXELS} pixels of both cavity and muscle"
    ordered = base_to_apex(usable)
    measured = [wall_thickness_mm(piece) for piece in ordered]
    every = [found[1] for found in measured if found is not None]
    overall = float(np.concatenate(every).mean()) if every else float("nan")
    axes = heart_axes(ordered)
    if axes is None:
        return empty, overall, "no right ventricle touches the left one, so the septum cannot be located"
    total, count = np.zeros(SEGMENTS), np.zeros(SEGMENTS)
    for piece, third, found in zip(ordered, thirds(len(ordered)), measured, strict=True):
        if found is not None:
            segment = segment_of(found[0], piece.centre_mm(), axes, third) - 1
            total += np.bincount(segment, found[1], SEGMENTS)
            count += np.bincount(segment, minlength=SEGMENTS)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan), overall, None
