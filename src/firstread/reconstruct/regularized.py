"""What penalized least squares share: ``min_x ½‖E x − y‖² + λ R(x)``, λ given or chosen, and the solver's end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import ClassVar, get_args

from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import Image, KSpace, Note
from firstread.core.stage import Stage
from firstread.ops.minimize import LeastSquares, Solution
from firstread.reconstruct.choice import Choice, Penalized, automatic_weight
from firstread.reconstruct.noncartesian import any_problem_of
from firstread.reconstruct.problem import Problem, image_from

SEARCH_ITERATIONS = 40


class Regularized(Stage, ABC):
    """Base of reconstructions that minimize a data term and one weighted penalty.

    regularization: λ relative to ``unit``; None lets ``choice`` find one for each batch row, without gradient:
    ``sure`` (the lowest estimated error of the measured samples; the nearest to the best in tests), ``discrepancy``
    (the misfit that the noise gives; some too much smoothing, and refused where errors of the coil maps exceed the
    noise) or ``l-curve`` (needs no noise level, but a curve with a corner: good for total variation, poor
    for wavelets). The noise level is that of the noise covariance or, without one, of outer k-space.

    The image carries notes of λ, where chosen, and of the solver's end. The gradient runs through the iterations.
    """

    result = "reconstruction"
    usual: ClassVar[float]
    together: ClassVar[bool]
    """The λ that suits most data, and whether the penalty couples frames."""

    def __init__(self, *, regularization: float | int | None, iterations: int, tolerance: float | int,
                 choice: Choice, calibration_lines: int):
        super().__init__()
        check_settings(regularization, iterations, tolerance, choice)
        self.regularization, self.iterations, self.tolerance = regularization, iterations, tolerance
        self.choice, self.calibration_lines = choice, calibration_lines

    def forward(self, kspace: KSpace) -> Image:
        problem = any_problem_of(kspace, calibration_lines=self.calibration_lines)
        notes = []
        unit = self.unit(problem)
        if self.regularization is None:
            relative, note = automatic_weight(kspace, problem, self._penalized(unit), self.choice, self.name)
            notes.append(note)
            weight = relative.reshape(-1, *[1] * 5) * unit
        else:
            weight = self.regularization * unit
        fit = LeastSquares(problem.encoding.gram, problem.rhs(), problem.encoding.bound())
        solution = self.solve(fit, weight)
        notes.append(Note("solver", f"{self.name}: {solution.reason}", "info"))
        return image_from(kspace, solution.x).noted(*notes)

    def unit(self, problem: Problem) -> Float[Tensor, "batch 1 1 1 1 1"]:
        """What ``regularization`` is relative to: the brightness of the image."""
        return problem.brightness()

    @abstractmethod
    def solve(self, fit: LeastSquares, weight: Float[Tensor, "batch 1 1 1 1 1"]) -> Solution:
        """The minimizer for λ = ``weight``."""

    @abstractmethod
    def penalty(self, x: Complex[Tensor, "batch time channel z y x"]) -> Float[Tensor, " batch"]:
        """``R(x)`` per batch row."""

    def _penalized(self, unit: Tensor) -> Penalized:
        """This method; with fewer iterations for ``sure``, which knows the error of what has not converged too."""
        quick = copy(self)
        if self.choice == "sure":
            quick.iterations = min(self.iterations, SEARCH_ITERATIONS)

        def image(fit: LeastSquares, relative: Tensor) -> Tensor:
            return quick.solve(fit, relative.reshape(-1, *[1] * 5) * unit.detach()).x

        return Penalized(image, self.penalty, self.usual, self.together)


def check_settings(regularization: float | int | None, iterations: int, tolerance: float | int, choice: str) -> None:
    """Raise SettingError for what no regularized least squares can work with."""
    if (regularization is not None and regularization < 0) or iterations < 1 or not tolerance >= 0:
        raise SettingError(f"regularization {regularization}, {iterations} iterations, tolerance {tolerance}",
                           expected="λ ≥ 0, one iteration or more, tolerance ≥ 0", remedy="correct the setting")
    if choice not in get_args(Choice):
        raise SettingError(f"choice {choice!r}", expected=f"one of {', '.join(get_args(Choice))}",
                           remedy="correct the setting")
