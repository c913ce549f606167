"""Random changes of patches: all maps of space composed into one, the image sampled once, then its brightness.

The map from a voxel of the patch to a place in the image is a cubic B-spline over a lattice of control points. Cubic
splines reproduce linear maps, so rotation, scaling, flips and the patch's place are moved control points like the
elastic field itself::

    u(x) = sum_k (A c_k + t + e_k) B(x - c_k),   e_k ~ N(0, sd^2)

which three small matrix products evaluate for a whole volume. Blur and low resolution are one matrix along each axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Integer
from torch import Generator, Tensor

from firstread.learn.losses import UNKNOWN
from firstread.nets.plan import AugmentationPlan
from firstread.ops.resample import sample_unit

_AXES = "zyx"


@lru_cache(maxsize=64)
def spline_weights(size: int, cells: int) -> Float[Tensor, "size points"]:
    """Weights of ``cells + 3`` control points at each of ``size`` voxels: ``B((x + 1/2) cells / size - (k - 1))``.

    >>> bool(torch.allclose(spline_weights(10, 2).sum(1), torch.ones(10)))
    True
    """
    at = (torch.arange(size, dtype=torch.float64) + 0.5) * cells / size
    far = (at[:, None] - torch.arange(-1, cells + 2)).abs()
    value = torch.where(far < 1, 2 / 3 - far**2 + far**3 / 2, (2 - far).clamp(min=0) ** 3 / 6)
    return value.float()


def spline(points: Float[Tensor, "*lattice value"], shape: tuple[int, ...]) -> Float[Tensor, "*space value"]:
    """Values at every voxel of ``shape`` from a lattice of control points, one product for each axis."""
    made = points[None]
    for size in shape[:-1]:  # [voxels done, points along this axis, the rest]
        weight = spline_weights(size, made.shape[1] - 3).to(points.device)
        made = (weight @ made.flatten(2)).reshape(-1, *made.shape[2:])
    weight = spline_weights(shape[-1], made.shape[1] - 3).to(points.device)
    line = torch.kron(weight, torch.eye(points.shape[-1], device=points.device))  # components stay side by side
    return (made.flatten(1) @ line.mT).reshape(*shape, points.shape[-1])


@dataclass(frozen=True, eq=False)
class SpatialMap:
    """Control points in voxels of the image, in (x, y, z) or (x, y); shape: of the patch."""

    points: Float[Tensor, "*lattice axes"]
    shape: tuple[int, ...]

    def unit(self, space: tuple[int, ...]) -> Float[Tensor, "1 *shape axes"]:
        """The place of every voxel of the patch in an image of size ``space``, in the units of ``sample_unit``."""
        sizes = torch.tensor(space[::-1], dtype=self.points.dtype)
        return spline((2 * self.points + 1) / sizes - 1, self.shape)[None]

    def box(self, space: tuple[int, ...]) -> tuple[slice, ...]:
        """The block of the image that holds all places inside it: a spline stays in the hull of its control points."""
        flat = self.points.flatten(0, -2)
        low, high = flat.amin(dim=0).floor().flip(0).tolist(), flat.amax(dim=0).ceil().flip(0).tolist()
        firsts = [min(max(0, int(a) - 1), n - 1) for a, n in zip(low, space, strict=True)]
        return tuple(slice(f, max(f + 1, min(n, int(b) + 2)))
                     for f, b, n in zip(firsts, high, space, strict=True))


def draw_map(centre: tuple[float, ...], shape: tuple[int, ...], spacing: tuple[float, ...], plan: AugmentationPlan,
             generator: Generator) -> SpatialMap:
    """A random map for a patch of ``shape`` around ``centre`` (in voxels, (z, y, x) or (y, x)).

    spacing: along the axes of the patch, so that rotations are rotations in millimetres.
    """
    dims = len(shape)
    spatial = _chance(plan.spatial_chance, generator)
    cells = [max(1, round(size / plan.elastic_voxels)) if spatial and plan.elastic_sd > 0 else 1 for size in shape]
    lines = [(torch.arange(-1, c + 2, dtype=torch.float32)) * n / c - n / 2 for n, c in zip(shape, cells, strict=True)]
    control = torch.stack(torch.meshgrid(*lines, indexing="ij")[::-1], dim=-1)
    flips = [-1.0 if axis in plan.flip and _chance(0.5, generator) else 1.0 for axis in reversed(_AXES[3 - dims:])]
    matrix = torch.diag(torch.tensor(flips))
    if spatial:
        low, high = plan.scale
        scale = math.exp(_uniform(math.log(low), math.log(high), generator))
        mm = torch.diag(torch.tensor(spacing[::-1], dtype=torch.float32))
        angles = [_uniform(-a, a, generator) for a in (plan.rotation_deg if dims == 3 else plan.rotation_deg[:1])]
        matrix = torch.linalg.inv(mm) @ _rotation(angles, dims) @ mm @ matrix / scale
    points = control @ matrix.mT + torch.tensor(centre[::-1], dtype=torch.float32)
    if spatial and plan.elastic_sd > 0:
        points = points + plan.elastic_sd * torch.randn(points.shape, generator=generator)
    return SpatialMap(points, shape)


def sample_patch(image: Float[Tensor, "channel *space"], label: Integer[Tensor, "*space"], where: SpatialMap
                 ) -> tuple[Float[Tensor, "channel *patch"], Integer[Tensor, "*patch"]]:
    """Image (linear, repeated beyond its border) and labels (nearest, ``UNKNOWN`` beyond it) at the places of a map."""
    box = where.box(tuple(image.shape[1:]))  # so that a patch of a large volume costs what a patch costs
    image, label = image[(slice(None), *box)], label[box]
    moved = SpatialMap(where.points - torch.tensor([float(s.start) for s in reversed(box)]), where.shape)
    unit = moved.unit(tuple(image.shape[1:]))
    made = sample_unit(image[None].float(), unit, outside="border")[0]
    index = sample_unit((label.float() + 1)[None, None], unit, mode="nearest")[0, 0].to(torch.uint8)
    return made, torch.where(index == 0, UNKNOWN, index - 1)


def change_brightness(image: Float[Tensor, "channel *patch"], plan: AugmentationPlan, generator: Generator, *,
                      together: int = 1) -> Float[Tensor, "channel *patch"]:
    """Blur, low resolution, gamma, bias field and noise, each by its chance.

    together: channels in a row that are slices of one picture and get the same change (but noise of their own).
    """
    parts = [_changed(part, plan, generator) for part in image.split(together)]
    return torch.cat(parts)


def _changed(image: Tensor, plan: AugmentationPlan, generator: Generator) -> Tensor:
    space = tuple(image.shape[1:])
    blur = _uniform(0.3, max(0.3, plan.blur_voxels), generator) if _chance(plan.blur_chance, generator) else 0.0
    lower = _uniform(1.0, plan.low_resolution, generator) if _chance(plan.low_resolution_chance, generator) else 1.0
    if blur or lower > 1:
        for axis, size in enumerate(space, start=1):
            if size > 2:
                matrix = smoothing_matrix(size, blur, lower)
                image = torch.matmul(matrix, image.flatten(axis + 1)).reshape(image.shape) if axis < len(
                    space) else image @ matrix.mT
    if _chance(plan.gamma_chance, generator):
        low, high = image.min(), image.max()
        reach = (high - low).clamp(min=1e-6)
        power = math.exp(_uniform(math.log(plan.gamma[0]), math.log(plan.gamma[1]), generator))
        image = ((image - low) / reach).pow(power) * reach + low
    if _chance(plan.bias_chance, generator):
        points = plan.bias_sd * torch.randn((*(5,) * len(space), 1), generator=generator)
        low = image.min()  # brightness counts from the darkest voxel, also where the image was centred at zero
        image = torch.addcmul(low, image - low, spline(points, space)[..., 0].exp())
    if _chance(plan.noise_chance, generator):
        sd = _uniform(0.0, plan.noise_sd, generator)
        image = torch.randn(image.shape, generator=generator).mul_(sd).add_(image)
    return image


def smoothing_matrix(size: int, sd: float, lower: float) -> Float[Tensor, "size size"]:
    """Gaussian blur of ``sd`` voxels, then averaged to ``size / lower`` samples and read back linearly; rows sum to 1.

    >>> smoothing_matrix(4, 0.0, 1.0).tolist() == torch.eye(4).tolist()
    True
    """
    index = torch.arange(size, dtype=torch.float32)
    matrix = torch.eye(size)
    if sd > 0:
        matrix = torch.exp(-0.5 * ((index[:, None] - index) / sd) ** 2)
        matrix = matrix / matrix.sum(1, keepdim=True)
    if lower > 1:
        few = max(1, round(size / lower))
        middles = (torch.arange(few) + 0.5) * size / few - 0.5
        down = (1 - (middles[:, None] - index).abs() * few / size).clamp(min=0)
        step = size / few
        at = ((index + 0.5) / step - 0.5).clamp(0, few - 1)
        up = (1 - (at[:, None] - torch.arange(few)).abs()).clamp(min=0)
        matrix = up @ (down / down.sum(1, keepdim=True)) @ matrix
    return matrix


def _rotation(degrees: list[float], dims: int) -> Tensor:
    """Rotation acting on (x, y) or (x, y, z), by the angles about z, y and x in turn."""
    made = torch.eye(dims)
    for angle, (a, b) in zip(degrees, ((0, 1), (0, 2), (1, 2)), strict=False):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn = torch.eye(dims)
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
        made = turn @ made
    return made


def _uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _chance(probability: float, generator: Generator) -> bool:
    return _uniform(0.0, 1.0, generator) < probability
