"""Signal scaling that does not depend on the scanner's units."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


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
