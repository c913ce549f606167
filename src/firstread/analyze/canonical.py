"""Volumes turned by flips and transpositions: to right, anterior and superior (RAS+) and back, or onto another grid."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from firstread.core.errors import GeometryError
from firstread.core.geometry import Grid

_RAS = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))  # right, anterior, superior in LPS+


def to_ras(data: Float[Tensor, "*before z y x"], grid: Grid) -> tuple[Tensor, Callable[[Tensor], Tensor], Grid]:
    """Data of a grid of one row with x, y, z towards R, A, S as nearly as flips and transpositions go.

    Gives the data, how to undo it for any tensor with the same last three axes, and the turned grid. Raises
    GeometryError for a grid that does not know the patient's directions.

    >>> grid = Grid.from_spacing((1, 1, 2), (1.0, 1.0, 1.0))
    >>> to_ras(torch.tensor([[[1.0, 2.0]]]), grid)[0].flatten().tolist()
    [2.0, 1.0]
    """
    if grid.frame != "patient":
        raise GeometryError("an image without the patient's orientation for a network trained on turned images",
                            expected="a grid of frame 'patient'", remedy="give a file that states its orientation")
    order, axes, turned = _turn(grid, _RAS)
    out = _laid(data, order, axes)

    def undo(tensor: Tensor) -> Tensor:
        ahead = tensor.ndim - 3
        back = [order.index(a) for a in range(3)]
        return tensor.flip(axes).permute(*range(ahead), *(ahead + a for a in back))

    return out, undo, turned


def onto(data: Shaped[Tensor, "*before z y x"], grid: Grid, target: Grid) -> Tensor | None:
    """Data of ``grid`` as they lie on ``target``, where both have the same voxels with axes in another order or sense.

    None where the voxels are others (apart by more than a tenth of one), or a grid has no millimetres.

    >>> grid = Grid.from_spacing((1, 2, 3), (3.0, 2.0, 1.0))
    >>> onto(torch.arange(6).view(1, 3, 2), grid.permute((0, 2, 1)), grid)
    tensor([[[0, 2, 4],
             [1, 3, 5]]])
    """
    if not (grid.has_mm and target.has_mm) or grid.affine.shape[0] != 1 or target.affine.shape[0] != 1:
        return None
    order, axes, turned = _turn(grid, _directions(target).T)
    if not turned.same_as(target, tolerance_mm=0.1 * float(target.spacing_mm.min())):
        return None
    return _laid(data, order, axes)


def _turn(grid: Grid, wanted: Float[Tensor, "3 3"]) -> tuple[tuple[int, int, int], list[int], Grid]:
    """How x, y, z go nearest to the rows of ``wanted``: the order of (z, y, x), the axes to flip then, the grid."""
    agreement = wanted @ _directions(grid)  # [wanted, x y z]
    best = max(permutations(range(3)), key=lambda p: float(sum(agreement[i, p[i]].abs() for i in range(3))))
    order = (2 - best[2], 2 - best[1], 2 - best[0])
    turned, axes = grid.permute(order), []
    for number, name in enumerate("xyz"):
        if agreement[number, best[number]] < 0:
            axes.append(-1 - number)
            turned = turned.flip(name)
    return order, axes, turned


def _laid(data: Tensor, order: tuple[int, int, int], axes: list[int]) -> Tensor:
    """The last three axes in another order, then some of them flipped."""
    lead = data.ndim - 3
    return data.permute(*range(lead), *(lead + a for a in order)).flip(axes)


def _directions(grid: Grid) -> Float[Tensor, "3 3"]:
    """Unit vectors of x, y and z, in columns."""
    return grid.affine[0, :3, :3].detach().cpu() / grid.spacing_mm[0].flip(0).detach().cpu()
