"""Direct reconstructions: root sum of squares, and the adjoint (zero-filled, coil-combined)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.records import Image, KSpace
from firstread.core.stage import Stage
from firstread.ops.fourier import ifft
from firstread.reconstruct.problem import image_from, problem_of


def root_sum_of_squares(kspace: Complex[Tensor, "batch time coil z y x"], axes: Sequence[str] = ("y", "x")
                        ) -> Float[Tensor, "batch time 1 z y x"]:
    """``sqrt(Σ_c |F⁻¹ y_c|²)`` (Roemer et al. 1990).

    >>> import torch
    >>> root_sum_of_squares(torch.ones(1, 1, 4, 1, 1, 1, dtype=torch.complex64)).item()
    2.0
    """
    return ifft(kspace, axes).abs().square().sum(dim=2, keepdim=True).sqrt()


class ZeroFilled(Stage):
    """K-space to image by the adjoint of the encoding, ``x = Sᴴ Fᴴ M y``: what was not measured is zero.

    calibration_lines: the widest fully sampled centre that the coil sensitivities are estimated from.

    Reads a KSpace, writes the complex Image "zero_filled".
    """

    result = "zero_filled"

    def __init__(self, *, calibration_lines: int = 32):
        super().__init__()
        self.calibration_lines = calibration_lines

    def forward(self, kspace: KSpace) -> Image:
        return image_from(kspace, problem_of(kspace, calibration_lines=self.calibration_lines).rhs())
