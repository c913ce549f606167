"""A U-Net whose skips pass attention gates (Oktay 2018, Schlemper 2019)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.nets.unet import Conv3d, convolution


class AttentionGate(nn.Module):
    """``x * sigmoid(psi . relu(theta x + phi g))``: what lies below decides where the skip is let through.

    g has the resolution of x here. The gate begins half open.
    """

    def __init__(self, channels: int, *, dims: int) -> None:
        super().__init__()
        kind = {2: nn.Conv2d, 3: Conv3d}[dims]
        inner = max(1, channels // 2)
        self.theta = kind(channels, inner, 1, bias=False)
        self.phi = kind(channels, inner, 1)
        self.psi = kind(inner, 1, 1)

    def coefficients(self, x: Float[Tensor, "batch channels *space"], g: Float[Tensor, "batch channels *space"]
                     ) -> Float[Tensor, "batch 1 *space"]:
        """The gate's openness at every voxel, 0 to 1."""
        return torch.sigmoid(self.psi(F.relu(self.theta(x) + self.phi(g))))

    def forward(self, x: Float[Tensor, "batch channels *space"], g: Float[Tensor, "batch channels *space"]
                ) -> Float[Tensor, "batch channels *space"]:
        return x * self.coefficients(x, g)


class AttentionUNet(nn.Module):
    """The U-Net of ``nets.unet`` with a gate on every skip.

    Raises SettingError for widths or dims that make no network.

    >>> import torch
    >>> AttentionUNet(channels_in=1, channels_out=2, widths=(4, 8))(torch.zeros(1, 1, 9, 12)).shape
    torch.Size([1, 2, 9, 12])
    """

    def __init__(self, *, channels_in: int, channels_out: int, widths: tuple[int, ...] = (16, 32, 64, 128),
                 dims: int = 2) -> None:
        super().__init__()
        if dims not in (2, 3) or len(widths) < 2 or min(channels_in, channels_out, *widths) < 1:
            raise SettingError(f"widths {widths} in {dims} dimensions", expected="two widths or more above zero, 2 or "
                               "3 dimensions", remedy="correct the network's plan")
        self.dims, self.multiple = dims, 2 ** (len(widths) - 1)
        pointwise = {2: nn.Conv2d, 3: Conv3d}[dims]
        self.down = nn.ModuleList(nn.Sequential(convolution(a, b, dims=dims), convolution(b, b, dims=dims))
                                  for a, b in pairwise((channels_in, *widths)))
        self.narrow = nn.ModuleList(pointwise(deep, width, 1, bias=False) for width, deep in pairwise(widths))
        self.gates = nn.ModuleList(AttentionGate(width, dims=dims) for width in widths[:-1])
        self.up = nn.ModuleList(convolution(width, width, dims=dims) for width in widths[:-1])
        self.logits = pointwise(widths[0], channels_out, 1)

    def forward(self, x: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out *space"]:
        """Logits at every voxel of ``x``; any size."""
        space = x.shape[2:]
        missing = [-n % self.multiple for n in space]
        x = F.pad(x, [p for m in reversed(missing) for p in (0, m)], mode="replicate") if any(missing) else x
        pool = F.max_pool2d if self.dims == 2 else F.max_pool3d
        skips: list[Tensor] = []
        for scale, encode in enumerate(self.down):
            x = encode(pool(x, 2) if scale else x)
            skips.append(x)
        x = skips.pop()
        for narrow, gate, decode in zip(reversed(self.narrow), reversed(self.gates), reversed(self.up), strict=True):
            below = F.interpolate(narrow(x), scale_factor=2, mode="nearest")
            x = decode(gate(skips.pop(), below) + below)
        x = self.logits(x)
        for axis, size in enumerate(space):
            x = x.narrow(axis + 2, 0, size)
        return x
