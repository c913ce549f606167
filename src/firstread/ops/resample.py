"""Images from one grid to another: the one caller of ``grid_sample``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import GeometryError, SettingError
from firstread.core.geometry import Grid


def index_map(source: Grid, target: Grid) -> Float[Tensor, "batch 4 4"]:
    """Voxel index (x, y, z) of ``target`` to voxel index of ``source``, ``inv(A_source) A_target``."""
    return torch.linalg.inv(source.affine) @ target.affine


def sample(data: Float[Tensor, "batch channel *space"], index: Float[Tensor, "batch *where axes"], *,
           mode: str = "bilinear", outside: str = "zeros") -> Float[Tensor, "batch channel *where"]:
    """Values of ``data`` at fractional voxel indices, (x, y) for images and (x, y, z) for volumes.

    mode: ``bilinear`` (linear also in 3D) or ``nearest``; outside: ``zeros`` or ``border``. Differentiable with respect
    to both.

    >>> line = torch.tensor([[[[0.0, 1.0, 4.0]]]])
    >>> sample(line, torch.tensor([[[[1.5, 0.0]]]])).item()
    2.5
    """
    space = data.shape[2:]
    if index.shape[-1] != len(space):
        raise SettingError(f"indices of {index.shape[-1]} axes into data of {len(space)}",
                           expected="as many as the data has",
                           remedy="give (x, y) for images and (x, y, z) for volumes")
    sizes = torch.tensor(space[::-1], dtype=index.dtype, device=index.device)
    return sample_unit(data, ((2 * index + 1) / sizes - 1).to(data.dtype), mode=mode, outside=outside)


def sample_unit(data: Float[Tensor, "batch channel *space"], unit: Float[Tensor, "batch *where axes"], *,
                mode: str = "bilinear", outside: str = "zeros") -> Float[Tensor, "batch channel *where"]:
    """As :func:`sample`, at places where -1 and 1 are the outer edges of the first and last voxel of each axis.

    ``unit = (2 index + 1) / size - 1``; for whoever can make the places in these units at no cost.
    """
    return F.grid_sample(data, unit, mode=mode, padding_mode=outside, align_corners=False)


def resample(data: Float[Tensor, "batch channel z y x"], source: Grid, target: Grid, *, mode: str = "bilinear",
             outside: str = "zeros") -> Float[Tensor, "batch channel tz ty tx"]:
    """``data`` on ``source`` as it is seen on ``target``; differentiable with respect to data.

    Where both grids share their slices, each slice is resampled by itself. Data on a grid finer than the target is
    smoothed first with a Gaussian (in plane) of ``sd = 0.5 sqrt(f^2 - 1)`` voxels, f the ratio of the spacings, so that
    nothing aliases.

    >>> fine = Grid.from_spacing((1, 4, 4), (8.0, 1.0, 1.0))
    >>> resample(torch.ones(1, 1, 1, 4, 4), fine, fine.resize((1, 2, 2))).shape
    torch.Size([1, 1, 1, 2, 2])

    Raises GeometryError where data and source grid do not fit.
    """
    if tuple(data.shape[2:]) != source.shape or data.shape[0] != source.affine.shape[0]:
        raise GeometryError(f"data of shape {tuple(data.shape)} on a grid of {source.affine.shape[0]} x {source.shape}",
                            expected="the grid of this data", remedy="give the grid that belongs to the data")
    matrix = index_map(source, target).to(data.device)
    if mode == "bilinear":
        data = _smooth(data, (target.spacing_mm / source.spacing_mm)[:, 1:].amin(0).tolist())
    if source.shape[0] == target.shape[0] and _same_slices(matrix):
        batch, channel, slices = data.shape[:3]
        y, x = (torch.arange(n, dtype=torch.float64, device=data.device) for n in target.shape[1:])
        xy = torch.stack((x.expand(len(y), -1), y.unsqueeze(1).expand(-1, len(x))), dim=-1)
        index = torch.einsum("bij,yxj->byxi", matrix[:, :2, :2], xy) + matrix[:, None, None, :2, 3]
        flat = data.movedim(2, 1).reshape(batch, slices * channel, *data.shape[3:])
        out = sample(flat, index, mode=mode, outside=outside)
        return out.reshape(batch, slices, channel, *out.shape[2:]).movedim(1, 2)
    z, y, x = (torch.arange(n, dtype=torch.float64, device=data.device) for n in target.shape)
    where = torch.stack(torch.meshgrid(z, y, x, indexing="ij")[::-1], dim=-1)
    index = torch.einsum("bij,zyxj->bzyxi", matrix[:, :3, :3], where) + matrix[:, None, None, None, :3, 3]
    return sample(data, index, mode=mode, outside=outside)


def _same_slices(matrix: Tensor) -> bool:
    """Whether slice k of one grid is slice k of the other, with no shear between them."""
    wanted = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=matrix.dtype, device=matrix.device)
    return bool((matrix[:, 2] - wanted).abs().max() < 1e-6) and bool(matrix[:, :2, 2].abs().max() < 1e-6)


def _smooth(data: Tensor, factors: list[float]) -> Tensor:
    """Gaussian along y and x where the target is coarser by ``factors``."""
    for axis, factor in zip((-2, -1), factors, strict=True):
        if factor <= 1.2:
            continue
        sd = 0.5 * (factor**2 - 1) ** 0.5
        reach = max(1, round(3 * sd))
        taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=data.dtype, device=data.device) / sd) ** 2)
        taps = taps / taps.sum()
        moved = data.movedim(axis, -1)
        line = F.pad(moved.reshape(-1, 1, moved.shape[-1]), (reach, reach), mode="replicate")
        data = F.conv1d(line, taps.reshape(1, 1, -1)).reshape(moved.shape).movedim(-1, axis)
    return data
