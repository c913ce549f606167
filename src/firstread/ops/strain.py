"""How a body deforms: the gradient of a motion, Lagrangian strain, and its parts around a centre."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.geometry import Grid


def deformation_gradient(displacement_mm: Float[Tensor, "batch 3 z y x"], grid: Grid
                         ) -> Float[Tensor, "batch z y x 3 3"]:
    """``F = I + du/dX`` at every voxel, by central differences; along an axis of one voxel nothing changes.

    >>> grid = Grid.from_spacing((1, 3, 4), (5.0, 2.0, 2.0))
    >>> shorter = -0.1 * grid.points_mm()[..., :1].expand(1, 1, 3, 4, 3) * torch.tensor([1.0, 0.0, 0.0])
    >>> deformation_gradient(shorter.movedim(-1, 1), grid)[..., 0, 0].unique().round(decimals=3).tolist()
    [0.9]
    """
    slopes = torch.stack([torch.gradient(displacement_mm, dim=axis)[0] if displacement_mm.shape[axis] > 1
                          else torch.zeros_like(displacement_mm) for axis in (4, 3, 2)], dim=-1)
    to_index = torch.linalg.inv(grid.affine[:, :3, :3]).to(slopes.dtype)
    return torch.einsum("bczyxa,bad->bzyxcd", slopes, to_index) + torch.eye(3, dtype=slopes.dtype)


def lagrangian_strain(gradient: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    """Green-Lagrange strain ``E = (F^T F - I) / 2``, which turns and shifts leave at zero.

    >>> lagrangian_strain(torch.diag(torch.tensor([0.5, 1.0, 1.0])))[0, 0].item()
    -0.375
    """
    return (gradient.mT @ gradient - torch.eye(3, dtype=gradient.dtype)) / 2


def around(strain: Float[Tensor, "n 3 3"], points_mm: Float[Tensor, "n 3"], centre_mm: Float[Tensor, "3"],
           normal: Float[Tensor, "3"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """``(r^T E r, c^T E c)``: strain away from a centre (radial) and around it (circumferential), in the plane across
    ``normal``; what lies in the centre itself has none of either.
    """
    away = points_mm - centre_mm
    away = away - (away @ normal)[:, None] * normal
    radial = away / away.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    circular = torch.linalg.cross(normal.expand_as(radial), radial)
    pair = [torch.einsum("ni,nij,nj->n", axis.to(strain.dtype), strain, axis.to(strain.dtype))
            for axis in (radial, circular)]
    return pair[0], pair[1]
