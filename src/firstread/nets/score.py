"""A noise-conditional denoiser of complex cines, which is the score of a prior on them.

By Tweedie's formula ``∇ log p_σ(x) = (D(x, σ) - x) / σ²`` (complex x; Efron 2011): whoever removes white noise of any
level knows how images are distributed. Preconditioned as by Karras et al. 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.nets.residual import shift_frames

SPREAD = 0.5  # root mean square of the images of brightness 1 that it is made for


def posterior_variance(noise: Float[Tensor, "*shape"], spread: float = SPREAD) -> Float[Tensor, "*shape"]:
    """Of white images of variance ``spread²`` seen in noise of standard deviation σ: ``σ² s² / (σ² + s²)``.

    >>> posterior_variance(torch.tensor([0.0, 0.5]), 0.5).tolist()
    [0.0, 0.125]
    """
    return noise.square() * spread**2 / (noise.square() + spread**2)


@runtime_checkable
class Denoiser(Protocol):
    """What reconstructions ask of a prior: mean and variance of a cine given it in noise of σ, and its settings."""

    def __call__(self, cine: Complex[Tensor, "time y x"], noise: Float[Tensor, ""]
                 ) -> tuple[Complex[Tensor, "time y x"], Float[Tensor, "time y x"]]: ...

    def settings(self) -> dict[str, Any]: ...


class CineDenoiser(nn.Module):
    """Noisy complex cine and its noise level in, posterior mean ``E[x₀ | x]`` and variance of every pixel out.

    A U-Net without normalization on the frames, which sees the average over time beside each frame and passes a quarter
    of its channels to each neighbouring frame in every block, circular in time. A single image is a cine of one frame.

    widths: channels at each scale; blocks: residual blocks at each scale, on the way down and on the way up.

    For images of brightness about one. σ is that of the complex noise, ``E|n|² = σ²``.

    >>> net = CineDenoiser(widths=(8, 8))
    >>> mean, variance = net(torch.ones(3, 12, 12, dtype=torch.complex64), torch.tensor(0.1))
    >>> mean.shape, variance.shape
    (torch.Size([3, 12, 12]), torch.Size([3, 12, 12]))
    """

    def __init__(self, *, widths: tuple[int, ...] = (16, 32, 48), blocks: int = 1) -> None:
        super().__init__()
        if not widths or min(widths) < 4 or blocks < 1:
            raise SettingError(f"widths {widths}, {blocks} blocks", expected="four channels or more, one block or more",
                               remedy="correct the numbers")
        self.widths, self.blocks = tuple(widths), blocks
        self.head = nn.Conv2d(5, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_blocks(width, blocks) for width in widths)
        self.coarser = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.finer = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_blocks(width, blocks) for width in widths[:-1])
        self.tail = nn.Conv2d(widths[0], 3, 3, padding=1)
        _to_zero(self.tail)

    @classmethod
    def from_weight(cls, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> CineDenoiser:
        """The network of a weight file: its card's ``network`` and its parameters."""
        net = cls(widths=tuple(settings["widths"]), blocks=int(settings["blocks"]))
        net.load_state_dict(dict(state))
        return net.eval()

    def settings(self) -> dict[str, Any]:
        """What ``from_weight`` needs besides the parameters."""
        return {"widths": list(self.widths), "blocks": self.blocks}

    def forward(self, cine: Complex[Tensor, "time y x"], noise: Float[Tensor, ""]
                ) -> tuple[Complex[Tensor, "time y x"], Float[Tensor, "time y x"]]:
        """Mean and variance (of the complex value) of the noiseless cine, given the noisy one and its σ."""
        parts = torch.view_as_real(cine).movedim(-1, 1)
        frames, (height, width) = len(parts), cine.shape[-2:]
        average = parts.mean(dim=0, keepdim=True) / (noise.square() / frames + SPREAD**2).sqrt()
        level = (noise.clamp_min(1e-6).log() / 4).expand(frames, 1, height, width)
        seen = torch.cat((parts / (noise.square() + SPREAD**2).sqrt(), average.expand_as(parts), level), dim=1)
        out = self._network(seen)
        largest = posterior_variance(noise)
        mean = parts * SPREAD**2 / (noise.square() + SPREAD**2) + largest.sqrt() * out[:, :2]
        variance = largest * out[:, 2].clamp(-9, 2).exp()
        return torch.view_as_complex(mean.movedim(1, -1).contiguous()), variance

    def _network(self, x: Float[Tensor, "time 5 y x"]) -> Float[Tensor, "time 3 y x"]:
        size, multiple = x.shape[-2:], 2 ** (len(self.widths) - 1)
        missing = [-n % multiple for n in size]
        x = self.head(F.pad(x, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else x)
        skips = []
        for scale, blocks in enumerate(self.down):
            x = blocks(x if scale == 0 else self.coarser[scale - 1](x))
            skips.append(x)
        x = skips.pop()
        for finer, blocks in zip(reversed(self.finer), reversed(self.up), strict=True):
            x = blocks(skips.pop() + F.interpolate(finer(x), scale_factor=2, mode="nearest"))
        return self.tail(F.relu(x))[..., : size[0], : size[1]]


class _Residual(nn.Module):
    """``x + W₂ relu(W₁ S relu(x))``, S the shift of channels between frames; the identity at first."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        _to_zero(self.second)

    def forward(self, x: Float[Tensor, "time channel y x"]) -> Float[Tensor, "time channel y x"]:
        return x + self.second(F.relu(self.first(shift_frames(F.relu(x)))))


def _to_zero(layer: nn.Conv2d) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Residual(width) for _ in range(count)))


def denoise(network: Denoiser, image: Complex[Tensor, "batch time 1 z y x"], noise: Float[Tensor, ""]
            ) -> tuple[Complex[Tensor, "batch time 1 z y x"], Float[Tensor, "batch time 1 z y x"]]:
    """``network`` on each cine of a stack, one (row, slice) after the other: memory stays bounded."""
    rows = [[network(row[:, 0, z], noise) for z in range(row.shape[2])] for row in image]
    means, variances = (torch.stack([torch.stack([cine[part] for cine in row], dim=1) for row in rows])[:, :, None]
                        for part in (0, 1))
    return means, variances
