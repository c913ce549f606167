"""Prompts: what a user points at, so that it be segmented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from firstread.core.errors import GeometryError, SettingError
from firstread.core.geometry import Grid
from firstread.core.records import Record, Rows


@dataclass(frozen=True, eq=False)
class Prompts(Record):
    """Clicks and boxes on one object of each batch row, in LPS+ millimetres (those of the image's grid).

    points_mm: ``[batch, n, 3]``; positive: whether a click lies on the object or on what is none of it, ``[batch, n]``;
    boxes_mm: two opposite corners ``[batch, m, 2, 3]`` of boxes along the image's axes; frame: of time, the one that
    was prompted, ``[batch]``; name: of the object.
    """

    points_mm: Float[Tensor, "batch n 3"]
    positive: Bool[Tensor, "batch n"]
    boxes_mm: Float[Tensor, "batch m 2 3"]
    frame: Int[Tensor, " batch"]
    name: str = "object"

    def __post_init__(self):
        if self.positive.shape != self.points_mm.shape[:2]:
            raise SettingError(f"{self.positive.shape[1]} signs for {self.points_mm.shape[1]} points",
                               expected="one for each", remedy="say of each click whether it lies on the object")
        if not self.boxes_mm.shape[1] and not bool(self.positive.any(dim=1).all()):
            raise SettingError("no prompt on the object", expected="a box, or a point that lies on it",
                               remedy="add a box or a positive point")

    @classmethod
    def on_grid(cls, grid: Grid, *, points: Any = (), positive: Any = None, boxes: Any = (), frame: int = 0,
                name: str = "object", voxels: bool = True) -> Prompts:
        """Of one subject. points: (x, y, z) each; boxes: (x0, y0, z0, x1, y1, z1) each; positive: all by default.

        voxels: indices counted from 0 (the middle of the first voxel), else LPS+ millimetres. Raises GeometryError for
        a box whose second corner comes before the first.

        >>> grid = Grid.from_spacing((4, 10, 10), (8.0, 1.0, 1.0))
        >>> Prompts.on_grid(grid, points=[(3, 4, 1)]).points_mm.tolist()
        [[[-1.5, -0.5, -4.0]]]
        """
        places = torch.tensor(list(points), dtype=torch.float64).reshape(1, -1, 3)
        corners = torch.tensor(list(boxes), dtype=torch.float64).reshape(1, -1, 2, 3)
        for box in corners[0]:
            check_box(box)
        signs = torch.ones(places.shape[:2], dtype=torch.bool) if positive is None else \
            torch.tensor(list(positive), dtype=torch.bool).reshape(1, -1)
        if voxels:
            places, corners = grid.to_mm(places), grid.to_mm(corners)
        return cls(Rows.subjects(1), places, signs, corners, torch.tensor([frame]), name)


def check_box(box: Float[Tensor, "2 3"]) -> None:
    """Raises GeometryError for a box that is reversed along an axis, or empty: extended along less than two."""
    sizes = (box[1] - box[0]).tolist()
    shown = ",".join(f"{v:g}" for v in box.flatten().tolist())
    if min(sizes) < 0:
        raise GeometryError(f"a reversed box {shown}", expected="x0 ≤ x1, y0 ≤ y1 and z0 ≤ z1",
                            remedy="give the smaller number of each axis first")
    if sum(size > 0 for size in sizes) < 2:
        raise GeometryError(f"an empty box {shown}", expected="an extent along two axes or more",
                            remedy="give two opposite corners")
