"""What a region's surface looks like, in numbers: grey-level co-occurrence, local binary patterns, Gabor filters."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from firstread.analyze.classical import grey, needed
from firstread.core.errors import SettingError, SignalError
from firstread.core.records import Features, HardLabels, Image
from firstread.core.stage import Stage

STEPS = ((0, 1), (1, 1), (1, 0), (1, -1))
NAMES = ("glcm contrast", "glcm homogeneity", "glcm energy", "glcm correlation", "lbp entropy", "lbp uniform share",
         "gabor 0.1", "gabor 0.2", "gabor 0.4")


class Texture(Stage):
    """Texture of the pixels of one class, plane by plane, all frames and slices together.

    Co-occurrence of ``levels`` grey levels between the region's smallest and largest value, neighbours at one pixel in
    four directions (Haralick et al. 1973); rotation-invariant uniform local binary patterns of 8 neighbours (Ojala et
    al. 2002): entropy in bits and the share of uniform ones; mean magnitude of Gabor responses at 0.1, 0.2 and 0.4
    cycles per pixel over four directions, relative to the region's standard deviation.

    label: the class. Reads an Image and HardLabels, writes Features. Raises SignalError where the class has fewer than
    two pixels.
    """

    result: ClassVar[str] = "texture"
    differentiable = False

    def __init__(self, *, label: int = 1, levels: int = 32) -> None:
        super().__init__()
        if label < 0 or not 2 <= levels <= 256:
            raise SettingError(f"label {label} in {levels} levels", expected="a class and 2 to 256 levels",
                               remedy="correct them")
        self.label, self.levels = label, levels

    def forward(self, image: Image, labels: HardLabels) -> Features:
        values, regions = grey(image), (labels.data[:, :, 0] == self.label).cpu().numpy()
        rows = []
        for row, region in zip(values, regions, strict=True):
            if region.sum() < 2:
                raise SignalError(f"{int(region.sum())} pixels of class {self.label}", expected="two or more",
                                  remedy="choose a class that is there")
            rows.append(self._describe(row.reshape(-1, *row.shape[-2:]), region.reshape(-1, *region.shape[-2:])))
        return Features(image.rows, torch.tensor(rows, dtype=torch.float64), NAMES, notes=image.notes)

    def _describe(self, planes: Float[np.ndarray, "plane y x"], inside: Bool[np.ndarray, "plane y x"]) -> list[float]:
        low, high = planes[inside].min(), planes[inside].max()
        scaled = (planes - low) / max(float(high - low), 1e-30)
        levels = np.clip((scaled * self.levels).astype(np.int64), 0, self.levels - 1)
        table = cooccurrence(levels, inside, levels=self.levels)
        return [*haralick(table), *_binary_patterns(scaled, inside), *_gabor(scaled, inside)]


def cooccurrence(grey_levels: Int[np.ndarray, "plane y x"], inside: Bool[np.ndarray, "plane y x"], *, levels: int
                 ) -> Float[np.ndarray, "level level"]:
    """How often two neighbours, both inside, have each pair of levels; symmetric, of sum one (zero without pairs).

    >>> plane = np.array([[[0, 1]]])
    >>> cooccurrence(plane, plane >= 0, levels=2).tolist()
    [[0.0, 0.5], [0.5, 0.0]]
    """
    table = np.zeros(levels * levels)
    height, width = grey_levels.shape[1:]
    for y, x in STEPS:
        here = (slice(None), slice(0, height - y), slice(max(0, -x), width - max(0, x)))
        there = (slice(None), slice(y, height), slice(max(0, x), width - max(0, -x)))
        both = inside[here] & inside[there]
        table += np.bincount(grey_levels[here][both] * levels + grey_levels[there][both], minlength=levels * levels)
    square = table.reshape(levels, levels)
    return (square + square.T) / max(2 * float(table.sum()), 1.0)


def haralick(table: Float[np.ndarray, "level level"]) -> list[float]:
    """Contrast, homogeneity, energy and correlation of a co-occurrence table (NaN where it is empty).

    >>> haralick(np.array([[0.5, 0.0], [0.0, 0.5]]))
    [0.0, 1.0, 0.7071067811865476, 1.0]
    """
    i, j = np.indices(table.shape)
    if not table.sum():
        return [math.nan] * 4
    mean = float((i * table).sum())
    variance = float(((i - mean)**2 * table).sum())
    covariance = float(((i - mean) * (j - mean) * table).sum())
    return [float(((i - j)**2 * table).sum()), float((table / (1 + (i - j)**2)).sum()),
            math.sqrt(float((table**2).sum())), covariance / variance if variance > 0 else 1.0]


def _binary_patterns(planes: Float[np.ndarray, "plane y x"], inside: Bool[np.ndarray, "plane y x"]) -> list[float]:
    pattern = needed("skimage.feature").local_binary_pattern
    whole = (np.clip(planes, 0, 1) * 65535).astype(np.uint16)
    codes = np.concatenate([pattern(plane, 8, 1, "uniform")[mask] for plane, mask in zip(whole, inside, strict=True)])
    shares = np.bincount(codes.astype(int), minlength=10) / len(codes)
    known = shares[shares > 0]
    return [float(-(known * np.log2(known)).sum()), float(shares[:9].sum())]


def _gabor(planes: Float[np.ndarray, "plane y x"], inside: Bool[np.ndarray, "plane y x"]) -> list[float]:
    gabor = needed("skimage.filters").gabor
    spread = max(float(planes[inside].std()), 1e-30)
    made = []
    for frequency in (0.1, 0.2, 0.4):
        found = [np.hypot(*gabor(plane - plane[mask].mean(), frequency, theta))[mask]
                 for plane, mask in zip(planes, inside, strict=True) if mask.any()
                 for theta in (0, math.pi / 4, math.pi / 2, 3 * math.pi / 4)]
        made.append(float(np.concatenate(found).mean()) / spread)
    return made
