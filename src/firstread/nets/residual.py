"""The residual block of the deep cascade: convolutions of a cine frame by frame, over time, or on shifted channels."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Kernel = Literal["yx", "tyx", "shift"]


def shift_frames(features: Float[Tensor, "frames channel y x"], parts: int = 4) -> Float[Tensor, "frames channel y x"]:
    """One ``parts``-th of the channels from the frame before, one from the frame after, circular (Lin et al. 2019).

    >>> shift_frames(torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1).expand(3, 4, 1, 1))[0, :, 0, 0].tolist()
    [2.0, 1.0, 0.0, 0.0]
    """
    size = features.shape[1] // parts
    before, after, same = features.split((size, size, features.shape[1] - 2 * size), dim=1)
    return torch.cat((before.roll(1, dims=0), after.roll(-1, dims=0), same), dim=1)


def to_few(features: Float[Tensor, "frames channel y x"], weight: Float[Tensor, "few channel 3 3"],
           bias: Float[Tensor, " few"]) -> Float[Tensor, "frames few y x"]:
    """The 3x3 convolution ``o(y, x) = b + Σ_ij (W_ij f)(y + i - 1, x + j - 1)``, its nine products first, then the sum.

    One matrix product makes all nine, which are shifted and added: for two channels, on a CPU, several times faster
    than a convolution that is made for many.

    >>> f, w, b = torch.randn(1, 4, 5, 6), torch.randn(2, 4, 3, 3), torch.randn(2)
    >>> torch.allclose(to_few(f, w, b), F.conv2d(f, w, b, padding=1), atol=1e-5)
    True
    """
    height, width = features.shape[-2:]
    taps = weight.permute(2, 3, 0, 1).flatten(0, 2)
    products = F.pad((taps @ features.flatten(2)).reshape(len(features), 9, -1, height, width), (1, 1, 1, 1))
    made = bias[:, None, None].expand(len(features), -1, height, width).clone()
    for tap in range(9):
        i, j = divmod(tap, 3)
        made += products[:, tap, :, i : i + height, j : j + width]
    return made


class ResidualBlock(nn.Module):
    """``depth`` convolutions of one cine, ReLU between them; the last gives what is added to the image.

    It begins as the identity (the last weights are zero).
    kernel: "yx" 3x3 frame by frame; "tyx" 3x3x3, circular in time; "shift" 3x3 on channels shifted in time.
    """

    def __init__(self, *, channels: int, depth: int, width: int, kernel: Kernel):
        super().__init__()
        self.kernel = kernel
        kind = nn.Conv3d if kernel == "tyx" else nn.Conv2d
        padding = (0, 1, 1) if kernel == "tyx" else 1
        sizes = [channels, *[width] * (depth - 1), 2]
        self.layers = nn.ModuleList(kind(a, b, 3, padding=padding) for a, b in pairwise(sizes))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.layers[-1].weight)

    def forward(self, cine: Float[Tensor, "time channel y x"]) -> Float[Tensor, "time 2 y x"]:
        if self.kernel == "tyx":
            return self._volume(cine)
        on_cpu = cine.device.type == "cpu"
        lean = on_cpu and not torch.is_grad_enabled()  # channels last in memory: few of them cost what they should
        cine = cine.contiguous(memory_format=torch.channels_last) if lean else cine
        parts = list(cine.split(1)) if on_cpu else [cine]  # one frame's features stay in cache
        *inner, last = self.layers
        for number, layer in enumerate(inner):
            parts = _shifted(parts) if self.kernel == "shift" and number > 0 else parts
            parts = [F.relu(layer(part), inplace=True) for part in parts]
        parts = _shifted(parts) if self.kernel == "shift" else parts
        return torch.cat([to_few(part, last.weight, last.bias) if lean else last(part) for part in parts])

    def _volume(self, cine: Float[Tensor, "time channel y x"]) -> Float[Tensor, "time 2 y x"]:
        features = cine.movedim(0, 1)[None]
        for number, layer in enumerate(self.layers):
            features = layer(F.pad(features, (0, 0, 0, 0, 1, 1), mode="circular"))
            if number + 1 < len(self.layers):
                features = F.relu(features)
        return features[0].movedim(1, 0)


def _shifted(parts: list[Tensor], groups: int = 4) -> list[Tensor]:
    """``shift_frames`` of a cine that was split into its frames (or not at all)."""
    if len(parts) == 1:
        return [shift_frames(parts[0], groups)]
    size = parts[0].shape[1] // groups
    after = [*parts[1:], parts[0]]
    return [torch.cat((parts[t - 1][:, :size], after[t][:, size:2 * size], part[:, 2 * size:]), dim=1)
            for t, part in enumerate(parts)]
