"""Hard labels out of soft ones: of every member by itself, and of all together."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from firstread.core.records import HardLabels, SoftLabels
from firstread.core.stage import Stage
from firstread.ops.regions import largest_component


class Consensus(Stage):
    """Mean of all draws and members of each (subject, part), its most probable class, cleaned up in 3D.

    Cleaning up keeps, frame by frame, the largest connected component of the left ventricle (cavity and muscle
    together), in it the pieces of cavity that muscle surrounds, and the right cavity beside it, up to the first slice
    from the base that the network is sure of; holes are filled. Not differentiable: hard labels.
    """

    result: ClassVar[str] = "labels"
    differentiable = False

    def __init__(self, *, clean: bool = True) -> None:
        super().__init__()
        self.clean = clean

    def forward(self, labels: SoftLabels) -> HardLabels:
        return harden(average_draws(labels), clean=self.clean)


class Harden(Stage):
    """The most probable class of every row by itself, cleaned up in 3D as :class:`Consensus` does. Not differentiable.

    So that the members of an ensemble are measured as their consensus is.
    """

    result: ClassVar[str] = "labels.hard"
    differentiable = False

    def __init__(self, *, clean: bool = True) -> None:
        super().__init__()
        self.clean = clean

    def forward(self, labels: SoftLabels) -> HardLabels:
        return harden(labels, clean=self.clean)


def harden(labels: SoftLabels, *, clean: bool) -> HardLabels:
    """The most probable class of every voxel; ``clean``: with :func:`clean_up`."""
    hard = labels.harden()
    if not clean:
        return hard
    cleaned = clean_up(hard.data[:, :, 0].long())
    cleaned = cleaned.masked_fill(unsure_base(cleaned == 3, labels.data.detach()[:, :, 3]), 0)
    kept = labels.data.detach().gather(2, cleaned.unsqueeze(2))
    return replace(hard, data=cleaned.unsqueeze(2).to(torch.uint8), top_probability=kept)


def average_draws(labels: SoftLabels) -> SoftLabels:
    """The mean probability over the rows of each (subject, part); the first row's grid and times stand for all."""
    places = torch.stack((labels.rows.subject, labels.rows.part), dim=1)
    unique, group = torch.unique(places, dim=0, return_inverse=True)
    first = torch.stack([torch.nonzero(group == g)[0, 0] for g in range(len(unique))])
    total = labels.data.new_zeros((len(unique), *labels.data.shape[1:])).index_add(0, group, labels.data)
    count = torch.bincount(group).to(total).reshape(-1, *(1,) * (total.ndim - 1))
    merged = labels.select(first)
    return replace(merged, data=total / count, rows=replace(merged.rows, draw=torch.zeros_like(merged.rows.draw)))


def clean_up(index: Tensor) -> Tensor:
    """Class indices ``[batch, time, z, y, x]`` (1 LV cavity, 2 myocardium, 3 RV cavity) with stray pieces removed.

    The cavity may be closed in some slices, so besides its largest piece it keeps others that muscle surrounds; of the
    right cavity the piece that shares the longest wall with the left ventricle stays. What the cavity of a slice
    encloses is cavity (papillary muscles), what the right cavity encloses is right cavity, and other holes of the left
    ventricle become the nearer of cavity and muscle.

    >>> clean_up(torch.tensor([3, 0, 3, 3]).reshape(1, 1, 1, 1, 4)).flatten().tolist()
    [0, 0, 3, 3]
    """
    left = largest_component((index == 1) | (index == 2))
    cavity = _enclosed(_walled(left & (index == 1), index == 2))
    muscle = largest_component(left & (index == 2) & ~cavity)
    right = _enclosed(_sharing_most(index == 3, cavity | muscle)) & ~cavity & ~muscle
    cleaned = 1 * cavity + 2 * muscle + 3 * right
    holes = _enclosed(cavity | muscle) & (cleaned == 0)
    return torch.where(holes, _nearest(1 * cavity + 2 * muscle, holes), cleaned)


def unsure_base(right: Tensor, probability: Tensor, *, less: float = 0.04) -> Tensor:
    """Where the right cavity ``[batch, time, z, y, x]`` reaches above the first slice that the network is sure of.

    Above the tricuspid valve the right atrium lies where the ventricle lay a heartbeat ago, and looks much like it: a
    network calls it right ventricle, but with less probability. From the base towards the middle of the cavity, the
    slices whose mean ``probability`` over their pixels is by ``less`` below that of the frame's second surest slice
    are answered, up to the first that is not. Base is the half with more of the cavity.

    >>> right = torch.ones(1, 1, 4, 1, 1, dtype=torch.bool)
    >>> unsure_base(right, torch.tensor([0.7, 0.99, 0.98, 0.5]).reshape(1, 1, 4, 1, 1)).flatten().tolist()
    [True, False, False, False]
    """
    pixels = right.sum(dim=(-1, -2))
    mean = (probability * right).sum(dim=(-1, -2)) / pixels.clamp(min=1)
    unsure = torch.zeros_like(pixels, dtype=torch.bool)
    for batch, time in torch.nonzero((pixels > 0).sum(dim=-1) > 1).tolist():
        slices = torch.nonzero(pixels[batch, time])[:, 0].tolist()
        half = len(slices) // 2
        first, last = (int(pixels[batch, time, part].sum()) for part in (slices[:half], slices[-half:]))
        sure = float(mean[batch, time, slices].sort(descending=True).values[1])
        for z in (slices if first >= last else slices[::-1])[:half]:
            if mean[batch, time, z] >= sure - less:
                break
            unsure[batch, time, z] = True
    return right & unsure[..., None, None]


def _walled(mask: Tensor, wall: Tensor, *, share: float = 0.8) -> Tensor:
    """The largest component (over z, y, x) of ``mask``, and those with ``wall`` along ``share`` of their rim."""
    import numpy as np
    from scipy import ndimage

    volumes, walls = (m.cpu().numpy().reshape(-1, *m.shape[-3:]) for m in (mask, wall))
    near = np.zeros((3, 3, 3), dtype=bool)
    near[1, 1, :] = near[1, :, 1] = True
    kept = np.zeros_like(volumes)
    for volume, around, out in zip(volumes, walls, kept, strict=True):
        components, count = ndimage.label(volume)
        sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
        for number in range(1, count + 1):
            piece = components == number
            rim = ndimage.binary_dilation(piece, near) & ~piece
            if number == sizes.argmax() + 1 or (around & rim).sum() >= share * rim.sum():
                out |= piece
    return torch.from_numpy(kept).reshape(mask.shape).to(mask.device)


def _sharing_most(mask: Tensor, other: Tensor, *, reach: int = 2) -> Tensor:
    """The component (over z, y, x) of ``mask`` with the most pixels within ``reach`` of ``other`` in their slice.

    The largest where none comes near. The right ventricle shares the septum; liver and stomach do not, however large.
    """
    import numpy as np
    from scipy import ndimage

    volumes, others = (m.cpu().numpy().reshape(-1, *m.shape[-3:]) for m in (mask, other))
    near = np.zeros((3, 3, 3), dtype=bool)
    near[1, 1, :] = near[1, :, 1] = True
    kept = np.zeros_like(volumes)
    for volume, beside, out in zip(volumes, others, kept, strict=True):
        components, count = ndimage.label(volume)
        if count > 0:
            close = components[ndimage.binary_dilation(beside, near, iterations=reach)] if beside.any() else components
            shared = np.bincount(close.ravel(), minlength=count + 1)[1:]
            sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
            out[:] = components == 1 + (shared if shared.any() else sizes).argmax()
    return torch.from_numpy(kept).reshape(mask.shape).to(mask.device)


def _enclosed(mask: Tensor) -> Tensor:
    """The mask with the holes of each slice filled."""
    from scipy import ndimage

    planes = mask.cpu().numpy().reshape(-1, *mask.shape[-2:])
    filled = [ndimage.binary_fill_holes(plane) if plane.any() else plane for plane in planes]
    return torch.stack([torch.from_numpy(plane) for plane in filled]).reshape(mask.shape).to(mask.device)


def _nearest(index: Tensor, holes: Tensor) -> Tensor:
    """In each slice with holes, for every pixel the class of the nearest pixel that has one."""
    from scipy import ndimage

    planes, empty = index.cpu().numpy().reshape(-1, *index.shape[-2:]), holes.flatten(0, -3).cpu().numpy()
    filled = planes.copy()
    for plane, hole, out in zip(planes, empty, filled, strict=True):
        if hole.any():
            y, x = ndimage.distance_transform_edt(plane == 0, return_distances=False, return_indices=True)
            out[:] = plane[y, x]
    return torch.from_numpy(filled).reshape(index.shape).to(index.device)
