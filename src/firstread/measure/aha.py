"""The 16 segments of the American Heart Association's model, located from the right ventricle.

Conventions of ukbb_cardiac: slices with cavity and muscle are cut into basal, middle and apical thirds at ceil(n/3)
and ceil(2n/3); the septum's midpoint is found where the right ventricle touches the epicardium of the middle slice;
``angle = atan2(d . lv_to_septum, d . inferior_to_anterior)``; basal and middle sectors are 60 degrees wide with
segment 1 (and 7) at [-30, 30), apical ones 90 degrees with segment 13 at [-45, 45). Segment 17, the apex itself, is not
used. One thing differs: the base is the end at which the heart is wide (in ukbb_cardiac the upper end of the patient),
so that a stack whose header does not know the patient's orientation is read in the right order too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

BASAL, MIDDLE, APICAL = 0, 1, 2


@dataclass(frozen=True)
class Slice:
    """Hard labels of one slice and where it lies.

    cavity, muscle, right: bool ``[y, x]``; affine: index (x, y, 0) to LPS+ millimetres, ``[4, 4]``.
    """

    cavity: Any
    muscle: Any
    right: Any
    affine: Any

    def to_mm(self, points_xy: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
        """In-plane indices (x, y) to millimetres."""
        return points_xy @ self.affine[:3, :2].T + self.affine[:3, 3]

    def centre_mm(self) -> Float[np.ndarray, " 3"]:
        """Centre of the cavity in millimetres."""
        return self.to_mm(np.argwhere(self.cavity)[:, ::-1].mean(axis=0)[None])[0]


@dataclass(frozen=True)
class HeartAxes:
    """Unit vectors in LPS+ millimetres: apex to base, cavity to septum, inferior to anterior."""

    apex_to_base: Float[np.ndarray, " 3"]
    lv_to_septum: Float[np.ndarray, " 3"]
    inferior_to_anterior: Float[np.ndarray, " 3"]


def base_to_apex(slices: list[Slice]) -> list[Slice]:
    """The slices in order from base to apex: along the stack, starting at the end where the heart is wide.

    Wide means the area of cavity, muscle and right ventricle, regressed on the position along the stack's normal; where
    that does not change, the upper end of the patient is the base.
    """
    normal = _normal(slices)
    place = np.array([s.centre_mm() @ normal for s in slices])
    area = np.array([(s.cavity | s.muscle | s.right).sum() * _pixel_mm2(s) for s in slices])
    trend = np.sum((place - place.mean()) * (area - area.mean()))
    upward = trend >= -1e-9 * np.abs(place).max() * area.max()
    return [slices[i] for i in np.argsort(-place if upward else place, kind="stable")]


def apex_points_up(ordered: list[Slice]) -> bool:
    """Whether slices ordered from base to apex climb in the patient, which a heart's hardly do: a header to doubt."""
    climb = ordered[-1].centre_mm() - ordered[0].centre_mm()
    return bool(climb[2] > 0.3 * np.linalg.norm(climb))


def thirds(count: int) -> list[int]:
    """Basal (0), middle (1) or apical (2) for each of ``count`` slices from base to apex.

    >>> thirds(7)
    [0, 0, 0, 1, 1, 2, 2]
    """
    first, second = math.ceil(count / 3), math.ceil(2 * count / 3)
    return [BASAL if i < first else MIDDLE if i < second else APICAL for i in range(count)]


def heart_axes(ordered: list[Slice]) -> HeartAxes | None:
    """The axes of the left ventricle from its slices, base first; None where no slice touches a right ventricle.

    The septum is taken from the slice nearest to the middle in which the right ventricle, dilated by up to three
    pixels, reaches the epicardium; ``inferior_to_anterior = apex_to_base x lv_to_septum``.
    """
    normal = _normal(ordered)
    span = ordered[0].centre_mm() - ordered[-1].centre_mm()
    up = normal if span @ normal >= 0 else -normal
    middle = (len(ordered) - 1) / 2
    for index in sorted(range(len(ordered)), key=lambda i: (abs(i - middle), i)):
        septum = _septum_mm(ordered[index])
        if septum is None:
            continue
        toward = septum - ordered[index].centre_mm()
        toward = toward - (toward @ up) * up
        if np.linalg.norm(toward) > 1e-6:
            toward = toward / np.linalg.norm(toward)
            return HeartAxes(up, toward, np.cross(up, toward))
    return None


def segment_of(points_mm: Float[np.ndarray, "n 3"], centre_mm: Float[np.ndarray, " 3"], axes: HeartAxes,
               third: int) -> Int[np.ndarray, " n"]:
    """The AHA segment (1 to 16) of points in a slice of the basal (0), middle (1) or apical (2) third.

    >>> import numpy as np
    >>> axes = HeartAxes(np.array([0, 0, 1.0]), np.array([-1.0, 0, 0]), np.array([0, -1.0, 0]))
    >>> segment_of(np.array([[0, -9.0, 0], [-9, -1, 0], [-9, 1, 0], [0, 9, 0]]), np.zeros(3), axes, BASAL).tolist()
    [1, 2, 3, 4]
    """
    offset = points_mm - centre_mm
    angle = np.degrees(np.arctan2(offset @ axes.lv_to_septum, offset @ axes.inferior_to_anterior))
    if third == APICAL:
        return 13 + (np.floor((angle + 45) / 90).astype(int) % 4)
    return (1 if third == BASAL else 7) + (np.floor((angle + 30) / 60).astype(int) % 6)


def _septum_mm(piece: Slice) -> np.ndarray | None:
    """Midpoint of the epicardial border that faces the right ventricle: mean direction as seen from the cavity."""
    from scipy import ndimage

    heart = piece.cavity | piece.muscle
    if not piece.right.any() or not piece.cavity.any():
        return None
    border = heart & ~ndimage.binary_erosion(heart)
    reach = piece.right
    for _ in range(3):
        reach = ndimage.binary_dilation(reach, np.ones((3, 3), bool))
        touching = border & reach
        if touching.sum() >= 3:
            centre = piece.centre_mm()
            offset = piece.to_mm(np.argwhere(touching)[:, ::-1].astype(float)) - centre
            distance = np.linalg.norm(offset, axis=1, keepdims=True)
            return centre + (offset / np.maximum(distance, 1e-9)).mean(axis=0) * distance.mean()
    return None


def _normal(slices: list[Slice]) -> np.ndarray:
    """Unit normal of the first slice's plane, pointing up in the patient (or back, where the plane is upright)."""
    normal = np.cross(slices[0].affine[:3, 0], slices[0].affine[:3, 1])
    normal = normal / np.linalg.norm(normal)
    leading = next(value for value in normal[::-1] if abs(value) > 1e-6)
    return normal if leading > 0 else -normal


def _pixel_mm2(piece: Slice) -> float:
    return float(np.linalg.norm(np.cross(piece.affine[:3, 0], piece.affine[:3, 1])))
