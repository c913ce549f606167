"""A U-Net with a residual encoder, in two and three dimensions, for pixels that are not cubes.

Each scale divides only the axes that its stride names, so thick slices are not pooled away. The first scale may be
divided already: then every voxel there gives the logits of the voxels that it covers. The decoder is light: what comes
from below is narrowed by 1 x 1 convolution, enlarged by copying and added to the skip; one convolution adds to that.
Sources: Isensee 2024 (residual encoders), He 2016 (nothing after the sum), Ulyanov 2016 (instance norm), Shi 2016
(sub-pixel logits).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.nets.unet import Conv3d, GroupNorm3d

CONVOLUTION = {2: nn.Conv2d, 3: Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {2: nn.GroupNorm, 3: GroupNorm3d}


def unit(channels_in: int, channels_out: int, *, stride: tuple[int, ...]) -> nn.Sequential:
    """``leaky(norm(w * x))``, each channel of each sample normalized by itself."""
    dims = len(stride)
    return nn.Sequential(CONVOLUTION[dims](channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
                         NORM[dims](channels_out, channels_out), nn.LeakyReLU(0.01))


class Residual(nn.Module):
    """``unit(unit(x)) + shortcut(x)``; the shortcut is a convolution of its own where the block divides or widens."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: tuple[int, ...]) -> None:
        super().__init__()
        one = (1,) * len(stride)
        self.units = nn.Sequential(unit(channels_in, channels_out, stride=stride),
                                   unit(channels_out, channels_out, stride=one))
        kind, size = CONVOLUTION[len(stride)], 3 if max(stride) > 1 else 1
        self.shortcut = kind(channels_in, channels_out, size, stride=stride, padding=size // 2) \
            if size > 1 or channels_in != channels_out else nn.Identity()

    def forward(self, x: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out *small"]:
        return self.units(x) + self.shortcut(x)


class ResUNet(nn.Module):
    """Residual encoder, light decoder, logits at every scale of it.

    widths: channels at each scale; strides: into each scale from the one before, the image before the first, one number
    per axis; blocks: residual blocks at each scale; at the first there may be none, then it is one convolution.

    Any size goes in: it is padded at the far edges by replication to a multiple of the strides and cropped again.
    Raises SettingError for settings that make no network.

    >>> import torch
    >>> net = ResUNet(channels_in=1, channels_out=3, widths=(8, 16), strides=((1, 2, 2), (2, 2, 2)), blocks=(1, 1))
    >>> net(torch.zeros(1, 1, 3, 17, 20)).shape
    torch.Size([1, 3, 3, 17, 20])
    """

    def __init__(self, *, channels_in: int, channels_out: int, widths: tuple[int, ...] = (24, 48, 96, 192),
                 strides: tuple[tuple[int, ...], ...] = ((2, 2),) * 4, blocks: tuple[int, ...] = (1,) * 4) -> None:
        super().__init__()
        if len(widths) < 2 or len(strides) != len(widths) or len(blocks) != len(widths) or blocks[0] < 0 or min(
                blocks[1:]) < 1 or len({len(s) for s in strides}) != 1 or len(strides[0]) not in (2, 3):
            raise SettingError(f"widths {widths}, strides {strides}, blocks {blocks}", expected="two widths or more, "
                               "for each a stride of two or three numbers and a number of blocks",
                               remedy="correct the network's plan")
        self.channels_in, self.channels_out, self.strides = channels_in, channels_out, strides
        self.dims = len(strides[0])
        one, pointwise = (1,) * self.dims, CONVOLUTION[self.dims]
        self.down = nn.ModuleList()
        for before, width, stride, count in zip((channels_in, *widths), widths, strides, blocks, strict=False):
            if count == 0:
                self.down.append(unit(before, width, stride=stride))
                continue
            each = [stride, *(one,) * (count - 1)]
            self.down.append(nn.Sequential(*(Residual(before if k == 0 else width, width, stride=s)
                                             for k, s in enumerate(each))))
        self.narrow = nn.ModuleList(pointwise(deep, width, 1, bias=False) for width, deep in pairwise(widths))
        self.up = nn.ModuleList(unit(width, width, stride=one) for width in widths[:-1])
        self.logits = nn.ModuleList(pointwise(width, channels_out, 1) for width in widths[:-1])
        self.head = TRANSPOSED[self.dims](widths[0], channels_out, strides[0], stride=strides[0]) \
            if max(strides[0]) > 1 else None

    def forward(self, x: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out *space"]:
        """Logits at every voxel of ``x``."""
        return self._decoded(x, all_scales=False)[0]

    def scales(self, x: Float[Tensor, "batch channels_in *space"]) -> list[Tensor]:
        """Logits at every voxel, then at each coarser scale of the decoder: what deep supervision compares (Lee 2015).
        """
        return self._decoded(x, all_scales=True)

    def _decoded(self, x: Tensor, *, all_scales: bool) -> list[Tensor]:
        if x.ndim != self.dims + 2 or x.shape[1] != self.channels_in:
            raise SettingError(f"an input of shape {tuple(x.shape)}",
                               expected=f"[batch, {self.channels_in}, {'z, ' if self.dims == 3 else ''}y, x]",
                               remedy="fold other axes into the batch")
        space = x.shape[2:]
        multiple = [math.prod(stride[axis] for stride in self.strides) for axis in range(self.dims)]
        missing = [-size % m for size, m in zip(space, multiple, strict=True)]
        x = F.pad(x, [p for m in reversed(missing) for p in (0, m)], mode="replicate") if any(missing) else x
        skips = []
        for encode in self.down:
            x = encode(x)
            skips.append(x)
        x, out = skips.pop(), []
        for scale in reversed(range(len(self.up))):
            x, stride = self.narrow[scale](x), self.strides[scale + 1]
            if max(stride) > 1:
                x = F.interpolate(x, scale_factor=[float(s) for s in stride], mode="nearest")
            x = skips.pop() + x
            x = x + self.up[scale](x)
            if all_scales or (scale == 0 and self.head is None):
                out.insert(0, self.logits[scale](x))
        if self.head is not None:
            out.insert(0, self.head(x))
        for axis, size in enumerate(space):
            out[0] = out[0].narrow(axis + 2, 0, size)
        return out
