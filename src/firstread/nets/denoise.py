"""A denoising network that is told the noise level and knows no other scale."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.errors import SettingError


class ScaledDenoiser(nn.Module):
    """Noisy images and their noise level in, denoised images out: ``x - σ r(x / σ)``; begins as the identity.

    r sees the image in units of the noise, so that ``f(a x, a σ) = a f(x, σ)`` and one network serves all levels and
    brightnesses. What enters its convolutions is ``asinh`` of differences (filters of mean zero) and of intensities:
    without it an edge of a hundred σ drowns the noise, and nothing is learned. As in FFDNet (Zhang, Zuo and Zhang
    2018) the convolutions run on the four half-size images of every second pixel.

    channels: 1 for real images, 2 for complex ones; width: of the convolutions; depth: their number, the first with it.

    >>> net = ScaledDenoiser(channels=1, width=4, depth=3)
    >>> net(torch.ones(2, 1, 9, 8), torch.tensor([0.1, 0.2])).shape
    torch.Size([2, 1, 9, 8])
    """

    def __init__(self, *, channels: int = 2, width: int = 48, depth: int = 7) -> None:
        super().__init__()
        if min(channels, width) < 1 or depth < 2:
            raise SettingError(f"{channels} channels, width {width}, depth {depth}",
                               expected="one or more, depth 2 or more", remedy="correct the numbers")
        self.channels, self.width, self.depth = channels, width, depth
        self.filters = nn.Parameter(torch.randn(width, channels, 4, 3, 3) / (36 * channels) ** 0.5)
        layers: list[nn.Module] = []
        for a, b in pairwise((width + 4 * channels, *[width] * (depth - 2), 4 * channels)):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]

    def settings(self) -> dict[str, int]:
        """The constructor's arguments."""
        return {"channels": self.channels, "width": self.width, "depth": self.depth}

    @classmethod
    def from_weight(cls, settings: Mapping[str, int], state: dict[str, Tensor]) -> ScaledDenoiser:
        """The network of a card's settings with its parameters, in evaluation mode."""
        net = cls(**settings)
        net.load_state_dict(state)
        return net.eval()

    def forward(self, images: Float[Tensor, "rows channel y x"], noise: Float[Tensor, " rows"]
                ) -> Float[Tensor, "rows channel y x"]:
        height, width = images.shape[-2:]
        level = noise[:, None, None, None].clamp_min(1e-12)
        even = F.pad(images / level, (0, width % 2, 0, height % 2), mode="replicate")
        quarters = F.pixel_unshuffle(even, 2)
        filters = (self.filters - self.filters.mean(dim=(2, 3, 4), keepdim=True)).flatten(1, 2)
        differences = F.conv2d(F.pad(quarters, (1, 1, 1, 1), mode="replicate"), filters)
        found = self.layers(torch.cat((differences.asinh(), quarters.asinh()), dim=1))
        return images - level * F.pixel_shuffle(found, 2)[..., :height, :width]
