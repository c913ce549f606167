"""What flows through a chain: frozen records of plain tensors.

Six axes, always, singletons where absent: ``[batch, time, channel, z, y, x]``; in k-space the channel is the coil.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Complex, Float, Int, Integer, Num
from torch import Tensor

from firstread.core.batched import Batched
from firstread.core.errors import SettingError, UnsupportedError
from firstread.core.geometry import Grid

R = TypeVar("R", bound="Record")


@dataclass(frozen=True)
class Note:
    """Something the reader of a result must know.

    code: short stable name (``missing_slice``); text: one sentence; severity: ``info`` or ``warning``.
    """

    code: str
    text: str
    severity: Literal["info", "warning"] = "warning"


@dataclass(frozen=True, eq=False)
class Rows(Batched):
    """Which subject, part (slice, tile, view) and draw each batch row is; a draw is never a new patient."""

    subject: Int[Tensor, " batch"]
    part: Int[Tensor, " batch"]
    draw: Int[Tensor, " batch"]

    @classmethod
    def subjects(cls, count: int = 1) -> Rows:
        """``count`` rows, each a subject of its own."""
        zero = torch.zeros(count, dtype=torch.int64)
        return cls(torch.arange(count), zero, zero.clone())

    @classmethod
    def parts(cls, count: int) -> Rows:
        """``count`` rows that are the parts of one subject."""
        zero = torch.zeros(count, dtype=torch.int64)
        return cls(zero, torch.arange(count), zero.clone())


@dataclass(frozen=True, eq=False)
class Record(Batched):
    """Base of all records: rows and notes."""

    rows: Rows
    notes: tuple[Note, ...] = field(default=(), kw_only=True)

    @property
    def batch(self) -> int:
        return self.rows.subject.shape[0]

    def draws(self: R, count: int) -> R:
        """``count`` copies of every row, numbered by ``rows.draw``."""
        copies = self.repeat_rows(count)
        number = torch.arange(count).repeat(self.batch)
        return replace(copies, rows=replace(copies.rows, draw=number))

    def noted(self: R, *notes: Note) -> R:
        """The same record with ``notes`` added, each once."""
        return replace(self, notes=self.notes + tuple(n for n in dict.fromkeys(notes) if n not in self.notes))


@dataclass(frozen=True, eq=False)
class Image(Record):
    """Pixels, real or complex.

    data: ``[batch, time, channel, z, y, x]``.
    times_s: time of each frame after the R wave (or the start), ``[batch, time, z]`` or ``[batch, time, 1]``.
    cycle_s: length of the heart cycle per slice, ``[batch, z]`` or ``[batch, 1]``; NaN where unknown.
    source: opaque to stages: what results must refer to (DICOM UIDs, patient module).
    """

    data: Num[Tensor, "batch time channel z y x"]
    grid: Grid
    times_s: Float[Tensor, "batch time slices"] | None = None
    cycle_s: Float[Tensor, "batch slices"] | None = None
    source: Any = None


@dataclass(frozen=True, eq=False)
class KSpace(Record):
    """K-space, Cartesian or along a trajectory; unsampled entries are zero.

    data: Cartesian: ``[batch, time, coil, z, y, x]``, centred and orthonormal, zero frequency at ``N // 2``; axes not
        in ``fourier_axes`` are still positions. With a trajectory: ``[batch, time, coil, z, shot, sample]``, scaled as
        the orthonormal transform; z runs over slices, and has length 1 where z is Fourier-encoded.
    grid: the grid of the image that this k-space encodes (readout oversampling removed).
    mask: which samples were measured, broadcasts to data with one coil.
    sensitivities: complex coil maps ``[batch, set, coil, z, y, x]``, or None to be estimated; several sets add up
        (``y = M F Σ_s S_s x_s``), and the image they encode has one channel per set.
    noise_covariance: between coils, ``[batch, coil, coil]``; None where not measured.
    image_shape: the matrix (z, y, x) to crop the reconstruction to; None for the whole grid.
    trajectory: place of every sample, ``[batch, time or 1, axis, shot, sample]`` in cycles per field of view of the
        grid, axes in the order of ``fourier_axes``, (y, x) or (z, y, x); None for Cartesian k-space.
    """

    data: Complex[Tensor, "batch time coil z y x"]
    grid: Grid
    mask: Num[Tensor, "batch mt 1 mz my mx"] | Bool[Tensor, "batch mt 1 mz my mx"]
    sensitivities: Complex[Tensor, "batch set coil depth height width"] | None = None
    noise_covariance: Complex[Tensor, "batch coil coil"] | None = None
    fourier_axes: tuple[str, ...] = ("y", "x")
    image_shape: tuple[int, int, int] | None = None
    times_s: Float[Tensor, "batch time slices"] | None = None
    cycle_s: Float[Tensor, "batch slices"] | None = None
    source: Any = None
    trajectory: Float[Tensor, "batch moment axis shot sample"] | None = None

    def __post_init__(self):
        if not self.fourier_axes or not set(self.fourier_axes) <= {"z", "y", "x"}:
            raise SettingError(f"Fourier axes {self.fourier_axes}", expected="some of 'z', 'y', 'x'",
                               remedy="name the axes that were Fourier-encoded")
        shape = self.data.shape[3:]
        if self.trajectory is not None:
            shape = self.grid.shape
            self._check_trajectory(self.trajectory)
        if self.sensitivities is not None and self.sensitivities.shape[2:] != (self.data.shape[2], *shape):
            raise SettingError(f"coil maps of shape {tuple(self.sensitivities.shape[2:])}",
                               expected=f"(coil, z, y, x) = {(self.data.shape[2], *shape)}",
                               remedy="give one map for each coil on the grid of the image")

    def _check_trajectory(self, trajectory: Tensor) -> None:
        if self.fourier_axes not in (("y", "x"), ("z", "y", "x")) or trajectory.shape[2] != len(self.fourier_axes):
            raise SettingError(f"a trajectory of {trajectory.shape[2]} axes for Fourier axes {self.fourier_axes}",
                               expected="('y', 'x') or ('z', 'y', 'x'), one row of the trajectory for each",
                               remedy="name the axes of the trajectory in `fourier_axes`")
        if trajectory.shape[-2:] != self.data.shape[-2:] or trajectory.shape[1] not in (1, self.data.shape[1]):
            raise SettingError(f"a trajectory of {tuple(trajectory.shape[-2:])} (shots, samples) in "
                               f"{trajectory.shape[1]} frames for data of {tuple(self.data.shape[-2:])} in "
                               f"{self.data.shape[1]}", expected="one place in k-space for every sample",
                               remedy="cut the longer of the two, or read the trajectory that belongs to the data")
        slices = 1 if "z" in self.fourier_axes else self.grid.shape[0]
        if self.data.shape[3] != slices:
            raise SettingError(f"data of {self.data.shape[3]} slices on a trajectory in {self.fourier_axes}",
                               expected=f"{slices} on this grid", remedy="give the grid of the image that was encoded")

    def require_cartesian(self, what: str) -> None:
        """Refuse k-space along a trajectory where only lines on a grid will do."""
        if self.trajectory is not None:
            raise UnsupportedError(f"k-space along a trajectory for {what}", expected="Cartesian k-space",
                                   remedy="reconstruct it with Gridding, CGSense or SpatialTV and go on from the image")


@dataclass(frozen=True, eq=False)
class Labels(Record):
    """A segmentation; a stage that takes Labels accepts both kinds, gradients need SoftLabels.

    names: class names, background first; the channel (soft) or the value (hard) is the position in it.
    """

    data: Num[Tensor, "batch time channel z y x"]
    grid: Grid
    names: tuple[str, ...]
    times_s: Float[Tensor, "batch time slices"] | None = None
    cycle_s: Float[Tensor, "batch slices"] | None = None
    source: Any = None


@dataclass(frozen=True, eq=False)
class SoftLabels(Labels):
    """Probabilities, one channel per class, summing to one."""

    data: Float[Tensor, "batch time classes z y x"]

    def harden(self) -> HardLabels:
        """The most probable class of every voxel."""
        top = self.data.detach().max(dim=2, keepdim=True)
        return HardLabels(self.rows, top.indices.to(torch.uint8), self.grid, self.names, self.times_s, self.cycle_s,
                          self.source, top_probability=top.values, notes=self.notes)


@dataclass(frozen=True, eq=False)
class HardLabels(Labels):
    """One class index per voxel (channel of length 1), with the probability of that class where known."""

    data: Integer[Tensor, "batch time 1 z y x"]
    top_probability: Float[Tensor, "batch time 1 z y x"] | None = None

    def soften(self) -> SoftLabels:
        """One-hot probabilities of these labels."""
        hot = torch.nn.functional.one_hot(self.data[:, :, 0].long(), len(self.names))
        return SoftLabels(self.rows, hot.movedim(-1, 2).float(), self.grid, self.names, self.times_s, self.cycle_s,
                          self.source, notes=self.notes)


@dataclass(frozen=True, eq=False)
class Findings(Record):
    """Things found: points in millimetres with a score and a name.

    points_mm: ``[batch, n, 3]``; scores: ``[batch, n]``; names: ``n`` of them.
    """

    points_mm: Float[Tensor, "batch n 3"]
    scores: Float[Tensor, "batch n"]
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Phenotype(Batched):
    """One measured number per batch row, or the reason why there is none.

    value: ``[batch]`` in ``unit``; lower, upper: interval at ``level`` by ``method``, or None;
    calibrated_on: the data that the interval was calibrated on; reason: why the value is absent.
    """

    value: Float[Tensor, " batch"] | None
    unit: str
    lower: Float[Tensor, " batch"] | None = None
    upper: Float[Tensor, " batch"] | None = None
    level: float | None = None
    method: str | None = None
    calibrated_on: str | None = None
    reason: str | None = None

    def __post_init__(self):
        if (self.value is None) == (self.reason is None):
            raise SettingError("a phenotype with both or neither of value and reason", expected="exactly one of them",
                               remedy="give the value, or say why it is absent")


@dataclass(frozen=True, eq=False)
class Phenotypes(Record):
    """Named measurements (LVEDV, LVEF …) and the curves that they come from.

    curves: for example ``LV_volume_ml``, ``[batch, time]``.
    """

    values: Mapping[str, Phenotype]
    curves: Mapping[str, Float[Tensor, "batch time"]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Phenotype:
        return self.values[name]


@dataclass(frozen=True, eq=False)
class Risk(Record):
    """Log relative hazard (or another score that grows with risk), ``[batch]``."""

    value: Float[Tensor, " batch"]


@dataclass(frozen=True, eq=False)
class Features(Record):
    """Numbers that describe each row (an image's noise, a network's last layer): ``[batch, feature]``, named."""

    data: Float[Tensor, "batch feature"]
    names: tuple[str, ...]

    def __post_init__(self):
        if len(self.names) != self.data.shape[1] or len(set(self.names)) != len(self.names):
            raise SettingError(f"{len(self.names)} names ({len(set(self.names))} different) for "
                               f"{self.data.shape[1]} features", expected="one name of its own for each feature",
                               remedy="name every column of the data")

    def __getitem__(self, name: str) -> Float[Tensor, " batch"]:
        if name not in self.names:
            raise SettingError(f"no feature {name!r}", expected=f"one of {', '.join(self.names)}",
                               remedy="describe the input by that number too")
        return self.data[:, self.names.index(name)]
