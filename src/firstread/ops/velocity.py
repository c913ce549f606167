"""Stationary velocity fields: the diffeomorphism they flow to, by scaling and squaring, and back.

Fields are ``[batch, 3, z, y, x]`` with components (x, y, z) in voxels of their own grid.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.ops.resample import sample


def identity_index(field: Float[Tensor, "batch 3 z y x"]) -> Float[Tensor, "1 z y x 3"]:
    """The index (x, y, z) of every voxel."""
    z, y, x = (torch.arange(n, dtype=field.dtype, device=field.device) for n in field.shape[2:])
    return torch.stack(torch.meshgrid(z, y, x, indexing="ij")[::-1], dim=-1)[None]


def sample_at(data: Float[Tensor, "batch channel z y x"], displacement: Float[Tensor, "batch 3 z y x"],
              where: Float[Tensor, "1 z y x 3"] | None = None) -> Float[Tensor, "batch channel z y x"]:
    """``data(x + u(x))`` with values of the border beyond it; one slice alone is sampled in its plane."""
    index = (identity_index(displacement) if where is None else where) + displacement.movedim(1, -1)
    if data.shape[2] == 1:
        return sample(data[:, :, 0], index[:, 0, ..., :2], outside="border")[:, :, None]
    return sample(data, index, outside="border")


def exponential(velocity: Float[Tensor, "batch 3 z y x"], *, longest: float = 0.5) -> Float[Tensor, "batch 3 z y x"]:
    """The displacement ``u`` of ``exp(v) = id + u``, by scaling and squaring (Arsigny et al. 2006)::

        u_0 = v / 2^n,    u_{k+1}(x) = u_k(x) + u_k(x + u_k(x))

    n is the least with ``|u_0| <= longest`` voxels. Differentiable; ``exponential(-v)`` is the inverse.

    >>> moved = exponential(torch.full((1, 3, 4, 4, 4), 2.0))
    >>> bool((moved - 2).abs().max() < 1e-5)
    True
    """
    size = float(velocity.detach().abs().amax())
    squarings = max(0, math.ceil(math.log2(size / longest))) if size > 0 else 0
    u = velocity / 2**squarings
    where = identity_index(velocity)
    for _ in range(squarings):
        u = u + sample_at(u, u, where)
    return u


def logarithm(displacement: Float[Tensor, "batch 3 z y x"], *, iterations: int = 12) -> Float[Tensor, "batch 3 z y x"]:
    """A velocity whose flow comes close to ``id + u``, for smooth ``u`` without folds (Bossa et al. 2007)::

        v <- v + (exp(-v) o (id + u) - id)

    >>> u = torch.zeros(1, 3, 8, 8, 8)
    >>> u[:, 0] = 0.5 * torch.sin(torch.arange(8.0) / 3)
    >>> bool((exponential(logarithm(u)) - u).abs().max() < 0.1)
    True
    """
    velocity = displacement
    for _ in range(iterations):
        back = exponential(-velocity)
        velocity = velocity + displacement + sample_at(back, displacement)
    return velocity


def jacobian_determinant(displacement: Float[Tensor, "batch 3 z y x"]) -> Float[Tensor, "batch z y x"]:
    """``det(I + du/dx)`` by central differences, in voxels of the field's grid; an axis of one voxel has slope zero.

    >>> stretched = torch.zeros(1, 3, 4, 4, 4)
    >>> stretched[:, 0] = 0.5 * torch.arange(4.0)
    >>> jacobian_determinant(stretched).unique().tolist()
    [1.5]
    """
    rows = []
    for axis in (4, 3, 2):  # x, y, z
        if displacement.shape[axis] == 1:
            rows.append(torch.zeros_like(displacement))
        else:
            rows.append(torch.gradient(displacement, dim=axis)[0])
    slope = torch.stack(rows, dim=-1).movedim(1, -2)  # [..., component, axis]
    return torch.linalg.det(slope + torch.eye(3, dtype=slope.dtype, device=slope.device))
