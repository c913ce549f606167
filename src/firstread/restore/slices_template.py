"""Which stack moved least: the one that the others are aligned with."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

KEPT = 0.99  # share of a stack's energy that its rank must explain


def motion_score(stack: Float[Tensor, "z y x"]) -> float:
    """How far a stack is from being coherent: the share of its slices' dimensions that its content takes.

    With singular values s of the matrix whose columns are the slices (mean removed), the smallest rank r with
    ``δ_r² = Σ_{i>r} s_i² / Σ s_i² ≤ 1 - 0.99``, made continuous between ranks, over the number of slices. Motion
    between slices makes columns independent. After the rank of Kainz et al. 2015.

    >>> still = torch.linspace(0, 1, 64).reshape(1, 8, 8) * torch.linspace(1, 2, 6)[:, None, None]
    >>> motion_score(still) < motion_score(torch.rand(6, 8, 8, generator=torch.Generator().manual_seed(0)))
    True
    """
    matrix = stack.flatten(1)
    matrix = matrix - matrix.mean()
    values = torch.linalg.eigvalsh((matrix @ matrix.T).double()).flip(0).clamp_min(0)
    left = 1 - torch.cumsum(values, dim=0) / values.sum().clamp_min(1e-30)
    left = torch.cat((torch.ones(1, dtype=left.dtype), left))
    rank = int((left > 1 - KEPT).sum())
    before, after = float(left[rank - 1]), float(left[min(rank, len(left) - 1)])
    part = (before - (1 - KEPT)) / max(before - after, 1e-30)
    return (rank - 1 + min(part, 1.0)) / stack.shape[0]
