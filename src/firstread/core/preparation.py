"""What a network that was trained elsewhere expects of an image, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from firstread.core.errors import SettingError

Where = Literal["all", "body", "nonzero"]
Activation = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True)
class Intensity:
    """How one channel is scaled: ``(clip(v, low, high) - subtract) / divide``.

    scheme: ``fixed`` takes subtract and divide as stated; ``zscore`` the mean and standard deviation, ``minmax`` the
    least and the greatest less the least, of this image.
    where: whose voxels ``zscore`` counts and changes: all, the body (not zero in any channel, holes filled) or those of
    this channel that are not zero.
    """

    scheme: Literal["fixed", "zscore", "minmax"] = "fixed"
    low: float | None = None
    high: float | None = None
    subtract: float = 0.0
    divide: float = 1.0
    where: Where = "all"

    def __post_init__(self):
        if self.divide <= 0 or (self.low is not None and self.high is not None and self.low >= self.high):
            raise SettingError(f"intensities from {self.low} to {self.high} divided by {self.divide}",
                               expected="low below high and a divisor above zero", remedy="correct the model's numbers")


@dataclass(frozen=True)
class Resampling:
    """How voxels are resized: splines of ``order`` 0, 1 or 3.

    keep: what stays in its place, the edges of the field of view or the middle of the first voxel (MONAI's Spacing,
    which ends where the last voxel's middle was).
    apart: whether the axis with the largest spacing is resized by itself, with ``order_apart``, after the slices; None:
    where that spacing is more than ``anisotropy`` times the least (Isensee 2021).
    """

    order: int = 3
    order_apart: int = 0
    apart: bool | None = None
    anisotropy: float = 3.0
    keep: Literal["edges", "first"] = "edges"

    def __post_init__(self):
        if not {self.order, self.order_apart} <= {0, 1, 3}:
            raise SettingError(f"resampling of order {self.order}, {self.order_apart} apart", expected="0, 1 or 3",
                               remedy="correct the order")

    def shape(self, old: Sequence[int], spacing: Sequence[float], new: Sequence[float]) -> tuple[int, ...]:
        """Voxels at the spacing ``new`` of ``old`` at ``spacing``.

        >>> Resampling().shape((10,), (2.0,), (1.5,)), Resampling(keep="first").shape((10,), (2.0,), (1.5,))
        ((13,), (13,))
        """
        less = 0 if self.keep == "edges" else 1
        return tuple(round((n - less) * s / t) + less for n, s, t in zip(old, spacing, new, strict=True))


@dataclass(frozen=True)
class Preparation:
    """All that is done to an image before a network sees it, and to what the network says after.

    channels: one Intensity for each channel of the image.
    window: voxels that the network sees at once, 3 for volumes or 2 for slices, in the network's order of axes.
    spacing_mm: what the image is resampled to, as many as ``window``; None: the image's own.
    order: the network's axes among (z, y, x) of the image: (2, 1, 0) sees x first.
    orientation: turn the image so that x, y, z grow to the right, anterior, superior first.
    crop: to the voxels that are not zero.
    image, logits: how each is resized.
    overlap: share of a window that its neighbour covers; blend: ``even`` spreads windows evenly and weighs them as
    nnU-Net does, ``gaussian`` and ``constant`` step as MONAI does; mirror: axes of the window along which the network
    also sees flipped copies, all averaged. scale_first: intensities are scaled before the image is resampled.
    """

    channels: tuple[Intensity, ...]
    window: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None = None
    order: tuple[int, int, int] = (0, 1, 2)
    orientation: Literal["RAS"] | None = None
    crop: bool = False
    image: Resampling = Resampling()
    logits: Resampling = Resampling(order=1)
    overlap: float = 0.5
    blend: Literal["even", "gaussian", "constant"] = "even"
    mirror: tuple[int, ...] = ()
    scale_first: bool = True

    def __post_init__(self):
        if len(self.window) not in (2, 3) or min(self.window) < 1 or not 0 <= self.overlap < 1:
            raise SettingError(f"a window of {self.window} with overlap {self.overlap}",
                               expected="2 or 3 sizes above zero and an overlap in [0, 1)",
                               remedy="correct the window of the model")
        if self.spacing_mm is not None and (len(self.spacing_mm) != len(self.window) or min(self.spacing_mm) <= 0):
            raise SettingError(f"a spacing of {self.spacing_mm} mm for a window of {self.window}",
                               expected="one number above zero for each axis of the window",
                               remedy="correct the spacing of the model")
        if sorted(self.order) != [0, 1, 2] or not set(self.mirror) <= set(range(len(self.window))):
            raise SettingError(f"axes {self.order}, mirrored along {self.mirror}",
                               expected="an order of 0, 1, 2 and axes of the window", remedy="correct the model's axes")
        if not self.channels:
            raise SettingError("a model of no channel", expected="one or more", remedy="state how each is scaled")
