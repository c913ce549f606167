"""Regions of an image: components, volumes, overlap, signed distances.

Hard masks are bool tensors, soft ones hold probabilities. Spacings are millimetres along (z, y, x).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from firstread.core.errors import SettingError


def class_mask(labels: Int[Tensor, "batch time 1 z y x"], index: int) -> Bool[Tensor, "batch time z y x"]:
    """Where hard labels have the class ``index``.

    >>> class_mask(torch.tensor([0, 1, 2, 1]).reshape(1, 1, 1, 1, 1, 4), 1).sum().item()
    2
    """
    return labels[:, :, 0] == index


def largest_component(mask: Bool[Tensor, "*shape"], *, axes: int = 3, full: bool = False) -> Bool[Tensor, "*shape"]:
    """The largest connected component over the last ``axes`` axes, for each of the leading ones by itself.

    full: voxels that touch by an edge or a corner are neighbours too (8 or 26 of them); otherwise faces only (4 or 6).
    Of components of one size the first in index order stays; an empty mask stays empty.

    >>> largest_component(torch.tensor([[1, 0, 1, 1]]).bool(), axes=2).int().tolist()
    [[0, 0, 1, 1]]
    """
    import numpy as np
    from scipy import ndimage

    if not 1 <= axes <= mask.ndim:
        raise SettingError(f"components over {axes} axes of a mask with {mask.ndim}", expected=f"1 to {mask.ndim}",
                           remedy="give the number of spatial axes")
    structure = ndimage.generate_binary_structure(axes, axes if full else 1)
    blocks = mask.detach().cpu().numpy().reshape(-1, *mask.shape[mask.ndim - axes:])
    kept = np.zeros_like(blocks)
    for block, out in zip(blocks, kept, strict=True):
        components, count = ndimage.label(block, structure)
        if count == 1:
            out[:] = block
        elif count > 1:
            sizes = np.bincount(components.ravel())
            sizes[0] = 0
            out[:] = components == sizes.argmax()
    return torch.from_numpy(kept).reshape(mask.shape).to(mask.device)


def volume_ml(weights: Num[Tensor, "batch time z y x"] | Bool[Tensor, "batch time z y x"],
              voxel_ml: Float[Tensor, " batch"]) -> Float[Tensor, "batch time"]:
    """Volume of a mask, ``sum(p) * voxel_ml``; of probabilities it is the expected one, and differentiable.

    Summed in float64, so that the result does not depend on the order of slices or rows.

    >>> round(volume_ml(torch.full((1, 1, 2, 10, 10), 0.5), torch.tensor([0.018])).item(), 6)
    1.8
    """
    return weights.sum(dim=(-3, -2, -1), dtype=torch.float64) * voxel_ml.to(torch.float64)[:, None]


def dice(first: Bool[Tensor, "*lead z y x"], second: Bool[Tensor, "*lead z y x"]) -> Float[Tensor, "*lead"]:
    """Dice of hard masks over (z, y, x), ``2 |A & B| / (|A| + |B|)``.

    Two empty masks agree (1); one empty mask does not overlap (0). Source: Dice 1945.

    >>> dice(torch.tensor([[[1, 1, 0]]]).bool(), torch.tensor([[[0, 1, 1]]]).bool()).item()
    0.5
    """
    both = (first & second).sum(dim=(-3, -2, -1)).double()
    total = first.sum(dim=(-3, -2, -1)).double() + second.sum(dim=(-3, -2, -1)).double()
    return torch.where(total > 0, 2 * both / total.clamp_min(1), torch.ones_like(total))


def soft_dice(probability: Float[Tensor, "*lead z y x"], truth: Num[Tensor, "*lead z y x"],
              *, smooth: float = 1.0) -> Float[Tensor, "*lead"]:
    """Differentiable Dice over (z, y, x), ``(2 sum(p t) + s) / (sum(p) + sum(t) + s)``; s = smooth, in voxels.

    Two empty masks give 1. Source: Milletari 2016 (V-Net), with sums instead of squares.

    >>> soft_dice(torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[1.0, 0.0]]]), smooth=0.0).item()
    0.5
    """
    both = (probability * truth).sum(dim=(-3, -2, -1))
    total = probability.sum(dim=(-3, -2, -1)) + truth.sum(dim=(-3, -2, -1))
    return (2 * both + smooth) / (total + smooth)


def signed_distance_mm(mask: Bool[Tensor, "*lead y x"],
                       spacing_mm: tuple[float, float]) -> Float[Tensor, "*lead y x"]:
    """Distance within the plane to the nearest pixel of the other kind: above zero outside the mask, below inside.

    ``inf`` in a plane without mask, ``-inf`` in one without anything else. ``d <= m`` is the mask grown by m mm,
    ``d < -m`` the mask shrunk by m mm.

    >>> signed_distance_mm(torch.tensor([[0, 0, 1, 1, 0]]).bool(), (1.0, 1.5)).tolist()
    [[3.0, 1.5, -1.5, -1.5, 1.5]]
    """
    from scipy import ndimage

    planes = mask.detach().cpu().numpy().reshape(-1, *mask.shape[-2:])
    out = torch.full(planes.shape, torch.inf, dtype=torch.float64)
    for plane, found in zip(planes, out, strict=True):
        if plane.all():
            found.fill_(-torch.inf)
        elif plane.any():
            outside, inside = (ndimage.distance_transform_edt(m, sampling=spacing_mm) for m in (~plane, plane))
            found.copy_(torch.from_numpy(outside - inside))
    return out.reshape(mask.shape).to(mask.device)
