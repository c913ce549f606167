"""The non-uniform fast Fourier transform with gradients for image and trajectory.

Neither gradient is taken through the interpolation: with ``y = A(k) x`` and r the pixel's place,

    ∂L/∂x = Aᴴ ∂L/∂y        ∂L/∂k_m = Re Σ conj(∂L/∂y_m) (A (-2πi r x / N))_m

so that a backward pass is transforms again, exact to the tolerance, and may itself be differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.nufft_plan import NufftPlan


@runtime_checkable
class Plan(Protocol):
    """A trajectory prepared for many transforms (``NufftPlan``, or ``FinufftPlan`` of ops.nufft_finufft)."""

    shape: tuple[int, ...]
    samples: int
    dtype: torch.dtype

    def forward(self, image: Tensor) -> Tensor:
        """``[*lead, *shape]`` to ``[*lead, sample]``."""

    def adjoint(self, samples: Tensor) -> Tensor:
        """``[*lead, sample]`` to ``[*lead, *shape]``."""


def nufft(image: Complex[Tensor, "..."], trajectory: Float[Tensor, "axis *samples"], *, tolerance: float = 1e-3,
          plan: Plan | None = None) -> Complex[Tensor, "..."]:
    """Image ``[*lead, *shape]`` to samples ``[*lead, *samples]`` along a trajectory in cycles per field of view::

        y_m = N^(-1/2) Σ_n x_n exp(-2πi k_m · (n - N//2) / N)        N pixels, k in the order of the image's axes

    On whole frequencies this is ``ops.fourier.fft``. tolerance: relative error aimed at (1e-5 or more in complex64,
    1e-12 in complex128); plan: the trajectory prepared before, ``NufftPlan(trajectory.flatten(1), shape)``.

    After Fessler and Sutton 2003 and Beatty et al. 2005. Gradients for image and trajectory.

    >>> image = torch.ones(1, 8, 8, dtype=torch.complex64)
    >>> nufft(image, torch.zeros(2, 1, 1)).abs().round(decimals=2).tolist()
    [[[8.0]]]
    """
    axes = trajectory.shape[0]
    shape, lead = image.shape[image.ndim - axes :], image.shape[: image.ndim - axes]
    chosen = _plan(trajectory, shape, image.dtype, tolerance, plan)
    return _Forward.apply(image, trajectory.flatten(1), chosen).reshape(*lead, *trajectory.shape[1:])


def nufft_adjoint(samples: Complex[Tensor, "..."], trajectory: Float[Tensor, "axis *samples"], shape: Sequence[int], *,
                  tolerance: float = 1e-3, plan: Plan | None = None) -> Complex[Tensor, "..."]:
    """Samples ``[*lead, *samples]`` to image ``[*lead, *shape]``, the adjoint of ``nufft``::

        x_n = N^(-1/2) Σ_m y_m exp(2πi k_m · (n - N//2) / N)

    Errors: SettingError where trajectory and samples differ in length.
    """
    lead = samples.shape[: samples.ndim - trajectory.ndim + 1]
    if samples.shape[len(lead) :] != trajectory.shape[1:]:
        raise SettingError(f"samples of shape {tuple(samples.shape[len(lead):])} on a trajectory of shape "
                           f"{tuple(trajectory.shape[1:])}", expected="one place in k-space for every sample",
                           remedy="cut the longer of the two, or read the trajectory that belongs to the data")
    chosen = _plan(trajectory, tuple(shape), samples.dtype, tolerance, plan)
    return _Adjoint.apply(samples.reshape(*lead, -1), trajectory.flatten(1), chosen)


def _plan(trajectory: Tensor, shape: Sequence[int], dtype: torch.dtype, tolerance: float, plan: Plan | None) -> Plan:
    if plan is None:
        return NufftPlan(trajectory.detach().flatten(1), shape, tolerance=tolerance, dtype=dtype.to_real())
    if tuple(plan.shape) != tuple(shape) or plan.samples != trajectory[0].numel() or plan.dtype != dtype.to_real():
        raise SettingError(f"a plan for {plan.samples} samples of {plan.shape} images, window in {plan.dtype}",
                           expected=f"{trajectory[0].numel()} samples of {tuple(shape)} {dtype} images",
                           remedy="make the plan from this trajectory, shape and number format")
    return plan


class _Forward(torch.autograd.Function):
    """``A(k) x``."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, trajectory: Tensor, plan: Plan) -> Tensor:
        ctx.save_for_backward(image, trajectory)
        ctx.plan = plan
        return plan.forward(image)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        image, trajectory = ctx.saved_tensors
        back = _Adjoint.apply(grad, trajectory, ctx.plan) if ctx.needs_input_grad[0] else None
        slope = _slope(grad, image, trajectory, ctx.plan) if ctx.needs_input_grad[1] else None
        return back, slope, None


class _Adjoint(torch.autograd.Function):
    """``A(k)ᴴ y``."""

    @staticmethod
    def forward(ctx: Any, samples: Tensor, trajectory: Tensor, plan: Plan) -> Tensor:
        ctx.save_for_backward(samples, trajectory)
        ctx.plan = plan
        return plan.adjoint(samples)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        samples, trajectory = ctx.saved_tensors
        back = _Forward.apply(grad, trajectory, ctx.plan) if ctx.needs_input_grad[0] else None
        slope = _slope(samples, grad, trajectory, ctx.plan) if ctx.needs_input_grad[1] else None
        return back, slope, None


def _slope(samples: Tensor, image: Tensor, trajectory: Tensor, plan: Plan) -> Tensor:
    """``Re Σ conj(y_m) (A (-2πi r x / N))_m`` over all leading axes: the gradient of ``Re <y, A(k) x>`` in k."""
    shape = plan.shape
    ramps = [((torch.arange(n, device=image.device) - n // 2) * (-2 * math.pi / n)).to(image.real.dtype).reshape(
        -1, *[1] * (len(shape) - 1 - axis)) for axis, n in enumerate(shape)]
    moved = _Forward.apply(torch.stack([1j * ramp * image for ramp in ramps]), trajectory, plan)
    return (samples.conj() * moved).real.reshape(len(shape), -1, plan.samples).sum(dim=1).to(trajectory.dtype)
