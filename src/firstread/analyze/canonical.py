"""Volumes turned so that their axes grow to the right, anterior and superior (RAS+), and back."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import torch
from jaxtyping import Float
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
    direction = grid.affine[0, :3, :3].detach().cpu() / grid.spacing_mm[0].flip(0).detach().cpu()
    agreement = _RAS @ direction  # [R A S, x y z]
    best = max(permutations(range(3)), key=lambda p: float(sum(agreement[i, p[i]].abs() for i in range(3))))
    order = (2 - best[2], 2 - best[1], 2 - best[0])
    turned, axes = grid.permute(order), []
    for number, name in enumerate("xyz"):
        if agreement[number, best[number]] < 0:
            axes.append(-1 - number)
            turned = turned.flip(name)
    lead = data.ndim - 3
    out = data.permute(*range(lead), *(lead + a for a in order)).flip(axes)

    def undo(tensor: Tensor) -> Tensor:
        ahead = tensor.ndim - 3
        back = [order.index(a) for a in range(3)]
        return tensor.flip(axes).permute(*range(ahead), *(ahead + a for a in back))

    return out, undo, turned
