"""Compressed sensing: sparsity of wavelet coefficients."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.ops.fourier import dimensions
from firstread.ops.minimize import LeastSquares, Solution, fista
from firstread.ops.wavelet import Family, shrink_details
from firstread.reconstruct.regularized import Regularized


class Wavelet(Regularized):
    """Least squares with sparse wavelet coefficients, by FISTA: ``min_x ½‖E x − y‖² + λ ‖details of W x‖₁``.

    regularization: λ, relative to the brightness of the image (99th percentile of the time average).
    iterations, tolerance: when to stop (``ops.minimize.fista``).
    axes: of the transform; ``("z", "y", "x")`` for volumes. levels, family: of the wavelet.
    cycle_spinning: a new circular shift of the transform in every iteration, against block artefacts; the same shifts
        in every run.

    Reads a KSpace, writes the complex Image "reconstruction". After Lustig, Donoho and Pauly 2007.
    """

    def __init__(self, *, regularization: float | int = 1e-2, iterations: int = 60, tolerance: float | int = 1e-4,
                 axes: tuple[str, ...] = ("y", "x"), levels: int = 4, family: Family = "haar",
                 cycle_spinning: bool = True, calibration_lines: int = 32):
        super().__init__(regularization=regularization, iterations=iterations, tolerance=tolerance,
                         calibration_lines=calibration_lines)
        self.dims = dimensions(axes)
        self.axes, self.levels, self.family, self.cycle_spinning = axes, levels, family, cycle_spinning

    def solve(self, fit: LeastSquares, weight: Float[Tensor, "batch 1 1 1 1 1"],
              start: Complex[Tensor, "batch time 1 z y x"] | None = None) -> Solution:
        generator = torch.Generator().manual_seed(0)

        def proximal(v: Tensor, step: float) -> Tensor:
            shift = None
            if self.cycle_spinning:
                shift = torch.randint(2**self.levels, (len(self.dims),), generator=generator).tolist()
            return shrink_details(v, step * weight, self.dims, levels=self.levels, family=self.family, shift=shift)

        return fista(fit, proximal, start=start, iterations=self.iterations, tolerance=self.tolerance)
