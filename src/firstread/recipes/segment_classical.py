"""Short-axis hearts without learning: what stands beside the networks of :mod:`firstread.recipes.evidence_segment`.

``automatic``: the heart is what differs most between end-diastole and end-systole; blood is what is brighter than
Otsu's threshold within REACH_MM of it; the left cavity is the roundest piece of the middle slice, followed to the
other slices; its wall is WALL_MM around it; the right cavity is the largest piece of blood beside the wall. All numbers
below were written down before the first result was seen.

``click``: the promptable random walker, one click for each structure and scan, on its largest slice, from the truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from scipy import ndimage

from firstread.analyze.prompted import SegmentPrompted
from firstread.analyze.prompting import deepest
from firstread.analyze.random_walk import RandomWalker
from firstread.core.prompts import Prompts
from firstread.core.records import Image
from firstread.jobs.segment_data import DataSet, Sample, load_sample
from firstread.ops.bias import otsu
from firstread.ops.regions import dice

METHODS = ("automatic", "click")
REACH_MM, SMALLEST_MM2, WALL_MM, BESIDE_MM = 70.0, 150.0, 8.0, 15.0
CAVITY, WALL, RIGHT = 1, 2, 3


def heart_centre(first: Float[np.ndarray, "z y x"], second: Float[np.ndarray, "z y x"], pixel_mm: float
                 ) -> tuple[float, float]:
    """(y, x) in pixels: the centre of the hundredth of the pixels that differ most, over all slices, after a blur."""
    change = ndimage.gaussian_filter(np.abs(first - second).sum(0), 5 / pixel_mm)
    return ndimage.center_of_mass(np.where(change >= np.quantile(change, 0.99), change, 0))


def pieces(mask: Bool[np.ndarray, "y x"], smallest: float) -> list[Bool[np.ndarray, "y x"]]:
    """Connected pieces of ``smallest`` pixels or more, holes filled."""
    found, count = ndimage.label(mask)
    filled = (ndimage.binary_fill_holes(found == number) for number in range(1, count + 1))
    return [piece for piece in filled if piece.sum() >= smallest]


def roundness(piece: Bool[np.ndarray, "y x"]) -> float:
    """Area over that of the circle about its centre that holds it: 1 for a disc.

    >>> y, x = np.mgrid[:41, :41]; bool(roundness((y - 20) ** 2 + (x - 20) ** 2 <= 225) > 0.95)
    True
    """
    where = np.argwhere(piece)
    return len(where) / (np.pi * ((where - where.mean(0)) ** 2).sum(1).max() + 1e-9)


def followed(blood: Bool[np.ndarray, "z y x"], begin: Bool[np.ndarray, "y x"], middle: int, smallest: float
             ) -> Bool[np.ndarray, "z y x"]:
    """From slice to slice the piece that shares most with the one before; none where it shares less than half of the
    smaller; one that has outgrown the one before by half is cut to it, two pixels widened."""
    made = np.zeros_like(blood)
    made[middle] = begin
    for step in (1, -1):
        last = begin
        for z in range(middle + step, len(blood) if step > 0 else -1, step):
            shared = [(int((piece & last).sum()), number) for number, piece in enumerate(pieces(blood[z], smallest))]
            if not shared or not last.any():
                break
            most, number = max(shared)
            piece = pieces(blood[z], smallest)[number]
            if most < 0.5 * min(piece.sum(), last.sum()):
                break
            if piece.sum() > 1.5 * last.sum():
                piece &= ndimage.binary_dilation(last, iterations=2)
            made[z] = last = piece
    return made


def automatic(volume: Float[np.ndarray, "z y x"], centre: tuple[float, float], pixel_mm: float
              ) -> Integer[np.ndarray, "z y x"]:
    """Left cavity, its wall and the right cavity of one volume, of slices of square pixels; nothing where there is no
    blood of a size."""
    y, x = np.mgrid[:volume.shape[1], :volume.shape[2]]
    away = np.hypot(y - centre[0], x - centre[1]) * pixel_mm
    near, smallest = away <= REACH_MM, SMALLEST_MM2 / pixel_mm**2
    bright = volume > otsu(torch.from_numpy(np.ascontiguousarray(volume[:, near]).ravel()))
    blood = np.stack([ndimage.binary_opening(plane & near) for plane in bright])
    made = np.zeros(volume.shape, dtype=np.uint8)
    middle = len(volume) // 2
    close = [piece for piece in pieces(blood[middle], smallest) if away[piece].mean() <= REACH_MM / 2]
    if not close:
        return made
    cavity = followed(blood, max(close, key=roundness), middle, smallest)
    around = np.stack([ndimage.distance_transform_edt(~plane) * pixel_mm if plane.any() else
                       np.full(plane.shape, np.inf) for plane in cavity])
    rest = blood & (around > WALL_MM)
    beside = [piece for piece in pieces(rest[middle], smallest) if around[middle][piece].min() <= BESIDE_MM]
    if beside:
        made[followed(rest, max(beside, key=np.sum), middle, smallest)] = RIGHT
    made[around <= WALL_MM] = WALL
    made[cavity] = CAVITY
    return made


def clicked(image: Image, truth: Bool[torch.Tensor, "z y x"]) -> Bool[torch.Tensor, "z y x"]:
    """One structure, from a click on the pixel farthest from its border, of the slice where it is largest."""
    spacing = (float(image.grid.spacing_mm[0, 1]), float(image.grid.spacing_mm[0, 2]))
    z = int(truth.sum(dim=(1, 2)).argmax())
    y, x = deepest(truth[z], spacing).tolist()
    stage = SegmentPrompted(method=RandomWalker(), propagate="space")
    with torch.no_grad():
        return stage(image, Prompts.on_grid(image.grid, points=[(x, y, float(z))])).data[0, 0, 1] > 0.5


def classical_rows(data: DataSet, method: str, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Dice of every scan, as ``jobs.segment_validate.validate`` gives it. names: of the label values."""
    by_patient: dict[str, list[Sample]] = {}
    for sample in data.samples:
        by_patient.setdefault(sample.patient, []).append(sample)
    rows = []
    for samples in by_patient.values():
        opened = [load_sample(sample) for sample in samples]
        volumes = [image.data[0, 0, 0].numpy() for image, _ in opened]
        pixel = float(opened[0][0].grid.spacing_mm[0, 1])
        centre = heart_centre(volumes[0], volumes[-1], pixel)
        for sample, (image, values), volume in zip(samples, opened, volumes, strict=True):
            found = torch.from_numpy(automatic(volume, centre, pixel)) if method == "automatic" else None
            score = {}
            for value, name in names.items():
                truth = values[0] == value
                if found is None and not bool(truth.any()):
                    continue
                mask = found == value if found is not None else clicked(image, truth)
                empty = not bool(mask.any() or truth.any())
                score[name] = None if empty else round(float(dice(mask, truth)), 5)
            rows.append({"case": sample.name, "patient": sample.patient, "dice": score})
    return rows


