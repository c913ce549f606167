"""Iterative reconstructions: CG-SENSE and total variation, temporal and spatial."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.records import Image, KSpace
from firstread.core.stage import Stage
from firstread.ops.minimize import LeastSquares, Solution
from firstread.ops.solve import solve
from firstread.ops.variation import PLANE, TIME, solve_total_variation, total_variation
from firstread.reconstruct.choice import Choice, Penalized, automatic_weight
from firstread.reconstruct.noncartesian import any_problem_of
from firstread.reconstruct.problem import image_from, independent_axes
from firstread.reconstruct.regularized import Regularized, check_settings


class CGSense(Stage):
    """Regularized least squares by conjugate gradients, frame by frame: ``min_x ‖E x - y‖² + λ ‖x‖²``.

    regularization: λ, relative to the largest possible eigenvalue of EᴴE, or None: ``choice`` finds it
        (``Regularized``), with a note.
    iterations, tolerance: when to stop (the relative residual of every frame below the tolerance).

    Reads a KSpace, writes the complex Image "reconstruction". The gradient is that of the solution, by one more solve.
    After Pruessmann et al. 2001.
    """

    result = "reconstruction"
    usual = 1e-2

    def __init__(self, *, regularization: float | int | None = usual, iterations: int = 30,
                 tolerance: float | int = 1e-4, choice: Choice = "sure", calibration_lines: int = 32):
        super().__init__()
        check_settings(regularization, iterations, tolerance, choice)
        self.regularization, self.iterations, self.tolerance = regularization, iterations, tolerance
        self.choice, self.calibration_lines = choice, calibration_lines

    def forward(self, kspace: KSpace) -> Image:
        problem = any_problem_of(kspace, calibration_lines=self.calibration_lines)
        systems, bound, notes = independent_axes(problem.encoding), problem.encoding.bound(), []

        def image(fit: LeastSquares, relative: Tensor) -> Tensor:
            weight = relative.reshape(-1, *[1] * 5) * bound
            return solve(lambda x: fit.gram(x) + weight * x, fit.rhs, iterations=self.iterations,
                         tolerance=self.tolerance, systems=systems)

        if self.regularization is None:
            method = Penalized(image, _energy, self.usual, together=False)
            relative, note = automatic_weight(kspace, problem, method, self.choice, self.name)
            notes.append(note)
        else:
            relative = torch.full((1,), self.regularization, dtype=problem.measured.real.dtype,
                                  device=problem.measured.device)
        made = image(LeastSquares(problem.encoding.gram, problem.rhs(), bound), relative)
        return image_from(kspace, made).noted(*notes)


def _energy(x: Tensor) -> Tensor:
    return torch.view_as_real(x).square().flatten(1).sum(dim=1)


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

    dims, usual, together = TIME, 3e-2, True

    def __init__(self, *, regularization: float | int | None = usual, iterations: int = 60,
                 tolerance: float | int = 1e-4, choice: Choice = "sure", calibration_lines: int = 32):
        super().__init__(regularization=regularization, iterations=iterations, tolerance=tolerance, choice=choice,
                         calibration_lines=calibration_lines)


class SpatialTV(_TotalVariation):
    """Least squares with in-plane total variation, frame by frame, for single images (Block, Uecker and Frahm 2007).

    ``min_x ½‖E x - y‖² + λ Σ sqrt(|D_y x|² + |D_x x|²)``; settings as in TemporalTV.

    Reads a KSpace, writes the complex Image "reconstruction".
    """

    dims, usual, together = PLANE, 2e-2, False

    def __init__(self, *, regularization: float | int | None = usual, iterations: int = 100,
                 tolerance: float | int = 1e-4, choice: Choice = "sure", calibration_lines: int = 32):
        super().__init__(regularization=regularization, iterations=iterations, tolerance=tolerance, choice=choice,
                         calibration_lines=calibration_lines)
