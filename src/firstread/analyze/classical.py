"""Segmentation without learning: thresholds and edges of grey images, through scikit-image (extra ``classical``)."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer

from firstread.core.errors import SettingError, SignalError, UnsupportedError
from firstread.core.records import HardLabels, Image
from firstread.core.stage import Stage

_FROM = {"skimage": "scikit-image", "cv2": "opencv-python-headless"}


def needed(module: str) -> ModuleType:
    """A module of the extra ``classical``.

    Raises UnsupportedError, with what to install, where it is not there.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UnsupportedError(f"no {_FROM[module.partition('.')[0]]} for classical vision", expected="the extra "
                               "`classical`", remedy="pip install 'firstread[classical]'") from error


def grey(image: Image) -> Float[np.ndarray, "batch time z y x"]:
    """Magnitudes of a grey image as float32.

    Raises SettingError for several channels, SignalError for values that are no numbers.
    """
    if image.data.shape[2] != 1:
        raise SettingError(f"an image of {image.data.shape[2]} channels", expected="one channel",
                           remedy="choose one, or combine them")
    data = image.data.detach()[:, :, 0]
    values = (data.abs() if data.is_complex() else data).cpu().numpy().astype(np.float32)
    if not np.isfinite(values).all():
        raise SignalError("an image with values that are no numbers", expected="finite values",
                          remedy="repair the image first")
    return values


def labels_of(image: Image, values: Integer[np.ndarray, "batch time z y x"] | Bool[np.ndarray, "batch time z y x"],
              names: tuple[str, ...]) -> HardLabels:
    """Class numbers on the grid of ``image``."""
    data = torch.from_numpy(np.ascontiguousarray(values[:, :, None]).astype(np.uint8)).to(image.data.device)
    return HardLabels(image.rows, data, image.grid, names, image.times_s, image.cycle_s, image.source,
                      notes=image.notes)


def each_plane(values: Float[np.ndarray, "batch time z y x"], function: Callable[[np.ndarray], np.ndarray]
               ) -> np.ndarray:
    """``function`` of every plane (y, x) by itself."""
    planes = values.reshape(-1, *values.shape[-2:])
    return np.stack([function(plane) for plane in planes]).reshape(values.shape)


class Otsu(Stage):
    """The thresholds that part the histogram of each volume into ``classes`` with the least variance within them.

        t* = argmin over t of Σ_k w_k(t) σ_k²(t)

    Reads an Image, writes HardLabels from dark ("background") to bright; a volume of one value is background. Sources:
    Otsu 1979; Liao, Chen and Chung 2001 (several thresholds).
    """

    result: ClassVar[str] = "labels"
    differentiable = False

    def __init__(self, *, classes: int = 2, bins: int = 256) -> None:
        super().__init__()
        if not 2 <= classes <= 5 or bins < classes:
            raise SettingError(f"{classes} classes of {bins} bins", expected="2 to 5 classes", remedy="correct them")
        self.classes, self.bins = classes, bins

    def forward(self, image: Image) -> HardLabels:
        threshold = needed("skimage.filters").threshold_multiotsu
        values = grey(image)
        made = np.zeros(values.shape, dtype=np.uint8)
        for row, out in zip(values.reshape(-1, *values.shape[2:]), made.reshape(-1, *values.shape[2:]), strict=True):
            if len(np.unique(row)) >= self.classes:
                out[:] = np.digitize(row, threshold(row, classes=self.classes, nbins=self.bins))
        return labels_of(image, made, ("background", *(f"class {n}" for n in range(1, self.classes))))


class AdaptiveThreshold(Stage):
    """Pixels above (or below) the Gaussian mean of what lies around them in the plane, by ``offset``.

    window: pixels of the neighbourhood, odd; offset: in units of the image's standard deviation; dark: below instead of
    above. Reads an Image, writes HardLabels "object".
    """

    result: ClassVar[str] = "labels"
    differentiable = False

    def __init__(self, *, window: int = 51, offset: float = 0.0, dark: bool = False) -> None:
        super().__init__()
        if window < 3 or window % 2 == 0:
            raise SettingError(f"a window of {window} pixels", expected="an odd number from 3", remedy="correct it")
        self.window, self.offset, self.dark = window, offset, dark

    def forward(self, image: Image) -> HardLabels:
        local = needed("skimage.filters").threshold_local
        values = grey(image)
        sign = -1.0 if self.dark else 1.0
        spread = values.std(axis=(2, 3, 4), keepdims=True) + 1e-30
        scaled = sign * values / spread
        around = each_plane(scaled, lambda plane: local(plane, self.window, method="gaussian"))
        return labels_of(image, scaled > around + self.offset, ("background", "object"))


class Edges(Stage):
    """Edges one pixel wide in each plane: largest gradients across, followed from strong to weak (Canny 1986).

    sigma_px: of the Gaussian before the gradient; low, high: quantiles of the gradient at which an edge may go on and
    must begin. Reads an Image, writes HardLabels "edge".
    """

    result: ClassVar[str] = "labels"
    differentiable = False

    def __init__(self, *, sigma_px: float = 1.5, low: float = 0.8, high: float = 0.95) -> None:
        super().__init__()
        if sigma_px <= 0 or not 0 <= low <= high <= 1:
            raise SettingError(f"sigma {sigma_px}, quantiles {low} and {high}", expected="0 ≤ low ≤ high ≤ 1",
                               remedy="correct them")
        self.sigma_px, self.low, self.high = sigma_px, low, high

    def forward(self, image: Image) -> HardLabels:
        canny = needed("skimage.feature").canny
        found = each_plane(grey(image), lambda plane: canny(plane, self.sigma_px, low_threshold=self.low,
                                                            high_threshold=self.high, use_quantiles=True))
        return labels_of(image, found, ("background", "edge"))
