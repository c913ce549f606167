"""Slices cut out of a moving volume, ``y_n = S_n x``: the acquisition model of slice-to-volume reconstruction.

    y_n(u, v) = ∫ g_n(r - r_n(u, v)) x(r) dr,      r_n(u, v) = M_n (u, v, 0, 1)ᵀ

g_n is a 3D Gaussian with the axes of slice n: in plane 1.2 pixels and through plane the slice thickness, full widths at
half maximum (Kuklisova-Murgasova 2012). A Gaussian of the smallest of all standard deviations is isotropic and commutes
with every rotation: one separable smoothing of the volume serves all slices. Only the remainder, for thick slices a
line along the normal, is sampled slice by slice. Poses without a gradient make it a sparse matrix, written down once
and applied many times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.linear import LinearOp
from firstread.ops.resample import sample

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FWHM = 2.3548  # full width at half maximum of a Gaussian over its standard deviation
IN_PLANE = 1.2  # in-plane full width of the profile, in pixels
BLOCK = 4_000_000  # points sampled at once: 48 MB of single-precision indices


class SliceSampling(LinearOp):
    """Volume ``[*lead, Z, Y, X]`` to slices ``[*lead, slice, y, x]``; linear, with an exact adjoint.

    shape, spacing_mm: of the isotropic volume, whose centre is the origin of the millimetres.
    to_mm: M, from pixel (x, y, 0, 1) of each slice to millimetres, its pose included, ``[slice, 4, 4]``.
    plane: pixels (y, x) of a slice. sigma_mm: standard deviations (in plane, through plane) of each slice's profile.
    mask: pixels to compute; the others are zero and give nothing back.

    Differentiable in volume, slices and pose. The profile's variance is right to second order: linear interpolation
    widens it by h²/6 on average, which the isotropic smoothing leaves out.

    >>> one = torch.eye(4, dtype=torch.float64)[None]
    >>> cut = SliceSampling(shape=(9, 9, 9), spacing_mm=1.0, to_mm=one, plane=(2, 2), sigma_mm=torch.full((1, 2), 0.6))
    >>> [round(v, 3) for v in cut(torch.ones(9, 9, 9)).flatten().tolist()]
    [1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, *, shape: tuple[int, int, int], spacing_mm: float, to_mm: Float[Tensor, "slice 4 4"],
                 plane: tuple[int, int], sigma_mm: Float[Tensor, "slice 2"],
                 mask: Bool[Tensor, "slice v u"] | None = None):
        if not spacing_mm > 0 or bool((sigma_mm < 0).any()):
            raise SettingError(f"spacing {spacing_mm} mm, profile sd from {sigma_mm.min().item():.3g} mm",
                               expected="a spacing above zero and no negative widths", remedy="correct them")
        self.shape, self.plane, self.slices = shape, plane, to_mm.shape[0]
        wide = sigma_mm.double()
        smallest = float(wide.min())
        self._kernel = gaussian_kernel(math.sqrt(max(smallest**2 - spacing_mm**2 / 6, 0.0)) / spacing_mm)
        rest = (wide**2 - smallest**2).clamp_min(0).sqrt()  # [slice, 2]
        offsets, self._node_weights = profile_nodes(rest, spacing_mm)
        self._where = None if mask is None else mask.flatten().nonzero()[:, 0]
        self._points = self._index_of_points(to_mm, offsets, spacing_mm)
        self._matrix: csr_array | None = None

    def _index_of_points(self, to_mm: Tensor, offsets: Tensor, spacing_mm: float) -> Tensor:
        """Voxel index (x, y, z) of every node of every pixel, ``[node, point, 3]``."""
        height, width = self.plane
        centre = to_mm.new_tensor([(n - 1) / 2 for n in self.shape[::-1]])
        axes = to_mm[:, :3, :3]
        unit = axes / axes.norm(dim=1, keepdim=True)
        shift = (unit[:, None] @ offsets.to(to_mm)[..., None])[..., 0]  # [slice, node, 3]
        origin = (to_mm[:, None, :3, 3] + shift) / spacing_mm + centre
        if self._where is None:
            v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            n = torch.arange(self.slices).repeat_interleave(height * width)
            v, u = v.flatten().repeat(self.slices), u.flatten().repeat(self.slices)
        else:
            n, v, u = self._where // (height * width), self._where // width % height, self._where % width
        place = (axes[n, :, 0] * u[:, None].to(to_mm) + axes[n, :, 1] * v[:, None].to(to_mm)) / spacing_mm
        return origin[n].movedim(1, 0) + place

    def forward(self, x: Num[Tensor, "*lead z y x"]) -> Num[Tensor, "*lead slice h w"]:
        """``S x``."""
        return _as_real(x, lambda v: self._to_slices(self._look(self.smooth(v))))

    def adjoint(self, y: Num[Tensor, "*lead slice h w"]) -> Num[Tensor, "*lead z y x"]:
        """``Sᴴ y``."""
        return _as_real(y, lambda v: self.smooth(self._spread(self._to_points(v))))

    def _look(self, x: Tensor) -> Tensor:
        if self._points.requires_grad:
            return _gather(x, self._points.to(x.dtype), self._node_weights)
        return _Apply.apply(x.flatten(1), self._sparse(x.dtype), False)

    def _spread(self, points: Tensor) -> Tensor:
        if self._points.requires_grad:
            return _Spread.apply(points, self._points.to(points.dtype), self._node_weights, self.shape)
        return _Apply.apply(points, self._sparse(points.dtype), True).reshape(-1, *self.shape)

    def _sparse(self, dtype: torch.dtype) -> csr_array:
        if self._matrix is None or self._matrix.dtype != torch.empty(0, dtype=dtype).numpy().dtype:
            self._matrix = trilinear_matrix(self._points.to(dtype), self._node_weights, self.shape)
        return self._matrix

    def smooth(self, x: Float[Tensor, "channel z y x"]) -> Float[Tensor, "channel z y x"]:
        """The isotropic part of the profile, zero outside: its own adjoint."""
        return smooth_volume(x, self._kernel)

    def _to_slices(self, points: Tensor) -> Tensor:
        size = self.slices * self.plane[0] * self.plane[1]
        if self._where is not None:
            points = points.new_zeros(points.shape[0], size).index_copy(1, self._where, points)
        return points.reshape(points.shape[0], self.slices, *self.plane)

    def _to_points(self, slices: Tensor) -> Tensor:
        flat = slices.reshape(slices.shape[0], -1)
        return flat if self._where is None else flat.index_select(1, self._where)


def profile_sigma_mm(pixel_mm: Float[Tensor, " slice"], thickness_mm: Float[Tensor, " slice"]
                     ) -> Float[Tensor, "slice 2"]:
    """Standard deviations (in plane, through plane) of the slice profile: ``1.2 d / 2.3548`` and ``t / 2.3548``.

    >>> profile_sigma_mm(torch.tensor([1.0]), torch.tensor([3.0])).tolist()[0][1] > 1.27
    True
    """
    return torch.stack((IN_PLANE * pixel_mm, thickness_mm), dim=-1) / FWHM


def gaussian_kernel(sd: float) -> Float[Tensor, " taps"]:
    """A sampled Gaussian of ``sd`` voxels, three sd to each side, sum 1; one tap where sd is below 0.2."""
    reach = math.ceil(3 * sd) if sd >= 0.2 else 0
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / max(sd, 1e-9))**2)
    return taps / taps.sum()


def smooth_volume(x: Float[Tensor, "channel z y x"], kernel: Float[Tensor, " taps"]) -> Float[Tensor, "channel z y x"]:
    """Separable smoothing with zeros outside, by products with banded matrices; its own adjoint for a symmetric kernel.
    """
    if len(kernel) == 1:
        return x
    along_z, along_y, along_x = (_banded(kernel.to(x), n) for n in x.shape[1:])
    planes = along_y @ (x @ along_x.T)
    return (along_z @ planes.flatten(2)).reshape(x.shape)


def _banded(kernel: Tensor, count: int) -> Tensor:
    """``K[i, j] = kernel[j - i + middle]``, ``[count, count]``."""
    place = torch.arange(count)
    offset = place - place[:, None] + len(kernel) // 2
    inside = (offset >= 0) & (offset < len(kernel))
    return torch.where(inside, kernel[offset.clamp(0, len(kernel) - 1)], torch.zeros_like(kernel[:1]))


def profile_nodes(rest_mm: Float[Tensor, "slice 2"], spacing_mm: float
                  ) -> tuple[Float[Tensor, "slice node 3"], Float[Tensor, " node"]]:
    """Where a slice's own Gaussian (sd in plane, through plane) is sampled, and the weights, which sum to one.

    Two or three Gauss-Hermite nodes for sd up to half a voxel or one, else equal steps to 2.5 sd.
    """
    across, across_weight = _nodes(float(rest_mm[:, 0].max()), spacing_mm)
    through, through_weight = _nodes(float(rest_mm[:, 1].max()), spacing_mm)
    places = torch.stack(torch.meshgrid(across, across, through, indexing="ij"), dim=-1).reshape(-1, 3)
    weights = torch.einsum("i,j,k->ijk", across_weight, across_weight, through_weight).flatten()
    return places * rest_mm[:, None, [0, 0, 1]].double(), weights


def _nodes(sd: float, spacing: float) -> tuple[Tensor, Tensor]:
    """Nodes in units of sd, and their weights."""
    ratio = sd / spacing
    if ratio < 0.05:
        return torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    if ratio <= 0.5:
        return torch.tensor([-1.0, 1.0]).double(), torch.full((2,), 0.5, dtype=torch.float64)
    if ratio <= 1:
        return torch.tensor([-1.0, 0.0, 1.0]).double() * math.sqrt(3), torch.tensor([1.0, 4.0, 1.0]).double() / 6
    count = math.ceil(2.5 / min(0.85, 1.3 / ratio))
    places = torch.linspace(-2.5, 2.5, 2 * count + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * places**2)
    return places, weights / weights.sum()


def trilinear_matrix(index: Float[Tensor, "node point 3"], weights: Float[Tensor, " node"],
                     shape: tuple[int, int, int]) -> csr_array:
    """The matrix ``[point, voxel]`` of ``Σ_k w_k x(index_k)`` by trilinear interpolation, zeros outside."""
    from scipy.sparse import csr_array

    nodes, points = index.shape[:2]
    column = np.empty((points, nodes, 8), dtype=np.int32)
    value = np.empty((points, nodes, 8), dtype=index.numpy().dtype)
    for k, weight in enumerate(weights.tolist()):
        low = index[k].floor()
        part, low = index[k] - low, low.int()
        beside = []  # by axis x, y, z: voxel and share on each side; no share outside
        for axis, size in enumerate(shape[::-1]):
            sides = []
            for side, share in ((0, 1 - part[:, axis]), (1, part[:, axis])):
                place = low[:, axis] + side
                sides.append((place.clamp(0, size - 1), share * ((place >= 0) & (place < size))))
            beside.append(sides)
        for corner in range(8):
            (x, wx), (y, wy), (z, wz) = (beside[axis][corner >> axis & 1] for axis in range(3))
            column[:, k, corner] = ((z * shape[1] + y) * shape[2] + x).numpy()
            value[:, k, corner] = (weight * wx * wy * wz).numpy()
    start = np.arange(points + 1, dtype=np.int32) * (8 * nodes)
    return csr_array((value.reshape(-1), column.reshape(-1), start), shape=(points, math.prod(shape)))


def _as_real(x: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
    """``apply`` to ``[channel, …]``: leading axes flattened, a complex number as two channels."""
    lead = x.shape[:-3]
    flat = x.reshape(-1, *x.shape[-3:])
    if not x.is_complex():
        out = apply(flat)
        return out.reshape(*lead, *out.shape[1:])
    out = apply(torch.view_as_real(flat).movedim(-1, 0).reshape(-1, *x.shape[-3:]))
    out = out.reshape(2, flat.shape[0], *out.shape[1:])
    return torch.complex(out[0], out[1]).reshape(*lead, *out.shape[2:])


def _gather(volume: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """``Σ_k w_k volume(index_k)``, ``[channel, point]``."""
    made = []
    for part in index.split(max(1, BLOCK // index.shape[0]), dim=1):
        values = sample(volume[None], part[None, None])[0, :, 0]  # [channel, node, point]
        made.append(torch.einsum("ckp,k->cp", values, weights.to(values)))
    return torch.cat(made, dim=1)


class _Apply(torch.autograd.Function):
    """A sparse matrix, or its transpose, times each channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: csr_array, transposed: bool) -> Tensor:
        ctx.matrix, ctx.transposed = matrix, transposed
        used = matrix.T if transposed else matrix
        return torch.stack([torch.from_numpy(used @ channel) for channel in x.detach().numpy()])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Apply.apply(grad, ctx.matrix, not ctx.transposed), None, None


class _Spread(torch.autograd.Function):
    """The adjoint of ``_gather`` with respect to the volume; its own gradients are those of ``_gather``."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, weights: Tensor, shape: tuple[int, int, int]) -> Tensor:
        ctx.save_for_backward(values, index, weights)
        total = values.new_zeros(values.shape[0], *shape)
        step = max(1, BLOCK // index.shape[0])
        for part, given in zip(index.detach().split(step, dim=1), values.split(step, dim=1), strict=True):
            with torch.enable_grad():
                empty = torch.zeros_like(total).requires_grad_()
                made = sample(empty[None], part[None, None])[0, :, 0]
            total += torch.autograd.grad(made, empty, given[:, None] * weights.to(given)[None, :, None])[0]
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        values, index, weights = ctx.saved_tensors
        if not ctx.needs_input_grad[1]:
            return _gather(grad, index, weights), None, None, None
        with torch.enable_grad():
            places = index.detach().requires_grad_()
            made = _gather(grad.detach(), places, weights)
        return made.detach(), torch.autograd.grad(made, places, values)[0], None, None
