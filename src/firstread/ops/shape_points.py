"""Labels as corresponding points, and points as labels: what a point distribution model is made of.

From the centre of a structure a fixed fan of rays: the length of the structure along each is where its outline lies, at
least of what is star-shaped about its centre. Of soft labels it is an integral, with a gradient everywhere::

    c = sum p x / sum p,   r_k = int p(c + s u_k) ds,   x_k = c + r_k u_k

Points are millimetres (or voxels, by ``spacing``) along the axes of the labels, (y, x) or (z, y, x).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from firstread.ops.resample import sample


def directions(count: int, axes: int) -> Float[Tensor, "ray axes"]:
    """``count`` unit vectors, evenly about a circle, or nearly so over a sphere (a Fibonacci spiral).

    >>> directions(4, 2).round().long().tolist()
    [[0, 1], [1, 0], [0, -1], [-1, 0]]
    """
    step = torch.arange(count, dtype=torch.float64)
    if axes == 2:
        angle = 2 * math.pi * step / count
        return torch.stack((angle.sin(), angle.cos()), dim=-1).float()
    height, angle = 1 - (2 * step + 1) / count, math.pi * (1 + 5**0.5) * step
    flat = (1 - height.square()).sqrt()
    return torch.stack((height, flat * angle.sin(), flat * angle.cos()), dim=-1).float()


def shape_points(shares: Float[Tensor, "row structure *space"], rays: Float[Tensor, "ray axes"],
                 spacing: tuple[float, ...]) -> Float[Tensor, "row point axes"]:
    """The centre of each structure and where its rays end, structure after structure; differentiable.

    shares: of each structure in every voxel, holes filled. Of a structure that is not there points mean nothing.
    """
    size = torch.tensor(spacing)
    lines = [torch.arange(n, dtype=shares.dtype) * s for n, s in zip(shares.shape[2:], spacing, strict=True)]
    where = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).flatten(0, -2)
    weight = shares.flatten(2)
    centre = (weight @ where) / weight.sum(-1, keepdim=True).clamp(min=1e-6)
    step = min(spacing) / 2
    reach = math.hypot(*(n * s for n, s in zip(shares.shape[2:], spacing, strict=True)))
    along = (torch.arange(int(reach / step)) + 0.5) * step
    path = centre[:, :, None, None] + rays[:, None] * along[:, None]
    index = (path / size).flip(-1).flatten(0, 1)
    flat = shares.flatten(0, 1).unsqueeze(1)
    length = sample(flat, index if index.shape[-1] == 2 else index.unsqueeze(1)).reshape(
        *shares.shape[:2], len(rays), len(along)).sum(-1) * step
    ends = centre.unsqueeze(2) + length.unsqueeze(-1) * rays
    return torch.cat((centre.unsqueeze(2), ends), dim=2).flatten(1, 2)


def painted(points: Float[Tensor, "structure point axes"], space: tuple[int, ...], spacing: tuple[float, ...]
            ) -> Bool[Tensor, "structure *space"]:
    """Which voxels lie within the outline of each structure; the first of its points is its centre.

    A voxel is inside where it is no farther than the outline in its direction, which is interpolated between the points
    near it, ``sum_k w_k r_k / sum_k w_k`` with ``w_k = exp(cos(angle to point k) / width^2)``.
    """
    lines = [torch.arange(n, dtype=points.dtype) * s for n, s in zip(space, spacing, strict=True)]
    where = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).flatten(0, -2)
    made = []
    for centre, *ends in points:
        spokes = torch.stack(ends) - centre
        radius = spokes.norm(dim=1)
        away = where - centre
        far = away.norm(dim=1)
        width = 2 * math.pi / len(ends) if points.shape[-1] == 2 else math.sqrt(4 * math.pi / len(ends))
        alike = (away / far.clamp(min=1e-6)[:, None]) @ (spokes / radius.clamp(min=1e-6)[:, None]).T
        outline = ((alike - 1) * (1.2 / width) ** 2).softmax(dim=1) @ radius
        made.append((far <= outline).reshape(space))
    return torch.stack(made)


def enclosed(labels: Integer[Tensor, "row *space"], structures: int) -> Bool[Tensor, "outer inner"]:
    """Which structure (1, 2 …) lies in the holes of which: the cavity in its wall, where most of its voxels do.

    >>> enclosed(torch.tensor([[[1, 1, 1], [1, 2, 1], [1, 1, 1]]]), 2).tolist()
    [[False, True], [False, False]]
    """
    from scipy import ndimage

    rows = labels.cpu().numpy()
    made = torch.zeros(structures, structures, dtype=torch.bool)
    for outer in range(structures):
        filled = np.stack([ndimage.binary_fill_holes(row == outer + 1) for row in rows])
        for inner in range(structures):
            own = rows == inner + 1
            made[outer, inner] = bool(inner != outer and own.any() and filled[own].mean() > 0.5)
    return made


def whole(labels: Integer[Tensor, "row *space"], structures: int, *, unknown: int = 255) -> Bool[Tensor, " row"]:
    """Rows that show every structure, and none of them at the edge or beside a voxel that nobody knows."""
    hidden = F.pad((labels == unknown).float(), [1] * (2 * (labels.ndim - 1)), value=1.0).unsqueeze(1)
    pool = F.max_pool2d if labels.ndim == 3 else F.max_pool3d
    cut = pool(hidden, 3, stride=1)[:, 0] > 0
    shown = (labels > 0) & (labels != unknown)
    there = torch.stack([(labels == k + 1).flatten(1).any(1) for k in range(structures)]).all(0)
    return there & ~(cut & shown).flatten(1).any(1)
