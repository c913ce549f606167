"""Slices shown together with the slices beside them (2.5D input)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def with_neighbours(images: Float[Tensor, "subject slice y x"], *, keep: Bool[Tensor, " subject"] | None = None,
                    turned: Bool[Tensor, " subject"] | None = None) -> Float[Tensor, "rows 3 y x"]:
    """Every slice between the one before and the one after; at the ends the slice itself stands in.

    keep: bool ``[subject]``, where false the slice stands alone (three times itself); turned: bool ``[subject]``, where
    true the stack runs the other way.

    >>> with_neighbours(torch.arange(3.0).reshape(1, 3, 1, 1))[:, :, 0, 0].int().tolist()
    [[0, 0, 1], [0, 1, 2], [1, 2, 2]]
    """
    before = torch.cat((images[:, :1], images[:, :-1]), dim=1)
    after = torch.cat((images[:, 1:], images[:, -1:]), dim=1)
    if turned is not None:
        turn = turned.reshape(-1, 1, 1, 1)
        before, after = torch.where(turn, after, before), torch.where(turn, before, after)
    if keep is not None:
        alone = ~keep.reshape(-1, 1, 1, 1)
        before, after = torch.where(alone, images, before), torch.where(alone, images, after)
    return torch.stack((before, images, after), dim=2).flatten(0, 1)
