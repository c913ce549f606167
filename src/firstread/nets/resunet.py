"""A U-Net with a residual encoder, in two and three dimensions, for pixels that are not cubes.

Each scale halves only the axes that its stride names, so thick slices are not pooled away. The decoder is light: what
comes from below is narrowed by 1 x 1 convolution, enlarged by copying, added to the skip and convolved once.
Source: Isensee 2024 (residual encoders), He 2019 (pooled shortcuts).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.nets.unet import Conv3d, GroupNorm3d, convolution


class Residual(nn.Module):
    """``relu(norm(w2 * relu(norm(w1 * x))) + shortcut(x))``; the shortcut pools and widens where the block does."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: tuple[int, ...]) -> None:
        super().__init__()
        kind, norm, pool = {2: (nn.Conv2d, nn.GroupNorm, nn.AvgPool2d),
                            3: (Conv3d, GroupNorm3d, nn.AvgPool3d)}[len(stride)]
        groups = math.gcd(8, channels_out)
        self.first = nn.Sequential(kind(channels_in, channels_out, 3, stride=stride, padding=1, bias=False),
                                   norm(groups, channels_out), nn.ReLU())
        self.second = nn.Sequential(kind(channels_out, channels_out, 3, padding=1, bias=False),
                                    norm(groups, channels_out))
        steps: list[nn.Module] = [] if max(stride) == 1 else [pool(stride, stride)]
        if channels_in != channels_out:
            steps += [kind(channels_in, channels_out, 1, bias=False), norm(groups, channels_out)]
        self.shortcut = nn.Sequential(*steps)

    def forward(self, x: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out *small"]:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


class ResUNet(nn.Module):
    """Residual encoder, light decoder, logits at every scale of it.

    widths: channels at each scale; strides: from each scale to the next, one number per axis; blocks: residual blocks
    at each scale; at the first, the most expensive one, there may be none.

    Any size goes in: it is padded at the far edges by replication to a multiple of the strides and cropped again.
    Raises SettingError for settings that make no network.

    >>> import torch
    >>> net = ResUNet(channels_in=1, channels_out=3, widths=(8, 16), strides=((1, 2, 2),), blocks=(1, 1))
    >>> net(torch.zeros(1, 1, 3, 17, 20)).shape
    torch.Size([1, 3, 3, 17, 20])
    """

    def __init__(self, *, channels_in: int, channels_out: int, widths: tuple[int, ...] = (16, 32, 64, 128),
                 strides: tuple[tuple[int, ...], ...] = ((2, 2),) * 3, blocks: tuple[int, ...] = (0, 1, 1, 1)) -> None:
        super().__init__()
        if len(widths) < 2 or len(strides) != len(widths) - 1 or len(blocks) != len(widths) or blocks[0] < 0 or min(
                blocks[1:]) < 1 or len({len(s) for s in strides}) != 1 or len(strides[0]) not in (2, 3):
            raise SettingError(f"widths {widths}, strides {strides}, blocks {blocks}", expected="two widths or more, "
                               "as many blocks, one stride of two or three numbers between each two",
                               remedy="correct the network's plan")
        self.channels_in, self.channels_out, self.strides = channels_in, channels_out, strides
        self.dims = len(strides[0])
        one = (1,) * self.dims
        pointwise = {2: nn.Conv2d, 3: Conv3d}[self.dims]
        self.stem = convolution(channels_in, widths[0], dims=self.dims)
        self.down = nn.ModuleList()
        for before, width, stride, count in zip((widths[0], *widths), widths, (one, *strides), blocks, strict=False):
            each = [stride, *(one,) * (count - 1)][:count]
            self.down.append(nn.Sequential(*(Residual(before if k == 0 else width, width, stride=s)
                                             for k, s in enumerate(each))))
        self.narrow = nn.ModuleList(pointwise(deep, width, 1, bias=False) for width, deep in pairwise(widths))
        self.up = nn.ModuleList(convolution(width, width, dims=self.dims) for width in widths[:-1])
        self.logits = nn.ModuleList(pointwise(width, channels_out, 1) for width in widths[:-1])

    def forward(self, x: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out *space"]:
        """Logits at every voxel of ``x``."""
        return self._decoded(x, all_scales=False)[0]

    def scales(self, x: Float[Tensor, "batch channels_in *space"]) -> list[Tensor]:
        """Logits at each scale of the decoder, the finest first: what deep supervision compares (Lee 2015)."""
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
        x, skips = self.stem(x), []
        for encode in self.down:
            x = encode(x)
            skips.append(x)
        x, out = skips.pop(), []
        for scale in reversed(range(len(self.up))):
            wider = F.interpolate(self.narrow[scale](x), scale_factor=[float(s) for s in self.strides[scale]],
                                  mode="nearest")
            x = self.up[scale](skips.pop() + wider)
            if all_scales or scale == 0:
                out.insert(0, self.logits[scale](x))
        for axis, size in enumerate(space):
            out[0] = out[0].narrow(axis + 2, 0, size)
        return out
