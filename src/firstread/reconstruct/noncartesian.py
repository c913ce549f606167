"""Reconstruction along trajectories: gridding, and the problem that CG-SENSE, TV and the other solvers work on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError
from firstread.core.records import Image, KSpace
from firstread.core.stage import Stage
from firstread.ops.density import iterative_density
from firstread.ops.encoding import join_sets
from firstread.ops.encoding_noncartesian import NonCartesianEncoding
from firstread.ops.whitening import combine_coils, whitening_matrix
from firstread.reconstruct.problem import Problem, check, image_from, problem_of
from firstread.reconstruct.sensitivities import relative_maps


@dataclass(frozen=True)
class NonCartesianProblem(Problem):
    """``√w y ≈ √w F(k) S x``: density-weighted measurements and the operator that explains them."""

    encoding: NonCartesianEncoding

    def brightness(self) -> Float[Tensor, "batch 1 1 1 1 1"]:
        """What a regularization is relative to: the 99th percentile of the gridded image, averaged over time."""
        maps, image = self.encoding.sensitivities, self.rhs().detach().mean(dim=1, keepdim=True)
        if maps is not None:
            energy = maps.detach().abs().square().sum(dim=2)[:, None]
            image = image / energy.clamp_min(1e-6 * energy.amax())
        image = join_sets(image).abs().flatten(1)
        every = image.shape[1] // 1_000_000 + 1
        return torch.quantile(image[:, ::every], 0.99, dim=1).clamp_min(1e-30)[:, None, None, None, None, None]


def any_problem_of(kspace: KSpace, *, calibration_lines: int = 32) -> Problem:
    """The problem of Cartesian k-space, or of k-space along a trajectory."""
    if kspace.trajectory is None:
        return problem_of(kspace, calibration_lines=calibration_lines)
    return problem_along(kspace, calibration_lines=calibration_lines)


def problem_along(kspace: KSpace, *, calibration_lines: int = 32, tolerance: float = 1e-3) -> NonCartesianProblem:
    """Check, whiten, weight by the density compensation, and estimate the coils where they are not given.

    Weighted least squares converges in few iterations, at the price of some noise (Pruessmann et al. 2001). A gradient
    reaches the trajectory through the operator; the weights are taken as constant.

    Raises SignalError for NaN, nothing sampled, a coil without signal or a centre that was not sampled.
    """
    trajectory = kspace.trajectory
    if trajectory is None:
        raise SettingError("Cartesian k-space for a reconstruction along a trajectory", expected="k-space with one",
                           remedy="use problem_of, or give the record its trajectory")
    check(kspace)
    weights = density_weights(kspace)
    data, maps = kspace.data, kspace.sensitivities
    if maps is None and data.shape[2] > 1:
        maps = central_maps(kspace, weights, calibration_lines=calibration_lines)
    if kspace.noise_covariance is not None and data.shape[2] > 1:
        matrix = whitening_matrix(kspace.noise_covariance.to(data.dtype))
        data = combine_coils(matrix, data)
        maps = None if maps is None else combine_coils(matrix, maps)
    encoding = NonCartesianEncoding(trajectory=trajectory, shape=kspace.grid.shape, sensitivities=maps,
                                    weights=weights, fourier_axes=kspace.fourier_axes, tolerance=tolerance)
    return NonCartesianProblem(encoding.weigh(data), encoding)


def density_weights(kspace: KSpace) -> Float[Tensor, "batch time 1 1 shot sample"]:
    """The density compensation of every frame by ``iterative_density``, 0 where nothing was measured."""
    trajectory = kspace.trajectory.detach()
    shape = kspace.grid.shape[-trajectory.shape[2]:]
    mask = (kspace.mask.detach() != 0).any(dim=3, keepdim=True).to(trajectory.dtype)
    if not bool(((kspace.mask != 0).any(dim=3) == (kspace.mask != 0).all(dim=3)).all()):
        raise SettingError("samples measured in some slices only", expected="the same samples in every slice",
                           remedy="reconstruct each slice by itself")
    frames = max(trajectory.shape[1], mask.shape[1])
    rows = []
    for b in range(trajectory.shape[0]):
        own, seen = trajectory[b], mask[b].expand(-1, -1, -1, *trajectory.shape[-2:])
        made: list[Tensor] = []
        for t in range(frames):
            again = t > 0 and own.shape[0] == 1 and bool((seen[min(t, len(seen) - 1)] == seen[0]).all())
            made.append(made[0] if again else _masked_density(own[min(t, len(own) - 1)],
                                                              seen[min(t, len(seen) - 1), 0, 0], shape))
        rows.append(torch.stack(made))
    weights = torch.stack(rows)[:, :, None, None]
    return weights.to(kspace.data.real.dtype)


def central_maps(kspace: KSpace, weights: Float[Tensor, "batch time 1 1 shot sample"], *, calibration_lines: int = 32
                 ) -> Complex[Tensor, "batch 1 coil z y x"]:
    """Coil maps from gridded images of the centre of k-space, all frames together, under a radial Hann window.

    calibration_lines: diameter of the centre that is used, in cycles per field of view.

    Raises SignalError where the centre was not sampled.
    """
    if calibration_lines < 2:
        raise SettingError(f"{calibration_lines} calibration lines", expected="2 or more", remedy="raise it")
    trajectory = kspace.trajectory.detach()
    radius = trajectory.norm(dim=2)[:, :, None, None]
    if not bool((radius < 1).flatten(1).any(dim=1).all()):
        raise SignalError("a trajectory that does not pass the centre of k-space", expected="samples near "
                          "frequency zero", remedy="give the coil sensitivities")
    half = calibration_lines / 2
    window = torch.where(radius < half, torch.cos(0.5 * torch.pi * radius / half).square(), torch.zeros_like(radius))
    encoding = NonCartesianEncoding(trajectory=trajectory, shape=kspace.grid.shape, weights=weights * window,
                                    fourier_axes=kspace.fourier_axes)
    return relative_maps(encoding.coil_images(kspace.data).mean(dim=1, keepdim=True))


class Gridding(Stage):
    """K-space along a trajectory to image by the adjoint with density compensation, coils combined::

        x = Σ_c S_c* F(k)ᴴ w y_c / Σ_c |S_c|²

    calibration_lines: the centre of k-space that the coil sensitivities are estimated from, in cycles per field of
        view; tolerance: of the non-uniform transform.

    Reads a KSpace with a trajectory, writes the complex Image "gridded". Differentiable in data and trajectory (weights
    taken as constant). After Jackson et al., IEEE Trans. Med. Imaging 10:473 (1991).
    """

    result = "gridded"

    def __init__(self, *, calibration_lines: int = 32, tolerance: float = 1e-3):
        super().__init__()
        self.calibration_lines, self.tolerance = calibration_lines, tolerance

    def forward(self, kspace: KSpace) -> Image:
        problem = problem_along(kspace, calibration_lines=self.calibration_lines, tolerance=self.tolerance)
        image, maps = problem.rhs(), problem.encoding.sensitivities
        if maps is not None:
            energy = maps.abs().square().sum(dim=2)[:, None]
            image = image / energy.clamp_min(1e-6 * energy.detach().amax())
        return image_from(kspace, image)


def _masked_density(trajectory: Tensor, seen: Tensor, shape: tuple[int, ...]) -> Tensor:
    weights = torch.zeros_like(trajectory[0])
    weights[seen != 0] = iterative_density(trajectory[:, seen != 0], shape)
    return weights
