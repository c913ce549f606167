"""Slices turned the way a reader hangs them, so that a stored flip or transposition does not matter."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.geometry import Grid

# Where image right and image down point in an ordinary short-axis display, in LPS+: right is the lateral wall (left and
# behind), down is the inferior wall.
RIGHT = (0.75, 0.6, -0.2)
DOWN = (0.1, 0.35, -0.9)


def upright(data: Float[Tensor, "batch time z y x"],
            grid: Grid) -> tuple[Tensor, Grid, Callable[[Tensor], Tensor]]:
    """Data and grid flipped and transposed in plane towards the usual display, and how to undo it.

    Of the eight ways the one is chosen whose axes agree best with ``RIGHT`` and ``DOWN`` (for the first batch row); a
    grid that is not the patient's stays as it is.

    >>> grid = Grid.from_spacing((1, 4, 4), (8.0, 1.0, 1.0))
    >>> upright(torch.zeros(1, 1, 1, 4, 4), grid)[1].shape
    (1, 4, 4)
    """
    if grid.frame != "patient":
        return data, grid, lambda labels: labels
    axes = grid.affine[0, :3, :2] / grid.affine[0, :3, :2].norm(dim=0)
    wanted = torch.tensor([RIGHT, DOWN], dtype=axes.dtype, device=axes.device)
    agreement = wanted @ axes
    straight, crossed = agreement.diagonal().abs().sum(), agreement.flip(1).diagonal().abs().sum()
    swap = bool(crossed > straight + 1e-9)
    if swap:
        data, grid, agreement = data.transpose(-1, -2), grid.permute((0, 2, 1)), agreement.flip(1)
    turned: list[int] = []
    for axis, name, sign in ((-1, "x", agreement[0, 0]), (-2, "y", agreement[1, 1])):
        if sign < 0:
            turned.append(axis)
            grid = grid.flip(name)
    data = data.flip(turned)

    def undo(labels: Tensor) -> Tensor:
        labels = labels.flip(turned)
        return labels.transpose(-1, -2) if swap else labels

    return data, grid, undo
