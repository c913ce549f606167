"""Tracking through a series: from a reference frame to every other, smooth in time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.register_deformable import Effort, displacement, find_velocity
from firstread.analyze.register_learned import foreseen, in_planes, stacked
from firstread.core.alignment import Motion
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Note
from firstread.core.stage import Stage
from firstread.nets.velocity import VelocityNet
from firstread.ops.intensity import scale_percentiles

THICK = 2.5  # slices further apart than this many pixels are tracked each in its own plane
TRACKING = Effort(shrink=(8, 4, 2), iterations=(60, 60, 40), radius=3, discrete=False)
AFTER_NETWORK = Effort(shrink=(2, 1), iterations=(20, 10), radius=3, discrete=False)
AT_ONCE = 16  # pairs that a network sees together
ACROSS = Note("in_plane_alone", "The network sees slices alone: motion across them, which these voxels could show, is "
              "not followed. Optimization without a network follows it.")


class TrackMotion(Stage):
    """Where each point of the reference frame goes: one velocity per frame, all found together.

    reference: the frame whose points are followed (end-diastole: 0 in a triggered cine).
    periodic: whether the last frame is followed by the first one (a heart cycle).
    smooth_frames: sd of the Gaussian over time that the velocities get after each step, in frames; 0: none.
    effort: levels, steps and smoothing in space; None: what the network says as it is.
    network: gives the velocities to begin with, and their spread; of slices (``dims=2``) or volumes. None: from rest.
    spread_factor: what the network's spread is multiplied with, as its card says.

    Slices that lie further apart than two and a half pixels, and those of a network of slices, are followed each in its
    own plane; a note says so where only the network asks for it. Real images or magnitudes; LNCC. No gradient passes.
    Raises SettingError for one frame, several channels, a reference that is not there, neither effort nor network, or a
    network of volumes for slices; SignalError for NaN.
    """

    result = "motion"
    differentiable = False

    def __init__(self, *, reference: int = 0, periodic: bool = True, smooth_frames: float = 0.5,
                 effort: Effort | None = TRACKING, network: VelocityNet | None = None, spread_factor: float = 1.0,
                 progress: Callable[[str], None] = lambda text: None) -> None:
        super().__init__()
        if (effort is None and network is None) or not spread_factor > 0:
            raise SettingError(f"effort {effort}, {'no' if network is None else 'a'} network, spread factor "
                               f"{spread_factor}", expected="an effort, a network or both; a factor above zero",
                               remedy="give one of them")
        if smooth_frames < 0:
            raise SettingError(f"smoothing over {smooth_frames} frames", expected="0 or more", remedy="correct it")
        self.reference, self.periodic, self.smooth_frames = reference, periodic, smooth_frames
        self.effort, self.network, self.spread_factor, self._progress = effort, network, spread_factor, progress

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
        spacing, in_plane, notes = image.grid.spacing_mm, is_in_plane(image.grid), image.notes
        if self.network is not None:
            if in_plane and self.network.dims == 3:
                raise SettingError("a network of volumes for slices that lie far apart", expected="one of slices",
                                   remedy="give a network of two dimensions")
            if not in_plane and self.network.dims == 2:
                in_plane, notes = True, (*notes, ACROSS)
        found = [self._row(row, (float(s[0]), float(s[1]), float(s[2])), in_plane)
                 for row, s in zip(scaled, spacing, strict=True)]
        moved = torch.stack([row for row, _ in found])
        to_mm = image.grid.affine[:, :3, :3].to(moved.dtype)
        size = spacing.flip(1)[:, None, :, None, None, None].to(moved.dtype)
        spreads = [row for _, row in found if row is not None]
        spread = torch.stack(spreads) * size * self.spread_factor if spreads else None
        return Motion(image.rows, torch.einsum("bij,btjzyx->btizyx", to_mm, moved), image.grid, self.reference,
                      in_plane, image.times_s, spread_mm=spread, notes=notes)

    def _row(self, series: Float[Tensor, "time z y x"], spacing_mm: tuple[float, float, float], in_plane: bool
             ) -> tuple[Float[Tensor, "time 3 z y x"], Float[Tensor, "time 3 z y x"] | None]:
        """Displacements in voxels, and their spread (None without a network)."""
        frames, slices = len(series), series.shape[1]
        rest = [frame for frame in range(frames) if frame != self.reference]
        moving = series[rest]
        fixed = series[self.reference].expand_as(moving)
        if in_plane:
            fixed, moving = in_planes(fixed), in_planes(moving)  # rows: time, then slice
        weights = time_smoothing(frames, self.smooth_frames, periodic=self.periodic).to(series)
        weights = (weights - weights[self.reference])[rest][:, rest]  # the reference itself stays at rest

        def couple(velocity: Tensor) -> Tensor:
            return torch.einsum("ts,s...->t...", weights, velocity.unflatten(0, (len(rest), -1))).flatten(0, 1)

        size = (fixed.shape[1], fixed.shape[2], fixed.shape[3])
        velocity, spread = None, None
        if self.network is not None:
            self._progress(f"network: {len(fixed)} pairs of {' x '.join(map(str, size))} voxels")
            parts = [foreseen(self.network, one, two, spacing_mm) for one, two in
                     zip(fixed.split(AT_ONCE), moving.split(AT_ONCE), strict=True)]
            velocity, spread = (torch.cat(part) for part in zip(*parts, strict=True))
            velocity = couple(velocity)
        if self.effort is not None:
            velocity = find_velocity(fixed, moving, spacing_mm=spacing_mm, effort=self.effort, start=velocity,
                                     couple=couple, progress=self._progress)
        assert velocity is not None

        def at_all(field: Tensor) -> Float[Tensor, "time 3 z y x"]:
            """With the reference frame, where nothing moves and nothing is unsure."""
            made = series.new_zeros(frames, 3, *series.shape[1:])
            made[rest] = stacked(field, slices) if in_plane else field
            return made

        return at_all(displacement(velocity, size)), None if spread is None else at_all(spread)


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
