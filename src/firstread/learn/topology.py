"""Soft centre-line Dice (Shit 2021): thin, branching structures are kept connected."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from firstread.learn.losses import UNKNOWN


def soft_skeleton(mask: Float[Tensor, "rows *space"], *, iterations: int = 8) -> Float[Tensor, "rows *space"]:
    """Centre lines by repeated soft erosion: ``S <- S + relu((1 - S) relu(x - open(x)))``, ``x <- erode(x)``.

    iterations: the largest radius in voxels.
    """
    x = mask.unsqueeze(1)
    skeleton = F.relu(x - _dilate(_erode(x)))
    for _ in range(iterations):
        x = _erode(x)
        skeleton = skeleton + F.relu((1 - skeleton) * F.relu(x - _dilate(_erode(x))))
    return skeleton.squeeze(1)


def centre_line_dice(probability: Float[Tensor, "rows *space"], truth: Float[Tensor, "rows *space"], *,
                     iterations: int = 8, smooth: float = 1.0) -> Float[Tensor, ""]:
    """``2 P S / (P + S)``: P the share of the found centre lines inside the truth, S of the true ones inside the mask.

    >>> line = torch.zeros(1, 9, 9); line[0, 4] = 1
    >>> centre_line_dice(line, line).item()
    1.0
    """
    found, true = soft_skeleton(probability, iterations=iterations), soft_skeleton(truth, iterations=iterations)
    precision = ((found * truth).sum() + smooth) / (found.sum() + smooth)
    sensitivity = ((true * probability).sum() + smooth) / (true.sum() + smooth)
    return 2 * precision * sensitivity / (precision + sensitivity)


def centre_line_loss(probability: Float[Tensor, "batch classes *space"], target: Integer[Tensor, " batch *space"], *,
                     iterations: int = 8) -> Float[Tensor, ""]:
    """``1 - centre-line Dice``, mean of the foreground classes that are in the batch; unknown voxels count as neither.
    """
    known = (target != UNKNOWN).to(probability.dtype)
    terms = [1 - centre_line_dice(probability[:, c] * known, (target == c).to(probability.dtype), iterations=iterations)
             for c in range(1, probability.shape[1]) if bool((target == c).any())]
    return torch.stack(terms).mean() if terms else probability.sum() * 0


def _erode(x: Tensor) -> Tensor:
    """The smallest of each voxel and its face neighbours."""
    if x.ndim == 4:
        return torch.minimum(-F.max_pool2d(-x, (3, 1), 1, (1, 0)), -F.max_pool2d(-x, (1, 3), 1, (0, 1)))
    parts = [-F.max_pool3d(-x, k, 1, tuple(n // 2 for n in k)) for k in ((3, 1, 1), (1, 3, 1), (1, 1, 3))]
    return torch.minimum(torch.minimum(parts[0], parts[1]), parts[2])


def _dilate(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1) if x.ndim == 4 else F.max_pool3d(x, 3, 1, 1)
