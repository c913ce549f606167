"""Compressed sensing: sparse wavelet coefficients, locally low rank, low rank plus sparse."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.fourier import dimensions
from firstread.ops.lowrank import noise_norm, nuclear_norm, shrink_rank, shrink_temporal_frequencies
from firstread.ops.minimize import LeastSquares, Solution, fista
from firstread.ops.wavelet import Family, coarse_block, shrink_details, wavelet
from firstread.reconstruct.choice import Choice
from firstread.reconstruct.problem import Problem
from firstread.reconstruct.regularized import Regularized


class Wavelet(Regularized):
    """Least squares with sparse wavelet coefficients, by FISTA: ``min_x ½‖E x − y‖² + λ ‖details of W x‖₁``.

    regularization: λ, relative to the brightness of the image (99th percentile of the time average), or None:
        ``choice`` finds it.
    axes: of the transform; ``("z", "y", "x")`` for volumes. levels, family: of the wavelet.
    iterations, tolerance: when to stop (``ops.minimize.fista``).
    cycle_spinning: a new circular shift of the transform in every iteration, against block artefacts, the same shifts
        in every run. The penalty then differs from iteration to iteration, so that the residual stays near λ and
        the iterations end it.

    Reads a KSpace, writes the complex Image "reconstruction". After Lustig, Donoho and Pauly 2007.
    """

    usual, together = 1e-2, False

    def __init__(self, *, regularization: float | int | None = usual, iterations: int = 60,
                 tolerance: float | int = 1e-4, axes: tuple[str, ...] = ("y", "x"), levels: int = 4,
                 family: Family = "haar", cycle_spinning: bool = True, choice: Choice = "sure",
                 calibration_lines: int = 32):
        super().__init__(regularization=regularization, iterations=iterations, tolerance=tolerance, choice=choice,
                         calibration_lines=calibration_lines)
        self.dims = dimensions(axes)
        self.axes, self.levels, self.family, self.cycle_spinning = axes, levels, family, cycle_spinning

    def solve(self, fit: LeastSquares, weight: Float[Tensor, "batch 1 1 1 1 1"]) -> Solution:
        generator = torch.Generator().manual_seed(0)

        def proximal(v: Tensor, step: float) -> Tensor:
            shift = None
            if self.cycle_spinning:
                shift = torch.randint(2**self.levels, (len(self.dims),), generator=generator).tolist()
            return shrink_details(v, step * weight, self.dims, levels=self.levels, family=self.family, shift=shift)

        return fista(fit, proximal, iterations=self.iterations, tolerance=self.tolerance)

    def penalty(self, x: Complex[Tensor, "batch time channel z y x"]) -> Float[Tensor, " batch"]:
        """Sum of the magnitudes of the details."""
        made = wavelet(x, self.dims, levels=self.levels, family=self.family)
        coarse = made[coarse_block(made.shape, self.dims, self.levels)]
        return made.abs().flatten(1).sum(dim=1) - coarse.abs().flatten(1).sum(dim=1)


class LocallyLowRank(Regularized):
    """Least squares with blocks of low rank over time, by FISTA: ``min_x ½‖E x − y‖² + λ Σ_b ‖x_b‖_*``.

    regularization: λ, relative to the brightness of the image times ``block + sqrt(frames)``: noise of that share of
        the brightness has singular values up to λ. None: ``choice`` finds it.
    block: pixels along each side. iterations, tolerance: when to stop (``ops.minimize.fista``).
    shifting: blocks begin at another place in every iteration, the same ones in every run.

    Reads a KSpace, writes the complex Image "reconstruction". After Trzasko and Manduca 2011, Zhang et al. 2015.
    """

    usual, together = 4e-3, True

    def __init__(self, *, regularization: float | int | None = usual, block: int = 8, iterations: int = 40,
                 tolerance: float | int = 1e-4, shifting: bool = True, choice: Choice = "sure",
                 calibration_lines: int = 32):
        super().__init__(regularization=regularization, iterations=iterations, tolerance=tolerance, choice=choice,
                         calibration_lines=calibration_lines)
        if block < 1:
            raise SettingError(f"blocks of {block} pixels", expected="one or more", remedy="correct `block`")
        self.block, self.shifting = block, shifting

    def unit(self, problem: Problem) -> Float[Tensor, "batch 1 1 1 1 1"]:
        """Brightness times the norm of unit noise in a block."""
        return problem.brightness() * noise_norm(self.block**2, problem.measured.shape[1])

    def solve(self, fit: LeastSquares, weight: Float[Tensor, "batch 1 1 1 1 1"]) -> Solution:
        generator = torch.Generator().manual_seed(0)

        def proximal(v: Tensor, step: float) -> Tensor:
            shift = torch.randint(self.block, (2,), generator=generator).tolist() if self.shifting else (0, 0)
            return shrink_rank(v, step * weight, block=self.block, shift=shift)

        return fista(fit, proximal, iterations=self.iterations, tolerance=self.tolerance)

    def penalty(self, x: Complex[Tensor, "batch time channel z y x"]) -> Float[Tensor, " batch"]:
        """Sum of the singular values of the blocks."""
        return nuclear_norm(x, block=self.block)


class LowRankPlusSparse(Regularized):
    """A background of low rank plus sparse dynamics (Otazo, Candès and Sodickson 2015), by FISTA on both together.

    ``min_{L,S} ½‖E (L + S) − y‖² + λ_L ‖L‖_* + λ ‖F_t S‖₁``, L one matrix of pixels by frames per slice, ``F_t`` the
    Fourier transform along time.

    regularization: λ, relative to the brightness of the image. None: ``choice`` finds it, the ratio kept.
    rank: ``λ_L`` over ``λ (sqrt(pixels) + sqrt(frames))``.
    iterations, tolerance: when to stop (``ops.minimize.fista``).

    Reads a KSpace, writes the complex Image "reconstruction", which is L + S.
    """

    usual, together = 5e-3, True

    def __init__(self, *, regularization: float | int | None = usual, rank: float | int = 1.0, iterations: int = 60,
                 tolerance: float | int = 1e-4, choice: Choice = "sure", calibration_lines: int = 32):
        super().__init__(regularization=regularization, iterations=iterations, tolerance=tolerance, choice=choice,
                         calibration_lines=calibration_lines)
        if not rank > 0:
            raise SettingError(f"rank weight {rank}", expected="above zero", remedy="correct `rank`")
        self.rank = rank

    def solve(self, fit: LeastSquares, weight: Float[Tensor, "batch 1 1 1 1 1"]) -> Solution:
        found = self.parts(fit, weight)
        low, sparse = found.x.chunk(2, dim=1)
        return Solution(low + sparse, found.iterations, found.residual, found.tolerance)

    def parts(self, fit: LeastSquares, weight: Float[Tensor, "batch 1 1 1 1 1"]) -> Solution:
        """L and S, one after the other along time."""
        frames, pixels = fit.rhs.shape[1], fit.rhs.shape[-1] * fit.rhs.shape[-2]
        low_weight = weight * self.rank * noise_norm(pixels, frames)

        def gram(v: Tensor) -> Tensor:
            low, sparse = v.chunk(2, dim=1)
            return fit.gram(low + sparse).repeat(1, 2, 1, 1, 1, 1)

        def proximal(v: Tensor, step: float) -> Tensor:
            low, sparse = v.chunk(2, dim=1)
            return torch.cat((shrink_rank(low, step * low_weight),
                              shrink_temporal_frequencies(sparse, step * weight)), dim=1)

        both = LeastSquares(gram, fit.rhs.repeat(1, 2, 1, 1, 1, 1), 2 * fit.bound)
        start = torch.cat((fit.rhs, torch.zeros_like(fit.rhs)), dim=1)
        return fista(both, proximal, start=start, iterations=self.iterations, tolerance=self.tolerance)

    def penalty(self, x: Complex[Tensor, "batch time channel z y x"]) -> Float[Tensor, " batch"]:
        """Of the image as all dynamics: sum of the magnitudes of its temporal frequencies above zero."""
        return torch.fft.fft(x, dim=1, norm="ortho")[:, 1:].abs().flatten(1).sum(dim=1)
