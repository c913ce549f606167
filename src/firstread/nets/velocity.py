"""A network that sees two images and says how one flows to the other, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.nets.unet import UNet
from firstread.ops.separable import resize

LEAST, MOST, FIRST = -12.0, 2.0, -2.0  # of the log variance: its bounds, and where it begins


class VelocityNet(nn.Module):
    """Fixed and moving image to mean and log variance of a stationary velocity at half the resolution.

    After the probabilistic VoxelMorph (Dalca et al. 2019): a U-Net at half the resolution, where the velocity lives, on
    both images, of which each block of two voxels a side becomes a vector of features. Velocities are in voxels of that
    grid and begin at zero.

    widths: channels at each scale of the U-Net, of which the first also is the number of features.
    dims: 3 for volumes; 2 for stacks of which every slice is seen by itself and flows in its own plane: the velocity
        across slices is zero there, and so is, but for rounding, its variance.
    spacing_mm: of the pixels (in plane) it was trained on, which whoever calls it should bring images to; None: any.

    >>> mean, log_variance = VelocityNet(widths=(4, 8))(torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 8, 8))
    >>> mean.shape, bool(mean.abs().max() == 0)
    (torch.Size([1, 3, 4, 4, 4]), True)
    >>> VelocityNet(widths=(4, 8), dims=2)(torch.zeros(1, 5, 8, 8), torch.zeros(1, 5, 8, 8))[0].shape
    torch.Size([1, 3, 5, 4, 4])
    """

    def __init__(self, *, widths: tuple[int, ...] = (16, 32, 32, 32), dims: int = 3,
                 spacing_mm: float | None = None) -> None:
        super().__init__()
        if spacing_mm is not None and not spacing_mm > 0:
            raise SettingError(f"pixels of {spacing_mm} mm", expected="more than zero", remedy="correct spacing_mm")
        self.widths, self.dims, self.spacing_mm = tuple(widths), dims, spacing_mm
        self.unet = UNet(channels_in=self.widths[0], channels_out=2 * dims, widths=self.widths, dims=dims)
        self.blocks = {2: nn.Conv2d, 3: nn.Conv3d}[dims](2, self.widths[0], 2, stride=2)
        nn.init.zeros_(self.unet.logits.weight)
        assert self.unet.logits.bias is not None
        with torch.no_grad():
            self.unet.logits.bias.copy_(torch.tensor([0.0] * dims + [FIRST] * dims))

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"widths": self.widths, "dims": self.dims, "spacing_mm": self.spacing_mm}

    @classmethod
    def from_weight(cls, settings: Mapping[str, Any], state: dict[str, Tensor]) -> VelocityNet:
        """The network of a card's settings with its parameters, in evaluation mode."""
        net = cls(widths=tuple(settings["widths"]), dims=settings["dims"], spacing_mm=settings["spacing_mm"])
        net.load_state_dict(state)
        return net.eval()

    def forward(self, fixed: Float[Tensor, "batch z y x"], moving: Float[Tensor, "batch z y x"]
                ) -> tuple[Float[Tensor, "batch 3 hz hy hx"], Float[Tensor, "batch 3 hz hy hx"]]:
        """Images of unit range to (mean, log variance); ``hz`` is z where slices are seen by themselves."""
        pair = torch.stack((fixed, moving), dim=1)
        z, y, x = pair.shape[2:]
        halved = (1 if z == 1 else max(1, z // 2)) if self.dims == 3 else z
        even = (2 * halved if self.dims == 3 else z, 2 * max(1, y // 2), 2 * max(1, x // 2))
        pair = resize(pair, even)
        if self.dims == 3:
            mean, log_variance = self.unet(self.blocks(pair)).split(3, dim=1)
            return mean, log_variance.clamp(LEAST, MOST)
        made = self.unet(self.blocks(pair.transpose(1, 2).flatten(0, 1))).unflatten(0, (-1, z)).transpose(1, 2)
        mean, log_variance = made.split(2, dim=1)
        return (F.pad(mean, (0, 0, 0, 0, 0, 0, 0, 1)),
                F.pad(log_variance.clamp(LEAST, MOST), (0, 0, 0, 0, 0, 0, 0, 1), value=LEAST))
