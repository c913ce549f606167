"""Segmentation from clicks, without learning: region growing, random walker, watershed.

Clicks are Findings: points in millimetres, their names the classes; ``background`` among them marks what is none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from firstread.analyze.classical import grey, labels_of, needed
from firstread.core.errors import GeometryError, SettingError
from firstread.core.records import Findings, HardLabels, Image
from firstread.core.stage import Stage
from firstread.ops.overlap import bounding_box

BACKGROUND = "background"


def clicks_on_grid(image: Image, points: Findings) -> Int[np.ndarray, "batch n 3"]:
    """The voxel (z, y, x) of each click. Raises GeometryError for one outside the image."""
    index = image.grid.to_index(points.points_mm.to(image.grid.affine.dtype)).flip(-1).round().long().cpu().numpy()
    if (index < 0).any() or (index >= np.array(image.grid.shape)).any():
        raise GeometryError(f"a click outside the image of {image.grid.shape} voxels", expected="clicks inside",
                            remedy="give points in LPS+ millimetres of the image's frame")
    return index


def classes_of(points: Findings) -> tuple[str, ...]:
    """The classes of the clicks, background first."""
    return (BACKGROUND, *(name for name in dict.fromkeys(points.names) if name != BACKGROUND))


def within(shape: tuple[int, ...], seeds: Int[np.ndarray, "n 3"], spacing_mm: Float[np.ndarray, " 3"], reach_mm: float
           ) -> Bool[np.ndarray, "z y x"]:
    """The voxels no farther than ``reach_mm`` from a seed (z, y, x)."""
    made = np.zeros(shape, dtype=bool)
    for seed in seeds:
        z, y, x = ((np.arange(n) - place) * step for n, place, step in zip(shape, seed, spacing_mm, strict=True))
        made |= (z**2)[:, None, None] + (y**2)[:, None] + x**2 <= reach_mm**2
    return made


def grow(volume: Float[np.ndarray, "z y x"], seed: tuple[int, int, int], near: Bool[np.ndarray, "z y x"], *,
         width: float, rounds: int) -> Bool[np.ndarray, "z y x"]:
    """The connected region about ``seed`` of values within ``width`` standard deviations of its own mean.

    Begins with the 3 x 3 pixels of the seed's plane; mean and deviation are taken anew ``rounds`` times, within
    ``near``. As ITK's ConfidenceConnected.
    """
    from scipy import ndimage

    z, y, x = seed
    inside = np.zeros(volume.shape, dtype=bool)
    inside[z, max(0, y - 1):y + 2, max(0, x - 1):x + 2] = True
    for _ in range(rounds):
        values = volume[inside]
        fits = near & (np.abs(volume - values.mean()) <= width * values.std())
        fits[seed] = True
        grown = ndimage.label(fits)[0]
        grown = grown == grown[seed]
        if (grown == inside).all():
            break
        inside = grown
    return inside


class _Seeded(Stage, ABC):
    """What stages of clicks share: ``reach_mm``, beyond which from every click nothing is looked at."""

    result: ClassVar[str] = "labels"
    differentiable = False

    def __init__(self, *, reach_mm: float) -> None:
        super().__init__()
        if reach_mm <= 0:
            raise SettingError(f"a reach of {reach_mm} mm", expected="above zero", remedy="correct it")
        self.reach_mm = reach_mm

    def forward(self, image: Image, points: Findings) -> HardLabels:
        values, clicks = grey(image), clicks_on_grid(image, points)
        names = classes_of(points)
        made = np.zeros(values.shape, dtype=np.uint8)
        for row, (frames, seeds) in enumerate(zip(values, clicks, strict=True)):
            spacing = image.grid.spacing_mm[row].cpu().numpy()
            numbers = np.array([names.index(name) for name in points.names])
            near = within(frames.shape[1:], seeds[numbers > 0], spacing, self.reach_mm)
            held = bounding_box(near)
            if held is None:
                continue
            box = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in held)
            moved = seeds - np.array([side.start for side in box])
            seen = ((moved >= 0) & (moved < near[box].shape)).all(axis=1)
            for frame, out in zip(frames, made[row], strict=True):
                out[box] = self._segment(frame[box], moved[seen], numbers[seen], near[box], spacing)
        return labels_of(image, made, names)

    @abstractmethod
    def _segment(self, volume: Float[np.ndarray, "z y x"], seeds: Int[np.ndarray, "n 3"],
                 numbers: Int[np.ndarray, " n"], near: Bool[np.ndarray, "z y x"], spacing: Float[np.ndarray, " 3"]
                 ) -> Int[np.ndarray, "z y x"]:
        """Class numbers of one frame, within the box of what is near a click."""


class GrowRegion(_Seeded):
    """From each click the connected region whose values are within ``width`` standard deviations of its own mean.

    rounds: how often mean and deviation are taken anew; reach_mm: farthest from a click of the class. Where regions of
    two classes meet the later click stays; clicks on the background grow regions too. Reads an Image and Findings,
    writes HardLabels. As ITK's ConfidenceConnected.
    """

    def __init__(self, *, width: float = 2.5, rounds: int = 5, reach_mm: float = 30.0) -> None:
        super().__init__(reach_mm=reach_mm)
        if width <= 0 or rounds < 1:
            raise SettingError(f"{rounds} rounds, width {width}", expected="both above zero", remedy="correct them")
        self.width, self.rounds = width, rounds

    def _segment(self, volume, seeds, numbers, near, spacing):
        made = np.zeros(volume.shape, dtype=np.uint8)
        for seed, number in zip(seeds, numbers, strict=True):
            made[grow(volume, tuple(seed.tolist()), near, width=self.width, rounds=self.rounds)] = number
        return made


class RandomWalk(_Seeded):
    """Each voxel gets the class whose clicks a random walker from it reaches first, edges being hard to cross.

        w_ij = exp(-beta (I_i - I_j)² / (10 s))

    with values scaled to 0 … 1 and s their standard deviation; spacing counts. seed_mm: radius of what a click marks.
    What lies farther than reach_mm from every click of a class is background. Reads an Image and Findings, writes
    HardLabels. Source: Grady 2006, by scikit-image.
    """

    def __init__(self, *, beta: float = 130.0, seed_mm: float = 3.0, reach_mm: float = 30.0) -> None:
        super().__init__(reach_mm=reach_mm)
        if beta <= 0 or seed_mm < 0:
            raise SettingError(f"a beta of {beta}, seeds of {seed_mm} mm", expected="above zero, not below zero",
                               remedy="correct them")
        self.beta, self.seed_mm = beta, seed_mm

    def _segment(self, volume, seeds, numbers, near, spacing):
        walk = needed("skimage.segmentation").random_walker
        markers = np.where(near, 0, 1)
        for seed, number in zip(seeds, numbers, strict=True):
            markers[within(volume.shape, seed[None], spacing, self.seed_mm)] = number + 1
        return _walked(walk, volume, markers, self.beta, spacing) - 1


class Watershed(_Seeded):
    """Each voxel gets the class of the click whose basin it lies in, on the gradient's magnitude after a Gaussian.

    sigma_px: of the Gaussian, in the plane; seed_mm: radius of what a click marks. What lies farther than reach_mm from
    every click of a class is background. Reads an Image and Findings, writes HardLabels. Source: Vincent and Soille
    1991, by scikit-image.
    """

    def __init__(self, *, sigma_px: float = 1.0, seed_mm: float = 3.0, reach_mm: float = 30.0) -> None:
        super().__init__(reach_mm=reach_mm)
        if sigma_px <= 0 or seed_mm < 0:
            raise SettingError(f"a sigma of {sigma_px} pixels, seeds of {seed_mm} mm", expected="above zero, not below "
                               "zero", remedy="correct them")
        self.sigma_px, self.seed_mm = sigma_px, seed_mm

    def _segment(self, volume, seeds, numbers, near, spacing):
        from scipy import ndimage

        watershed = needed("skimage.segmentation").watershed
        smooth = ndimage.gaussian_filter(volume, (0, self.sigma_px, self.sigma_px))
        axes = [axis for axis in range(3) if volume.shape[axis] > 1]
        slopes = [np.gradient(smooth, spacing[axis], axis=axis) for axis in axes]
        markers = np.where(near, 0, 1)
        for seed, number in zip(seeds, numbers, strict=True):
            markers[within(volume.shape, seed[None], spacing, self.seed_mm)] = number + 1
        return watershed(np.sqrt(sum(slope**2 for slope in slopes)), markers) - 1


def _walked(walk, volume, markers, beta, spacing):
    """Classes 1, 2 … of the walker; where only one class is marked there is nothing to walk between."""
    present = np.unique(markers[markers > 0])
    if len(present) < 2:
        return np.full(volume.shape, present[0] if len(present) else 1)
    span = max(float(volume.max() - volume.min()), 1e-30)
    found = walk((volume - volume.min()) / span, np.searchsorted(present, markers) + (markers > 0), beta=beta,
                 mode="cg_j", spacing=tuple(spacing / spacing.min()))
    return present[np.maximum(found, 1) - 1]
