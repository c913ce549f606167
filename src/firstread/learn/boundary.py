"""The boundary loss (Kervadec 2019): how far from the true surface the wrong voxels lie."""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from firstread.learn.losses import UNKNOWN


def signed_distance(mask: Tensor) -> Tensor:
    """Distance in voxels to the surface of a bool mask ``[*space]``: above zero outside, below inside, 0 if no surface.
    """
    from scipy import ndimage

    inside = mask.cpu().numpy()
    if not inside.any() or inside.all():
        return torch.zeros(mask.shape)
    away = ndimage.distance_transform_edt(~inside) - ndimage.distance_transform_edt(inside)
    return torch.from_numpy(away).float()


def boundary_loss(probability: Float[Tensor, "batch classes *space"], target: Integer[Tensor, " batch *space"]
                  ) -> Float[Tensor, ""]:
    """``mean over voxels and foreground classes of (p - t) phi``, phi the signed distance over the patch's size.

    Zero for the truth, above zero for anything else; with classes absent from a patch left out of it, and voxels of
    ``UNKNOWN`` of no weight. Distances are of the target, without gradient.

    >>> truth = torch.tensor([[0, 1, 1, 0]]); hot = torch.nn.functional.one_hot(truth, 2).movedim(-1, 1).float()
    >>> boundary_loss(hot, truth).item()
    0.0
    """
    known = (target != UNKNOWN).to(probability.dtype)
    size = max(target.shape[1:])
    total = probability.new_zeros(())
    for label in range(1, probability.shape[1]):
        hot = target == label
        phi = torch.stack([signed_distance(row) for row in hot]).to(probability) / size
        total = total + ((probability[:, label] - hot.to(probability.dtype)) * phi * known).mean()
    return total / max(1, probability.shape[1] - 1)
