"""Pieces of the surface of a hard mask, between its voxels: which corner patterns carry surface, and how much of it.

A voxel corner with both inside and outside among its 8 voxels (4 pixels in a plane) carries a piece of surface. Which
of the 8 are inside is a code of 8 bits, the first voxel (least z, y, x) the highest bit; the piece is the one that
marching cubes draws through the midpoints between inside and outside voxels.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, UInt8

from firstread.core.errors import SettingError

Point = tuple[float, ...]


def corner_codes(mask: Bool[np.ndarray, "*space"]) -> UInt8[np.ndarray, "*corners"]:
    """The code of every voxel corner, the outer ones included: one longer than ``mask`` along each axis.

    >>> corner_codes(np.array([[True, True]])).tolist()
    [[1, 3, 2], [4, 12, 8]]
    """
    codes = np.zeros([n + 1 for n in mask.shape], dtype=np.uint8)
    last = 2**mask.ndim - 1
    for place, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        seen = tuple(slice(1 - c, 1 - c + n) for c, n in zip(corner, mask.shape, strict=True))
        codes[seen] |= mask.view(np.uint8) << np.uint8(last - place)
    return codes


@lru_cache(maxsize=64)
def element_sizes(spacing_mm: tuple[float, ...]) -> Float[np.ndarray, " codes"]:
    """How much surface each code carries: mm² where ``spacing_mm`` has three axes, mm of contour where it has two.

    Where a face of the cube is ambiguous the fewer kind of the 8 voxels is cut apart; polygons of more than three
    corners are cut into the fan that is largest at unit spacing. (These two rules give the same table as DeepMind's
    surface-distance.) Source: Lorensen and Cline 1987.

    >>> [round(float(area), 4) for area in element_sizes((1.0, 1.0, 1.0))[[0, 1, 3, 255]]]
    [0.0, 0.2165, 0.7071, 0.0]
    """
    axes = len(spacing_mm)
    if axes not in (2, 3):
        raise SettingError(f"surface elements of {axes} axes", expected="two or three", remedy="count surface voxels")
    codes, first, second = _triangles() if axes == 3 else _lines()
    scale = np.array(spacing_mm, dtype=np.float64)
    sizes = np.linalg.norm(first * scale if second is None else np.cross(first * scale, second * scale) / 2, axis=1)
    found = np.bincount(codes, sizes, minlength=2**2**axes)
    found.setflags(write=False)
    return found


Elements = tuple[list[int], Float[np.ndarray, "n axis"], Float[np.ndarray, "n axis"] | None]


@lru_cache
def _lines() -> Elements:
    """The code and the vector of every contour segment of a square."""
    pieces = [(code, segment) for code in range(1, 15) for segment in _segments(_inside(code, 2))]
    return [code for code, _ in pieces], np.array([np.subtract(*segment) for _, segment in pieces]), None


@lru_cache
def _triangles() -> Elements:
    """The code and two sides of every triangle of a cube's surface."""
    codes, first, second = [], [], []
    for code in range(1, 255):
        for polygon in _polygons(_inside(code, 3)):
            turned = [polygon[start:] + polygon[:start] for start in range(len(polygon))]
            rays = max((np.array(p[1:]) - p[0] for p in turned), key=lambda r: round(_fan(r), 9))
            codes += [code] * (len(rays) - 1)
            first.append(rays[:-1])
            second.append(rays[1:])
    return codes, np.concatenate(first), np.concatenate(second)


def _inside(code: int, axes: int) -> dict[tuple[int, ...], bool]:
    """By corner, whether it is inside."""
    bits = (bool(code >> place & 1) for place in reversed(range(2**axes)))
    return dict(zip(product((0, 1), repeat=axes), bits, strict=True))


def _fan(rays: Float[np.ndarray, "ray axis"]) -> float:
    """Area of the triangles between neighbouring rays."""
    return float(np.linalg.norm(np.cross(rays[:-1], rays[1:]), axis=1).sum() / 2)


def _segments(inside: dict[tuple[int, ...], bool], *, kind: bool = True) -> list[tuple[Point, Point]]:
    """Where the contour crosses a square; where it is ambiguous, corners of ``kind`` are cut off."""
    ring = [list(inside)[i] for i in (0, 1, 3, 2)]
    middles = [tuple((a + b) / 2 for a, b in zip(ring[i], ring[i - 3], strict=True)) for i in range(4)]
    crossed = [middles[i] for i in range(4) if inside[ring[i]] != inside[ring[i - 3]]]
    if len(crossed) == 4:
        return [(middles[i - 1], middles[i]) for i in range(4) if inside[ring[i]] == kind]
    return [(crossed[0], crossed[1])] if crossed else []


def _polygons(inside: dict[tuple[int, ...], bool]) -> list[list[Point]]:
    """The closed polygons that the segments on the six faces of the cube make."""
    fewer = sum(inside.values()) <= 4
    near: dict[Point, list[Point]] = {}
    for axis, side in product(range(3), (0, 1)):
        face = {corner: within for corner, within in inside.items() if corner[axis] == side}
        for one, other in _segments(face, kind=fewer):
            near.setdefault(one, []).append(other)
            near.setdefault(other, []).append(one)
    polygons = []
    while near:
        polygon = [min(near)]
        while (links := near.pop(polygon[-1], None)) is not None:
            polygon.append(links[0] if links[0] in near else links[1])
        polygons.append(polygon[:-1])
    return polygons
