"""A network that computes in another precision than what it is given."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class InPrecision(nn.Module):
    """``y = network(x rounded to dtype)``, given back in the precision of ``x``; the network's weights are rounded too.

    ``torch.bfloat16`` keeps 8 of the 24 bits that a number's size is known by: about half the time where the processor
    has instructions for it (AVX-512 BF16, AMX, GPUs), more time where it has not. Differentiable.

    >>> InPrecision(nn.Conv2d(1, 2, 3), torch.bfloat16)(torch.ones(1, 1, 5, 5)).dtype
    torch.float32
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network.to(dtype), dtype

    def forward(self, x: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch classes *other"]:
        return self.network(x.to(self.dtype)).to(x.dtype)
