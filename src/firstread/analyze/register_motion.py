"""Tracking through a series: from a reference frame to every other, smooth in time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.register_deformable import Effort, displacement, find_velocity
from firstread.core.alignment import Motion
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Image
from firstread.core.stage import Stage
from firstread.ops.intensity import scale_percentiles

THICK = 2.5  # slices further apart than this many pixels are tracked each in its own plane
TRACKING = Effort(shrink=(8, 4, 2), iterations=(60, 60, 40), radius=3, discrete=False)


class TrackMotion(Stage):
    """Where each point of the reference frame goes: one velocity per frame, all found together.

    reference: the frame whose points are followed (end-diastole: 0 in a triggered cine).
    periodic: whether the last frame is followed by the first one (a heart cycle).
    smooth_frames: sd of the Gaussian over time that the velocities get after each step, in frames; 0: none.
    effort: levels, steps and smoothing in space.

    Slices that lie further apart than two and a half pixels are followed each in its own plane. Real images or
    magnitudes; LNCC. No gradient passes. Raises SettingError for one frame, several channels or a reference that is not
    there, SignalError for NaN.
    """

    result = "motion"
    differentiable = False

    def __init__(self, *, reference: int = 0, periodic: bool = True, smooth_frames: float = 0.5,
                 effort: Effort = TRACKING, progress: Callable[[str], None] = lambda text: None) -> None:
        super().__init__()
        if smooth_frames < 0:
            raise SettingError(f"smoothing over {smooth_frames} frames", expected="0 or more", remedy="correct it")
        self.reference, self.periodic, self.smooth_frames = reference, periodic, smooth_frames
        self.effort, self._progress = effort, progress

    @torch.no_grad()
    def forward(self, image: Image) -> Motion:
        frames = image.data.shape[1]
        if frames < 2 or image.data.shape[2] != 1 or not 0 <= self.reference < frames:
            raise SettingError(f"{frames} frames of {image.data.shape[2]} channels, reference {self.reference}",
                               expected="two frames or more of one channel, and a reference among them",
                               remedy="give a series")
        data = (image.data.abs() if image.data.is_complex() else image.data).float()[:, :, 0]
        if not torch.isfinite(data).all():
            raise SignalError("a series with values that are no numbers", expected="finite values",
                              remedy="repair the image")
        scaled = scale_percentiles(data, low=0.001, high=0.999, most=1 << 18).clamp(-0.1, 1.1)
        spacing, in_plane = image.grid.spacing_mm, is_in_plane(image.grid)
        moved = torch.stack([self._row(row, (float(s[0]), float(s[1]), float(s[2])), in_plane)
                             for row, s in zip(scaled, spacing, strict=True)])
        to_mm = image.grid.affine[:, :3, :3].to(moved.dtype)
        return Motion(image.rows, torch.einsum("bij,btjzyx->btizyx", to_mm, moved), image.grid, self.reference,
                      in_plane, image.times_s, notes=image.notes)

    def _row(self, series: Float[Tensor, "time z y x"], spacing_mm: tuple[float, float, float], in_plane: bool
             ) -> Float[Tensor, "time 3 z y x"]:
        """Displacements in voxels."""
        frames = len(series)
        stacks = series.transpose(0, 1).flatten(0, 1)[:, None] if in_plane else series  # [slice time, 1, y, x]
        parts = stacks.shape[0] // frames
        by_frame = stacks.unflatten(0, (parts, frames))
        rest = [frame for frame in range(frames) if frame != self.reference]
        moving = by_frame[:, rest]
        fixed = by_frame[:, self.reference:self.reference + 1].expand_as(moving)
        weights = time_smoothing(frames, self.smooth_frames, periodic=self.periodic).to(series)
        weights = (weights - weights[self.reference])[rest][:, rest]  # the reference itself stays at rest

        def couple(velocity: Tensor) -> Tensor:
            return torch.einsum("ts,ps...->pt...", weights, velocity.unflatten(0, (parts, -1))).flatten(0, 1)

        velocity = find_velocity(fixed.flatten(0, 1), moving.flatten(0, 1), spacing_mm=spacing_mm, effort=self.effort,
                                 couple=couple, progress=self._progress)
        size = (stacks.shape[1], stacks.shape[2], stacks.shape[3])
        found = displacement(velocity, size).unflatten(0, (parts, -1))
        moved = found.new_zeros(parts, frames, *found.shape[2:])
        moved[:, rest] = found
        return moved[:, :, :, 0].movedim(0, 2) if in_plane else moved[0]


def is_in_plane(grid: Grid) -> bool:
    """Whether slices lie too far apart to say what moves across them.

    >>> is_in_plane(Grid.from_spacing((10, 64, 64), (8.0, 1.5, 1.5)))
    True
    """
    spacing = grid.spacing_mm
    return grid.shape[0] == 1 or bool((spacing[:, 0] > THICK * spacing[:, 1:].amax(dim=1)).any())


def time_smoothing(frames: int, sd: float, *, periodic: bool) -> Float[Tensor, "frames frames"]:
    """The matrix of a Gaussian over time of ``sd`` frames, rows summing to one.

    >>> time_smoothing(4, 0.5, periodic=True).sum(dim=1).round(decimals=3).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    if sd == 0:
        return torch.eye(frames)
    number = torch.arange(frames)
    apart = (number[:, None] - number).abs().float()
    apart = torch.minimum(apart, frames - apart) if periodic else apart
    weights = torch.exp(-0.5 * (apart / sd) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)
