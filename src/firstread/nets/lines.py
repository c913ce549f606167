"""A small network that scores phase-encode lines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

FEATURES = 5


class LineScorer(nn.Module):
    """Features of all lines to one log score each: three 3x3 convolutions over frames (circular) and lines.

    width: channels between them.

    >>> LineScorer()(torch.zeros(1, 5, 8, 2, 32)).shape
    torch.Size([1, 8, 2, 32])
    """

    def __init__(self, *, width: int = 16):
        super().__init__()
        sizes = [(FEATURES, width), (width, width), (width, 1)]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=(0, 1)) for a, b in sizes)

    def forward(self, features: Float[Tensor, "batch features time z lines"]) -> Float[Tensor, "batch time z lines"]:
        batch, _, _, slices, _ = features.shape
        x = features.movedim(3, 1).flatten(0, 1)
        for number, layer in enumerate(self.layers):
            x = layer(F.pad(x, (0, 0, 1, 1), mode="circular"))
            x = F.relu(x) if number + 1 < len(self.layers) else x
        return torch.unflatten(x[:, 0], 0, (batch, slices)).movedim(1, 2)
