"""Iterative reconstructions: CG-SENSE and total variation, temporal and spatial."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import Image, KSpace
from firstread.core.stage import Stage
from firstread.ops.minimize import LeastSquares, Solution
from firstread.ops.solve import solve
from firstread.ops.variation import PLANE, TIME, solve_total_variation, total_variation
from firstread.reconstruct.noncartesian import any_problem_of
from firstread.reconstruct.problem import image_from, independent_axes
from firstread.reconstruct.regularized import Choice, Regularized


class CGSense(Stage):
    """Regularized least squares by conjugate gradients, frame by frame: ``min_x ‖E x - y‖² + λ ‖x‖²``.

    regularization: λ, relative to the largest possible eigenvalue of EᴴE.
    iterations, tolerance: when to stop (the relative residual of every frame below the tolerance).

    Reads a KSpace, writes the complex Image "reconstruction". The gradient is that of the solution, by one more solve.
    After Pruessmann et al. 2001.
    """

    result = "reconstruction"

    def __init__(self, *, regularization: float | int = 1e-2, iterations: int = 30, tolerance: float | int = 1e-4,
                 calibration_lines: int = 32):
        super().__init__()
        if regularization < 0 or iterations < 1 or tolerance < 0:
            raise SettingError(f"regularization {regularization}, {iterations} iterations, tolerance {tolerance}",
                               expected="λ ≥ 0, one iteration or more, tolerance ≥ 0", remedy="correct the setting")
        self.regularization, self.iterations, self.tolerance = regularization, iterations, tolerance
        self.calibration_lines = calibration_lines

    def forward(self, kspace: KSpace) -> Image:
        problem = any_problem_of(kspace, calibration_lines=self.calibration_lines)
        weight = self.regularization * problem.encoding.bound()
        image = solve(lambda x: problem.encoding.gram(x) + weight * x, problem.rhs(), iterations=self.iterations,
                      tolerance=self.tolerance, systems=independent_axes(problem.encoding))
        return image_from(kspace, image)


class _TotalVariation(Regularized):
    """Least squares with total variation along ``dims``."""

    dims: ClassVar[tuple[int, ...]]

    def solve(self, fit: LeastSquares, weight: Float[Tensor, "batch 1 1 1 1 1"]) -> Solution:
        return solve_total_variation(fit, weight, dims=self.dims, iterations=self.iterations,
                                     tolerance=self.tolerance)

    def penalty(self, x: Complex[Tensor, "batch time channel z y x"]) -> Float[Tensor, " batch"]:
        """``TV(x)``."""
        return total_variation(x, self.dims)


class TemporalTV(_TotalVariation):
    """Least squares with temporal total variation: ``min_x ½‖E x - y‖² + λ Σ |x_{t+1} - x_t|``, circular in time.

    regularization: λ, relative to the brightness of the image (99th percentile of the time average), or None:
        ``choice`` finds it.
    iterations, tolerance: when to stop (``ops.minimize.primal_dual``); the step sizes follow from the coils.

    Reads a KSpace, writes the complex Image "reconstruction". The gradient runs through the iterations.
    """

    dims = TIME

    def __init__(self, *, regularization: float | int | None = 3e-2, iterations: int = 60,
                 tolerance: float | int = 1e-4, choice: Choice = "sure", calibration_lines: int = 32):
        super().__init__(regularization=regularization, iterations=iterations, tolerance=tolerance, choice=choice,
                         calibration_lines=calibration_lines)


class SpatialTV(_TotalVariation):
    """Least squares with in-plane total variation, frame by frame, for single images (Block, Uecker and Frahm 2007).

    ``min_x ½‖E x - y‖² + λ Σ sqrt(|D_y x|² + |D_x x|²)``; settings as in TemporalTV.

    Reads a KSpace, writes the complex Image "reconstruction".
    """

    dims = PLANE

    def __init__(self, *, regularization: float | int | None = 2e-2, iterations: int = 100,
                 tolerance: float | int = 1e-4, choice: Choice = "sure", calibration_lines: int = 32):
        super().__init__(regularization=regularization, iterations=iterations, tolerance=tolerance, choice=choice,
                         calibration_lines=calibration_lines)
