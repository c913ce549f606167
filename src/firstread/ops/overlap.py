"""How far two label maps agree voxel by voxel: the confusion matrix, and what is told from it."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from firstread.core.errors import SettingError


def bounding_box(mask: Bool[np.ndarray, "*space"] | Integer[np.ndarray, "*space"]) -> tuple[slice, ...] | None:
    """The smallest box that holds all of the mask (all that is not zero), or None where it is empty.

    >>> bounding_box(np.array([[0, 0, 0, 0], [0, 1, 1, 0]]))
    (slice(1, 2, None), slice(1, 3, None))
    """
    box, rest = [], mask
    for _ in range(mask.ndim):
        held = np.flatnonzero(rest.reshape(len(rest), -1).any(axis=1))
        if not len(held):
            return None
        box.append(slice(int(held[0]), int(held[-1]) + 1))
        rest = np.bitwise_or.reduce(rest[box[-1]], axis=0)
    return tuple(box)


def confusion_matrix(truth: Integer[Tensor, "*space"], predicted: Integer[Tensor, "*other"], *, classes: int
                     ) -> Int[Tensor, "truth predicted"]:
    """How many voxels of each true class (row) were given each class (column).

    Counts class by class, and single voxels only where the two differ. Raises SettingError for other shapes or values
    outside 0 … classes − 1.

    >>> confusion_matrix(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2]), classes=3).tolist()
    [[1, 0, 0], [0, 1, 1], [0, 0, 1]]
    """
    if truth.shape != predicted.shape:
        raise SettingError(f"labels of shape {tuple(truth.shape)} and {tuple(predicted.shape)}", expected="one shape",
                           remedy="resample one to the grid of the other")
    values = [labels.detach().cpu().numpy() for labels in (truth, predicted)]
    for labels in values:
        if labels.size and not (labels.min() >= 0 and labels.max() < classes):
            raise SettingError(f"label values from {labels.min()} to {labels.max()}",
                               expected=f"0 to {classes - 1}", remedy="state all classes")
    rows, columns = values
    box = bounding_box(rows | columns)
    matrix = np.zeros((classes, classes), dtype=np.int64)
    matrix[0, 0] = rows.size
    if box is not None:
        rows, columns = rows[box], columns[box]
        matrix[0, 0] -= rows.size
        apart = np.nonzero(rows != columns)
        wrong = np.bincount(rows[apart].astype(np.int64) * classes + columns[apart], minlength=classes**2)
        matrix += wrong.reshape(classes, classes)
        for index in range(1, classes):
            matrix[index, index] = np.count_nonzero(rows == index) - matrix[index].sum()
        matrix[0, 0] += rows.size - (matrix.sum() - matrix[0, 0])
    return torch.from_numpy(matrix)


def dice_of_counts(matrix: Int[Tensor, "truth predicted"]) -> Float[Tensor, " truth"]:
    """Dice of each class, ``2 n_kk / (n_k. + n_.k)``; NaN where neither has the class.

    >>> dice_of_counts(torch.tensor([[5, 1], [1, 3]]))[1].item()
    0.75
    """
    return 2 * matrix.diagonal() / (matrix.sum(dim=0) + matrix.sum(dim=1)).double()


def volume_similarity(truth: Float[Tensor, "*n"] | Int[Tensor, "*n"], predicted: Float[Tensor, "*n"] | Int[Tensor, "*n"]
                      ) -> Float[Tensor, "*n"]:
    """``1 - |V_p - V_t| / (V_p + V_t)`` of volumes, wherever they lie; NaN where both are zero.

    Source: Taha and Hanbury 2015.

    >>> round(volume_similarity(torch.tensor(3.0), torch.tensor(1.0)).item(), 3)
    0.5
    """
    return 1 - (predicted - truth).abs() / (predicted + truth).double()
