"""What penalized least squares share: ``min_x ½‖E x − y‖² + λ R(x)``, λ given or chosen, and the solver's end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Literal, get_args

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError
from firstread.core.records import Image, KSpace, Note
from firstread.core.stage import Stage
from firstread.ops.fourier import dimensions
from firstread.ops.minimize import LeastSquares, Solution
from firstread.ops.regularization import (
    by_corner,
    by_discrepancy,
    by_lowest,
    monte_carlo_divergence,
    outer_noise_variance,
    predicted_risk,
)
from firstread.reconstruct.noncartesian import any_problem_of
from firstread.reconstruct.problem import Problem, image_from

Choice = Literal["discrepancy", "sure", "l-curve"]
LOWEST, HIGHEST = 1e-4, 1.0


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

    def __init__(self, *, regularization: float | int | None, iterations: int, tolerance: float | int,
                 choice: Choice, calibration_lines: int):
        super().__init__()
        if (regularization is not None and regularization < 0) or iterations < 1 or not tolerance >= 0:
            raise SettingError(f"regularization {regularization}, {iterations} iterations, tolerance {tolerance}",
                               expected="λ ≥ 0, one iteration or more, tolerance ≥ 0", remedy="correct the setting")
        if choice not in get_args(Choice):
            raise SettingError(f"choice {choice!r}", expected=f"one of {', '.join(get_args(Choice))}",
                               remedy="correct the setting")
        self.regularization, self.iterations, self.tolerance = regularization, iterations, tolerance
        self.choice, self.calibration_lines = choice, calibration_lines

    def forward(self, kspace: KSpace) -> Image:
        problem = any_problem_of(kspace, calibration_lines=self.calibration_lines)
        notes = []
        unit = self.unit(problem)
        if self.regularization is None:
            relative = self.chosen(kspace, problem)
            found = ", ".join(f"{v:.2g}" for v in relative.tolist())
            notes.append(Note("regularization", f"{self.name}: λ = {found} by {self.choice}", "info"))
            weight = relative.reshape(-1, *[1] * 5) * unit
        else:
            weight = self.regularization * unit
        solution = self.solve(self._fit(problem), weight)
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

    @torch.no_grad()
    def chosen(self, kspace: KSpace, problem: Problem) -> Float[Tensor, " batch"]:
        """λ by ``choice``, relative to ``unit``; seven to eighteen solutions."""
        if kspace.trajectory is not None and self.choice != "l-curve":
            raise SettingError(f"choice {self.choice!r} for k-space along a trajectory", expected="'l-curve'",
                               remedy="give the regularization, or choose by the L-curve")
        unit, y = self.unit(problem), problem.measured
        like = unit.flatten().detach()
        mask = problem.encoding.mask.detach() != 0
        places = mask.expand(y.shape[0], y.shape[1], 1, *y.shape[3:]).flatten(1).sum(dim=1)
        samples = (places * y.shape[2]).to(y.real.dtype)

        def image_at(relative: Tensor, data: Tensor = y) -> Tensor:
            fit = self._fit(replace(problem, measured=data))
            return self.solve(fit, relative.reshape(-1, *[1] * 5) * unit).x

        def misfit(x: Tensor) -> Tensor:
            return _power(problem.encoding(x) - y)

        if self.choice == "l-curve":
            def curve(relative: Tensor) -> tuple[Tensor, Tensor]:
                x = image_at(relative)
                return misfit(x), self.penalty(x)

            return by_corner(curve, like, lowest=LOWEST, highest=HIGHEST)
        variance = noise_variance(kspace)
        if self.choice == "discrepancy":
            least = misfit(image_at(torch.full_like(like, LOWEST)))
            if bool((least > samples * variance).any()):
                share = float((least / (samples * variance)).max())
                raise SignalError(f"measurements that even the weakest regularization misses by {share:.3g} times the "
                                  "noise", expected="coil maps and a model exact to the noise",
                                  remedy="choose by 'sure', or give better coil maps")
            return by_discrepancy(lambda v: misfit(image_at(v)), samples * variance, lowest=LOWEST, highest=HIGHEST)
        generator = torch.Generator().manual_seed(0)
        probe = mask * torch.randn(y.shape, dtype=y.dtype, generator=generator).to(y.device)

        def risk(relative: Tensor) -> Tensor:
            x = problem.encoding(image_at(relative))
            change = monte_carlo_divergence(lambda data: problem.encoding(image_at(relative, data)), y, probe,
                                            size=float(variance.max()) ** 0.5, at_y=x)
            return predicted_risk(_power(x - y), change, samples, variance)

        return by_lowest(risk, like, lowest=LOWEST, highest=HIGHEST)

    def _fit(self, problem: Problem) -> LeastSquares:
        return LeastSquares(problem.encoding.gram, problem.rhs(), problem.encoding.bound())


def noise_variance(kspace: KSpace) -> Float[Tensor, " batch"]:
    """Of one complex sample after whitening: the mean of the covariance's diagonal, or else from outer k-space."""
    if kspace.noise_covariance is not None:
        return kspace.noise_covariance.detach().diagonal(dim1=1, dim2=2).real.mean(dim=1).to(kspace.data.real.dtype)
    data = kspace.data.detach()
    mask = (kspace.mask.detach() != 0).expand(data.shape[0], data.shape[1], 1, *data.shape[3:])
    return outer_noise_variance(data, mask, dimensions(kspace.fourier_axes))


def _power(x: Tensor) -> Tensor:
    return torch.view_as_real(x).square().flatten(1).sum(dim=1)
