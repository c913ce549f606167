"""Pairs of volumes whose true motion is known: what a registration network is trained on.

Objects of no anatomy in particular (SynthMorph, Hoffmann et al. 2022) and phantom heads, moved by random flows; both
images shaded and noisy, in one contrast or in two.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from firstread.acquire.head import head_phantom
from firstread.analyze.register_deformable import displacement
from firstread.core.keys import Key
from firstread.ops.intensity import scale_percentiles
from firstread.ops.separable import smooth
from firstread.ops.velocity import sample_at

SIZE, MARGIN, HEADS = 32, 4, 24  # voxels of an example; drawn around it, so that things come in from outside; phantoms
LARGE = 2.5  # voxels of the velocity's grid: the most that the 95th percentile of its length is
SHARE_HEADS, SHARE_CONTRASTS, SHARE_BODY = 0.3, 0.3, 0.7


class Pair(NamedTuple):
    """Images as a network sees them, the velocity from one to the other, and the images without noise and shading."""

    fixed: Float[Tensor, "row z y x"]
    moving: Float[Tensor, "row z y x"]
    velocity: Float[Tensor, "row 3 hz hy hx"]
    clean_fixed: Float[Tensor, "row z y x"]
    clean_moving: Float[Tensor, "row z y x"]


def pairs(number: int, *, seed: int, rows: int) -> Pair:
    """``rows`` examples, a function of both numbers alone; velocities are in voxels of their own, halved grid.

    >>> pairs(0, seed=0, rows=1).velocity.shape
    torch.Size([1, 3, 16, 16, 16])
    """
    made = [_pair(Key(seed, "register_pairs").generator(number, row)) for row in range(rows)]
    return Pair(*(torch.stack(part) for part in zip(*made, strict=True)))


def _pair(generator: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    size, half = SIZE + 2 * MARGIN, SIZE // 2 + MARGIN
    moving, other = _head(generator) if _uniform(generator) < SHARE_HEADS else _object(generator, size)
    velocity = _flow(generator, half)
    field = displacement(velocity[None], (size, size, size))
    clean, fixed = sample_at(torch.stack((moving, other))[None], field)[0]
    inner, inner_half = slice(MARGIN, -MARGIN), slice(MARGIN // 2, -(MARGIN // 2))
    cut = [image[inner, inner, inner] for image in (fixed, moving, clean, moving)]
    seen = [_unit(_seen(generator, image)) for image in cut[:2]]
    return seen[0], seen[1], velocity[:, inner_half, inner_half, inner_half], _unit(cut[2]), _unit(cut[3])


def _flow(generator: Generator, size: int) -> Float[Tensor, "3 z y x"]:
    """A sum of a slow and a faster random field, of ``LARGE`` voxels at most."""
    made = torch.zeros(3, size, size, size)
    for low, high in ((4.0, 8.0), (1.5, 3.5)):
        sd = low + (high - low) * _uniform(generator)
        part = smooth(torch.randn(3, size, size, size, generator=generator), (sd, sd, sd))
        made = made + part * (_uniform(generator) / part.std())
    return made * (LARGE * (0.1 + 0.9 * _uniform(generator)) / made.norm(dim=0).quantile(0.95))


def _object(generator: Generator, size: int) -> tuple[Tensor, Tensor]:
    """Regions where one of several random fields is the largest, in two contrasts; mostly with air around them."""
    fields = []
    for low, high in ((4.0, 8.0), (1.5, 4.0)):
        count, sd = 2 + int(5 * _uniform(generator)), low + (high - low) * _uniform(generator)
        part = smooth(torch.randn(count, size, size, size, generator=generator), (sd, sd, sd))
        fields.append(part / part.std() + _uniform(generator) - 0.5)
    region = torch.cat(fields).argmax(dim=0)
    levels = torch.rand(2, sum(len(part) for part in fields), generator=generator)
    if _uniform(generator) > SHARE_CONTRASTS:
        levels[1] = levels[0] ** (0.6 + _uniform(generator))
    cover = torch.ones(size, size, size)
    if _uniform(generator) < SHARE_BODY:
        line = torch.linspace(-1, 1, size)
        z, y, x = (shift + scale * line for shift, scale in zip(
            (0.3 * torch.rand(3, generator=generator) - 0.15).tolist(),
            (1.2 + 0.7 * torch.rand(3, generator=generator)).tolist(), strict=True))
        bend = smooth(torch.randn(size, size, size, generator=generator), (6.0, 6.0, 6.0))
        radius = (z[:, None, None] ** 2 + y[:, None] ** 2 + x**2).sqrt()
        cover = torch.sigmoid(15 * (1.0 + 0.12 * bend / bend.std() - radius))
    one, two = (smooth(level[region] * cover, (0.5, 0.5, 0.5)) for level in levels)
    return one, two


@lru_cache(maxsize=2 * HEADS)
def _phantom(number: int, spacing_mm: float) -> Float[Tensor, "z y x"]:
    return head_phantom(seed=number, spacing_mm=spacing_mm, field_mm=(SIZE + 2 * MARGIN + 0.5) * spacing_mm)[0]


def _head(generator: Generator) -> tuple[Tensor, Tensor]:
    number = int(HEADS * _uniform(generator))
    image = _phantom(number, 2.0 if _uniform(generator) < 0.5 else 2.8).clamp(0, 1)
    if _uniform(generator) < SHARE_CONTRASTS:
        return image, (image / 0.1).clamp(0, 1) * (1.1 - image) ** (0.8 + _uniform(generator))
    return image, image ** (0.6 + _uniform(generator))


def _seen(generator: Generator, image: Tensor) -> Tensor:
    """With slow shading and noise."""
    shade = smooth(torch.randn(image.shape, generator=generator), (10.0, 10.0, 10.0))
    shaded = image * (1 + 0.2 * _uniform(generator) * shade / shade.std()).clamp(0.4, 1.8)
    return shaded + 0.05 * _uniform(generator) * torch.randn(image.shape, generator=generator)


def _unit(image: Tensor) -> Tensor:
    return scale_percentiles(image[None], low=0.001, high=0.999).clamp(-0.1, 1.1)[0]


def _uniform(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))
