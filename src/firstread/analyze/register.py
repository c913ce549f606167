"""Registration of two images as a stage: rigid, affine, or a diffeomorphism after one of these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.register_deformable import Effort, Metric, displacement, find_velocity, measure_for
from firstread.analyze.register_linear import overlap, register_linear
from firstread.core.alignment import Alignment
from firstread.core.batched import concatenate
from firstread.core.errors import GeometryError, SettingError, SignalError
from firstread.core.geometry import Grid, Transform
from firstread.core.records import Image, Note
from firstread.core.stage import Stage
from firstread.ops.intensity import scale_percentiles
from firstread.ops.similarity import joint_histogram, mutual_information
from firstread.ops.warp import inverse, moved_grid, warp

Kind = Literal["rigid", "affine", "deformable"]
First = Literal["none", "rigid", "affine"]
MetricName = Literal["auto", "mi", "lncc", "ngf"]
ALIKE = 0.3  # correlation of two images from which on their contrast counts as the same
LEAST_SHARED = 0.02  # nats of shared information below which two aligned images have hardly anything in common
STRETCH = 1.25  # of a linear map, or its inverse, from which on it is doubted


class Register(Stage):
    """How ``moving`` lies on ``fixed``.

    kind: rigid, affine, or deformable: a diffeomorphism after the linear transform ``first``.
    metric: mi (mutual information), lncc (local correlation) or ngf (normalized gradient fields). auto: mi for the
        linear part; for the deformation lncc, or mi where the aligned images do not even correlate by 0.3.
    effort: levels, steps and smoothing of the deformation.

    One volume (or one slice) each, real or by magnitude, on any grids in millimetres; every batch row is a pair. No
    random draws; no gradient passes (see LearnedRegister for one that lets it through).

    Raises GeometryError for 2D on 3D, grids without millimetres and images that do not overlap, SignalError for images
    of one value or with NaN, SettingError for several frames or channels.
    """

    result = "alignment"
    differentiable = False

    def __init__(self, *, kind: Kind = "deformable", first: First = "affine", metric: MetricName = "auto",
                 effort: Effort | None = None, progress: Callable[[str], None] | None = None) -> None:
        super().__init__()
        for value, known in ((kind, Kind), (first, First), (metric, MetricName)):
            if value not in get_args(known):
                raise SettingError(f"{value!r}", expected=f"one of {', '.join(get_args(known))}",
                                   remedy="correct the setting")
        self.kind, self.first, self.metric = kind, first, metric
        self.effort, self._progress = effort or Effort(), progress or _silent

    @torch.no_grad()
    def forward(self, fixed: Image, moving: Image) -> Alignment:
        check_pair(fixed, moving)
        if fixed.batch != moving.batch:
            raise SettingError(f"{fixed.batch} fixed images and {moving.batch} moving ones", expected="pairs",
                               remedy="give as many of one as of the other")
        found = [self._pair(fixed.select(row), moving.select(row)) for row in torch.arange(fixed.batch)[:, None]]
        return concatenate(found).noted(*(note for one in found for note in one.notes))

    def _pair(self, fixed: Image, moving: Image) -> Alignment:
        one, two = unit_range(fixed.data), unit_range(moving.data)
        matrix = torch.eye(4, dtype=torch.float64)
        notes: tuple[Note, ...] = ()
        linear = self.first if self.kind == "deformable" else self.kind
        metric = "mi" if self.metric == "auto" else self.metric
        if linear != "none":
            with torch.enable_grad():
                found = register_linear(one, fixed.grid, two, moving.grid, kind=linear, metric=metric,
                                        progress=self._progress)
            matrix, notes = found.matrix, _doubts(found.matrix, found.rival_mm)
        elif overlap(fixed.grid, moving.grid, matrix) < 0.1:
            raise GeometryError("two images that do not overlap by their headers", expected="images aligned before",
                                remedy="let a rigid or affine registration come first")
        start = Transform(matrix[None], None, fixed.grid, moving.grid)
        aligned, valid = seen_on(two, moving.grid, start, fixed.grid)
        if shared_information(one[valid > 0.99], aligned[valid > 0.99]) < LEAST_SHARED:
            notes += (Note("hardly_alike", "Even aligned, one image hardly tells anything about the other: there is "
                           "too little in common to go by. Do not trust this without looking."),)
        if self.kind != "deformable":
            measure = _measure(one, fixed.grid, metric)
            header = seen_on(two, moving.grid, Transform.identity(), fixed.grid)[0]
            return Alignment(fixed.rows, start, start.inverse(), measure(header), measure(aligned), metric, notes=notes)
        if self.metric == "auto":
            metric = "lncc" if abs(_correlation(one, aligned, valid)) >= ALIKE else "mi"
        z, y, x = fixed.grid.spacing_mm[0].tolist()
        velocity = find_velocity(one[None], aligned[None], spacing_mm=(z, y, x), metric=metric, effort=self.effort,
                                 valid=None if bool(valid.min() > 0.99) else valid[None], progress=self._progress)
        forward, backward = both_ways(velocity, start, fixed.grid, moving.grid)
        measure = _measure(one, fixed.grid, metric)
        warped = seen_on(two, moving.grid, forward, fixed.grid)[0]
        return Alignment(fixed.rows, forward, backward, measure(aligned), measure(warped), metric, notes=notes)


def diffeomorphism(velocity: Float[Tensor, "batch 3 hz hy hx"], linear: Transform, fixed: Grid, moving: Grid
                   ) -> tuple[Transform, Transform]:
    """``A exp(v)`` and its inverse ``exp(-v) A^-1`` in millimetres; v in voxels over the field of view of ``fixed``."""
    there, back = (displacement(v, fixed.shape) for v in (velocity, -velocity))
    to_mm = fixed.affine[:, :3, :3]
    forward = torch.einsum("bij,bjzyx->bizyx", (linear.matrix[:, :3, :3] @ to_mm).float(), there)
    backward = torch.einsum("bij,bjzyx->bizyx", to_mm.float(), back)
    return (Transform(linear.matrix, forward, fixed, moving),
            Transform(torch.linalg.inv(linear.matrix), backward, moved_grid(fixed, linear.matrix), fixed))


def both_ways(velocity: Float[Tensor, "batch 3 hz hy hx"], linear: Transform, fixed: Grid, moving: Grid
              ) -> tuple[Transform, Transform]:
    """:func:`diffeomorphism` with the inverse of its field as that is interpolated, which files hold; no gradient."""
    forward, backward = diffeomorphism(velocity, linear, fixed, moving)
    return forward, inverse(forward, near=backward)


def check_pair(fixed: Image, moving: Image) -> None:
    """Refuse what cannot be registered."""
    for image, name in ((fixed, "fixed"), (moving, "moving")):
        image.grid.require_mm(f"registering the {name} image")
        if image.data.shape[1] != 1:
            raise SettingError(f"a {name} image of {image.data.shape[1]} frames", expected="one frame, one channel",
                               remedy="give one frame alone")
        if image.data.shape[2] != 1:
            raise SettingError(f"a {name} image of {image.data.shape[2]} channels", expected="one frame, one channel",
                               remedy="give one channel alone, a colour picture in grey")
        values = image.data.abs() if image.data.is_complex() else image.data
        if not torch.isfinite(values.float()).all():
            raise SignalError(f"a {name} image with values that are no numbers", expected="finite values",
                              remedy="repair the image")
        if not (values.flatten(1).amax(1) > values.flatten(1).amin(1)).all():
            raise SignalError(f"a {name} image of one value", expected="an image with contrast",
                              remedy="check that this is the right file")
    flat = [image.grid.shape[0] == 1 for image in (fixed, moving)]
    if flat[0] != flat[1]:
        raise GeometryError(f"a {_kind(fixed)} fixed image and a {_kind(moving)} moving one",
                            expected="two volumes, or two slices", remedy="give images of one dimensionality")


def unit_range(data: Tensor) -> Float[Tensor, "z y x"]:
    """One volume with its 0.1st and 99.9th percentiles at 0 and 1, not clipped beyond a tenth."""
    values = (data.abs() if data.is_complex() else data).float()[:, 0, 0]
    scaled = scale_percentiles(values, low=0.001, high=0.999, most=1 << 20)
    if not bool(scaled.any()):  # hardly anything but one value
        scaled = (values - values.amin()) / (values.amax() - values.amin())
    return scaled[0].clamp(-0.1, 1.1)


def shared_information(one: Float[Tensor, "*voxel"], two: Float[Tensor, "*voxel"]) -> float:
    """Mutual information of two images of unit range in nats, less what chance alone gives so many voxels; 0 of none.

    Few voxels in many cells of the joint histogram look as if they told something about each other. What they would
    tell if the images were independent is about ``(K_ft - K_f - K_t + 1) / 2n``, K being how many cells of the joint
    and of each histogram are met, n the number of voxels (Miller 1955): 0.03 for slices of 128 x 128.
    """
    if not one.numel():
        return 0.0
    joint = joint_histogram(one.reshape(1, -1).clamp(0, 1), two.reshape(1, -1).clamp(0, 1))
    met = joint[0] > 0
    cells = met.sum() - met.any(dim=0).sum() - met.any(dim=1).sum() + 1
    return float(mutual_information(joint)) - float(cells) / (2 * one.numel())


def seen_on(data: Float[Tensor, "z y x"], grid: Grid, transform: Transform, target: Grid
            ) -> tuple[Float[Tensor, "tz ty tx"], Float[Tensor, "tz ty tx"]]:
    """An image through a transform on ``target``, and where it was seen at all (0 to 1)."""
    both = torch.stack((data, torch.ones_like(data)))[None]
    made = warp(both, grid, transform, target)[0]
    return made[0], made[1]


def _doubts(matrix: Float[Tensor, "4 4"], rival_mm: float | None) -> tuple[Note, ...]:
    """Warnings where another placement is as alike, and where a linear map stretches much."""
    found = []
    if rival_mm is not None:
        found.append(Note("ambiguous", f"A placement {rival_mm:.0f} mm away makes the images just as alike (within "
                          "5 %): they hardly say where they belong. Do not trust this without looking."))
    stretch = torch.linalg.svdvals(matrix[:3, :3])
    if float(stretch.max()) > STRETCH or float(stretch.min()) < 1 / STRETCH:
        found.append(Note("stretched", f"The affine map makes lengths {float(stretch.min()):.2f} to "
                          f"{float(stretch.max()):.2f} times what they were. Wrong maps do so where one image lacks "
                          "what the other shows (skull, arms, field of view): look, and try a rigid one."))
    return tuple(found)


def _measure(fixed: Tensor, grid: Grid, metric: Metric) -> Callable[[Tensor], Tensor]:
    gradient = measure_for(fixed[None], metric, 2, tuple(grid.spacing_mm[0].tolist()))
    return lambda image: gradient(image[None])[0]


def _correlation(one: Tensor, two: Tensor, valid: Tensor) -> float:
    inside = valid > 0.99
    pair = torch.stack((one[inside], two[inside]))
    return float(torch.corrcoef(pair)[0, 1].nan_to_num()) if pair.shape[1] > 10 else 0.0


def _kind(image: Image) -> str:
    return "2D" if image.grid.shape[0] == 1 else "3D"


def _silent(text: str) -> None:
    """Progress that nobody asked for."""
