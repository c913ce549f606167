"""Trajectories through k-space: radial, golden-angle, spiral, and one that is trained.

All are ``[frame, axis, shot, sample]``, axes (y, x), in cycles per field of view: a matrix of N pixels reaches ± N/2.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.errors import SettingError

GOLDEN_ANGLE = math.pi * (math.sqrt(5) - 1) / 2  # 111.25°, Winkelmann et al., IEEE Trans. Med. Imaging 26:68 (2007)


@runtime_checkable
class Trajectory(Protocol):
    """Anything that gives the trajectory of ``frames`` frames of a matrix (y, x); one frame stands for all."""

    def __call__(self, frames: int, matrix: tuple[int, int]) -> Float[Tensor, "frames axis=2 shot sample"]: ...


def spokes(angles: Float[Tensor, "*shots"], samples: int, matrix: tuple[int, int]
           ) -> Float[Tensor, "axis=2 *shots sample"]:
    """Straight lines through the centre: ``k = r (sin φ, cos φ)``, r from -N/2 on in steps of N / samples.

    >>> spokes(torch.zeros(1), 4, (8, 8))[1].tolist()
    [[-4.0, -2.0, 0.0, 2.0]]
    """
    place = torch.arange(samples, dtype=angles.dtype, device=angles.device) / samples - 0.5
    ny, nx = matrix
    return torch.stack((ny * angles.sin()[..., None] * place, nx * angles.cos()[..., None] * place))


class Radial:
    """Spokes through the centre at equal angles, or at golden angles that run on through the frames.

    shots: spokes per frame; oversampling: samples of a spoke per pixel of the matrix.

    >>> Radial(shots=5)(3, (32, 32)).shape
    torch.Size([3, 2, 5, 64])
    """

    def __init__(self, *, shots: int, golden: bool = True, oversampling: float | int = 2):
        if shots < 1 or not oversampling >= 1:
            raise SettingError(f"{shots} spokes, oversampling {oversampling}", expected="one or more, and 1 or more",
                               remedy="raise the number")
        self.shots, self.golden, self.oversampling = shots, golden, oversampling

    def __call__(self, frames: int, matrix: tuple[int, int]) -> Float[Tensor, "frames axis=2 shot sample"]:
        number = torch.arange(frames * self.shots, dtype=torch.float64).reshape(frames, self.shots)
        angles = number * GOLDEN_ANGLE if self.golden else (number % self.shots) * math.pi / self.shots
        samples = round(self.oversampling * max(matrix))
        return spokes(angles.remainder(2 * math.pi), samples, matrix).movedim(0, 1).float()


class Spiral:
    """Interleaved Archimedean spirals from the centre out: ``k(τ) = N/2 τ^α (sin, cos)(2π n τ + φ)``, τ from 0 to 1.

    shots: interleaves, a full turn apart evenly, turned on by the golden angle from frame to frame; turns: n of each;
    None gives as many as sample the edge at the Nyquist rate; samples: of each interleaf, None for one per cycle along
    the outermost turn; power: α, 1 is even, above 1 denser in the centre.

    >>> Spiral(shots=4)(1, (32, 32)).norm(dim=1).max().item()
    16.0
    """

    def __init__(self, *, shots: int, turns: float | int | None = None, samples: int | None = None,
                 power: float | int = 1):
        if shots < 1 or (samples is not None and samples < 2) or not power > 0:
            raise SettingError(f"{shots} interleaves of {samples} samples, power {power}", expected="one or more of "
                               "two or more, and a power above zero", remedy="correct the setting")
        self.shots, self.turns, self.samples, self.power = shots, turns, samples, power

    def __call__(self, frames: int, matrix: tuple[int, int]) -> Float[Tensor, "frames axis=2 shot sample"]:
        turns = self.turns if self.turns is not None else self.power * max(matrix) / (2 * self.shots)
        samples = self.samples if self.samples is not None else math.ceil(math.pi * max(matrix) * turns)
        time = torch.linspace(0, 1, samples, dtype=torch.float64)
        start = 2 * math.pi * torch.arange(self.shots) / self.shots + GOLDEN_ANGLE * torch.arange(frames)[:, None]
        angle = 2 * math.pi * turns * time + start[..., None]
        half = torch.tensor(matrix, dtype=torch.float64)[None, :, None, None] / 2
        return (half * time**self.power * torch.stack((angle.sin(), angle.cos()), dim=1)).float()


class LearnedTrajectory(nn.Module):
    """A trajectory whose samples are trained, from a start; its places are kept within the matrix.

    start: where training begins; frames, matrix: what it is made for.

    >>> LearnedTrajectory(start=Radial(shots=3), matrix=(8, 8))(1, (8, 8)).requires_grad
    True
    """

    def __init__(self, *, start: Trajectory, matrix: tuple[int, int], frames: int = 1):
        super().__init__()
        self.matrix, self.frames = matrix, frames
        self.places = nn.Parameter(start(frames, matrix).clone())

    def forward(self, frames: int, matrix: tuple[int, int]) -> Float[Tensor, "frames axis=2 shot sample"]:
        if matrix != self.matrix or self.frames not in (1, frames):
            raise SettingError(f"{frames} frames of a matrix {matrix}", expected=f"{self.frames} of {self.matrix}, as "
                               "the trajectory was made for", remedy="make a trajectory for these images")
        half = torch.tensor(self.matrix, dtype=self.places.dtype, device=self.places.device)[:, None, None] / 2
        return torch.maximum(torch.minimum(self.places, half), -half)
