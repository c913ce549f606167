"""Slices to volumes: one rigid stack where slices are parallel and evenly spaced, batch rows where they are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from torch import Tensor

from firstread.core.geometry import Frame, Grid
from firstread.core.records import Note

_PARALLEL = np.cos(np.deg2rad(1.0))


@dataclass(frozen=True)
class Stack:
    """A grid and which of the given slices lies where: ``order [batch, z]``."""

    grid: Grid
    order: np.ndarray

    @overload
    def arrange(self, slices: Tensor) -> Tensor: ...
    @overload
    def arrange(self, slices: None) -> None: ...

    def arrange(self, slices: Tensor | None) -> Tensor | None:
        """``[slice, time, channel, 1, y, x]`` to ``[batch, time, channel, z, y, x]``.

        Times ``[slice, time, 1]`` become ``[batch, time, z]`` and cycles ``[slice, 1]`` become ``[batch, z]``.
        """
        if slices is None:
            return None
        rows = [slices[torch.as_tensor(row)] for row in self.order]
        if slices.ndim == 6:
            return torch.stack([row.movedim(0, 3).flatten(2, 3) for row in rows])
        if slices.ndim == 3:
            return torch.stack([row[:, :, 0].T for row in rows])
        return torch.stack([row[:, 0] for row in rows])


def stack_slices(affines: np.ndarray, shape: tuple[int, int], thickness_mm: float | None, notes: list[Note], *,
                 frame: Frame = "patient") -> Stack:
    """One stack of slices with the same in-plane axes and even steps; otherwise one batch row for each slice.

    affines: ``[slice, 4, 4]`` of the single slices, LPS+, whose third column is the thickness (or any step) along the
    normal; shape: (y, x). In a stack slices are sorted along the third column of the first, which becomes
    the step between them.
    """
    count = len(affines)
    normals = np.cross(affines[:, :3, 0], affines[:, :3, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    along = affines[:, :3, 3] @ affines[0, :3, 2]
    order = np.argsort(along, kind="stable")
    if count == 1:
        return Stack(_grid(affines, (1, *shape), thickness_mm, frame), np.zeros((1, 1), dtype=int))
    steps = np.diff(affines[order, :3, 3], axis=0)
    reason = _not_rigid(affines, normals, steps)
    if reason is not None:
        notes.append(Note("not_a_stack", f"{reason}: each of the {count} slices is kept with its own position."))
        return Stack(_grid(affines, (1, *shape), thickness_mm, frame), np.arange(count)[:, None])
    joined = affines[order[0]].copy()
    joined[:3, 2] = steps.mean(axis=0)
    return Stack(_grid(joined[None], (count, *shape), thickness_mm, frame), order[None])


def _grid(affines: np.ndarray, shape: tuple[int, int, int], thickness_mm: float | None, frame: Frame) -> Grid:
    thickness = None if thickness_mm is None else torch.full((len(affines),), thickness_mm, dtype=torch.float64)
    return Grid(torch.from_numpy(np.ascontiguousarray(affines, dtype=np.float64)), shape, thickness, frame)


def _not_rigid(affines: np.ndarray, normals: np.ndarray, steps: np.ndarray) -> str | None:
    """Why slices cannot be one grid, or None."""
    size = np.linalg.norm(affines[:, :3, :2], axis=1)
    unit = affines[:, :3, :2] / size[:, None]
    if (np.einsum("ijk,jk->ik", unit, unit[0]) < _PARALLEL).any() or (normals @ normals[0] < _PARALLEL).any():
        return "The slices are not parallel"
    if np.abs(size - size[0]).max() > 1e-3 * size[0].min():
        return "The slices differ in pixel size"
    step = steps.mean(axis=0)
    if np.linalg.norm(step) < 1e-3:
        return "The slices lie at one place"
    if np.abs(steps - step).max() > max(0.02 * float(np.linalg.norm(step)), 0.01):
        return "The slices are not evenly spaced in a straight line"
    return None

