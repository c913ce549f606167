"""Planes of volumes that lie on one grid, and what is laid over each other in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer, Num, UInt8

from firstread.core.geometry import Grid
from firstread.report.pictures import picture

PANEL, SQUARES, LOG2_RANGE = 230, 8, 1.0  # pixels of a picture; fields of the checkerboard; volume halved to doubled


@dataclass(frozen=True)
class Plane:
    """Which plane; spacing: of its pixels (rows, columns)."""

    name: str
    spacing: tuple[float, ...]

    def uri(self, pixels: UInt8[np.ndarray, "y x"] | UInt8[np.ndarray, "y x 3"], *, size: int = PANEL) -> str:
        """A picture of ``size`` pixels along its longer side, true to the spacing."""
        from PIL import Image as Pillow

        extent = np.array(pixels.shape[:2]) * np.array(self.spacing)
        height, width = (max(1, round(n)) for n in extent * (size / extent.max()))
        return picture(np.asarray(Pillow.fromarray(np.ascontiguousarray(pixels)).resize((width, height))))


def cuts(volumes: Sequence[Num[np.ndarray, "z y x"]], grid: Grid, *, through: Sequence[float] | None = None
         ) -> Iterator[tuple[Plane, list[np.ndarray]]]:
    """The plane of every volume across each axis (one for a single slice), upright.

    through: voxel index (z, y, x) that the planes pass; default: the middle.
    """
    place = [(n - 1) / 2 for n in grid.shape] if through is None else through
    marks = [np.zeros(grid.shape, bool)]
    z, y, x = (min(n - 1, max(0, round(p))) for p, n in zip(place, grid.shape, strict=True))
    marks[0][z, y, x] = True
    (*turned, mark), spacing = upright([*volumes, *marks], grid)
    found = [int(axis[0]) for axis in np.nonzero(mark)]
    names = ("axial", "coronal", "sagittal") if grid.frame == "patient" else ("across z", "across y", "across x")
    for axis, name in enumerate(names):
        shape = turned[0].shape
        if min(shape) == 1 and shape[axis] > 1:
            continue
        plane = Plane(name, tuple(s for k, s in enumerate(spacing) if k != axis))
        yield plane, [np.take(volume, found[axis], axis=axis) for volume in turned]


def upright(volumes: list[np.ndarray], grid: Grid) -> tuple[list[np.ndarray], list[float]]:
    """Volumes of a patient with axes feet-ward, back-ward and left-ward, as pictures are shown, and their spacing.

    >>> grid = Grid.from_spacing((2, 1, 1), (3.0, 1.0, 1.0))
    >>> turned, spacing = upright([np.array([[[1]], [[2]]])], grid)
    >>> turned[0].ravel().tolist(), spacing
    ([2, 1], [3.0, 1.0, 1.0])
    """
    spacing = grid.spacing_mm[0].tolist()
    if grid.frame != "patient":
        return volumes, spacing
    from nibabel.orientations import apply_orientation, io_orientation

    turns = io_orientation(grid.affine[0].numpy())
    order = [int(np.flatnonzero(turns[:, 0] == world)[0]) for world in (2, 1, 0)]  # array axes x, y, z along S, P, L
    turned = [apply_orientation(v.transpose(2, 1, 0), turns).transpose(2, 1, 0)[::-1] for v in volumes]
    return turned, [spacing[2 - axis] for axis in order]


def overlay(fixed: UInt8[np.ndarray, "y x"], moving: UInt8[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x 3"]:
    """Fixed in green, moving in magenta: grey where both agree.

    >>> overlay(np.full((1, 1), 200, np.uint8), np.full((1, 1), 100, np.uint8)).tolist()
    [[[100, 200, 100]]]
    """
    return np.stack((moving, fixed, moving), axis=-1)


def checkerboard(fixed: UInt8[np.ndarray, "y x"], moving: UInt8[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x"]:
    """Fields of the fixed and of the moving image in turn: edges run on where they are aligned."""
    size = max(1, max(fixed.shape) // SQUARES)
    y, x = np.indices(fixed.shape) // size
    return np.where((y + x) % 2 == 0, fixed, moving)


def tinted(grey: UInt8[np.ndarray, "y x"], labels: Integer[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x 3"]:
    """Labels in colour over a grey picture; 0 is clear.

    >>> tinted(np.full((1, 1), 200, np.uint8), np.zeros((1, 1), np.int64)).tolist()
    [[[200, 200, 200]]]
    """
    from matplotlib import colormaps

    colours = np.asarray(colormaps["tab10"].colors)[(labels - 1) % 10] * 255
    shown = np.repeat(grey[..., None].astype(np.float64), 3, axis=-1)
    return np.where(labels[..., None] > 0, 0.5 * shown + 0.5 * colours, shown).round().astype(np.uint8)


def growth(jacobian: Num[np.ndarray, "y x"]) -> UInt8[np.ndarray, "y x 3"]:
    """log2 of the Jacobian, blue where volume shrinks by half, red where it doubles; folds black."""
    from matplotlib import colormaps

    level = np.log2(np.clip(jacobian, 1e-3, None))
    colours = (colormaps["coolwarm"](np.clip(level / LOG2_RANGE, -1, 1) / 2 + 0.5)[..., :3] * 255).round()
    colours[jacobian <= 0] = 0
    return colours.astype(np.uint8)
