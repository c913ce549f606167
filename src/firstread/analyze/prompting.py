"""What a method of promptable segmentation is: one plane and what is said about it in, probabilities out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from firstread.ops.overlap import bounding_box
from firstread.ops.regions import signed_distance_mm


@dataclass(frozen=True, eq=False)
class PlanePrompt:
    """What is said about one plane, in pixels (y, x) counted from the middle of the first.

    points: of clicks; positive: whether each lies on the object; box: y0, x0, y1, x1, the outermost pixels of the
    object, or None; spacing_mm: of pixels (y, x); before: the neighbouring plane, or the frame before, and the mask
    found there, or None.
    """

    points: Float[Tensor, "n 2"]
    positive: Bool[Tensor, " n"]
    box: Float[Tensor, " 4"] | None
    spacing_mm: tuple[float, float]
    before: tuple[Float[Tensor, "channel y x"], Bool[Tensor, "y x"]] | None = None

    @classmethod
    def empty(cls, spacing_mm: tuple[float, float]) -> PlanePrompt:
        """Nothing said."""
        return cls(torch.zeros(0, 2), torch.zeros(0, dtype=torch.bool), None, spacing_mm)

    def after(self, image: Float[Tensor, "channel y x"], mask: Bool[Tensor, "y x"]) -> PlanePrompt:
        """The same for a plane whose neighbour ``image`` holds the object at ``mask``."""
        return replace(self, before=(image, mask))

    @property
    def said(self) -> bool:
        """Whether the user pointed at the object in this plane."""
        return self.box is not None or bool(self.positive.any())


class Promptable(nn.Module, ABC):
    """A network or formula that segments what is pointed at.

    channels: numbers of channels that it takes; points: whether it knows clicks (else boxes alone).
    """

    channels: tuple[int, ...] = (1,)
    points: bool = True

    @abstractmethod
    def forward(self, image: Float[Tensor, "channel y x"], prompt: PlanePrompt) -> Float[Tensor, "y x"]:
        """Probability of the object in each pixel; ``prompt`` has a click on it, a box, or a mask before."""


def box_of(mask: Bool[Tensor, "y x"]) -> Float[Tensor, " 4"]:
    """The outermost pixels y0, x0, y1, x1 of a mask that is not empty.

    >>> box_of(torch.tensor([[0, 1, 1], [0, 0, 0]]).bool()).tolist()
    [0.0, 1.0, 0.0, 2.0]
    """
    rows, columns = bounding_box(mask.cpu().numpy()) or (slice(0, 1), slice(0, 1))
    return torch.tensor([rows.start, columns.start, rows.stop - 1, columns.stop - 1], dtype=torch.float32)


def deepest(mask: Bool[Tensor, "y x"], spacing_mm: tuple[float, float]) -> Float[Tensor, " 2"]:
    """The pixel (y, x) of a mask that lies farthest from its border, that of the picture included.

    >>> deepest(torch.ones(3, 5).bool(), (1.0, 1.0)).tolist()
    [1.0, 1.0]
    """
    wide = torch.nn.functional.pad(mask, (1, 1, 1, 1))
    depth = -signed_distance_mm(wide, spacing_mm)[1:-1, 1:-1]
    return torch.tensor(np.unravel_index(int(depth.argmax()), tuple(mask.shape)), dtype=torch.float32)
