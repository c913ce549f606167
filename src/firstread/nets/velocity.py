"""A network that sees two images and says how one flows to the other, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.nets.unet import UNet
from firstread.ops.separable import resize


class VelocityNet(nn.Module):
    """Fixed and moving image to mean and log variance of a stationary velocity at half the resolution.

    After the probabilistic VoxelMorph (Dalca et al. 2019): a U-Net at half the resolution, where the velocity lives, on
    both images, of which each block of two voxels a side becomes a vector of features. Velocities are in voxels of that
    grid and begin at zero.

    widths: channels at each scale of the U-Net, of which the first also is the number of features.

    >>> mean, log_variance = VelocityNet(widths=(4, 8))(torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 8, 8))
    >>> mean.shape, bool(mean.abs().max() == 0)
    (torch.Size([1, 3, 4, 4, 4]), True)
    """

    def __init__(self, *, widths: tuple[int, ...] = (16, 32, 32, 32)) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.blocks = nn.Conv3d(2, self.widths[0], 2, stride=2)
        self.unet = UNet(channels_in=self.widths[0], channels_out=6, widths=self.widths, dims=3)
        nn.init.zeros_(self.unet.logits.weight)
        assert self.unet.logits.bias is not None
        with torch.no_grad():
            self.unet.logits.bias.copy_(torch.tensor([0.0] * 3 + [-2.0] * 3))

    def settings(self) -> dict[str, tuple[int, ...]]:
        """The constructor's arguments."""
        return {"widths": self.widths}

    @classmethod
    def from_weight(cls, settings: Mapping[str, Sequence[int]], state: dict[str, Tensor]) -> VelocityNet:
        """The network of a card's settings with its parameters, in evaluation mode."""
        net = cls(widths=tuple(settings["widths"]))
        net.load_state_dict(state)
        return net.eval()

    def forward(self, fixed: Float[Tensor, "batch z y x"], moving: Float[Tensor, "batch z y x"]
                ) -> tuple[Float[Tensor, "batch 3 hz hy hx"], Float[Tensor, "batch 3 hz hy hx"]]:
        """Images of unit range to (mean, log variance)."""
        pair = torch.stack((fixed, moving), dim=1)
        z, y, x = (max(1, n // 2) for n in pair.shape[2:])
        mean, log_variance = self.unet(self.blocks(resize(pair, (2 * z, 2 * y, 2 * x)))).split(3, dim=1)
        return mean, log_variance.clamp(-12, 2)
