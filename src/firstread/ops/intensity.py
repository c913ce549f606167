"""Signal scaling that does not depend on the scanner's units."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError


def scale_percentiles(data: Float[Tensor, " rows *rest"], *, low: float = 0.01, high: float = 0.99,
                      most: int = 16384) -> Float[Tensor, " rows *rest"]:
    """Each row mapped so that its ``low`` and ``high`` quantiles become 0 and 1; not clipped.

    ``(v - q_low) / (q_high - q_low)``. Of rows longer than ``most`` an evenly spaced part is used for the quantiles.
    A row of one value becomes zero.

    >>> scale_percentiles(torch.tensor([[0.0, 5.0, 10.0]]), low=0.0, high=1.0)
    tensor([[0.0000, 0.5000, 1.0000]])
    """
    flat = data.flatten(1)
    flat = flat[:, ::max(1, flat.shape[1] // most)]
    single = flat if flat.dtype == torch.float64 else flat.float()
    bounds = torch.quantile(single, torch.tensor([low, high]).to(single), dim=1).to(data.dtype)
    shape = (-1, *(1,) * (data.ndim - 1))
    bottom, top = bounds[0].reshape(shape), bounds[1].reshape(shape)
    return (data - bottom) / (top - bottom).clamp(min=1e-12) * (top > bottom)


def scale_values(data: Float[Tensor, "time z y x"], kind: str, *, low: float = 0.0, high: float = 1.0,
                 mean: float = 0.0, sd: float = 1.0) -> Float[Tensor, "time z y x"]:
    """One channel of one image, all frames together, as a network is to see it.

    ``zscore``: ``(v - mean) / sd`` of the image itself; ``percentiles``: the 1st and 99th become 0 and 1; ``window``:
    ``(clip(v, low, high) - mean) / sd`` with the given numbers. An image of one value becomes zero (the first two).

    >>> scale_values(torch.tensor([0.0, 2.0]).reshape(1, 1, 1, 2), "zscore").flatten().tolist()
    [-1.0, 1.0]
    """
    if kind == "zscore":
        return (data - data.mean()) / data.std(correction=0).clamp(min=1e-8)
    if kind == "percentiles":
        return scale_percentiles(data[None])[0]
    if kind == "window":
        return (data.clamp(low, high) - mean) / sd
    raise SettingError(f"a normalization {kind!r}", expected="zscore, percentiles or window", remedy="correct the plan")
