"""Rigid motions as 4 x 4 matrices: the exponential of SE(3), its logarithm, the inverse, and a motion about a centre.

A twist is ``(wx, wy, wz, tx, ty, tz)``: a rotation vector in radians and a translation in millimetres. Two motions are
composed by the product of their matrices, the first one on the right.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def exponential(twist: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 4 4"]:
    """``exp([[W, t], [0, 0]])`` with ``W v = w x v``; differentiable everywhere, at zero too.

    >>> exponential(torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 3.0]))[:3, 3].tolist()
    [1.0, 2.0, 3.0]
    """
    return torch.linalg.matrix_exp(_generator(twist))


def logarithm(matrix: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 6"]:
    """The twist of a rigid motion, ``exponential(logarithm(M)) = M``, for rotations below 180 degrees.

    With ``w`` from ``sin(a) u = vee(R - Rᵀ) / 2`` and ``t = V(w)⁻¹ T``,
    ``V⁻¹ = I - W / 2 + (1 - (a / 2) cot(a / 2)) / a² W²``.

    >>> twist = torch.tensor([0.1, -0.2, 0.3, 1.0, 2.0, 3.0], dtype=torch.float64)
    >>> torch.allclose(logarithm(exponential(twist)), twist)
    True
    """
    rotation = matrix[..., :3, :3]
    skew = (rotation - rotation.transpose(-1, -2)) / 2
    sine_axis = torch.stack((skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]), dim=-1)
    cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(dim=-1) - 1) / 2
    small = sine_axis.square().sum(dim=-1) < 1e-12
    sine = torch.where(small, torch.ones_like(cosine), sine_axis.square().sum(dim=-1)).sqrt()
    angle = torch.atan2(sine, cosine)
    w = sine_axis * torch.where(small, torch.ones_like(angle), angle / sine)[..., None]
    half = angle / 2
    bend = torch.where(small, torch.full_like(angle, 1 / 12), (1 - half / torch.tan(half)) / angle**2)
    cross = _cross_matrix(w)
    inverse = torch.eye(3, dtype=w.dtype, device=w.device) - cross / 2 + bend[..., None, None] * (cross @ cross)
    return torch.cat((w, (inverse @ matrix[..., :3, 3:])[..., 0]), dim=-1)


def inverse(matrix: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """``[[Rᵀ, -Rᵀ t], [0, 1]]``.

    >>> motion = exponential(torch.tensor([0.1, 0.2, 0.3, 4.0, 5.0, 6.0], dtype=torch.float64))
    >>> torch.allclose(inverse(motion) @ motion, torch.eye(4, dtype=torch.float64))
    True
    """
    back = matrix[..., :3, :3].transpose(-1, -2)
    top = torch.cat((back, -back @ matrix[..., :3, 3:]), dim=-1)
    return torch.cat((top, matrix[..., 3:, :]), dim=-2)


def about(motion: Float[Tensor, "*batch 4 4"], centre: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4 4"]:
    """``T(c) M T(-c)``: the motion with ``centre`` as its origin."""
    moved = motion.clone()
    moved[..., :3, 3] = motion[..., :3, 3] + centre - (motion[..., :3, :3] @ centre[..., None])[..., 0]
    return moved


def angle_degrees(matrix: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch"]:
    """The angle of the rotation, 0 to 180 degrees.

    >>> round(angle_degrees(exponential(torch.tensor([0.0, 0.5236, 0.0, 9.0, 0.0, 0.0]))).item(), 2)
    30.0
    """
    rotation = matrix[..., :3, :3]
    skew = (rotation - rotation.transpose(-1, -2)) / 2
    sine = torch.stack((skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]), dim=-1).norm(dim=-1)
    cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(dim=-1) - 1) / 2
    return torch.rad2deg(torch.atan2(sine, cosine))


def fit_rigid(source: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"]) -> Float[Tensor, "4 4"]:
    """The motion that brings ``source`` points closest to ``target`` points, least squares (Kabsch 1976; Umeyama 1991).

    >>> points = torch.eye(3, dtype=torch.float64) * 10
    >>> fit_rigid(points, points + 2)[:3, 3].round(decimals=6).tolist()
    [2.0, 2.0, 2.0]
    """
    one, two = source.mean(dim=0), target.mean(dim=0)
    u, _, vt = torch.linalg.svd((target - two).T @ (source - one))
    sign = torch.ones(3, dtype=source.dtype, device=source.device)
    sign[2] = torch.sign(torch.linalg.det(u @ vt))
    rotation = u @ (sign[:, None] * vt)
    matrix = torch.eye(4, dtype=source.dtype, device=source.device)
    matrix[:3, :3], matrix[:3, 3] = rotation, two - rotation @ one
    return matrix


def _cross_matrix(w: Tensor) -> Tensor:
    x, y, z = w.unbind(dim=-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).reshape(*w.shape[:-1], 3, 3)


def _generator(twist: Tensor) -> Tensor:
    top = torch.cat((_cross_matrix(twist[..., :3]), twist[..., 3:, None]), dim=-1)
    return torch.cat((top, torch.zeros_like(top[..., :1, :])), dim=-2)
