"""A U-Net for cines: every scale also learns to look at the frames before and after, circular in time."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.nets.unet import UNet


class MixFrames(nn.Module):
    """``y_t = x_t + a (x_{t-1} - x_t) + b (x_{t+1} - x_t)``, circular in time; a and b are trained, one per channel.

    It begins as the identity (a = b = 0), so that weights of single images are a start (after Bachlechner et al. 2021).

    >>> MixFrames(2)(torch.ones(5, 2, 3, 3)).shape
    torch.Size([5, 2, 3, 3])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before, self.after = (nn.Parameter(torch.zeros(channels, 1, 1)) for _ in range(2))

    def forward(self, features: Float[Tensor, "frames channel y x"]) -> Float[Tensor, "frames channel y x"]:
        return (features + self.before * (features.roll(1, dims=0) - features)
                + self.after * (features.roll(-1, dims=0) - features))


class CineUNet(nn.Module):
    """The 2D U-Net on the frames of one heart cycle, with channels mixed in time before convolutions.

    channels_in, channels_out, widths: as of :class:`~firstread.nets.unet.UNet`, which it is until it is
    trained. Played from another frame on, the cine gives the same logits from that frame on.

    On zero-filled frames this is the synthesis network ("Syn-net") of Schlemper et al. 2018, its U-Net made dynamic by
    the mixing; on frames with shared data, the same with a better input.

    >>> CineUNet(channels_in=2, channels_out=4, widths=(8, 16))(torch.zeros(1, 5, 2, 12, 8)).shape
    torch.Size([1, 5, 4, 12, 8])
    """

    def __init__(self, *, channels_in: int, channels_out: int, widths: tuple[int, ...] = (16, 32, 64, 96)) -> None:
        super().__init__()
        self.frames = UNet(channels_in=channels_in, channels_out=channels_out, widths=widths)
        for scale, width in zip(self.frames.down, widths, strict=True):
            scale.insert(1, MixFrames(width))
        self.frames.up = nn.ModuleList(nn.Sequential(MixFrames(width), layer)
                                       for layer, width in zip(self.frames.up, widths[:-1], strict=True))

    def forward(self, cines: Float[Tensor, "rows time channels_in y x"]
                ) -> Float[Tensor, "rows time channels_out y x"]:
        """Logits of every frame; a row is one slice."""
        return torch.stack([self.frames(cine) for cine in cines])
