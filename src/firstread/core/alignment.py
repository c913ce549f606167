"""Alignment: how one image lies on another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.geometry import Grid, Transform
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


@dataclass(frozen=True, eq=False)
class Motion(Record):
    """Where every point of a reference frame is at each time.

    displacement_mm: ``[batch, time, 3, z, y, x]`` (x, y, z components) on ``grid``: the point at x in the reference
        frame is at ``x + displacement`` in frame t (zero in the reference frame itself).
    reference: that frame, from 0; in_plane: nothing moves across the slices, because it was not looked for.
    spread_mm: standard deviation of each displacement along the grid's axes, where the method knows one.
    """

    displacement_mm: Float[Tensor, "batch time 3 z y x"]
    grid: Grid
    reference: int
    in_plane: bool
    times_s: Float[Tensor, "batch time slices"] | None = None
    spread_mm: Float[Tensor, "batch time 3 z y x"] | None = None

    def at(self, frame: int) -> Transform:
        """From the reference frame to frame ``frame``."""
        eye = torch.eye(4, dtype=torch.float64, device=self.displacement_mm.device)
        return Transform(eye.expand(self.batch, 4, 4).clone(), self.displacement_mm[:, frame], self.grid, self.grid)
