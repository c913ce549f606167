"""Patch-to-volume: squares of slices that move on their own, for what is not one rigid body (Alansary 2017)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from firstread.restore.slices_input import SliceSet
from firstread.restore.slices_loop import Fit


def cut_patches(slices: SliceSet, fit: Fit, patch_mm: float) -> tuple[SliceSet, Fit]:
    """Half overlapping squares of ``patch_mm``, each beginning at its slice's pose; empty ones are left out.

    A pixel that is in several patches counts once in all: its share is divided among them.
    """
    pixel = float(slices.affine[:, :3, 0].norm(dim=1).mean())
    size = max(8, round(patch_mm / pixel))
    height, width = slices.plane
    corners = [(y, x) for y in _starts(height, size) for x in _starts(width, size)]
    count = torch.zeros(height, width)
    for y, x in corners:
        count[y:y + size, x:x + size] += 1
    tables = {"values": slices.values, "share": slices.share / count, "weights": fit.pixel_weights / count,
              "bias": fit.log_bias}
    cut = {name: torch.stack([_padded(table[:, y:y + size, x:x + size], size) for y, x in corners], dim=1).flatten(0, 1)
           for name, table in tables.items()}
    parent = torch.arange(len(slices)).repeat_interleave(len(corners))
    offset = torch.tensor([[x, y, 0, 1] for y, x in corners], dtype=torch.float64).repeat(len(slices), 1)
    affine = slices.affine[parent].clone()
    affine[:, :3, 3] = (slices.affine[parent] @ offset[..., None])[:, :3, 0]
    keep = (cut["weights"] > 0).sum(dim=(1, 2)) > 0.1 * size * size
    parent = parent[keep]
    patches = SliceSet(cut["values"][keep], cut["share"][keep], affine[keep], slices.sigma_mm[parent],
                       slices.stack[parent], slices.number[parent], parent)
    return patches, Fit(fit.volume, fit.poses[parent], fit.ncc[parent], fit.weights[parent], fit.scales[parent],
                        cut["weights"][keep], cut["bias"][keep])


def of_parents(fit: Fit, patches: SliceSet, slices: SliceSet) -> Fit:
    """What is known of whole slices from their patches: means of weight, NCC and scale; pose of the middle patch."""
    count = len(slices)
    number = torch.zeros(count).index_add(0, patches.parent, torch.ones(len(patches)))

    def mean(values: Tensor) -> Tensor:
        return torch.zeros(count).index_add(0, patches.parent, values.float()) / number.clamp_min(1)

    centre = patches.points().flatten(1, 2).mean(dim=1)
    whole = slices.points().flatten(1, 2).mean(dim=1)[patches.parent]
    order = torch.argsort((centre - whole).norm(dim=1), descending=True)
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    for index in order.tolist():
        poses[patches.parent[index]] = fit.poses[index]
    pixels = torch.zeros(count).index_add(0, patches.parent, fit.pixel_weights.sum(dim=(1, 2)))
    spread = (pixels / slices.values[0].numel())[:, None, None].expand_as(slices.values)
    return replace(fit, poses=poses, weights=mean(fit.weights), ncc=mean(fit.ncc), scales=mean(fit.scales),
                   pixel_weights=spread, log_bias=torch.zeros_like(slices.values))


def _starts(length: int, size: int) -> list[int]:
    """First pixels of half overlapping windows that cover ``length``.

    >>> _starts(20, 8)
    [0, 4, 8, 12]
    """
    if length <= size:
        return [0]
    count = -(-(length - size) // max(1, size // 2)) + 1
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def _padded(values: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, size - values.shape[2], 0, size - values.shape[1]))
