"""The learned primal-dual network of Adler and Öktem (2018): line integrals in, image out, the projection inside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.ops.linear import LinearOp


class PrimalDualNetwork(nn.Module):
    """Unrolled primal-dual iterations whose proximal maps are small networks with memory, i = 1 … iterations::

        h ← h + Γ_i(h, A x₁, y)          on rays
        x ← x + Λ_i(x, Aᵀ h₁)            on images

    h and x have ``memory`` channels, of which the first goes through the projection; the result is ``x₁``. Γ and Λ are
    three 3 x 3 convolutions with PReLU; their last one is zero at first, so that training begins at ``start``. The
    paper begins at zero; filtered backprojection instead needs fewer iterations.

    >>> from firstread.core.sinogram import ParallelBeam
    >>> from firstread.ops.projection import Projection
    >>> beam = ParallelBeam.uniform(views=4, bins=6, bin_mm=1.0)
    >>> projection = Projection(beam=beam, shape=(6, 6), spacing_mm=(1.0, 1.0))
    >>> net = PrimalDualNetwork(iterations=2, memory=2, width=4)
    >>> net(torch.ones(1, 1, 4, 6), projection, torch.ones(1, 1, 6, 6)).shape
    torch.Size([1, 1, 6, 6])
    """

    def __init__(self, *, iterations: int = 5, memory: int = 5, width: int = 24):
        super().__init__()
        if iterations < 1 or memory < 1 or width < 1:
            raise SettingError(f"{iterations} iterations of {memory} channels, width {width}",
                               expected="one or more of each", remedy="correct the numbers")
        self.iterations, self.memory, self.width = iterations, memory, width
        self.dual = nn.ModuleList(_update(memory + 2, width, memory) for _ in range(iterations))
        self.primal = nn.ModuleList(_update(memory + 1, width, memory) for _ in range(iterations))

    @classmethod
    def from_weight(cls, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> PrimalDualNetwork:
        """The network of a weight file: its card's ``network`` and its parameters."""
        net = cls(iterations=int(settings["iterations"]), memory=int(settings["memory"]), width=int(settings["width"]))
        net.load_state_dict(dict(state))
        return net.eval()

    def settings(self) -> dict[str, Any]:
        """What ``from_weight`` needs besides the parameters."""
        return {"iterations": self.iterations, "memory": self.memory, "width": self.width}

    def forward(self, rays: Float[Tensor, "n 1 view bin"], projection: LinearOp, start: Float[Tensor, "n 1 y x"]
                ) -> Float[Tensor, "n 1 y x"]:
        """The image. rays: ``y = A x`` of images of about one, scaled so that ``‖A‖ = 1``; start: a first image."""
        x = start.expand(-1, self.memory, -1, -1)
        h = torch.zeros_like(rays).expand(-1, self.memory, -1, -1)
        for dual, primal in zip(self.dual, self.primal, strict=True):
            h = h + dual(torch.cat((h, projection(x[:, :1]), rays), dim=1))
            x = x + primal(torch.cat((x, projection.adjoint(h[:, :1])), dim=1))
        return x[:, :1]


def _update(channels_in: int, width: int, channels_out: int) -> nn.Sequential:
    last = nn.Conv2d(width, channels_out, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Conv2d(channels_in, width, 3, padding=1), nn.PReLU(width),
                         nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width), last)
