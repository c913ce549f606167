"""A U-Net for cines: every scale also looks at the frames before and after, circular in time."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.nets.cascade import shift_frames
from firstread.nets.unet import UNet


class ShiftFrames(nn.Module):
    """:func:`~firstread.nets.cascade.shift_frames` as a layer: a quarter of the channels from each neighbouring frame.

    It has no parameters and costs no multiplication (Lin et al. 2019).
    """

    def forward(self, features: Float[Tensor, "frames channel y x"]) -> Float[Tensor, "frames channel y x"]:
        return shift_frames(features)


class CineUNet(nn.Module):
    """The 2D U-Net on the frames of one heart cycle, with channels shifted in time before convolutions.

    channels_in, channels_out, widths: as of :class:`~firstread.nets.unet.UNet`; four channels or more in each width.
    Played from another frame on, the cine gives the same logits from that frame on.

    On zero-filled frames this is the synthesis network ("Syn-net") of Schlemper et al. 2018, its U-Net made dynamic by
    the shifts; on frames with shared data, the same with a better input.

    >>> CineUNet(channels_in=2, channels_out=4, widths=(8, 16))(torch.zeros(1, 5, 2, 12, 8)).shape
    torch.Size([1, 5, 4, 12, 8])
    """

    def __init__(self, *, channels_in: int, channels_out: int, widths: tuple[int, ...] = (16, 32, 64, 96)) -> None:
        super().__init__()
        self.frames = UNet(channels_in=channels_in, channels_out=channels_out, widths=widths)
        for scale in self.frames.down:
            scale.insert(1, ShiftFrames())
        self.frames.up = nn.ModuleList(nn.Sequential(ShiftFrames(), layer) for layer in self.frames.up)

    def forward(self, cines: Float[Tensor, "rows time channels_in y x"]
                ) -> Float[Tensor, "rows time channels_out y x"]:
        """Logits of every frame; a row is one slice."""
        return torch.stack([self.frames(cine) for cine in cines])
