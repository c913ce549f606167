"""MoDL (Aggarwal et al. 2019): one denoiser and the exact solution of data consistency, in turn, to a fixed point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Complex, Num
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.nets.cascade import over_cines
from firstread.nets.residual import Kernel, ResidualBlock
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.fixed_point import fixed_point
from firstread.ops.solve import solve


def modl_step(image: Complex[Tensor, "batch time 1 z y x"], rhs: Complex[Tensor, "batch time 1 z y x"],
              encoding: CartesianEncoding, denoise: Callable[[Tensor], Tensor], weight: Num[Tensor, ""], *,
              steps: int = 20, tolerance: float = 1e-6) -> Complex[Tensor, "batch time 1 z y x"]:
    """``argmin_x ‖E x - y‖² + μ ‖x - D(z)‖² = (EᴴE + μ)⁻¹ (Eᴴy + μ D(z))`` about the image z.

    rhs: ``Eᴴ y``; steps, tolerance: of the conjugate gradients, whose gradient is that of the solution.
    """
    return solve(lambda x: encoding.gram(x) + weight * x, rhs + weight * denoise(image), start=image.detach(),
                 iterations=steps, tolerance=tolerance, systems=3)


class ModelBased(nn.Module):
    """The denoiser ``D(x) = x + N(x)``, N a residual block, and ``modl_step`` over and over with the same weights.

    iterations: of MoDL at most. implicit: go on until the image changes by less than ``tolerance`` and differentiate
    the fixed point, at the memory of one step whatever the iterations; else all iterations are taken and kept for the
    gradient, as published.
    depth, width, kernel: of N, which is zero at first. consistency: first value of the trained weight μ.
    steps: of conjugate gradients per iteration at most; their gradient is implicit too.

    The fixed point exists where the step contracts, which training keeps but nothing enforces.

    >>> net = ModelBased(iterations=3, depth=2, width=4)
    >>> image = torch.ones(1, 1, 1, 1, 8, 8, dtype=torch.complex64)
    >>> encoding = CartesianEncoding(mask=torch.ones(1, 1, 1, 1, 8, 1))
    >>> torch.allclose(net(encoding(image), encoding), image, atol=1e-4)
    True
    """

    def __init__(self, *, iterations: int = 10, implicit: bool = False, tolerance: float = 1e-3, depth: int = 5,
                 width: int = 32, kernel: Kernel = "yx", consistency: float = 0.05, steps: int = 10):
        super().__init__()
        if min(iterations, width, steps) < 1 or depth < 2 or not consistency > 0:
            raise SettingError(f"{iterations} iterations of depth {depth}, width {width}, {steps} steps, consistency "
                               f"{consistency}", expected="one or more of each, depth 2 or more, a consistency above 0",
                               remedy="correct the numbers")
        self.iterations, self.implicit, self.tolerance = iterations, implicit, tolerance
        self.depth, self.width, self.kernel, self.consistency, self.steps = depth, width, kernel, consistency, steps
        self.block = ResidualBlock(channels=2, depth=depth, width=width, kernel=kernel)
        self.log_weight = nn.Parameter(torch.tensor(float(consistency)).log())

    @classmethod
    def from_weight(cls, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> ModelBased:
        """The network of a weight file: its card's ``network`` and its parameters."""
        net = cls(iterations=int(settings["iterations"]), implicit=bool(settings["implicit"]),
                  tolerance=float(settings["tolerance"]), depth=int(settings["depth"]), width=int(settings["width"]),
                  kernel=settings["kernel"], consistency=float(settings["consistency"]), steps=int(settings["steps"]))
        net.load_state_dict(dict(state))
        return net.eval()

    def settings(self) -> dict[str, Any]:
        """What ``from_weight`` needs besides the parameters."""
        return {"iterations": self.iterations, "implicit": self.implicit, "tolerance": self.tolerance,
                "depth": self.depth, "width": self.width, "kernel": self.kernel, "consistency": self.consistency,
                "steps": self.steps}

    def denoise(self, image: Complex[Tensor, "batch time 1 z y x"]) -> Complex[Tensor, "batch time 1 z y x"]:
        """``D(x)``."""
        return image + over_cines(self.block, [image])

    def forward(self, measured: Complex[Tensor, "batch time coil z y x"], encoding: CartesianEncoding
                ) -> Complex[Tensor, "batch time 1 z y x"]:
        """The image, in the units of the measurements, which are to be of brightness about one."""
        if encoding.sets > 1:
            raise SettingError(f"{encoding.sets} sets of coil maps for MoDL", expected="one image per frame",
                               remedy="estimate the maps with sets=1")
        rhs, weight = encoding.adjoint(measured), self.log_weight.exp()

        def step(image: Tensor) -> Tensor:
            return modl_step(image, rhs, encoding, self.denoise, weight, steps=self.steps)

        if self.implicit:
            return fixed_point(step, rhs, iterations=self.iterations, tolerance=self.tolerance)
        image = rhs
        for _ in range(self.iterations):
            image = step(image)
        return image
