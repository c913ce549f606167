"""Density compensation: the area of k-space that each sample of a trajectory stands for.

Areas are in squared (cubed) cycles per field of view, so that on a full Cartesian grid every weight is 1 and
``F(k)ᴴ w F(k)`` is close to the identity wherever k-space was sampled densely enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.nufft import nufft, nufft_adjoint
from firstread.ops.nufft_plan import NufftPlan, check_trajectory

_TOLERANCE, _OVERSAMPLING = 1e-2, 1.25  # the window of the iteration is 4 grid steps, 1.6 cycles, wide


def iterative_density(trajectory: Float[Tensor, "axis *samples"], shape: Sequence[int], *, iterations: int = 20
                      ) -> Float[Tensor, "*samples"]:
    """Weights of any trajectory: ``w ← w / (C w)``, C the convolution with the squared window, from ``w = 1``.

    At the fixed point every sample sees the density 1. The window belongs to a field of view twice as large, as the
    image of an object that fills the field of view is free of errors only then. The scale is that for which a point,
    gridded and measured again, comes back as it was. After Pipe and Menon, MRM 41:179 (1999).

    trajectory: cycles per field of view; shape: of the image. Not differentiable.

    >>> y, x = torch.meshgrid(torch.arange(-4.0, 4.0), torch.arange(-4.0, 4.0), indexing="ij")
    >>> iterative_density(torch.stack((y, x)), (8, 8)).mean().round(decimals=2).item()
    1.0
    """
    if iterations < 1:
        raise SettingError(f"{iterations} iterations", expected="one or more", remedy="raise `iterations`")
    places = trajectory.detach().flatten(1).float()
    table = NufftPlan(2 * places, [2 * n for n in shape], tolerance=_TOLERANCE,
                       oversampling=_OVERSAMPLING).table()
    spread = table.T.tocsr()
    found = np.ones(places.shape[1], dtype=np.float32)
    for _ in range(iterations):
        found /= table @ (spread @ found)
    weights = torch.from_numpy(found).to(trajectory.device)
    again = nufft(nufft_adjoint(torch.complex(weights, torch.zeros_like(weights)), places, shape), places)
    scale = (weights * again.real).sum() / (weights * again.abs().square()).sum()
    return (scale * weights).reshape(trajectory.shape[1:]).to(trajectory.dtype)


def radial_density(trajectory: Float[Tensor, "axis=2 shot sample"]) -> Float[Tensor, "shot sample"]:
    """Exact weights of straight, evenly sampled spokes through the centre: ``w = |k| Δ θ``, ``Δ² θ / 4`` at the centre.

    Δ: distance of neighbouring samples; θ: the share of the angle π that is nearest to the spoke, so that golden angles
    and missing spokes are right too. Differentiable in the trajectory's radius, not in its angles' order.

    Raises SettingError for shots that are not straight or do not pass through the centre.

    >>> radial_density(torch.tensor([[[0.0, 0.0, 0.0]], [[-1.0, 0.0, 1.0]]])).div(math.pi).tolist()
    [[1.0, 0.25, 1.0]]
    """
    check_trajectory(trajectory, (1, 1))
    if trajectory.shape[2] < 2:
        raise SettingError("spokes of one sample", expected="two samples or more", remedy="give whole spokes")
    along = trajectory[:, :, -1] - trajectory[:, :, 0]
    step = along.norm(dim=0) / (trajectory.shape[2] - 1)
    direction = along / along.norm(dim=0).clamp_min(1e-30)
    radius = trajectory.norm(dim=0)
    across = (direction[0, :, None] * trajectory[1] - direction[1, :, None] * trajectory[0]).abs()
    projected = (direction[:, :, None] * trajectory).sum(dim=0)
    if bool((across > 0.1 * step[:, None]).any()) or bool((projected[:, 0] > 0).any()):
        raise SettingError("shots that are not straight lines through the centre", expected="spokes over a whole "
                           "diameter", remedy="use iterative_density")
    angle = torch.atan2(direction[0], direction[1]).remainder(math.pi)
    order = angle.argsort()
    gaps = torch.diff(angle[order], append=angle[order[:1]] + math.pi)
    share = torch.empty_like(gaps)
    share[order] = (gaps + gaps.roll(1)) / 2
    annulus = radius * step[:, None]
    return share[:, None] * torch.where(radius < step[:, None] / 2, step[:, None].square() / 4, annulus)
