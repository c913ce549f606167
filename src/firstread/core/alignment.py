"""Alignment: how one image lies on another."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from firstread.core.geometry import Transform
from firstread.core.records import Record


@dataclass(frozen=True, eq=False)
class Alignment(Record):
    """What a registration found, both ways.

    forward: places of the fixed image to places of the moving one, so that ``moving(forward(x))`` lies on the fixed
        grid (ITK's and ANTs' convention); backward: its inverse.
    before, after: the similarity, ``[batch]``, larger is better, by ``metric``.
    spread_mm: standard deviation of the displacement where the method knows one, ``[batch, 3, z, y, x]``.
    """

    forward: Transform
    backward: Transform
    before: Float[Tensor, " batch"]
    after: Float[Tensor, " batch"]
    metric: str
    spread_mm: Float[Tensor, "batch 3 z y x"] | None = None
