"""Distances between the surfaces of two hard masks, and what is told from them: Hausdorff, mean, share within reach.

    d(a, B) = min over b in B of |a - b|        for every element a of the surface A, and the other way round

Two kinds of surface elements are in use. ``voxels``: the mask's voxels with a face neighbour outside (beyond the array
counts as outside), each counted once, as in MONAI, MedPy and nnU-Net's tools. ``areas``: the voxel corners with both
kinds around, each counted by the area that marching cubes draws there, as in DeepMind's surface-distance. Axes of
length one are left out: a single slice has a contour.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, product
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.overlap import bounding_box
from firstread.ops.surface_elements import corner_codes, element_sizes

Elements = Literal["voxels", "areas"]
Definition = Literal["largest", "pooled", "area-weighted"]
REACH = 4.0
"""Neighbours nearer than this many of the smallest spacings are looked up one by one, farther ones in a tree."""


@dataclass(frozen=True)
class SurfaceDistances:
    """How far each element of one surface lies from the other surface.

    first_mm, second_mm: distances of the elements of the first surface to the second, and of the second to the first;
    both empty where either mask is empty. first_size, second_size: what each element counts (1, or mm²).
    """

    first_mm: Float[Tensor, " n"]
    second_mm: Float[Tensor, " m"]
    first_size: Float[Tensor, " n"]
    second_size: Float[Tensor, " m"]

    @property
    def absent(self) -> bool:
        return self.first_mm.numel() == 0


def surface_distances(first: Bool[Tensor, "*space"], second: Bool[Tensor, "*other"], spacing_mm: tuple[float, ...], *,
                      elements: Elements = "voxels") -> SurfaceDistances:
    """Exact Euclidean distances from every surface element of each mask to the nearest one of the other.

    spacing_mm: along every axis of the masks. Raises SettingError for another number of spacings or other shapes.

    >>> a = torch.tensor([[1, 0, 0, 0]]).bool(); b = torch.tensor([[0, 0, 1, 0]]).bool()
    >>> surface_distances(a, b, (1.0, 1.5)).first_mm.tolist()
    [3.0]
    """
    if first.shape != second.shape or len(spacing_mm) != first.ndim or min(spacing_mm, default=1.0) <= 0:
        raise SettingError(f"masks of {tuple(first.shape)} and {tuple(second.shape)}, spacing {spacing_mm}",
                           expected="one shape, and a spacing above zero along every axis",
                           remedy="resample one mask to the grid of the other")
    kept = [axis for axis, size in enumerate(first.shape) if size > 1] or [first.ndim - 1]
    shape = [first.shape[axis] for axis in kept]
    masks = [mask.detach().cpu().reshape(shape).numpy() for mask in (first, second)]
    found = _between(masks[0], masks[1], tuple(float(spacing_mm[axis]) for axis in kept), elements)
    return SurfaceDistances(*(torch.from_numpy(values) for values in found))


def hausdorff_mm(distances: SurfaceDistances, *, percent: float = 100.0, definition: Definition = "largest") -> float:
    """Hausdorff distance, or the percentile of it that ``percent`` says; NaN where a mask is empty.

    ``largest``: the larger of the percentiles of the two directions, interpolated (MONAI, nnU-Net's tools).
    ``pooled``: one percentile of both directions together, interpolated, never larger (MedPy).
    ``area-weighted``: per direction the least distance within which elements of ``percent`` of the area lie, the larger
    of the two (DeepMind); it wants distances of ``areas``, or else counts elements.

    >>> row = torch.tensor([0.0, 0.0, 4.0]); one = torch.ones(3)
    >>> far = SurfaceDistances(row, 0 * row, one, one)
    >>> [round(hausdorff_mm(far, percent=90, definition=d), 1) for d in ("largest", "pooled", "area-weighted")]
    [3.2, 2.0, 4.0]
    """
    if definition not in get_args(Definition) or not 0 < percent <= 100:
        raise SettingError(f"the definition {definition!r} at {percent} %", expected=f"one of {get_args(Definition)}, "
                           "above 0 and up to 100 %", remedy="name one of them")
    if distances.absent:
        return float("nan")
    sides = (distances.first_mm.numpy(), distances.second_mm.numpy())
    if definition == "pooled":
        return float(np.percentile(np.concatenate(sides), percent))
    if definition == "largest":
        return float(max(np.percentile(side, percent) for side in sides))
    sizes = (distances.first_size.numpy(), distances.second_size.numpy())
    return max(_weighted(side, size, percent) for side, size in zip(sides, sizes, strict=True))


def mean_surface_distance(distances: SurfaceDistances) -> float:
    """Average symmetric surface distance (ASSD), mm: the mean over the elements of both surfaces; NaN where absent.

        ASSD = (Σ_a w_a d(a, B) + Σ_b w_b d(b, A)) / (Σ_a w_a + Σ_b w_b)
    """
    if distances.absent:
        return float("nan")
    total = (distances.first_mm * distances.first_size).sum() + (distances.second_mm * distances.second_size).sum()
    return float(total / (distances.first_size.sum() + distances.second_size.sum()))


def surface_dice(distances: SurfaceDistances, *, tolerance_mm: float) -> float:
    """Normalized surface Dice (NSD): share of both surfaces within ``tolerance_mm`` of the other; NaN where absent.

    Source: Nikolov et al. 2021 (with ``areas``); with ``voxels`` as in MONAI.

    >>> row = torch.tensor([0.0, 0.0, 4.0]); one = torch.ones(3)
    >>> round(surface_dice(SurfaceDistances(row, 0 * row, one, one), tolerance_mm=1.0), 3)
    0.833
    """
    if tolerance_mm < 0:
        raise SettingError(f"a tolerance of {tolerance_mm} mm", expected="zero or more", remedy="correct it")
    if distances.absent:
        return float("nan")
    near = sum(float(size[mm <= tolerance_mm].sum()) for mm, size in (
        (distances.first_mm, distances.first_size), (distances.second_mm, distances.second_size)))
    return near / float(distances.first_size.sum() + distances.second_size.sum())


def hausdorff95_mm(first: Bool[Tensor, "*space"], second: Bool[Tensor, "*other"], spacing_mm: tuple[float, ...], *,
                   definition: Definition = "largest") -> float:
    """95 % Hausdorff distance of two masks, by :func:`hausdorff_mm`; NaN where either mask is empty.

    >>> block = torch.zeros(1, 8, 8, dtype=torch.bool); block[:, 2:5, 2:5] = True
    >>> hausdorff95_mm(block, block.roll(2, dims=2), (8.0, 1.5, 1.5))
    3.0
    """
    elements: Elements = "areas" if definition == "area-weighted" else "voxels"
    return hausdorff_mm(surface_distances(first, second, spacing_mm, elements=elements), percent=95,
                        definition=definition)


def mean_surface_distance_mm(first: Bool[Tensor, "*space"], second: Bool[Tensor, "*other"],
                             spacing_mm: tuple[float, ...]) -> float:
    """Average symmetric surface distance of two masks over their surface voxels; NaN where either is empty.

    >>> block = torch.zeros(1, 8, 8, dtype=torch.bool); block[:, 2:5, 2:5] = True
    >>> mean_surface_distance_mm(block, block, (8.0, 1.5, 1.5))
    0.0
    """
    return mean_surface_distance(surface_distances(first, second, spacing_mm))


def surface_voxels(mask: Bool[np.ndarray, "*space"]) -> Bool[np.ndarray, "*space"]:
    """Voxels of the mask with a face neighbour outside it; beyond the array counts as outside.

    >>> surface_voxels(np.ones((3, 4), dtype=bool)).astype(int).tolist()
    [[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    """
    inner = mask.copy()
    for axis in range(mask.ndim):
        kept, whole = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        kept[1:] &= whole[:-1]
        kept[:-1] &= whole[1:]
        kept[0] = kept[-1] = False
    return mask ^ inner


def _between(first: np.ndarray, second: np.ndarray, spacing_mm: tuple[float, ...], elements: Elements
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    if not (first.any() and second.any()):
        nothing = np.zeros(0)
        return nothing, nothing, nothing, nothing
    margin, shells = _shells(spacing_mm)
    masks = _cropped(first, second, margin)
    if elements == "voxels":
        surfaces = [surface_voxels(mask) for mask in masks]
        places = [np.flatnonzero(surface) for surface in surfaces]
        sizes = [np.ones(len(place)) for place in places]
    else:
        codes = [corner_codes(mask) for mask in masks]
        whole = np.uint8(2**2**first.ndim - 2)
        surfaces = [code - np.uint8(1) < whole for code in codes]
        places = [np.flatnonzero(surface) for surface in surfaces]
        sizes = [element_sizes(spacing_mm)[code.ravel()[place]] for code, place in zip(codes, places, strict=True)]
    there = _nearest_mm(places[0], places[1], surfaces[1], spacing_mm, shells)
    back = _nearest_mm(places[1], places[0], surfaces[0], spacing_mm, shells)
    return there, back, sizes[0], sizes[1]


def _cropped(first: np.ndarray, second: np.ndarray, margin: tuple[int, ...]) -> list[np.ndarray]:
    """Both masks within the box that holds both, with a margin of nothing around."""
    box = bounding_box(first | second)
    assert box is not None
    inside = tuple(slice(m, m + s.stop - s.start) for m, s in zip(margin, box, strict=True))
    made = []
    for mask in (first, second):
        padded = np.zeros([s.stop + m for s, m in zip(inside, margin, strict=True)], dtype=bool)
        padded[inside] = mask[box]
        made.append(padded)
    return made


@lru_cache(maxsize=64)
def _shells(spacing_mm: tuple[float, ...]) -> tuple[tuple[int, ...], list[tuple[float, np.ndarray]]]:
    """All neighbours nearer than REACH smallest spacings, by distance, and how many voxels they reach along each axis.

    Complete up to their largest distance, so that the first that hits is the nearest.
    """
    reach = REACH * min(spacing_mm)
    margin = tuple(max(1, int(reach / s)) for s in spacing_mm)
    steps = np.array(list(product(*(range(-m, m + 1) for m in margin))))
    far = np.linalg.norm(steps * spacing_mm, axis=1)
    near = [number for number in np.argsort(far, kind="stable") if far[number] < reach]
    groups = (list(group) for _, group in groupby(near, key=lambda number: round(float(far[number]), 9)))
    return margin, [(float(far[group[0]]), steps[group]) for group in groups]


def _nearest_mm(points: Integer[np.ndarray, " n"], others: Integer[np.ndarray, " m"],
                target: Bool[np.ndarray, "*space"], spacing_mm: tuple[float, ...],
                shells: list[tuple[float, np.ndarray]]) -> Float[np.ndarray, " n"]:
    """Distance of the voxels ``points`` (flat places) to the nearest voxel of ``target`` (at the places ``others``).

    Near voxels are looked up shell by shell, as long as that finds enough of them; a tree answers for the rest.
    """
    found = np.empty(len(points))
    left = np.arange(len(points))
    flat, strides = target.ravel(), np.array(target.strides)
    for mm, steps in shells:
        hit = flat.take(points[left][:, None] + steps @ strides).any(axis=1)
        found[left[hit]] = mm
        missed = left[~hit]
        worth = len(left) - len(missed) >= 0.004 * len(steps) * len(left)
        left = missed
        if not len(left) or not worth:
            break
    if len(left):
        from scipy.spatial import cKDTree

        tree = cKDTree(_coordinates(others, target.shape, spacing_mm), compact_nodes=False, balanced_tree=False)
        found[left] = tree.query(_coordinates(points[left], target.shape, spacing_mm))[0]
    return found


def _coordinates(places: Integer[np.ndarray, " n"], shape: tuple[int, ...], spacing_mm: tuple[float, ...]
                 ) -> Float[np.ndarray, "n axis"]:
    return np.stack(np.unravel_index(places, shape), axis=1) * np.array(spacing_mm)


def _weighted(mm: Float[np.ndarray, " n"], size: Float[np.ndarray, " n"], percent: float) -> float:
    """The least distance within which elements of ``percent`` of the total size lie."""
    order = np.argsort(mm, kind="stable")
    share = np.cumsum(size[order]) / size.sum()
    return float(mm[order][min(int(np.searchsorted(share, percent / 100)), len(mm) - 1)])
