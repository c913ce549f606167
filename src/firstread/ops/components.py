"""Single lesions: connected components of two masks, matched by how much they overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.overlap import bounding_box


@dataclass(frozen=True)
class ComponentMatch:
    """How many components there are of each mask, and how many pairs were matched.

    A share without a denominator (no component where one is needed) is NaN.
    """

    truth: int
    predicted: int
    matched: int

    @property
    def precision(self) -> float:
        """Share of the predicted components that are true ones."""
        return self.matched / self.predicted if self.predicted else float("nan")

    @property
    def recall(self) -> float:
        """Share of the true components that were found."""
        return self.matched / self.truth if self.truth else float("nan")

    @property
    def f1(self) -> float:
        """``2 TP / (2 TP + FP + FN)``."""
        total = self.truth + self.predicted
        return 2 * self.matched / total if total else float("nan")


def match_components(truth: Bool[Tensor, "*space"], predicted: Bool[Tensor, "*other"], *, minimum_iou: float = 0.0,
                     full: bool = True) -> ComponentMatch:
    """Components of both masks in pairs, one to one: those of the largest intersection over union first.

    minimum_iou: pairs count where their intersection over union is above it (0: any common voxel). full: voxels that
    touch by an edge or a corner are one component (26 neighbours), else faces only. One prediction over three lesions
    finds one of them. Raises SettingError for other shapes or a minimum outside 0 … 1.

    >>> import torch
    >>> truth, found = torch.tensor([[1, 1, 0, 1, 0, 0]]).bool(), torch.tensor([[0, 1, 0, 0, 0, 1]]).bool()
    >>> match = match_components(truth, found)
    >>> match.matched, match.precision, match.recall
    (1, 0.5, 0.5)
    """
    from scipy import ndimage

    if truth.shape != predicted.shape or not 0 <= minimum_iou < 1:
        raise SettingError(f"masks of {tuple(truth.shape)} and {tuple(predicted.shape)}, minimum {minimum_iou}",
                           expected="one shape and a minimum from 0 up to 1", remedy="correct them")
    masks = [mask.detach().cpu().numpy() for mask in (truth, predicted)]
    box = bounding_box(masks[0] | masks[1])
    if box is None:
        return ComponentMatch(0, 0, 0)
    structure = ndimage.generate_binary_structure(truth.ndim, truth.ndim if full else 1)
    (first, count), (second, other) = (ndimage.label(mask[box], structure) for mask in masks)
    both = (first > 0) & (second > 0)
    pairs, common = np.unique(first[both].astype(np.int64) * (other + 1) + second[both], return_counts=True)
    one, two = pairs // (other + 1), pairs % (other + 1)
    sizes = np.bincount(first.ravel(), minlength=count + 1)[one] + np.bincount(second.ravel(),
                                                                               minlength=other + 1)[two]
    iou = common / (sizes - common)
    left, right = set(range(1, count + 1)), set(range(1, other + 1))
    for place in np.argsort(-iou, kind="stable"):
        if iou[place] > minimum_iou and one[place] in left and two[place] in right:
            left.discard(int(one[place]))
            right.discard(int(two[place]))
    return ComponentMatch(count, other, count - len(left))
