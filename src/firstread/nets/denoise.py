"""A denoising network that is told the noise level (FFDNet, Zhang, Zuo and Zhang 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.errors import SettingError


class FFDNet(nn.Module):
    """Noisy images and their noise level in, denoised images out: ``x - σ r(x, σ)``; begins as the identity.

    The convolutions run on the four half-size images of every second pixel, beside a map of σ. Intensities of about 1.

    channels: 1 for real images, 2 for complex ones; width, depth: of the convolutions.

    >>> net = FFDNet(channels=1, width=4, depth=3)
    >>> net(torch.ones(2, 1, 9, 8), torch.tensor([0.1, 0.2])).shape
    torch.Size([2, 1, 9, 8])
    """

    def __init__(self, *, channels: int = 2, width: int = 64, depth: int = 10) -> None:
        super().__init__()
        if min(channels, width) < 1 or depth < 2:
            raise SettingError(f"{channels} channels, width {width}, depth {depth}",
                               expected="one or more, depth 2 or more", remedy="correct the numbers")
        self.channels, self.width, self.depth = channels, width, depth
        layers: list[nn.Module] = []
        for a, b in pairwise((4 * channels + 1, *[width] * (depth - 1), 4 * channels)):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def settings(self) -> dict[str, int]:
        """The constructor's arguments."""
        return {"channels": self.channels, "width": self.width, "depth": self.depth}

    @classmethod
    def from_weight(cls, settings: Mapping[str, int], state: dict[str, Tensor]) -> FFDNet:
        """The network of a card's settings with its parameters, in evaluation mode."""
        net = cls(**settings)
        net.load_state_dict(state)
        return net.eval()

    def forward(self, images: Float[Tensor, "rows channel y x"], noise: Float[Tensor, " rows"]
                ) -> Float[Tensor, "rows channel y x"]:
        height, width = images.shape[-2:]
        even = F.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
        quarters = F.pixel_unshuffle(even, 2)
        level = noise[:, None, None, None]
        found = self.layers(torch.cat((quarters, level.expand(-1, 1, *quarters.shape[2:])), dim=1))
        return images - level * F.pixel_shuffle(found, 2)[..., :height, :width]
