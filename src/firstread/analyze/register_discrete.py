"""Large motion by exhaustive search: every displacement in a window for every block, coupled by smoothing.

After Heinrich, Papież et al. (2014) and Siebert et al. (ConvexAdam, 2021), with the cost D(x, d) of moving block x
by d:

    d(x) = argmin_d D(x, d) + w |d - u(x)|^2,    u = smooth(d),    w growing,

which finds what a gradient from zero cannot reach.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from firstread.ops.separable import resize, smooth

WEIGHTS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
BLOCK, REACH = 2, 4  # voxels of a block; displacements of up to so many blocks each way


def self_similarity(image: Float[Tensor, "z y x"]) -> Float[Tensor, "channel z y x"]:
    """What a voxel's neighbourhood looks like, whatever the contrast (MIND, Heinrich et al. 2012)::

        S_r(x) = exp(-D(x, x + r) / V(x)),   D = smoothed squared difference, V = its mean over r

    for the neighbours r two voxels away along each axis longer than one.
    """
    parts = []
    for axis in range(3):
        if image.shape[axis] == 1:
            continue
        for shift in (-2, 2):
            moved = _shift(image, [shift if a == axis else 0 for a in range(3)])
            parts.append(smooth((image - moved).square(), (1.0, 1.0, 1.0)))
    stack = torch.stack(parts)
    variance = stack.mean(dim=0, keepdim=True)
    middle = variance.mean()
    stack = stack / variance.clamp(min=1e-3 * float(middle), max=1e3 * float(middle) + 1e-12).clamp_min(1e-12)
    return torch.exp(-stack)


def discrete_displacement(fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"]
                          ) -> Float[Tensor, "1 3 z y x"]:
    """A smooth displacement in voxels (x, y, z) that brings self-similarities together.

    Searched over ``REACH`` blocks of ``BLOCK`` voxels each way.
    """
    shape = tuple(fixed.shape)
    z, y, x = (max(1, round(n / BLOCK)) if n > 1 else 1 for n in shape)
    one, two = (resize(smooth(self_similarity(image), tuple(0.9 if n > 1 else 0.0 for n in shape)), (z, y, x))
                for image in (fixed, moving))
    reach = [min(REACH, n // 4) for n in (z, y, x)]
    steps = torch.cartesian_prod(*(torch.arange(-r, r + 1) for r in reach)).reshape(-1, 3)
    padded = F.pad(two, [p for r in reversed(reach) for p in (r, r)], mode="replicate")
    cost = torch.stack([_cost(one, padded, [int(s) + r for s, r in zip(step, reach, strict=True)]) for step in steps])
    cost = smooth(cost, tuple(1.0 if n > 1 else 0.0 for n in (z, y, x)))
    labels = steps.to(fixed)
    u = labels[cost.argmin(dim=0)]
    for weight in WEIGHTS:
        u = smooth(u.movedim(-1, 0), (1.0, 1.0, 1.0)).movedim(0, -1)
        apart = (labels.square().sum(dim=1)[:, None, None, None] - 2 * torch.einsum("lk,zyxk->lzyx", labels, u))
        u = labels[(cost + weight * apart).argmin(dim=0)]
    u = smooth(u.movedim(-1, 0), (1.5, 1.5, 1.5)).flip(0)[None]  # (z, y, x) to (x, y, z)
    scale = torch.tensor([n / m for n, m in zip(shape[::-1], (x, y, z), strict=True)]).to(u)
    return resize(u, shape) * scale[:, None, None, None]


def _cost(one: Tensor, padded: Tensor, start: list[int]) -> Tensor:
    block = padded
    for axis, (begin, size) in enumerate(zip(start, one.shape[1:], strict=True)):
        block = block.narrow(axis + 1, begin, size)
    return (one - block).square().mean(dim=0)


def _shift(image: Tensor, by: list[int]) -> Tensor:
    padded = F.pad(image[None], [2 if n > 1 else 0 for n in reversed(image.shape) for _ in (0, 1)], mode="replicate")[0]
    for axis, (step, size) in enumerate(zip(by, image.shape, strict=True)):
        padded = padded.narrow(axis, (2 if size > 1 else 0) + step, size)
    return padded
