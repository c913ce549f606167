"""A network over windows of an image, placed and blended as the program that trained it does.

Source: Isensee et al., Nature Methods 18, 203 (2021). :mod:`firstread.analyze.tiles` is the same idea for our own
networks; this one follows others' places, padding and rounding, so that their models say here what they say there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain, combinations, product
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.tiles import window_starts, window_weight

Network = Callable[[Tensor], Tensor]


def even_starts(size: int, window: int, step: float) -> list[int]:
    """Starts of windows that cover ``size``, at most ``step`` of a window apart, all steps alike.

    >>> even_starts(110, 64, 0.5)
    [0, 23, 46]
    """
    count = math.ceil((size - window) / (window * step)) + 1
    gap = (size - window) / (count - 1) if count > 1 else 0.0
    return [round(gap * i) for i in range(count)]


def gaussian_weight(window: Sequence[int]) -> Float[Tensor, "*window"]:
    """``10 exp(-((i - w // 2) / (w / 8))^2 / 2)`` along each axis, multiplied, rounded to half precision.

    Where half precision has none left, the least that it has.

    >>> gaussian_weight((4,)).tolist()
    [0.0033550262451171875, 1.353515625, 10.0, 1.353515625]
    """
    weight = torch.full((), 10.0, dtype=torch.float64)
    for size in window:
        off = (torch.arange(size, dtype=torch.float64) - size // 2) / (size / 8)
        weight = weight.unsqueeze(-1) * torch.exp(-0.5 * off.square())
    half = weight.half().float()
    return torch.where(half == 0, half[half > 0].min(), half)


def mirrored(network: Network, axes: Sequence[int]) -> Network:
    """The mean of what ``network`` says of its input flipped along every combination of ``axes``, flipped back.

    axes: of the space behind batch and channel.
    """
    if not axes:
        return network
    flips = [[axis + 2 for axis in some]
             for some in chain.from_iterable(combinations(axes, n) for n in range(1, len(axes) + 1))]

    def mean(batch: Tensor) -> Tensor:
        total = network(batch)
        for flip in flips:
            total = total + network(batch.flip(flip)).flip(flip)
        return total / (len(flips) + 1)

    return mean


def windowed(network: Network, volume: Float[Tensor, "channel d0 d1 d2"], *, window: tuple[int, ...],
             overlap: float = 0.5, blend: Literal["even", "gaussian", "constant"] = "even",
             mirror: Sequence[int] = ()) -> Float[Tensor, "classes d0 d1 d2"]:
    """``sum_k w_k network(x_k) / sum_k w_k`` over windows ``x_k`` of a volume, or of each of its slices.

    window: 3 sizes, or 2 for a network of slices (along d0). Smaller volumes are padded with zeros on both sides.
    blend: ``even`` as nnU-Net; ``gaussian`` and ``constant`` with the steps and weights of MONAI. Differentiable; holds
    one window and one output.

    >>> windowed(lambda x: 2 * x, torch.ones(1, 3, 10, 7), window=(4, 4)).unique()
    tensor([2.])
    """
    flat, run = len(window) == 2, mirrored(network, mirror)
    space = volume.shape[1:]
    missing = [max(0, w - s) for w, s in zip(window, space[1:] if flat else space, strict=True)]
    volume = F.pad(volume, [p for m in reversed(missing) for p in (m // 2, m - m // 2)])
    sizes = volume.shape[2:] if flat else volume.shape[1:]
    starts = [even_starts(size, width, 1 - overlap) if blend == "even" else window_starts(size, width, overlap)
              for size, width in zip(sizes, window, strict=True)]
    places = [tuple(slice(a, a + w) for a, w in zip(start, window, strict=True)) for start in product(*starts)]
    if flat:
        places = [(z, *place) for z in range(space[0]) for place in places]
    weight = gaussian_weight(window) if blend == "even" else window_weight(window, "gaussian")
    weight = (torch.ones_like(weight) if blend == "constant" else weight).to(volume.device)
    total = volume.new_zeros(volume.shape[1:])
    out: Tensor | None = None
    for place in places:
        made = run(volume[(slice(None), *place)][None])[0] * weight
        if out is None:
            out = made.new_zeros((made.shape[0], *volume.shape[1:]))
        out[(slice(None), *place)] += made
        total[place] += weight
    assert out is not None
    first = ([0] if flat else []) + [m // 2 for m in missing]
    return (out / total)[(slice(None), *(slice(a, a + s) for a, s in zip(first, space, strict=True)))]
