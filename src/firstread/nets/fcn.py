"""The fully convolutional network of Bai et al. 2018 for short- and long-axis hearts."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.nets.unet import Conv3d, convolution


class FCN(nn.Module):
    """Convolutions at halving resolutions; the features of every scale, narrowed and enlarged, decide together.

    Two convolutions at each of the first two scales, three at the others; each scale is reduced to ``shared`` channels
    by 1 x 1 convolution and enlarged linearly; all are joined and pass two 1 x 1 convolutions and the logits. The paper
    has widths 16 to 256 and batch norm; here group norm, so that a slice does not depend on its neighbours in a batch.
    Source: Bai et al., JCMR 2018. Raises SettingError for widths or dims that make no network.

    >>> FCN(channels_in=1, channels_out=4, widths=(4, 8))(torch.zeros(1, 1, 9, 12)).shape
    torch.Size([1, 4, 9, 12])
    """

    def __init__(self, *, channels_in: int, channels_out: int, widths: tuple[int, ...] = (16, 32, 64, 128, 256),
                 dims: int = 2, shared: int = 32) -> None:
        super().__init__()
        if dims not in (2, 3) or not widths or min(channels_in, channels_out, shared, *widths) < 1:
            raise SettingError(f"widths {widths} in {dims} dimensions", expected="widths above zero, 2 or 3 dimensions",
                               remedy="correct the network's plan")
        self.dims, self.multiple = dims, 2 ** (len(widths) - 1)
        pointwise = {2: nn.Conv2d, 3: Conv3d}[dims]
        self.down = nn.ModuleList()
        for scale, (before, width) in enumerate(pairwise((channels_in, *widths))):
            count = 2 if scale < 2 else 3
            self.down.append(nn.Sequential(*(convolution(before if k == 0 else width, width, dims=dims)
                                             for k in range(count))))
        self.share = nn.ModuleList(pointwise(width, shared, 1) for width in widths)
        self.decide = nn.Sequential(pointwise(shared * len(widths), 2 * shared, 1), nn.ReLU(),
                                    pointwise(2 * shared, 2 * shared, 1), nn.ReLU(),
                                    pointwise(2 * shared, channels_out, 1))

    def forward(self, x: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out *space"]:
        """Logits at every voxel of ``x``; any size."""
        space = x.shape[2:]
        missing = [-n % self.multiple for n in space]
        x = F.pad(x, [p for m in reversed(missing) for p in (0, m)], mode="replicate") if any(missing) else x
        whole, pool = x.shape[2:], F.max_pool2d if self.dims == 2 else F.max_pool3d
        found = []
        for scale, (encode, share) in enumerate(zip(self.down, self.share, strict=True)):
            x = encode(pool(x, 2) if scale else x)
            features = F.relu(share(x))
            found.append(features if scale == 0 else F.interpolate(
                features, size=whole, mode="bilinear" if self.dims == 2 else "trilinear"))
        made = self.decide(torch.cat(found, dim=1))
        for axis, size in enumerate(space):
            made = made.narrow(axis + 2, 0, size)
        return made
