"""A network over an image that is larger than it should see at once: overlapping windows, blended."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.tile_memory import TileMemory
from firstread.core.errors import SettingError


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Starts of windows that cover ``size`` with ``overlap`` of a window shared or more; the last one ends at the edge.

    >>> window_starts(10, 4, 0.5)
    [0, 2, 4, 6]
    """
    if size <= window:
        return [0]
    stride = max(1, int(window * (1 - overlap)))
    return [*range(0, size - window, stride), size - window]


def window_weight(window: tuple[int, ...], blend: Literal["gaussian", "linear"]) -> Float[Tensor, "*window"]:
    """Weight of each voxel of a window: separable, largest in the middle, above zero everywhere.

    ``gaussian``: ``exp(-((i - c) / (w / 8))^2 / 2)``, 1e-3 or more (Isensee 2021); ``linear``: a tent down to one step
    at the border.

    >>> window_weight((3,), "linear")
    tensor([0.5000, 1.0000, 0.5000])
    """
    weight = torch.ones(())
    for size in window:
        off = torch.arange(size) - (size - 1) / 2
        line = torch.exp(-0.5 * (off / (size / 8)) ** 2) if blend == "gaussian" else 1 - off.abs() / ((size + 1) / 2)
        weight = weight.unsqueeze(-1) * line
    return weight.clamp(min=1e-3)


def tiled(network: Callable[[Tensor], Tensor], volume: Float[Tensor, "batch channel *space"], *,
          window: tuple[int, ...], overlap: float = 0.25, at_once: int = 1, memory: int | None = None,
          blend: Literal["gaussian", "linear"] = "gaussian") -> Float[Tensor, "batch classes *space"]:
    """``sum_k w_k network(x_k) / sum_k w_k`` over windows ``x_k`` of a 2D or 3D image.

    window: size along each axis of ``space``; smaller images are padded by replication and cropped again.
    overlap: least share of a window that its neighbour covers too, in [0, 1).
    at_once: windows per call; more take more memory and, for our 3D U-Net on a CPU, no less time.
    memory: bytes that may be taken beyond the image and the network's weights; windows are then fewer at once, or
    smaller, than stated, where they must be (:mod:`firstread.analyze.tile_memory`).

    Beside the network's own memory one output and one row of ``at_once`` windows are held. No gradient is kept unless
    grad mode is on. Raises SettingError for a window that does not fit the axes, an overlap out of range, or
    a memory that no windows keep under.

    >>> tiled(lambda x: 2 * x, torch.ones(1, 1, 10, 7), window=(4, 4)).unique()
    tensor([2.])
    """
    space = volume.shape[2:]
    if len(window) != len(space) or min(window) < 1 or not 0 <= overlap < 1 or at_once < 1:
        raise SettingError(f"windows {window} with overlap {overlap}, {at_once} at once, over {tuple(space)}",
                           expected=f"{len(space)} sizes above zero, an overlap in [0, 1), one at once or more",
                           remedy="correct the settings")
    if memory is not None:
        held = TileMemory.of(network, volume.shape[1], len(space), device=volume.device)
        window, at_once = held.windows(volume.shape[0], space, window, at_once, memory)
    missing = [max(0, w - s) for w, s in zip(window, space, strict=True)]
    if any(missing):
        volume = F.pad(volume, [p for m in reversed(missing) for p in (0, m)], mode="replicate")
    padded = volume.shape[2:]
    along = [window_starts(size, width, overlap) for size, width in zip(padded, window, strict=True)]
    starts = list(product(range(volume.shape[0]), *along))
    weight = window_weight(window, blend).to(volume.device)
    total = torch.zeros(padded, device=volume.device)
    out: Tensor | None = None
    for first in range(0, len(starts), at_once):
        group = starts[first:first + at_once]
        places = [tuple(slice(a, a + w) for a, w in zip(start[1:], window, strict=True)) for start in group]
        batch = torch.stack([volume[(start[0], slice(None), *place)]
                             for start, place in zip(group, places, strict=True)])
        made = network(batch) * weight
        del batch
        if out is None:
            out = made.new_zeros((volume.shape[0], made.shape[1], *padded))
        for tile, start, place in zip(made, group, places, strict=True):
            out[(start[0], slice(None), *place)] += tile
            if start[0] == 0:
                total[place] += weight
        del made, tile
    assert out is not None
    out = out / total if out.requires_grad else out.div_(total)
    for axis, size in enumerate(space):
        out = out.narrow(axis + 2, 0, size)
    return out
