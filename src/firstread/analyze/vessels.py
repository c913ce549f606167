"""Vessels without learning: how much a pixel looks like part of a tube."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float

from firstread.analyze.classical import each_plane, grey, needed
from firstread.core.errors import SettingError
from firstread.core.records import Image
from firstread.core.stage import Stage

Method = Literal["frangi", "tophat", "lines"]


class Tubeness(Stage):
    """How much each pixel looks like part of a vessel, in its plane, from 0 to 1.

    ``frangi``: from the eigenvalues of the Hessian at each scale (Frangi et al. 1998; extra ``classical``).
    ``tophat``: what a closing (opening, for bright ones) by a disc of twice the largest scale fills in, after a
    Gaussian of the smallest (Zana and Klein 2001, with a disc). ``lines``: :func:`line_response`.

    scales_px: radii of the tubes, in pixels; dark: darker than around them. Reads an Image, writes the Image
    "tubeness": each plane from its median, divided by the 99.9th percentile, cut at 0 and 1.
    """

    result: ClassVar[str] = "tubeness"
    differentiable = False

    def __init__(self, *, method: Method = "tophat", scales_px: tuple[float, ...] = (1.0, 3.0), dark: bool = True
                 ) -> None:
        super().__init__()
        if method not in get_args(Method) or not scales_px or min(scales_px) <= 0:
            raise SettingError(f"the method {method!r} at scales {scales_px}", expected=f"one of {get_args(Method)}, "
                               "scales above zero", remedy="correct them")
        self.method, self.scales_px, self.dark = method, tuple(scales_px), dark

    def forward(self, image: Image) -> Image:
        made = each_plane(grey(image), lambda plane: _scaled(self._response(plane)))
        data = torch.from_numpy(np.ascontiguousarray(made[:, :, None]).astype(np.float32)).to(image.data.device)
        return Image(image.rows, data, image.grid, image.times_s, image.cycle_s, image.source, notes=image.notes)

    def _response(self, plane: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
        from scipy import ndimage

        if self.method == "frangi":
            return needed("skimage.filters").frangi(plane, sigmas=self.scales_px, black_ridges=self.dark,
                                                    mode="reflect")
        if self.method == "lines":
            return line_response(-plane if self.dark else plane, reach=max(1, round(2.5 * max(self.scales_px))))
        reach = max(1, round(2 * max(self.scales_px)))
        y, x = np.ogrid[-reach:reach + 1, -reach:reach + 1]
        hat = ndimage.black_tophat if self.dark else ndimage.white_tophat
        return hat(ndimage.gaussian_filter(plane, min(self.scales_px)), footprint=y**2 + x**2 <= reach**2)


def line_response(plane: Float[np.ndarray, "y x"], *, reach: int, directions: int = 12) -> Float[np.ndarray, "y x"]:
    """How much brighter a pixel's best line is than its neighbourhood, over lines of 1, 3 … 2 reach + 1 pixels.

        R = (Σ_k std(max over directions of mean along the line of k pixels - mean of the square) + std(I)) / (n + 1)

    std: less its mean, over its deviation. Source: Nguyen et al. 2013.

    >>> plane = np.zeros((9, 9)); plane[4] = 1.0
    >>> found = line_response(plane, reach=3)
    >>> bool((found[4] > found[0]).all())
    True
    """
    from scipy import ndimage

    height, width = plane.shape
    padded = np.pad(plane, reach, mode="symmetric")
    best = [np.full(plane.shape, -np.inf) for _ in range(reach + 1)]
    for number in range(directions):
        angle = math.pi * number / directions
        total = plane.astype(np.float64)
        np.maximum(best[0], total, out=best[0])
        for k in range(1, reach + 1):
            y, x = round(k * math.sin(angle)), round(k * math.cos(angle))
            for a, b in ((reach + y, reach + x), (reach - y, reach - x)):
                total = total + padded[a:a + height, b:b + width]
            np.maximum(best[k], total / (2 * k + 1), out=best[k])
    around = ndimage.uniform_filter(plane, 2 * reach + 1, mode="reflect")
    responses = [*(one - around for one in best), plane]
    return sum((r - r.mean()) / (r.std() + 1e-12) for r in responses) / len(responses)


def filled_outside(plane: Float[np.ndarray, "y x"], inside: Bool[np.ndarray, "y x"], *, margin: int = 3
                   ) -> Float[np.ndarray, "y x"]:
    """Each pixel outside a field of view gets the value of the nearest one inside, so that the rim is no edge.

    margin: pixels of the rim that count as outside.

    >>> filled_outside(np.array([[5.0, 1.0, 9.0]]), np.array([[False, True, False]]), margin=0).tolist()
    [[1.0, 1.0, 1.0]]
    """
    from scipy import ndimage

    kept = ndimage.binary_erosion(inside, iterations=margin) if margin else inside
    nearest = ndimage.distance_transform_edt(~kept, return_distances=False, return_indices=True)
    return plane[tuple(nearest)]


def _scaled(plane: Float[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
    above = plane - np.median(plane)
    return np.clip(above / max(float(np.percentile(above, 99.9)), 1e-30), 0, 1)
