"""Super-resolution across thick slices: a residual network on the slices' own grid, and the slice profile as a layer.

The volume is ``factor`` times as fine along z as the stack. Every block sees the volume folded to the stack's grid (the
``factor`` voxels of a slice as channels), so that convolutions run at the cost of the stack, and adds a residual; then
the volume is made to agree with the slices that were measured. After Oktay et al. 2016 (residual network, learned
upsampling, several views) with the data consistency of Schlemper et al. 2018 in place of a learned fusion.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.ops.spline import finer_places, interpolation_matrix


def fold(volume: Float[Tensor, "batch 1 Z y x"], factor: int) -> Float[Tensor, "batch factor z y x"]:
    """The ``factor`` voxels of each slice as channels.

    >>> fold(torch.arange(4.0).reshape(1, 1, 4, 1, 1), 2)[0, :, :, 0, 0].tolist()
    [[0.0, 2.0], [1.0, 3.0]]
    """
    return volume.unflatten(2, (-1, factor))[:, 0].transpose(1, 2)


def unfold(channels: Float[Tensor, "batch factor z y x"]) -> Float[Tensor, "batch 1 Z y x"]:
    """The inverse of ``fold``."""
    return channels.transpose(1, 2).flatten(1, 2)[:, None]


def smooth_prior(voxels: int, reach: float) -> Float[Tensor, "voxel voxel"]:
    """Covariance along z of what a volume may be wrong by: ``G_ij = exp(-(i - j)² / (2 reach²))``.

    >>> smooth_prior(2, 1.0)[0].tolist()
    [1.0, 0.6065306663513184]
    """
    index = torch.arange(voxels)
    return torch.exp(-((index[:, None] - index) ** 2) / (2 * reach**2))


def consistent_volume(volume: Float[Tensor, "batch 1 Z y x"], slices: Float[Tensor, "batch 1 z y x"],
                      weights: Float[Tensor, "#batch z Z"], noise: Float[Tensor, ""], prior: Float[Tensor, "Z Z"]
                      ) -> Float[Tensor, "batch 1 Z y x"]:
    """The volume nearest to ``volume`` that explains the slices: ``argmin_x ‖W x - y‖² + μ (x - v)ᵀ G⁻¹ (x - v)``.

    In closed form ``v + G Wᵀ (W G Wᵀ + μ)⁻¹ (y - W v)``. weights: the slice profile W; noise: μ > 0, large where the
    slices are not to be trusted; prior: G, which spreads a correction over neighbouring voxels.
    """
    seen = weights @ prior
    gain = torch.linalg.solve(seen @ weights.mT + noise * torch.eye(len(weights[0]), dtype=seen.dtype), seen)
    missing = slices - torch.einsum("bkj,bcjyx->bckyx", weights.expand(len(volume), -1, -1), volume)
    return volume + torch.einsum("bkj,bckyx->bcjyx", gain.expand(len(volume), -1, -1), missing)


class SuperResolution(nn.Module):
    """A stack of thick slices, its slice profile and (where there are some) long-axis values to a volume.

    factor: voxels per slice; width, depth: channels and convolutions of a block; blocks: residual blocks, each followed
    by data consistency. Images should be of brightness about 1.

    >>> net = SuperResolution(factor=2, width=4, depth=2, blocks=1)
    >>> weights = torch.tensor([[[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]])
    >>> net(torch.ones(1, 1, 2, 8, 8), weights).shape
    torch.Size([1, 1, 4, 8, 8])
    """

    def __init__(self, *, factor: int = 5, width: int = 24, depth: int = 4, blocks: int = 2) -> None:
        super().__init__()
        if min(factor, width, blocks) < 1 or depth < 2:
            raise SettingError(f"factor {factor}, width {width}, depth {depth}, {blocks} blocks",
                               expected="one or more of each, depth 2 or more", remedy="correct the numbers")
        self.factor, self.width, self.depth = factor, width, depth
        self.blocks = nn.ModuleList(_block(3 * factor + 1, width, depth, factor) for _ in range(blocks))
        self.log_noise = nn.Parameter(torch.full((blocks,), -4.0))

    @classmethod
    def from_weight(cls, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> SuperResolution:
        """The network of a weight file: its card's ``network`` and its parameters."""
        net = cls(**{name: int(settings[name]) for name in ("factor", "width", "depth", "blocks")})
        net.load_state_dict(dict(state))
        return net.eval()

    def settings(self) -> dict[str, int]:
        """What ``from_weight`` needs besides the parameters."""
        return {"factor": self.factor, "width": self.width, "depth": self.depth, "blocks": len(self.blocks)}

    def forward(self, slices: Float[Tensor, "batch 1 z y x"], weights: Float[Tensor, "#batch z Z"],
                views: Float[Tensor, "batch 2 Z y x"] | None = None) -> Float[Tensor, "batch 1 Z y x"]:
        """weights: the slice profile, ``Z = factor z``; views: long-axis values where a view passes, zero elsewhere,
        and how surely (0 to 1)."""
        size = slices.shape[2]
        if weights.shape[1:] != (size, self.factor * size):
            raise SettingError(f"a slice profile of {tuple(weights.shape[1:])} for {size} slices",
                               expected=f"[{size}, {self.factor * size}]", remedy="make the volume's grid by `factor`")
        spline = interpolation_matrix(size, finer_places(size, self.factor)).to(slices)
        volume = torch.einsum("jk,bckyx->bcjyx", spline, slices)
        prior = smooth_prior(size * self.factor, self.factor / 3).to(slices)
        seen = slices.new_zeros(len(slices), 2, *volume.shape[2:]) if views is None else views
        folded = [fold(part, self.factor) for part in seen.split(1, dim=1)]
        for block, log_noise in zip(self.blocks, self.log_noise, strict=True):
            volume = volume + unfold(block(torch.cat((fold(volume, self.factor), slices, *folded), dim=1)))
            volume = consistent_volume(volume, slices, weights, log_noise.exp(), prior)
        return volume


def _block(channels_in: int, width: int, depth: int, channels_out: int) -> nn.Sequential:
    """A convolution of 3x3x3, others of 1x3x3, rectifiers between; begins by adding nothing."""
    layers: list[nn.Module] = []
    for number, (a, b) in enumerate(pairwise((channels_in, *[width] * (depth - 1), channels_out))):
        z = 1 if number == 0 else 0
        layer = nn.Conv3d(a, b, (2 * z + 1, 3, 3))
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
        layers += [_Replicate(z), layer, nn.ReLU()]
    nn.init.zeros_(layers[-2].weight)
    return nn.Sequential(*layers[:-1])


class _Replicate(nn.Module):
    """Padding by the nearest voxel, ``z`` voxels along z and one along y and x."""

    def __init__(self, z: int) -> None:
        super().__init__()
        self.z = z

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (1, 1, 1, 1, self.z, self.z), mode="replicate")
