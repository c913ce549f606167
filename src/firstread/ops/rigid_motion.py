"""Rigid motion of an image between the shots of a scan, by phases alone: unitary, differentiable in image and pose.

A rotation is three shears, a shear a shift of every line in proportion to its place, a shift a phase in k-space (Unser,
Thévenaz and Yaroslavsky 1995; in k-space reconstruction Cordero-Grande et al. 2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Num
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.linear import LinearOp

Y, X, Z = -2, -1, -3


@dataclass(frozen=True)
class Pass:
    """One shift of lines. dim: the axis that moves; by: how far, in pixels; number: of the pose's numbers, the one that
    it depends on; slope: the derivative of ``by`` in that number."""

    dim: int
    by: Tensor
    number: int
    slope: Tensor


def displaced(image: Num[Tensor, "*axes"], by: Float[Tensor, "..."], dim: int) -> Complex[Tensor, "..."]:
    """``x(n - d)`` along one axis, periodic: ``F⁻¹ exp(-2πi k d / N) F x``.

    by: d in pixels, of length 1 along ``dim``, broadcast along the others.

    >>> displaced(torch.tensor([1.0, 0, 0, 0]), torch.tensor([1.0]), -1).real.round().abs().tolist()
    [0.0, 1.0, 0.0, 0.0]
    """
    size = image.shape[dim]
    k = torch.fft.fftfreq(size, dtype=by.dtype, device=by.device).reshape(-1, *[1] * (-dim - 1))
    angle = -2 * math.pi * k * by
    return torch.fft.ifft(torch.fft.fft(image, dim=dim) * torch.polar(torch.ones_like(angle), angle), dim=dim)


def derivative(image: Complex[Tensor, "*axes"], dim: int) -> Complex[Tensor, "*axes"]:
    """``∂x / ∂n`` along one axis, per pixel: ``F⁻¹ (2πi k / N) F x``."""
    k = torch.fft.fftfreq(image.shape[dim], dtype=image.real.dtype, device=image.device)
    return torch.fft.ifft(torch.fft.fft(image, dim=dim) * (2j * math.pi * k).reshape(-1, *[1] * (-dim - 1)), dim=dim)


def relative_to_first(pose: Float[Tensor, "batch shot number"]) -> Float[Tensor, "batch shot number"]:
    """The poses ``T_s T_1⁻¹``, which explain the same scan with the body as the first shot saw it.

    >>> relative_to_first(torch.tensor([[[0.0, 1.0, 2.0], [0.0, 4.0, 2.0]]]))[0].tolist()
    [[0.0, 0.0, 0.0], [0.0, 3.0, 0.0]]
    """
    flat = pose.shape[-1] == 3
    whole = torch.zeros_like(pose[..., :1]).expand(*pose.shape[:-1], 6).clone() if flat else pose
    if flat:
        whole[..., 0], whole[..., 4:] = pose[..., 0], pose[..., 1:]
    (sz, sy, sx), (cz, cy, cx) = whole[..., :3].sin().unbind(-1), whole[..., :3].cos().unbind(-1)
    rows = (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx,
            sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx, -sy, cy * sx, cy * cx)
    rotation = torch.stack(rows, dim=-1).unflatten(-1, (3, 3))  # of (x, y, z): about x, then y, then z
    turn = rotation @ rotation[:, :1].mT
    shift = whole[..., 3:].flip(-1)
    shift = (shift - (turn @ shift[:, :1, :, None])[..., 0]).flip(-1)
    about_z = torch.atan2(turn[..., 1, 0], turn[..., 0, 0])
    if flat:
        return torch.cat((about_z[..., None], shift[..., 1:]), dim=-1)
    about = torch.stack((about_z, -torch.asin(turn[..., 2, 0].clamp(-1, 1)),
                         torch.atan2(turn[..., 2, 1], turn[..., 2, 2])), dim=-1)
    return torch.cat((about, shift), dim=-1)


class RigidMotion(LinearOp):
    """One image, once for every shot, as the scanner sees it: ``(T_s x)(r) = x(R_s⁻¹ (r - t_s))``.

    Image ``[batch, 1, channel, z, y, x]`` to ``[batch, shot, channel, z, y, x]``; ``CartesianEncoding`` after it, with
    the lines of each shot as the mask of a frame, is the multi-shot scan of a moving body.

    pose: in plane (angle in radians from x towards y, shift along y, x in mm), or in space (angles about z, y and x,
        applied in the order x, y, z; shifts along z, y, x in mm), about the voxel ``N // 2``.
    spacing_mm: of the voxels along (z, y, x).

    Unitary for every shot, so that ``Aᴴ A = shots``. What leaves the field of view comes back on the other side.
    Raises SettingError for poses of neither 3 nor 6 numbers.

    >>> pose = torch.tensor([[[0.0, 2.0, 0.0]]], dtype=torch.float64)
    >>> image = torch.zeros(1, 1, 1, 1, 4, 4, dtype=torch.complex128)
    >>> image[..., 1, 2] = 1
    >>> RigidMotion(pose=pose, spacing_mm=(1.0, 2.0, 2.0))(image)[0, 0, 0, 0, 2, 2].abs().round().item()
    1.0
    """

    def __init__(self, *, pose: Float[Tensor, "batch shot number"], spacing_mm: Sequence[float]):
        if pose.shape[-1] not in (3, 6) or len(spacing_mm) != 3 or min(spacing_mm) <= 0:
            raise SettingError(f"poses of {pose.shape[-1]} numbers, spacing {tuple(spacing_mm)}",
                               expected="3 (in plane) or 6 (in space) numbers, spacing along z, y, x above zero",
                               remedy="correct the poses")
        self.pose, self.spacing_mm = pose, tuple(float(s) for s in spacing_mm)

    def forward(self, x: Complex[Tensor, "batch 1 channel z y x"]) -> Complex[Tensor, "batch shot channel z y x"]:
        """``T_s x`` for every shot."""
        for step in self._passes(x.shape):
            x = displaced(x, step.by, step.dim)
        return x

    def with_derivatives(self, x: Complex[Tensor, "batch 1 1 z y x"]) -> Complex[Tensor, "batch shot many z y x"]:
        """``T_s x`` and after it, as further channels, its derivatives in the numbers of the pose of the shot."""
        numbers = self.pose.shape[-1]
        carried = torch.cat((x, *[torch.zeros_like(x)] * numbers), dim=2)
        for step in self._passes(x.shape):
            carried = displaced(carried, step.by, step.dim).clone()
            carried[:, :, 1 + step.number] -= (step.slope * derivative(carried[:, :, :1], step.dim))[:, :, 0]
        return carried

    def adjoint(self, y: Complex[Tensor, "batch shot channel z y x"]) -> Complex[Tensor, "batch 1 channel z y x"]:
        """``Σ_s T_sᴴ y_s``."""
        return self.back(y).sum(dim=1, keepdim=True)

    def back(self, y: Complex[Tensor, "batch shot channel z y x"]) -> Complex[Tensor, "batch shot channel z y x"]:
        """``T_sᴴ y_s = T_s⁻¹ y_s`` for every shot."""
        for step in reversed(self._passes(y.shape)):
            y = displaced(y, -step.by, step.dim)
        return y

    def gram(self, x: Complex[Tensor, "batch 1 channel z y x"]) -> Complex[Tensor, "batch 1 channel z y x"]:
        """``Σ_s T_sᴴ T_s x``: the number of shots times x."""
        return x * self.pose.shape[1]

    def _passes(self, shape: torch.Size) -> list[Pass]:
        """Shears and shifts in the order in which they are applied."""
        values = [v[:, :, None, None, None, None] for v in self.pose.unbind(-1)]
        if len(values) == 3:
            rotations, shifts = [(0, X, Y)], {1: Y, 2: X}
        else:
            rotations, shifts = [(2, Y, Z), (1, Z, X), (0, X, Y)], {3: Z, 4: Y, 5: X}
        passes: list[Pass] = []
        for number, a, b in rotations:
            angle = values[number]
            outer = self._shear(a, b, number, -torch.tan(angle / 2), -0.5 / torch.cos(angle / 2)**2, shape)
            inner = self._shear(b, a, number, torch.sin(angle), torch.cos(angle), shape)
            passes += [outer, inner, outer]
        for number, dim in shifts.items():
            pixel = self.spacing_mm[dim]
            passes.append(Pass(dim, values[number] / pixel, number, torch.full_like(values[number], 1 / pixel)))
        return passes

    def _shear(self, dim: int, with_dim: int, number: int, amount: Tensor, slope: Tensor, shape: torch.Size) -> Pass:
        size = shape[with_dim]
        place = torch.arange(size, dtype=amount.dtype, device=amount.device) - size // 2
        place = place.reshape(-1, *[1] * (-with_dim - 1)) * self.spacing_mm[with_dim] / self.spacing_mm[dim]
        return Pass(dim, amount * place, number, slope * place)
