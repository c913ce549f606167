"""What penalized least squares share: ``min_x ½‖E x − y‖² + λ R(x)``, one λ per batch row, and the solver's end."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import Image, KSpace, Note
from firstread.core.stage import Stage
from firstread.ops.minimize import LeastSquares, Solution
from firstread.reconstruct.problem import Problem, image_from, problem_of


class Regularized(Stage, ABC):
    """Base of reconstructions that minimize a data term and one weighted penalty.

    The image carries a note of the solver's end. The gradient runs through the iterations.
    """

    result = "reconstruction"

    def __init__(self, *, regularization: float | int, iterations: int, tolerance: float | int,
                 calibration_lines: int):
        super().__init__()
        if regularization < 0 or iterations < 1 or not tolerance >= 0:
            raise SettingError(f"regularization {regularization}, {iterations} iterations, tolerance {tolerance}",
                               expected="λ ≥ 0, one iteration or more, tolerance ≥ 0", remedy="correct the setting")
        self.regularization, self.iterations, self.tolerance = regularization, iterations, tolerance
        self.calibration_lines = calibration_lines

    def forward(self, kspace: KSpace) -> Image:
        problem = problem_of(kspace, calibration_lines=self.calibration_lines)
        fit = LeastSquares(problem.encoding.gram, problem.rhs(), problem.encoding.bound())
        solution = self.solve(fit, self.regularization * self.unit(problem))
        note = Note("solver", f"{self.name}: {solution.reason}", "info")
        return image_from(kspace, solution.x).noted(note)

    def unit(self, problem: Problem) -> Float[Tensor, "batch 1 1 1 1 1"]:
        """What ``regularization`` is relative to: the brightness of the image."""
        return problem.brightness()

    @abstractmethod
    def solve(self, fit: LeastSquares, weight: Float[Tensor, "batch 1 1 1 1 1"],
              start: Complex[Tensor, "batch time 1 z y x"] | None = None) -> Solution:
        """The minimizer for λ = ``weight``."""
