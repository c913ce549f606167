"""An image as a network trained elsewhere wants it: turned, cropped, scaled, resampled; and the way back.

The rules are those of nnU-Net (Isensee et al., Nature Methods 18, 203, 2021), written as differentiable formulas; what
they decide from the image (where the body is, which shape) is a constant of the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.preparation import Intensity, Resampling
from firstread.ops.resize import resize, resize_axis
from firstread.ops.spline import interpolation_matrix

EPS = 1e-8


def body_mask(volume: Float[Tensor, "channel d0 d1 d2"]) -> Bool[Tensor, "d0 d1 d2"]:
    """Where any channel is not zero, holes filled in 3D.

    >>> body_mask(torch.tensor([0.0, 1.0, 0.0, 2.0]).reshape(1, 1, 1, 4)).flatten().tolist()
    [False, True, False, True]
    """
    from scipy import ndimage

    found = (volume.detach() != 0).any(dim=0)
    return torch.from_numpy(ndimage.binary_fill_holes(found.cpu().numpy())).to(volume.device)


def bounding_box(mask: Bool[Tensor, "d0 d1 d2"]) -> tuple[slice, slice, slice]:
    """The smallest block with all of ``mask``; everything where it is empty.

    >>> bounding_box(torch.tensor([0, 1, 0, 1, 0]).bool().reshape(1, 1, 5))
    (slice(0, 1, None), slice(0, 1, None), slice(1, 4, None))
    """
    if not mask.any():
        return slice(0, mask.shape[0]), slice(0, mask.shape[1]), slice(0, mask.shape[2])
    found = []
    for axis in range(3):
        other = tuple(a for a in range(3) if a != axis)
        along = torch.nonzero(mask.any(dim=other[1]).any(dim=other[0]))[:, 0]
        found.append(slice(int(along[0]), int(along[-1]) + 1))
    return found[0], found[1], found[2]


def scaled(channel: Float[Tensor, "d0 d1 d2"], body: Bool[Tensor, "d0 d1 d2"],
           intensity: Intensity) -> Float[Tensor, "d0 d1 d2"]:
    """``(clip(v) - subtract) / divide``, numbers stated or of this image; voxels that do not count stay as they are.

    The standard deviation is over all voxels that count (not of a sample), and never below 1e-8.

    >>> x = torch.tensor([0.0, 1.0, 3.0]).reshape(1, 1, 3)
    >>> scaled(x, x > 0, Intensity(scheme="zscore", where="body")).flatten().tolist()
    [0.0, -1.0, 1.0]
    """
    value = channel
    if intensity.low is not None or intensity.high is not None:
        value = value.clamp(intensity.low, intensity.high)
    if intensity.scheme == "fixed":
        return (value - intensity.subtract) / intensity.divide
    if intensity.scheme == "minmax":
        low = value - value.min()
        return low / low.max().clamp(min=EPS)
    counted = body if intensity.where == "body" else channel.detach() != 0
    if intensity.where == "all" or not counted.any():
        counted = torch.ones_like(body)
    inside = value[counted]
    spread = inside.var(correction=0).clamp(min=EPS**2).sqrt()
    return torch.where(counted, (value - inside.mean()) / spread, value)


def lone_axis(spacing: Sequence[float], rule: Resampling, new: Sequence[float]) -> int | None:
    """The axis that is resized by itself, or None: the one with the largest spacing where that is far above the least.

    The spacing before decides, else the one after; two axes of the same largest spacing are none.

    >>> lone_axis((8.0, 1.5, 1.5), Resampling(), (8.0, 1.5, 1.5))
    0
    """
    if rule.apart is False:
        return None
    for sizes in (spacing, new):
        if rule.apart or max(sizes) / min(sizes) > rule.anisotropy:
            largest = [axis for axis, size in enumerate(sizes) if size == max(sizes)]
            return largest[0] if len(largest) == 1 else None
    return None


def resampled(data: Float[Tensor, "channel d0 d1 d2"], shape: Sequence[int], rule: Resampling, *,
              spacing: Sequence[float], new: Sequence[float]) -> Float[Tensor, "channel n0 n1 n2"]:
    """Every channel in ``shape`` voxels; ``spacing`` and ``new`` (mm, before and after) say whether slices go alone.

    >>> resampled(torch.ones(1, 2, 4, 4), (3, 8, 8), Resampling(), spacing=(8, 1, 1), new=(5, 0.5, 0.5)).shape
    torch.Size([1, 3, 8, 8])
    """
    if rule.keep == "first":
        return _from_first(data, tuple(shape), [after / before for before, after in zip(spacing, new, strict=True)])
    axis = lone_axis(spacing, rule, new)
    if axis is None or tuple(data.shape[1:]) == tuple(shape):
        return resize(data, tuple(shape), order=rule.order)
    slices = data.movedim(axis + 1, 1)
    plane = tuple(size for a, size in enumerate(shape) if a != axis)
    return resize_axis(resize(slices, plane, order=rule.order).movedim(1, axis + 1), axis + 1, shape[axis],
                       order=rule.order_apart)


def _from_first(data: Tensor, shape: tuple[int, ...], steps: Sequence[float]) -> Tensor:
    """Linear, with sample i of each axis at ``i * step`` of the old samples, no further than the last."""
    for axis, (size, step) in enumerate(zip(shape, steps, strict=True), start=1):
        if size != data.shape[axis] or step != 1:
            matrix = interpolation_matrix(data.shape[axis], torch.arange(size, dtype=torch.float64) * step, order=1)
            data = torch.tensordot(data, matrix.to(data), dims=([axis], [1])).movedim(-1, axis)
    return data
