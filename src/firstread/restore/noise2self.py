"""Self-supervised denoising of an image by itself alone (Noise2Self, Batson and Royer 2019)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.core.records import Image
from firstread.core.stage import Stage
from firstread.restore.denoise import check_finite, noted


def masks(shape: tuple[int, int], grid: int) -> Bool[Tensor, "mask y x"]:
    """The grid² interleaved sets of pixels that partition an image.

    >>> masks((2, 2), 2).int().sum(dim=0).tolist()
    [[1, 1], [1, 1]]
    """
    y, x = torch.arange(shape[0]) % grid, torch.arange(shape[1]) % grid
    return torch.stack([(y == a)[:, None] & (x == b) for a in range(grid) for b in range(grid)])


def without_centre(images: Float[Tensor, "rows channel y x"], mask: Bool[Tensor, "y x"]
                   ) -> Float[Tensor, "rows channel y x"]:
    """Images whose masked pixels are the mean of their four neighbours, so that their own noise is not seen."""
    wide = F.pad(images, (1, 1, 1, 1), mode="reflect")
    around = (wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1] + wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:]) / 4
    return torch.where(mask, around, images)


class Noise2Self(Stage):
    """A small network trained on this image alone predicts every pixel from the others (J-invariance).

    ``min_f Σ_J ‖f(x_{Jᶜ})_J - x_J‖²``, J a grid of pixels; the result puts the predictions of all J together. The noise
    must be independent from pixel to pixel: not after zero filling, interpolation or filters.

    steps: of training per batch row, on ``planes`` planes each; width, depth: of the network; grid: distance of the
    pixels of one J. Reads an Image, writes the Image "denoised". No gradient.
    """

    result = "denoised"
    differentiable = False

    def __init__(self, *, steps: int = 300, width: int = 24, depth: int = 4, grid: int = 4, planes: int = 8):
        super().__init__()
        if min(steps, width, planes) < 1 or depth < 2 or grid < 2:
            raise SettingError(f"{steps} steps, width {width}, depth {depth}, grid {grid}, {planes} planes",
                               expected="one or more of each, depth and grid 2 or more", remedy="correct the setting")
        self.steps, self.width, self.depth, self.grid, self.planes = steps, width, depth, grid, planes

    def forward(self, image: Image, key: Key) -> Image:
        check_finite(image)
        if min(image.data.shape[-2:]) < self.grid:
            raise SettingError(f"planes of {tuple(image.data.shape[-2:])}", expected=f"{self.grid} pixels or more",
                               remedy="use a smaller `grid`")
        with torch.inference_mode(False):
            rows = zip(image.data.detach().clone(), key.generators(image.rows), strict=True)
            return noted(replace(image, data=torch.stack([self._row(row, generator) for row, generator in rows])))

    def _row(self, row: Tensor, generator: Generator) -> Tensor:
        planes = torch.view_as_real(row).movedim(-1, -3) if row.is_complex() else row[..., None, :, :]
        planes = planes.flatten(0, 2).float()
        scale = planes.abs().mean().clamp(min=1e-30)
        planes = planes / scale
        places = masks((planes.shape[-2], planes.shape[-1]), self.grid).to(planes.device)
        net = self._network(planes.shape[1], generator).to(planes.device)
        optimizer = torch.optim.Adam(net.parameters(), 2e-3)
        with torch.enable_grad():
            for _ in range(self.steps):
                mask = places[int(torch.randint(len(places), (), generator=generator))]
                some = planes[torch.randint(len(planes), (min(self.planes, len(planes)),), generator=generator)]
                optimizer.zero_grad()
                (net(without_centre(some, mask)) - some)[..., mask].square().mean().backward()
                optimizer.step()
        made = torch.zeros_like(planes)
        with torch.no_grad():
            for mask in places:
                made += net(without_centre(planes, mask)) * mask
        made = (made * scale).unflatten(0, row.shape[:3])
        made = torch.view_as_complex(made.movedim(-3, -1).contiguous()) if row.is_complex() else made.squeeze(-3)
        return made.to(row.dtype)

    def _network(self, channels: int, generator: Generator) -> nn.Module:
        layers: list[nn.Module] = []
        for a, b in pairwise((channels, *[self.width] * (self.depth - 1), channels)):
            convolution = nn.utils.skip_init(nn.Conv2d, a, b, 3, padding=1, padding_mode="reflect")
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(convolution.bias)
            layers += [convolution, nn.ReLU()]
        return nn.Sequential(*layers[:-1])
