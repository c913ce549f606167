"""The scan of a body that moves between shots: each shot sees it in another pose."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Complex, Float
from torch import Generator, Tensor

from firstread.acquire.coils import Coils, LoopCoils
from firstread.acquire.mri import encode_lower
from firstread.acquire.receiver import check_noise, coil_maps, lower_maps, object_of, receiver_noise, table_of
from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Rows
from firstread.core.stage import Stage
from firstread.ops.resample import sample

Order = Literal["interleaved", "random", "sequential"]
Course = Literal["jumps", "drift"]
ORDER, POSE = 3, 4  # streams of randomness beside those of Encode


def shot_lines(lines: int, shots: int, order: Order, generator: Generator) -> Bool[Tensor, "shot y"]:
    """Which phase-encode lines each shot takes: a partition.

    >>> shot_lines(4, 2, "interleaved", torch.Generator()).tolist()
    [[True, False, True, False], [False, True, False, True]]
    """
    if not 1 <= shots <= lines or order not in ("interleaved", "random", "sequential"):
        raise SettingError(f"{shots} shots of {lines} lines, {order!r}", expected="one line or more in each shot, "
                           "'interleaved', 'random' or 'sequential'", remedy="correct the setting")
    index = torch.arange(lines)
    if order == "random":
        index = torch.randperm(lines, generator=generator)
    which = index * shots // lines if order == "sequential" else index % shots
    return which == torch.arange(shots)[:, None]


def random_poses(shots: int, angle_deg: float, shift_mm: float, course: Course, generator: Generator
                 ) -> Float[Tensor, "shot pose=3"]:
    """In-plane poses (angle in radians, shifts along y and x in mm), none beyond the limits.

    ``jumps``: a few sudden changes with rest between them; ``drift``: a smooth way. The first shot is at rest.
    """
    if course == "drift":
        knots = torch.rand(4, 3, generator=generator, dtype=torch.float64) * 2 - 1
        time = torch.linspace(0, 3, shots, dtype=torch.float64)
        low = time.long().clamp(max=2)
        share = (1 - torch.cos(math.pi * (time - low))) / 2
        unit = knots[low] + share[:, None] * (knots[low + 1] - knots[low])
        unit = (unit - unit[0]) / 2
    else:
        places = torch.rand(5, 3, generator=generator, dtype=torch.float64) * 2 - 1
        places[0] = 0
        changes = torch.randperm(shots - 1, generator=generator)[:4] + 1 if shots > 1 else torch.zeros(0).long()
        unit = places[(torch.arange(shots)[:, None] >= changes).sum(dim=1)]
    return unit * torch.tensor([math.radians(angle_deg), shift_mm, shift_mm], dtype=torch.float64)


def moved(image: Complex[Tensor, "channel y x"], pose: Float[Tensor, " pose=3"], spacing_mm: tuple[float, float],
          matrix: tuple[int, int]) -> Complex[Tensor, "channel y x"]:
    """``x(R⁻¹ (r - t))`` by bicubic interpolation, zero outside: no part of the operator that a correction uses.

    The centre of rotation is voxel ``N // 2`` of the same field of view in ``matrix`` (y, x) voxels.
    """
    middle_y, middle_x = ((m // 2 + 0.5) * n / m - 0.5 for n, m in zip(image.shape[-2:], matrix, strict=True))
    y = (torch.arange(image.shape[-2], dtype=torch.float64) - middle_y) * spacing_mm[0] - pose[1]
    x = (torch.arange(image.shape[-1], dtype=torch.float64) - middle_x) * spacing_mm[1] - pose[2]
    cos, sin = torch.cos(pose[0]), torch.sin(pose[0])
    back_x, back_y = cos * x + sin * y[:, None], cos * y[:, None] - sin * x
    index = torch.stack((back_x / spacing_mm[1] + middle_x, back_y / spacing_mm[0] + middle_y), dim=-1)
    parts = torch.view_as_real(image).movedim(-1, 1).flatten(0, 1)[None]
    made = sample(parts, index[None].to(parts.device), mode="bicubic")[0].unflatten(0, (-1, 2))
    return torch.view_as_complex(made.movedim(1, -1).contiguous())


class EncodeMoving(Stage):
    """Multi-shot Cartesian k-space of a body that moves in plane, ``y_s = M_s (F S x(R_s⁻¹ (r - t_s)) + n)``.

    The frames of the k-space are the shots: the mask of each says which lines it took. The coils stand still.

    shots, order: how the lines along y are shared out (:func:`shot_lines`).
    angle_deg, shift_mm, course: largest motion and its course (:func:`random_poses`); ``poses`` tells what was drawn.
    snr, correlation, coils, matrix, keep_sensitivities: as in ``Encode``; the object should be rendered finer than
        ``matrix``, so that its motion is not that of a sampled image.

    Reads an Image of one frame, writes the KSpace "kspace". Differentiable in the image.
    """

    result = "kspace"

    def __init__(self, *, shots: int = 16, order: Order = "interleaved", angle_deg: float | int = 5,
                 shift_mm: float | int = 5, course: Course = "jumps", coils: Coils | None = None,
                 snr: float | int | None = 30, correlation: float | int = 0.3, matrix: tuple[int, int] | None = None,
                 keep_sensitivities: bool = False):
        super().__init__()
        check_noise(snr, correlation)
        if min(shots - 1, angle_deg, shift_mm) < 0 or course not in ("jumps", "drift"):
            raise SettingError(f"{shots} shots, {angle_deg} degrees, {shift_mm} mm, {course!r}",
                               expected="one shot or more, motion of zero or more, 'jumps' or 'drift'",
                               remedy="correct the setting")
        self.shots, self.order, self.course = shots, order, course
        self.angle_deg, self.shift_mm = angle_deg, shift_mm
        self.coils = coils if coils is not None else LoopCoils()
        self.snr, self.correlation, self.matrix, self.keep_sensitivities = snr, correlation, matrix, keep_sensitivities

    def poses(self, rows: Rows, key: Key) -> Float[Tensor, "batch shot pose=3"]:
        """The true poses that ``forward`` uses for these rows and this key."""
        return torch.stack([random_poses(self.shots, self.angle_deg, self.shift_mm, self.course,
                                         key.generator(*row, POSE)) for row in table_of(rows)])

    def forward(self, image: Image, key: Key) -> KSpace:
        data, (ny, nx) = object_of(image, self.matrix, frames=1)
        table = table_of(image.rows)
        maps = coil_maps(self.coils, image.grid, table, key).to(data)
        z, y, x = data.shape[-3:]
        lines = torch.stack([shot_lines(ny, self.shots, self.order, key.generator(*row, ORDER)) for row in table])
        mask = lines[:, :, None, None, :, None].to(data.real)
        spacing = [(pixel[1], pixel[2]) for pixel in image.grid.spacing_mm.tolist()]
        seen = []
        for row, poses in enumerate(self.poses(image.rows, key)):
            shots = (moved(data[row, 0, 0], pose, spacing[row], (ny, nx)) for pose in poses)
            seen.append(torch.stack([encode_lower(maps[row] * shot, (ny, nx)) for shot in shots]))
        kspace, covariance = torch.stack(seen), None
        if self.snr is not None:
            noise, covariance = receiver_noise(data, table, kspace.shape[2:], key, self.snr, self.correlation)
            kspace = kspace + noise
        grid = image.grid if (ny, nx) == (y, x) else image.grid.resize((z, ny, nx))
        true_maps = lower_maps(maps, grid) if self.keep_sensitivities else None
        return KSpace(image.rows, mask * kspace, grid, mask, true_maps, covariance, cycle_s=image.cycle_s,
                      source=image.source, notes=image.notes)
