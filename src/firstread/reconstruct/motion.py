"""Retrospective rigid motion correction: image and poses of the shots from the same k-space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import Image, KSpace, Note
from firstread.core.stage import Stage
from firstread.ops.encoding import CartesianEncoding
from firstread.ops.rigid_motion import RigidMotion, relative_to_first
from firstread.ops.solve import conjugate_gradient, solve
from firstread.reconstruct.problem import Problem, image_from, problem_of

Poses = Float[Tensor, "batch shot number"]


@dataclass(frozen=True)
class MotionEstimate:
    """pose: of every shot relative to the first (:class:`~firstread.ops.rigid_motion.RigidMotion`); before, after: the
    misfit ``‖A x - y‖ / ‖y‖`` per row without and with correction; steps: alternations that were made."""

    pose: Poses
    before: Float[Tensor, " batch"]
    after: Float[Tensor, " batch"]
    steps: int


def residuals(image: Complex[Tensor, "batch 1 1 z y x"], pose: Poses, spacing_mm: Sequence[float], problem: Problem
              ) -> Complex[Tensor, "batch shot coil z y x"]:
    """``M_s F S T(θ_s) x - y_s`` of every shot."""
    return problem.encoding(RigidMotion(pose=pose, spacing_mm=spacing_mm)(image)) - problem.measured


def gauss_newton(image: Complex[Tensor, "batch 1 1 z y x"], pose: Poses, damping: Float[Tensor, "batch shot"],
                 spacing_mm: Sequence[float], problem: Problem) -> tuple[Poses, Float[Tensor, "batch shot"]]:
    """One Levenberg-Marquardt step of every shot for itself, and its next damping.

    ``(JᵀJ + μ diag JᵀJ) δ = -Jᵀ r``; a shot whose misfit would grow stays where it is and is damped more.
    """
    moved = RigidMotion(pose=pose, spacing_mm=spacing_mm).with_derivatives(image)
    seen = [problem.encoding(part) for part in moved.split(1, dim=2)]
    now = torch.view_as_real(seen[0] - problem.measured).flatten(2)
    jacobian = torch.stack([torch.view_as_real(along).flatten(2) for along in seen[1:]], dim=-1)
    normal = jacobian.mT @ jacobian
    slope = (jacobian.mT @ now[..., None])[..., 0]
    diagonal = normal.diagonal(dim1=-2, dim2=-1)
    floor = 1e-9 * diagonal.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(now.dtype).tiny)
    damped = normal + torch.diag_embed(damping[..., None] * diagonal + floor)
    proposed = pose - torch.linalg.solve(damped, slope)
    cost = now.square().sum(dim=-1)
    better = torch.view_as_real(residuals(image, proposed, spacing_mm, problem)).flatten(2).square().sum(-1) < cost
    return (torch.where(better[..., None], proposed, pose),
            torch.where(better, damping / 3, damping * 4).clamp(1e-4, 1e4))


def in_degrees(pose: Poses) -> Poses:
    """Poses with angles in degrees: the first of three numbers, the first three of six.

    >>> in_degrees(torch.tensor([[[0.5, 1.0, 2.0]]], dtype=torch.float64)).round(decimals=2).tolist()
    [[[28.65, 1.0, 2.0]]]
    """
    angles = 1 if pose.shape[-1] == 3 else 3
    return torch.cat((torch.rad2deg(pose[..., :angles]), pose[..., angles:]), dim=-1)


def low_frequencies(problem: Problem, share: float) -> Problem:
    """The problem with the lines of the central ``share`` of k-space alone."""
    mask = problem.encoding.mask
    for axis, dim in (("z", -3), ("y", -2), ("x", -1)):
        size = mask.shape[dim]
        if axis in problem.encoding.fourier_axes and size > 1:
            place = (torch.arange(size, device=mask.device) - size // 2).abs() <= share * size / 2
            mask = mask * place.reshape(-1, *[1] * (-dim - 1))
    encoding = CartesianEncoding(mask=mask, sensitivities=problem.encoding.sensitivities,
                                 fourier_axes=problem.encoding.fourier_axes)
    return Problem(mask * problem.measured, encoding)


def estimate_motion(problem: Problem, spacing_mm: Sequence[float], *, numbers: int = 3, steps: int = 40, inner: int = 3,
                    regularization: float = 1e-3, tolerance: float = 5e-3) -> MotionEstimate:
    """Poses of the shots (frames of the problem) by alternation: ``min_{x, θ} Σ_s ‖M_s F S T(θ_s) x - y_s‖² + λ‖x‖²``.

    Each step: ``inner`` conjugate gradient steps for the image, one Gauss-Newton step for every shot. The first third
    sees the central half of k-space alone. Ends when no pose has changed by more than ``tolerance`` (degrees, mm).
    After Cordero-Grande, Teixeira, Hughes, Hutter, Price and Hajnal 2016.
    """
    shots = problem.measured.shape[1]
    real = problem.measured.real
    pose = torch.zeros(real.shape[0], shots, numbers, dtype=real.dtype, device=real.device)
    damping = torch.full(pose.shape[:2], 0.1, dtype=real.dtype, device=real.device)
    weight = regularization * problem.encoding.bound()
    before, image = _misfit(problem, pose, spacing_mm, weight)
    step = 0
    for stage, last in ((low_frequencies(problem, 0.5), steps // 3), (problem, steps)):
        image = image if stage is problem else torch.zeros_like(image)
        while step < last:
            step += 1
            image = _image(stage, pose, spacing_mm, weight, image, inner)
            old = pose
            pose, damping = gauss_newton(image, pose, damping, spacing_mm, stage)
            if bool((in_degrees(pose - old).abs() <= tolerance).all()):
                break
        step = max(step, last) if stage is not problem else step
    pose = relative_to_first(pose)
    after, _ = _misfit(problem, pose, spacing_mm, weight)
    return MotionEstimate(pose, before, after, step)


def _image(problem: Problem, pose: Tensor, spacing_mm: Sequence[float], weight: float, start: Tensor, count: int
           ) -> Tensor:
    """The image of these poses, from ``start`` on."""
    whole = problem.encoding @ RigidMotion(pose=pose, spacing_mm=spacing_mm)
    return conjugate_gradient(lambda v: whole.gram(v) + weight * v, whole.adjoint(problem.measured), start=start,
                              iterations=count, systems=1)


def _misfit(problem: Problem, pose: Tensor, spacing_mm: Sequence[float], weight: float) -> tuple[Tensor, Tensor]:
    """``‖A x - y‖ / ‖y‖`` of the image of these poses, and the image."""
    like = problem.measured[:, :1, :1]
    image = _image(problem, pose, spacing_mm, weight, torch.zeros_like(like), 20)
    left = residuals(image, pose, spacing_mm, problem).abs().square().sum(dim=(1, 2, 3, 4, 5))
    return (left / problem.measured.abs().square().sum(dim=(1, 2, 3, 4, 5))).sqrt(), image


class MotionCorrected(Stage):
    """An image from multi-shot k-space of a body that moved rigidly between shots, and a note on how it moved.

    The frames of the k-space are the shots, each with its own lines in the mask (``EncodeMoving`` makes such k-space).
    Poses are in plane where z is a position, in space where z is Fourier-encoded. Shots that hold few central lines
    (sequential order) say little about their pose: interleaved or random order is wanted, and sensitivities from a scan
    at rest: those from the moving shots themselves are blurred, and a note says so.

    steps, inner: alternations, and conjugate gradient steps in each. regularization: λ, relative to the largest
    possible eigenvalue. tolerance: in degrees and mm.

    Reads a KSpace, writes the complex Image "reconstruction" of one frame. The gradient is that of the image at the
    poses found.
    """

    result = "reconstruction"

    def __init__(self, *, steps: int = 40, inner: int = 3, regularization: float | int = 1e-3,
                 tolerance: float | int = 5e-3, calibration_lines: int = 32):
        super().__init__()
        if min(steps, inner) < 1 or min(regularization, tolerance) < 0:
            raise SettingError(f"{steps} steps of {inner}, regularization {regularization}, tolerance {tolerance}",
                               expected="one step or more, λ and tolerance ≥ 0", remedy="correct the setting")
        self.steps, self.inner, self.regularization, self.tolerance = steps, inner, regularization, tolerance
        self.calibration_lines = calibration_lines

    def forward(self, kspace: KSpace) -> Image:
        return self.correct(kspace)[0]

    def correct(self, kspace: KSpace) -> tuple[Image, MotionEstimate]:
        """The image, and the poses of the shots."""
        kspace.require_cartesian("motion correction")
        shots = kspace.data.shape[1]
        if shots < 2 or (kspace.sensitivities is not None and kspace.sensitivities.shape[1] > 1):
            raise SettingError(f"{shots} frames", expected="two shots or more as frames, one set of coil maps",
                               remedy="give the lines of each shot as a frame of its own")
        problem = problem_of(kspace, calibration_lines=self.calibration_lines)
        spacing = tuple(kspace.grid.spacing_mm[0].tolist())
        with torch.no_grad():
            found = estimate_motion(problem, spacing, numbers=6 if "z" in kspace.fourier_axes else 3, steps=self.steps,
                                    inner=self.inner, regularization=self.regularization, tolerance=self.tolerance)
        whole = problem.encoding @ RigidMotion(pose=found.pose, spacing_mm=spacing)
        weight = self.regularization * problem.encoding.bound()
        image = solve(lambda v: whole.gram(v) + weight * v, whole.adjoint(problem.measured), iterations=60,
                      tolerance=1e-4, systems=1)
        made = image_from(replace(kspace, times_s=None), image).noted(note_of(found))
        if kspace.sensitivities is None and kspace.data.shape[2] > 1:
            made = made.noted(Note("maps_of_moving_shots", "The coil maps come from the moving shots themselves: give "
                                   "those of a scan at rest for exact poses."))
        return made, found


def note_of(found: MotionEstimate) -> Note:
    """One sentence on the largest motion, relative to the first shot."""
    pose = in_degrees(found.pose).abs()
    angles = 1 if pose.shape[-1] == 3 else 3
    return Note("rigid_motion", f"Motion between {pose.shape[1]} shots was estimated and corrected: up to "
                f"{float(pose[..., :angles].max()):.1f} degrees and {float(pose[..., angles:].max()):.1f} mm from the "
                f"first; misfit {float(found.before.mean()):.3f} before, {float(found.after.mean()):.3f} after, "
                f"{found.steps} steps.", "info")
