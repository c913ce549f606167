"""Measurements along rays: the geometry of the beam, line integrals (CT) and coincidences (PET).

A ray is the line ``x cos θ + y sin θ = s`` of a slice: x along the columns and y along the rows of the image's grid, in
millimetres from the middle of its plane, about which the scanner turns. Every geometry is a table of (θ, s).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Num
from torch import Tensor

from firstread.core.errors import GeometryError, SettingError
from firstread.core.geometry import Grid
from firstread.core.records import Record

G = TypeVar("G", bound="Beam")


@dataclass(frozen=True, kw_only=True)
class Beam(ABC):
    """What all beams share: views and a row of equal detector bins.

    angles_rad: of the views; bins, bin_mm: number and width of the detector's bins; offset_mm: of the detector's middle
    from the central ray (a quarter bin in many scanners).
    """

    angles_rad: tuple[float, ...]
    bins: int
    bin_mm: float
    offset_mm: float = 0.0

    def __post_init__(self):
        if not self.angles_rad or self.bins < 1 or not self.bin_mm > 0:
            raise SettingError(f"{len(self.angles_rad)} views, {self.bins} bins of {self.bin_mm} mm",
                               expected="one view and one bin or more, bins above zero", remedy="correct the geometry")
        if not all(math.isfinite(angle) for angle in self.angles_rad):
            raise SettingError("a view angle that is no number", expected="radians", remedy="correct `angles_rad`")

    @property
    def angles(self) -> Float[Tensor, " view"]:
        """The views' angles in radians, float64."""
        return torch.tensor(self.angles_rad, dtype=torch.float64)

    @property
    def places_mm(self) -> Float[Tensor, " bin"]:
        """Middle of each bin along the detector, from the central ray, float64."""
        index = torch.arange(self.bins, dtype=torch.float64)
        return (index - (self.bins - 1) / 2) * self.bin_mm + self.offset_mm

    @property
    def summary(self) -> str:
        """One line for the trail.

        >>> ParallelBeam.uniform(views=2, bins=3, bin_mm=2.0).summary
        'ParallelBeam(2 views, 3 bins of 2 mm)'
        """
        return f"{type(self).__name__}({len(self.angles_rad)} views, {self.bins} bins of {self.bin_mm:g} mm)"

    @abstractmethod
    def rays(self) -> tuple[Float[Tensor, "view bin"], Float[Tensor, "view bin"]]:
        """θ in radians and s in millimetres of every ray."""

    def at_views(self: G, chosen: Sequence[int]) -> G:
        """The same beam at some of its views."""
        return replace(self, angles_rad=tuple(self.angles_rad[i] for i in chosen))

    def finer(self: G, times: int) -> G:
        """The same detector with every bin cut into ``times``."""
        return replace(self, bins=self.bins * times, bin_mm=self.bin_mm / times)


@dataclass(frozen=True, kw_only=True)
class ParallelBeam(Beam):
    """Parallel rays: ``θ`` is the view's angle and ``s`` the place on the detector.

    >>> angle, distance = ParallelBeam.uniform(views=2, bins=3, bin_mm=2.0).rays()
    >>> angle[:, 0].tolist(), distance[0].tolist()
    ([0.0, 1.57...], [-2.0, 0.0, 2.0])
    """

    @classmethod
    def uniform(cls, *, views: int, bins: int, bin_mm: float, arc_rad: float = math.pi, offset_mm: float = 0.0
                ) -> ParallelBeam:
        """Views at equal angles over ``arc_rad``, the end left out."""
        return cls(angles_rad=_equal(views, arc_rad), bins=bins, bin_mm=bin_mm, offset_mm=offset_mm)

    def rays(self) -> tuple[Float[Tensor, "view bin"], Float[Tensor, "view bin"]]:
        """θ in radians and s in millimetres of every ray."""
        angle, place = torch.broadcast_tensors(self.angles[:, None], self.places_mm[None])
        return angle, place


@dataclass(frozen=True, kw_only=True)
class FanBeam(Beam):
    """Rays from a source that turns: ``θ = β + γ`` and ``s = R sin γ`` (Kak and Slaney 1988, ch. 3.4).

    At view angle β the source is at ``R (-sin β, cos β)``; γ is the ray's angle from the central ray: with a curved
    detector ``γ = place / D``, with a flat one ``tan γ = place / D``.

    source_mm: R, from source to centre; detector_mm: D, from source to detector; curved: an arc about the source.

    >>> beam = FanBeam.uniform(views=1, bins=3, bin_mm=100.0, source_mm=500.0, detector_mm=1000.0)
    >>> beam.rays()[1].round(decimals=2).tolist()
    [[-49.92, 0.0, 49.92]]
    """

    source_mm: float
    detector_mm: float
    curved: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.source_mm < self.detector_mm:
            raise GeometryError(f"a source {self.source_mm} mm from the centre and {self.detector_mm} mm from the "
                                "detector", expected="0 < source_mm < detector_mm",
                                remedy="give both distances from the source, in millimetres")
        if self.curved and self.half_fan_rad >= math.pi / 2:
            raise GeometryError(f"a fan of {math.degrees(2 * self.half_fan_rad):.0f}°", expected="less than 180°",
                                remedy="check bins, bin_mm and detector_mm")

    @classmethod
    def uniform(cls, *, views: int, bins: int, bin_mm: float, source_mm: float, detector_mm: float,
                arc_rad: float = 2 * math.pi, offset_mm: float = 0.0, curved: bool = True) -> FanBeam:
        """Views at equal angles over ``arc_rad``, the end left out."""
        return cls(angles_rad=_equal(views, arc_rad), bins=bins, bin_mm=bin_mm, offset_mm=offset_mm,
                   source_mm=source_mm, detector_mm=detector_mm, curved=curved)

    @property
    def fan_rad(self) -> Float[Tensor, " bin"]:
        """γ of every bin."""
        ratio = self.places_mm / self.detector_mm
        return ratio if self.curved else torch.atan(ratio)

    @property
    def half_fan_rad(self) -> float:
        """The largest |γ|, to the outer edge of the detector."""
        edge = (self.bins * self.bin_mm / 2 + abs(self.offset_mm)) / self.detector_mm
        return edge if self.curved else math.atan(edge)

    def rays(self) -> tuple[Float[Tensor, "view bin"], Float[Tensor, "view bin"]]:
        """θ in radians and s in millimetres of every ray."""
        fan = self.fan_rad
        angle, distance = torch.broadcast_tensors(self.angles[:, None] + fan, (self.source_mm * torch.sin(fan))[None])
        return angle, distance


@dataclass(frozen=True, eq=False)
class Sinogram(Record):
    """Line integrals of attenuation, ``p = ∫ μ dl``, without unit.

    data: ``[batch, time, channel, z, view, bin]``.
    grid: of the image that is asked for; the scanner turns about the middle of its planes.
    weights: inverse variances that least squares should use (the counts behind each integral), or None for equal ones.
    """

    data: Num[Tensor, "batch time channel z view bin"]
    grid: Grid
    beam: Beam
    weights: Float[Tensor, "batch time channel z view bin"] | None = None
    source: Any = None

    def __post_init__(self):
        check_rays("a sinogram", self.data, self.beam, self.grid)


def check_rays(what: str, data: Tensor, beam: Beam, grid: Grid) -> None:
    """Refuse data that do not have one number for every ray of every slice."""
    grid.require_mm("projection")
    expected = (grid.shape[0], len(beam.angles_rad), beam.bins)
    if tuple(data.shape[-3:]) != expected:
        raise GeometryError(f"{what} of {tuple(data.shape[-3:])} (slices, views, bins)",
                            expected=f"{expected} in this geometry", remedy="give the beam and grid of these data")


def _equal(views: int, arc_rad: float) -> tuple[float, ...]:
    if views < 1 or not arc_rad > 0:
        raise SettingError(f"{views} views over {arc_rad} rad", expected="one or more over an arc above zero",
                           remedy="correct the setting")
    return tuple(arc_rad * i / views for i in range(views))
