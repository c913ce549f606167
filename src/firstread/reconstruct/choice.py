"""The weight of a penalty from the data, on the part of a problem that is enough to choose it, and the noise level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SignalError
from firstread.core.records import KSpace, Note
from firstread.ops.encoding import CartesianEncoding, at_slice
from firstread.ops.encoding_noncartesian import NonCartesianEncoding
from firstread.ops.fourier import DIMENSION, dimensions
from firstread.ops.minimize import LeastSquares
from firstread.ops.regularization import (
    by_corner,
    by_descent,
    by_discrepancy,
    cartesian_radius,
    monte_carlo_divergence,
    outer_noise_variance,
    predicted_risk,
)
from firstread.reconstruct.problem import Problem

Choice = Literal["sure", "discrepancy", "l-curve"]
LOWEST, HIGHEST = 1e-4, 1.0
COLUMNS, FRAMES = 64, 2


@dataclass(frozen=True)
class Penalized:
    """What a choice needs to know of a method.

    solve: the image of a least-squares term at a relative λ; penalty: its R(x); usual: the λ that suits most data,
    where the search begins; together: whether frames share information, so that all are needed.
    """

    solve: Callable[[LeastSquares, Float[Tensor, " batch"]], Complex[Tensor, "batch time set z y x"]]
    penalty: Callable[[Complex[Tensor, "batch time set z y x"]], Float[Tensor, " batch"]]
    usual: float
    together: bool


def automatic_weight(kspace: KSpace, problem: Problem, method: Penalized, choice: Choice, name: str
                     ) -> tuple[Float[Tensor, " batch"], Note]:
    """λ by ``choice``, and the note that says so.

    Where ``sure`` cannot know the noise level (outer k-space is zero and no covariance is given) λ is the usual one,
    and the note says why. Raises SignalError by ``discrepancy`` there.
    """
    like = torch.full((problem.measured.shape[0],), method.usual, dtype=problem.measured.real.dtype,
                      device=problem.measured.device)
    if choice == "sure":
        try:
            noise_variance(kspace)
        except SignalError as error:
            return like, Note("regularization", f"{name}: λ = {method.usual:g}, the usual one, for the noise level is "
                              f"not known ({error.got})")
    found = chosen_weight(kspace, part_of(problem, together=method.together), method, choice)
    listed = ", ".join(f"{v:.2g}" for v in found.tolist())
    return found, Note("regularization", f"{name}: λ = {listed} by {choice}", "info")


@torch.no_grad()
def chosen_weight(kspace: KSpace, problem: Problem, method: Penalized, choice: Choice) -> Float[Tensor, " batch"]:
    """λ by ``choice``; ``sure`` takes about ten solutions, the others seven to nine."""
    y, encoding = problem.measured, problem.encoding
    like = torch.full((y.shape[0],), method.usual, dtype=y.real.dtype, device=y.device)
    weights = _weights(problem)
    samples = weights.flatten(1).sum(dim=1) * y.shape[2]

    def image_at(relative: Tensor, data: Tensor = y) -> Tensor:
        return method.solve(LeastSquares(encoding.gram, encoding.adjoint(data), encoding.bound()), relative)

    def misfit(x: Tensor) -> Tensor:
        return _power(encoding(x) - y)

    if choice == "l-curve":
        def curve(relative: Tensor) -> tuple[Tensor, Tensor]:
            x = image_at(relative)
            return misfit(x), method.penalty(x)

        return by_corner(curve, like, lowest=LOWEST, highest=HIGHEST)
    variance = noise_variance(kspace)
    if choice == "discrepancy":
        least = misfit(image_at(torch.full_like(like, LOWEST)))
        if bool((least > samples * variance).any()):
            share = float((least / (samples * variance)).max())
            raise SignalError(f"measurements that even the weakest regularization misses by {share:.3g} times the "
                              "noise", expected="coil maps and a model exact to the noise",
                              remedy="choose by 'sure', or give better coil maps")
        return by_discrepancy(lambda v: misfit(image_at(v)), samples * variance, lowest=LOWEST, highest=HIGHEST)
    probe = weights.sqrt() * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0)).to(y)

    def risk(relative: Tensor) -> Tensor:
        x = encoding(image_at(relative))
        change = monte_carlo_divergence(lambda data: encoding(image_at(relative, data)), y, probe,
                                        size=float(variance.max()) ** 0.5, at_y=x)
        return predicted_risk(_power(x - y), change, samples, variance)

    return by_descent(risk, like, lowest=LOWEST, highest=min(HIGHEST, 10 * method.usual))


def part_of(problem: Problem, *, together: bool) -> Problem:
    """What is enough to choose λ: of independent slices that of most energy, of independent columns or rows the 64 of
    most energy side by side, of frames that do not share information two.
    """
    encoding, y = problem.encoding, problem.measured
    if not together and y.shape[1] > FRAMES:
        frames = torch.linspace(0, y.shape[1] - 1, FRAMES + 2).round().long()[1:-1]
        y, encoding = y[:, frames], _at_frames(encoding, frames)
    if "z" not in encoding.fourier_axes and y.shape[3] > 1:
        best = int(y.abs().square().sum(dim=(0, 1, 2, 4, 5)).argmax())
        y, encoding = at_slice(y, best), _at_slice(encoding, best)
    if isinstance(encoding, CartesianEncoding):
        for axis in ("y", "x"):
            dim, n = DIMENSION[axis], y.shape[DIMENSION[axis]]
            if axis in encoding.fourier_axes or encoding.mask.shape[dim] > 1 or n <= COLUMNS:
                continue
            energy = y.abs().square().movedim(dim, -1).flatten(0, -2).sum(dim=0).cumsum(0)
            first = int((energy[COLUMNS - 1:] - torch.cat((energy[:1] * 0, energy[:-COLUMNS]))).argmax())
            maps = encoding.sensitivities
            y = y.narrow(dim, first, COLUMNS)
            encoding = CartesianEncoding(mask=encoding.mask, fourier_axes=encoding.fourier_axes,
                                         sensitivities=None if maps is None else maps.narrow(dim, first, COLUMNS))
    return replace(problem, measured=y, encoding=encoding)


def noise_variance(kspace: KSpace) -> Float[Tensor, " batch"]:
    """Of one complex sample after whitening: the mean of the covariance's diagonal, or else from outer k-space.

    Raises SignalError where neither says it.
    """
    if kspace.noise_covariance is not None:
        return kspace.noise_covariance.detach().diagonal(dim1=1, dim2=2).real.mean(dim=1).to(kspace.data.real.dtype)
    data = kspace.data.detach()
    mask = (kspace.mask.detach() != 0).expand(data.shape[0], data.shape[1], 1, *data.shape[3:])
    if kspace.trajectory is None:
        radius = cartesian_radius(data, dimensions(kspace.fourier_axes))
    else:
        radius = kspace.trajectory.detach().square().sum(dim=2)[:, :, None, None]
    return outer_noise_variance(data, mask, radius)


def _weights(problem: Problem) -> Float[Tensor, "batch time 1 z y x"]:
    """The variance of every measured sample over σ²: 1 where measured, w along a trajectory."""
    y, encoding = problem.measured, problem.encoding
    known = getattr(encoding, "weights", None)
    weights = (encoding.mask.detach() != 0).to(y.real.dtype) if known is None else known.detach()
    return weights.expand(y.shape[0], y.shape[1], 1, *y.shape[3:])


def _at_frames(encoding: CartesianEncoding | NonCartesianEncoding, frames: Tensor
               ) -> CartesianEncoding | NonCartesianEncoding:
    def taken(tensor: Tensor) -> Tensor:
        return tensor if tensor.shape[1] == 1 else tensor[:, frames]

    if isinstance(encoding, CartesianEncoding):
        return CartesianEncoding(mask=taken(encoding.mask), sensitivities=encoding.sensitivities,
                                 fourier_axes=encoding.fourier_axes)
    return NonCartesianEncoding(trajectory=taken(encoding.trajectory), shape=encoding.shape,
                                sensitivities=encoding.sensitivities, fourier_axes=encoding.fourier_axes,
                                weights=None if encoding.weights is None else taken(encoding.weights),
                                tolerance=encoding.tolerance)


def _at_slice(encoding: CartesianEncoding | NonCartesianEncoding, number: int
              ) -> CartesianEncoding | NonCartesianEncoding:
    if isinstance(encoding, CartesianEncoding):
        return encoding.at_slice(number)
    maps = encoding.sensitivities
    return NonCartesianEncoding(trajectory=encoding.trajectory, shape=(1, *encoding.shape[1:]),
                                sensitivities=None if maps is None else at_slice(maps, number),
                                weights=encoding.weights, fourier_axes=encoding.fourier_axes,
                                tolerance=encoding.tolerance)


def _power(x: Tensor) -> Tensor:
    return torch.view_as_real(x).square().flatten(1).sum(dim=1)
