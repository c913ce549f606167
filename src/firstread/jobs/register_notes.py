"""What to know about a transform that a registration found: folds, places without an inverse, headers far apart."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from firstread.analyze.register_linear import overlap
from firstread.core.geometry import Grid, Transform
from firstread.core.records import Note
from firstread.ops.warp import apply

LITTLE, OFF_MM = 0.1, 0.1  # share of the fixed image that the headers let overlap; mm


def round_trip(forward: Transform, backward: Transform, grid: Grid) -> tuple[float, float]:
    """How far ``T^-1(T(x))`` lies from x at the voxels of the fixed image: mean and largest, in mm.

    >>> from firstread.core.geometry import Grid
    >>> round_trip(Transform.identity(), Transform.identity(), Grid.from_spacing((2, 2, 2), (1.0, 1.0, 1.0)))
    (0.0, 0.0)
    """
    total, largest = 0.0, 0.0
    for z in range(grid.shape[0]):
        points = grid.crop((z, 0, 0), (1, *grid.shape[1:])).points_mm()
        off = (apply(backward, apply(forward, points)) - points).norm(dim=-1)
        total, largest = total + float(off.mean()) / grid.shape[0], max(largest, float(off.max()))
    return total, largest


def notes_of(forward: Transform, backward: Transform, jacobian: Float[Tensor, "batch z y x"], *, name: str = ""
             ) -> tuple[Note, ...]:
    """Warnings about folds and about places where the inverse is none; name: of the image, where there are several."""
    of = f"{name}: " if name else ""
    found = []
    if folds := int((jacobian <= 0).sum()):
        found.append(Note("folded", f"{of}The map folds in {folds} voxels of {jacobian.numel()}: what lies there is "
                          "shown twice or not at all, and has no inverse."))
    if (grid := backward.from_grid) is not None:
        off = sum(int(((apply(forward, apply(backward, points)) - points).norm(dim=-1) > OFF_MM).sum())
                  for points in (grid.crop((z, 0, 0), (1, *grid.shape[1:])).points_mm() for z in range(grid.shape[0])))
        if off:
            share = 100 * off / (grid.shape[0] * grid.shape[1] * grid.shape[2])
            found.append(Note("not_inverted", f"{of}For {share:.2g} % of the voxels no inverse was found to {OFF_MM} "
                              "mm: the map folds or changes too fast there."))
    return tuple(found)


def headers_apart(fixed: Grid, moving: Grid) -> tuple[Note, ...]:
    """A warning where the headers of two images in the patient hardly let them overlap."""
    share = overlap(fixed, moving, Transform.identity().matrix[0])
    if share >= LITTLE or fixed.frame != "patient" or moving.frame != "patient":
        return ()
    return (Note("headers_apart", f"By their headers only {100 * share:.0f} % of the fixed image lies in the moving "
                 "one: they were brought together by their content. Check that they belong together."),)
