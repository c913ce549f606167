"""Which batch rows make up one heart: all parts of one subject and draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from firstread.core.records import HardLabels, Rows
from firstread.measure.aha import Slice


@dataclass(frozen=True, eq=False)
class Hearts:
    """The hearts of a batch, in order of first appearance.

    owner: heart of every batch row; rows: one row per heart (part 0).
    """

    owner: Tensor
    rows: Rows

    @property
    def count(self) -> int:
        return self.rows.subject.shape[0]

    def name(self, heart: int) -> str:
        """`` of subject s, draw d`` where there are several hearts, else nothing."""
        if self.count == 1:
            return ""
        return f" of subject {int(self.rows.subject[heart])}, draw {int(self.rows.draw[heart])}"

    def members(self, heart: int) -> list[int]:
        """The batch rows of a heart."""
        return (self.owner == heart).nonzero().flatten().tolist()

    def any(self, flags: Tensor) -> Tensor:
        """Per heart, whether any of its rows is flagged."""
        return torch.stack([flags[self.members(heart)].any() for heart in range(self.count)])

    def mean(self, values: Tensor) -> Tensor:
        """Per heart, the mean over its rows and their slices of ``[batch, slices]``, NaN left out."""
        return torch.stack([values[self.members(heart)].nanmean() for heart in range(self.count)])

    def slices(self, hard: HardLabels, heart: int, frame: int, classes: tuple[str, str, str]) -> list[Slice]:
        """The slices of a heart at a frame; ``classes`` names cavity, muscle and right ventricle."""
        found = []
        for row in self.members(heart):
            affine = hard.grid.affine[row].detach().cpu().numpy()
            index = hard.data[row, frame, 0].cpu().numpy()
            for z in range(index.shape[0]):
                place = affine.copy()
                place[:3, 3] = affine[:3, 3] + z * affine[:3, 2]
                found.append(Slice(*(index[z] == hard.names.index(name) if name in hard.names
                                     else np.zeros(index[z].shape, bool) for name in classes), place))
        return found

    def masks(self, hard: HardLabels, heart: int, frame: int,
              classes: tuple[str, str, str]) -> tuple[Tensor, Tensor, Tensor]:
        """Cavity, muscle and right ventricle of a heart at a frame, ``[slices, y, x]`` in order of rows and z."""
        index = torch.cat([hard.data[row, frame, 0] for row in self.members(heart)])
        cavity, muscle, right = (index == hard.names.index(name) for name in classes)
        return cavity, muscle, right


def find_hearts(rows: Rows) -> Hearts:
    """Group batch rows by subject and draw.

    >>> find_hearts(Rows.parts(3)).owner.tolist()
    [0, 0, 0]
    """
    seen: dict[tuple[int, int], int] = {}
    first: list[int] = []
    owner = []
    for row, key in enumerate(zip(rows.subject.tolist(), rows.draw.tolist(), strict=True)):
        if key not in seen:
            seen[key] = len(seen)
            first.append(row)
        owner.append(seen[key])
    chosen = torch.tensor(first)
    subject, draw = rows.subject.cpu()[chosen], rows.draw.cpu()[chosen]
    return Hearts(torch.tensor(owner), Rows(subject, torch.zeros_like(subject), draw))
