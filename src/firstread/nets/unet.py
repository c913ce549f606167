"""A small U-Net on plain tensors: group norm, nearest-neighbour upsampling, summed skips; 2D and 3D.

Every operation acts on one sample alone, so per-sample gradients (``torch.func``) are exact.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.errors import SettingError


def _plain(x: Tensor) -> bool:
    """Whether x is float32 or bfloat16 on the CPU and no gradient is asked: then volumes take the ways below."""
    return x.dtype in (torch.float32, torch.bfloat16) and x.device.type == "cpu" and not torch.is_grad_enabled()


def _channels_last(x: Float[Tensor, "batch channels z y x"]) -> Float[Tensor, "batch channels z y x"]:
    """With the channels last, and strides that say so for one channel too, where torch takes either for both."""
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last_3d)
    x = x.contiguous()
    return x.as_strided(x.shape, (x.stride(0), 1, *x.stride()[2:]))


class Conv3d(nn.Conv3d):
    """torch's convolution of volumes; without gradient on a CPU by oneDNN with the channels last.

    There torch leaves a single small volume, and every kernel of one voxel, to a slower convolution.
    """

    def forward(self, x: Float[Tensor, "batch channels_in z y x"]) -> Float[Tensor, "batch channels_out mz my mx"]:
        if not (_plain(x) and torch.backends.mkldnn.is_available()):
            return super().forward(x)
        return torch.mkldnn_convolution(_channels_last(x), self.weight, self.bias, self.padding, self.stride,
                                        self.dilation, self.groups)


class GroupNorm3d(nn.GroupNorm):
    """torch's group norm; for volumes with the channels last without torch's loss of precision there.

    torch adds the voxels one after the other in float32 (an error of 2e-4 over 64³); here blocks of them are added
    first. In bfloat16 that error is below the rounding of the result, and torch's own is faster.
    """

    def forward(self, x: Float[Tensor, "batch channels z y x"]) -> Float[Tensor, "batch channels z y x"]:
        if not self._by_blocks(x):
            return super().forward(x)
        scale, shift = self._affine(x)
        return torch.addcmul(shift, x, scale)

    def taking(self, x: Float[Tensor, "batch channels z y x"]) -> Float[Tensor, "batch channels z y x"]:
        """The same, in the memory of ``x`` where no gradient needs it: for an ``x`` that nobody else holds."""
        if not self._by_blocks(x):
            return self(x)
        scale, shift = self._affine(x)
        return torch.addcmul(shift, x, scale, out=x)

    def _by_blocks(self, x: Tensor) -> bool:
        return _plain(x) and x.dtype == torch.float32 and not x.is_contiguous()

    def _affine(self, x: Float[Tensor, "batch channels z y x"]) -> tuple[Tensor, Tensor]:
        """Scale and shift ``[batch, channels, 1, 1, 1]``."""
        mean, square = _moments(x.movedim(1, -1).flatten(1, -2))
        mean, square = (v.unflatten(1, (self.num_groups, -1)).mean(dim=2, keepdim=True) for v in (mean, square))
        deviation = ((square - mean * mean).clamp_min(0) + self.eps).sqrt()
        scale = self.weight.unflatten(0, (self.num_groups, -1)) / deviation
        shift = self.bias - (mean * scale).flatten(1)
        return scale.flatten(1)[..., None, None, None], shift[..., None, None, None]


class Convolution(nn.Sequential):
    """Convolution, norm, rectifier; what the convolution made is overwritten where no gradient needs it."""

    def forward(self, x: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out *space"]:
        convolve, norm, rectify = self
        made = convolve(x)
        return rectify(norm.taking(made) if isinstance(norm, GroupNorm3d) else norm(made))


def _moments(voxels: Float[Tensor, "batch voxel channels"]) -> tuple[Tensor, Tensor]:
    """Mean of the values and of their squares, ``[batch, channels]``, block by block."""
    total = square = voxels.new_zeros(voxels.shape[0], voxels.shape[2])
    for block in voxels.split(8192, dim=1):
        total = total + block.sum(dim=1)
        square = square + block.square().sum(dim=1)
    return total / voxels.shape[1], square / voxels.shape[1]


def convolution(channels_in: int, channels_out: int, *, dims: int) -> Convolution:
    """Convolution of three voxels, group norm, rectifier: ``relu(norm(w * x))``."""
    kind, norm = {2: (nn.Conv2d, nn.GroupNorm), 3: (Conv3d, GroupNorm3d)}[dims]
    return Convolution(kind(channels_in, channels_out, 3, padding=1, bias=False),
                       norm(math.gcd(8, channels_out), channels_out), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """U-Net (Ronneberger 2015) with skips that are added instead of concatenated, which halves the decoder's work.

    channels_in, channels_out: of the input and of the logits.
    widths: channels at each scale; every scale halves the resolution of the one before.
    dims: 2 for images ``[batch, channel, y, x]``, 3 for volumes ``[batch, channel, z, y, x]``.

    Any size goes in: it is padded at the far edges by replication to a multiple of ``2 ** (len(widths) - 1)`` and
    cropped again. Raises SettingError for widths or dims that make no network.

    >>> import torch
    >>> UNet(channels_in=1, channels_out=4, widths=(8, 16))(torch.zeros(2, 1, 33, 40)).shape
    torch.Size([2, 4, 33, 40])
    """

    def __init__(self, *, channels_in: int, channels_out: int, widths: tuple[int, ...] = (16, 32, 64, 128, 160),
                 dims: int = 2) -> None:
        super().__init__()
        if dims not in (2, 3):
            raise SettingError(f"a U-Net of {dims} dimensions", expected="2 or 3", remedy="set dims")
        if not widths or min(channels_in, channels_out, *widths) < 1:
            raise SettingError(f"{channels_in} channels in, {channels_out} out, widths {widths}",
                               expected="one channel or more everywhere", remedy="correct the widths")
        self.channels_in, self.channels_out, self.widths, self.dims = channels_in, channels_out, widths, dims
        pointwise = {2: nn.Conv2d, 3: Conv3d}[dims]
        self.down = nn.ModuleList(
            nn.Sequential(convolution(before, width, dims=dims), convolution(width, width, dims=dims))
            for before, width in pairwise((channels_in, *widths)))
        self.narrow = nn.ModuleList(pointwise(deep, width, 1, bias=False) for width, deep in pairwise(widths))
        self.up = nn.ModuleList(convolution(width, width, dims=dims) for width in widths[:-1])
        self.logits = pointwise(widths[0], channels_out, 1)

    def forward(self, x: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out *space"]:
        """Logits at every voxel of ``x``."""
        if x.ndim != self.dims + 2 or x.shape[1] != self.channels_in:
            raise SettingError(f"an input of shape {tuple(x.shape)}",
                               expected=f"[batch, {self.channels_in}, {'z, ' if self.dims == 3 else ''}y, x]",
                               remedy="fold other axes into the batch")
        space = x.shape[2:]
        multiple = 2 ** (len(self.widths) - 1)
        missing = [-size % multiple for size in space]
        x = F.pad(x, [p for m in reversed(missing) for p in (0, m)], mode="replicate") if any(missing) else x
        skips = []
        for scale, encode in enumerate(self.down):
            if scale:
                x = F.max_pool2d(x, 2) if self.dims == 2 else F.max_pool3d(x, 2)
            x = encode(x)
            skips.append(x)
        x = skips.pop()
        for narrow, decode in zip(reversed(self.narrow), reversed(self.up), strict=True):
            x = F.interpolate(narrow(x), scale_factor=2, mode="nearest")
            x = decode(x.add_(skips.pop()))
        x = self.logits(x)
        for axis, size in enumerate(space):
            x = x.narrow(axis + 2, 0, size)
        return x
