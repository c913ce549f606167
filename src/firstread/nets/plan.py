"""The plan of a segmentation: everything between images and a trained network, as plain values.

Written as JSON, read by people, edited before training; what is not in it does not influence the training.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from firstread.core.errors import FormatError, SettingError

SCHEMA = "firstread.segment-plan/1"
Mode = Literal["2d", "2.5d", "3d"]


@dataclass(frozen=True)
class ClassPlan:
    """One class: its name and the value that label files store for it."""

    name: str
    value: int


@dataclass(frozen=True)
class Normalization:
    """How one channel is scaled before the network sees it.

    kind: ``zscore`` (mean and standard deviation of the image), ``percentiles`` (the 1st and 99th become 0 and 1) or
    ``window`` (clipped to ``low`` and ``high``, then less ``mean`` over ``sd``: for units such as HU).
    """

    kind: Literal["zscore", "percentiles", "window"] = "zscore"
    low: float = 0.0
    high: float = 1.0
    mean: float = 0.0
    sd: float = 1.0


@dataclass(frozen=True)
class NetworkPlan:
    """Which network, and how large.

    kind: ``resunet`` (residual encoder), ``unet`` (plain), ``attention`` (gates on the skips), ``fcn`` (Bai 2018) or
    ``monai`` (the class ``name`` of ``monai.networks.nets`` with ``arguments``). widths: channels at each scale.
    strides: of ``resunet``, into each scale by axis, the first from the image. blocks: residual blocks at each scale.
    """

    kind: Literal["resunet", "unet", "attention", "fcn", "monai"] = "resunet"
    widths: tuple[int, ...] = (24, 48, 96, 192)
    strides: tuple[tuple[int, ...], ...] = ((2, 2),) * 4
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    deep_supervision: bool = True
    name: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LossPlan:
    """Weights of the terms: Dice with cross entropy, and what may be added to it (0: left out).

    focal: the exponent in the cross entropy; boundary: Kervadec's boundary loss; topology: soft centre-line Dice;
    anatomy: distance of codes of a label autoencoder (Oktay 2018); shape: what is unlikely by a point distribution
    model of the training labels (Cootes 1995).
    """

    dice: float = 1.0
    cross_entropy: float = 1.0
    focal: float = 0.0
    boundary: float = 0.0
    topology: float = 0.0
    anatomy: float = 0.0
    shape: float = 0.0


@dataclass(frozen=True)
class AugmentationPlan:
    """Random changes of each patch; a chance for each kind, 0 switches it off.

    rotation_deg: largest angle about the z, y and x axis (the first alone for slices); scale: smallest and largest
    factor; flip: axes that are mirrored; elastic_sd: of the control points of a smooth field, in voxels, one point per
    ``elastic_voxels``; bias_sd: of the logarithm of a smooth shading; noise_sd, blur_voxels, low_resolution (factor):
    largest; gamma: smallest and largest exponent.
    """

    spatial_chance: float = 0.7
    rotation_deg: tuple[float, float, float] = (30.0, 15.0, 15.0)
    scale: tuple[float, float] = (0.75, 1.35)
    flip: tuple[Literal["z", "y", "x"], ...] = ()
    elastic_sd: float = 3.0
    elastic_voxels: float = 24.0
    bias_chance: float = 0.3
    bias_sd: float = 0.3
    noise_chance: float = 0.2
    noise_sd: float = 0.15
    blur_chance: float = 0.2
    blur_voxels: float = 1.0
    low_resolution_chance: float = 0.2
    low_resolution: float = 2.0
    gamma_chance: float = 0.3
    gamma: tuple[float, float] = (0.7, 1.5)


@dataclass(frozen=True)
class TrainingPlan:
    """How long and on what. foreground: share of patches laid on a labelled voxel; folds: 0 trains one network on
    everything and validates nothing."""

    steps: int = 1000
    batch: int = 8
    learning_rate: float = 2e-3
    warmup: int = 50
    averaging: float = 0.99
    folds: int = 5
    foreground: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """All of it.

    classes: background first. mode: networks of slices, of slices with their neighbours, or of volumes. spacing_mm:
    (z, y, x) that images are resampled to; None keeps the image's own along that axis. patch: voxels along the axes of
    the network. overlap: of windows at prediction.
    """

    classes: tuple[ClassPlan, ...]
    mode: Mode
    spacing_mm: tuple[float | None, float | None, float | None]
    patch: tuple[int, ...]
    normalization: tuple[Normalization, ...] = (Normalization(),)
    network: NetworkPlan = NetworkPlan()
    loss: LossPlan = LossPlan()
    augmentation: AugmentationPlan = AugmentationPlan()
    training: TrainingPlan = TrainingPlan()
    overlap: float = 0.5
    ignored_value: int | None = None
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise FormatError(f"a plan of the form {self.schema!r}", expected=SCHEMA,
                              remedy="make the plan anew with this version of Firstread")
        if self.dims != len(self.patch):
            raise SettingError(f"patches of {len(self.patch)} axes for mode {self.mode}", expected=f"{self.dims}",
                               remedy="correct `patch`")
        if any(len(stride) != self.dims for stride in self.network.strides):
            raise SettingError(f"strides {self.network.strides} for mode {self.mode}", expected=f"{self.dims} numbers "
                               "in each", remedy="correct `network.strides`")
        values = [c.value for c in self.classes]
        if len(values) < 2 or len(set(values)) < len(values) or values[0] != 0:
            raise SettingError(f"classes of the values {values}", expected="0 for the background first, then one value "
                               "of its own for each class", remedy="correct `classes`")
        t = self.training
        if min(*self.patch, t.steps, t.batch) < 1 or t.folds < 0 or t.folds == 1 or not 0 <= self.overlap < 1:
            raise SettingError(f"patch {self.patch}, {t.steps} steps of {t.batch} patches, {t.folds} folds, overlap "
                               f"{self.overlap}", expected="sizes above zero, folds 0 or 2 and more, overlap in "
                               "[0, 1)", remedy="correct the plan")

    @property
    def dims(self) -> int:
        return 3 if self.mode == "3d" else 2

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def neighbours(self) -> int:
        """Slices shown on each side of the one that is segmented."""
        return 1 if self.mode == "2.5d" else 0

    @property
    def channels(self) -> int:
        """Channels that the network gets."""
        return len(self.normalization) * (2 * self.neighbours + 1)

    def as_dict(self) -> dict[str, Any]:
        return {"schema": self.schema, **{k: v for k, v in dataclasses.asdict(self).items() if k != "schema"}}
