"""Thick-slice stacks to near isotropic volumes: interpolation, model-based least squares, a learned network.

All write a volume ``factor`` times as fine along z, over the same field of view. Long-axis views, where the case has a
record "long_axis", are brought in through the profile of their own slices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Image
from firstread.core.stage import Stage
from firstread.nets.superres import SuperResolution
from firstread.ops.slice_profile import Profile, SliceProfile, spread
from firstread.ops.spline import finer_places, interpolation_matrix
from firstread.ops.variation import minimize_total_variation
from firstread.restore.views import View, fuse, views_of

Regularizer = Literal["bending", "tv"]


def interpolate(data: Float[Tensor, "batch time channel z y x"], factor: int, order: int
                ) -> Float[Tensor, "batch time channel Z y x"]:
    """``factor`` voxels for each slice by interpolation along z (``ops.spline.interpolation_matrix``).

    >>> interpolate(torch.tensor([0.0, 4.0]).reshape(1, 1, 1, 2, 1, 1), 2, 1).flatten().tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    matrix = interpolation_matrix(data.shape[3], finer_places(data.shape[3], factor), order=order).to(data)
    return torch.einsum("jk,btckyx->btcjyx", matrix, data)


def bending(x: Float[Tensor, "batch time channel z y x"]) -> Float[Tensor, "batch time channel z y x"]:
    """``LᵀL x``, L the second difference along z with level ends (the slope beyond the outer voxels is zero).

    >>> bending(torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(1, 1, 1, 4, 1, 1)).flatten().tolist()
    [-1.0, 1.0, -1.0, 1.0]
    """
    return _second(_second(x))


def bending_inverse(weights: Float[Tensor, "batch slice voxel"], regularization: float | Tensor
                    ) -> Float[Tensor, "batch voxel slice"]:
    """``(WᵀW + λ LᵀL)⁻¹ Wᵀ``, L as in :func:`bending`; in double precision.

    >>> weights = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]])
    >>> (bending_inverse(weights, 1.0) @ torch.ones(2, dtype=torch.float64)).round(decimals=6).tolist()
    [[1.0, 1.0, 1.0, 1.0]]
    """
    wide = weights.double()
    eye = torch.eye(wide.shape[2], dtype=torch.float64, device=wide.device)
    roughness = bending(eye[None, None, None, :, :, None])[0, 0, 0, :, :, 0]
    return torch.linalg.solve(wide.mT @ wide + regularization * roughness, wide.mT)


def _second(x: Tensor) -> Tensor:
    """Second difference along z, ``x_{k-1} - 2 x_k + x_{k+1}`` with the end voxels repeated: symmetric."""
    step = x.diff(dim=3)
    pad = torch.nn.functional.pad
    return pad(step, (0, 0, 0, 0, 0, 1)) - pad(step, (0, 0, 0, 0, 1, 0))


def least_squares(slices: Float[Tensor, "batch time channel z y x"], profile: SliceProfile, factor: int, *,
                  regularization: float, regularizer: Regularizer, iterations: int
                  ) -> Float[Tensor, "batch time channel Z y x"]:
    """``argmin_x ½‖W x - y‖² + λ R(x)``: R is ``½‖L x‖²`` along z (bending) or the total variation in space.

    Bending is one small matrix along z (:func:`bending_inverse`); total variation is solved by the primal-dual method
    in exactly ``iterations``.
    """
    if regularizer == "bending":
        matrix = bending_inverse(profile.weights, regularization).to(slices)
        return torch.einsum("bjk,btckyx->btcjyx", matrix.expand(len(slices), -1, -1), slices)
    weight = torch.as_tensor(regularization, dtype=slices.real.dtype, device=slices.device)
    ends = torch.nn.functional.pad(profile.weights, (factor, factor))  # the field closes in empty voxels
    wide = SliceProfile(weights=ends)
    found = minimize_total_variation(wide.gram, wide.adjoint(slices), weight, bound=wide.bound(), dims=(-3, -2, -1),
                                     iterations=iterations)
    return found[:, :, :, factor:-factor]


class _Superresolved(Stage):
    """What the stages share: checks, brightness, the finer grid, the views."""

    result = "volume"
    factor: int
    profile: Profile

    def __init__(self) -> None:
        super().__init__()
        self._reads = {"long_axis": "long_axis"}

    def _volume(self, image: Image, long_axis: Image | None, estimate: Callable[..., Tensor]) -> Image:
        check(image)
        grid = finer(image.grid, self.factor)
        level = brightness_of(image.data)
        slices = image.data / level
        stack = SliceProfile.between(image.grid, grid, profile=self.profile).to(slices)
        views = None if long_axis is None else views_of(long_axis, image, grid, level, profile=self.profile)
        volume = torch.cat([
            estimate(slices[:, t:t + 1], stack, None if views is None else [[v.frame(t) for v in row] for row in views])
            for t in range(slices.shape[1])], dim=1)  # one frame after the other: bounded memory
        if views is not None:
            volume = fuse(volume, slices, stack, views)
        return _refined(image, volume * level, grid)


class Upsample(Stage):
    """A stack made ``factor`` times as fine along z by linear (order 1) or cubic B-spline (order 3) interpolation.

    Reads an Image, real or complex, writes the Image "volume". What a slice averages over is not undone: this is what
    super-resolution is compared with.
    """

    result = "volume"

    def __init__(self, *, factor: int = 5, order: int = 3):
        super().__init__()
        _check_factor(factor)
        if order not in (1, 3):
            raise SettingError(f"interpolation of order {order}", expected="1 (linear) or 3 (cubic)",
                               remedy="correct `order`")
        self.factor, self.order = factor, order

    def forward(self, image: Image) -> Image:
        check(image)
        return _refined(image, interpolate(image.data, self.factor, self.order), finer(image.grid, self.factor))


class ModelSuperResolution(_Superresolved):
    """Model-based super-resolution: ``min_x ½‖W x - y‖² + λ R(x)``, W the slice profile (:func:`least_squares`).

    factor: voxels per slice. regularization: λ, for images of brightness 1 (99th percentile); regularizer: ``bending``
    (quadratic, smooth along z) or ``tv``. profile: of the slices, as wide at half maximum as the grid's thickness_mm.
    iterations: of ``tv``.

    Reads the Image "image" (a stack) and, where the case has it, "long_axis" (views as rows of their own, same subject
    and frames; :class:`~firstread.restore.views.views_of`). Writes the Image "volume". After Greenspan 2002; Shi 2013.
    """

    def __init__(self, *, factor: int = 5, regularization: float | int = 1.0, regularizer: Regularizer = "bending",
                 profile: Profile = "trapezoid", iterations: int = 200):
        super().__init__()
        _check_factor(factor)
        if regularization <= 0 or iterations < 1 or regularizer not in get_args(Regularizer):
            raise SettingError(f"regularization {regularization} by {regularizer!r}, {iterations} iterations",
                               expected="λ above zero, 'bending' or 'tv', one iteration or more",
                               remedy="correct the setting")
        self.factor, self.regularization, self.regularizer = factor, regularization, regularizer
        self.profile, self.iterations = profile, iterations

    def forward(self, image: Image, long_axis: Image | None = None) -> Image:
        return self._volume(image, long_axis, lambda slices, stack, views: least_squares(
            slices, stack, self.factor, regularization=self.regularization, regularizer=self.regularizer,
            iterations=self.iterations))


class LearnedSuperResolution(_Superresolved):
    """Super-resolution by a trained network with the slice profile as data consistency (after Oktay et al. 2016).

    network: a trained :class:`~firstread.nets.superres.SuperResolution`; it gives the factor and sees magnitudes of
    brightness about 1. Long-axis views go into the network as values where they pass, and afterwards through their
    slice profile. Reads and writes as :class:`ModelSuperResolution`. Differentiable.
    """

    def __init__(self, *, network: SuperResolution, profile: Profile = "trapezoid"):
        super().__init__()
        self.network, self.profile, self.factor = network, profile, network.factor

    def settings(self) -> str:
        """The network's size and the profile."""
        sizes = ", ".join(f"{name}={value!r}" for name, value in self.network.settings().items())
        return f"{sizes}, {super().settings()}"

    def forward(self, image: Image, long_axis: Image | None = None) -> Image:
        if image.data.shape[2] != 1:
            raise SettingError(f"an image of {image.data.shape[2]} channels", expected="one channel",
                               remedy="combine coils or select a channel first")
        plain, other = (None if i is None else replace(i, data=i.data.abs() if i.data.is_complex() else i.data)
                        for i in (image, long_axis))
        return self._volume(plain, other, self._estimate)

    def _estimate(self, slices: Tensor, stack: SliceProfile, views: list[list[View]] | None) -> Tensor:
        hits = None if views is None else torch.cat([
            spread([view.data for view in row], [view.thin for view in row]) for row in views])
        return self.network(slices[:, 0], stack.weights, None if hits is None else hits[:, 0])[:, None]


def brightness_of(data: Float[Tensor, "batch time channel z y x"]) -> Float[Tensor, "batch 1 1 1 1 1"]:
    """The 99th percentile of each row's magnitude, a constant of the gradient.

    Raises SignalError for a row without signal.
    """
    flat = data.detach().abs().flatten(1)
    found = torch.quantile(flat[:, :: flat.shape[1] // 1_000_000 + 1], 0.99, dim=1)
    if not bool((found > 0).all()):
        raise SignalError("an image without signal", expected="values above zero", remedy="check the image")
    return found[:, None, None, None, None, None]


def nearest_factor(grid: Grid, *, most: int = 8) -> int:
    """The whole number of voxels per slice, 1 to ``most``, whose spacing comes nearest to the pixels' in plane.

    >>> nearest_factor(Grid.from_spacing((6, 16, 16), (10.0, 2.0, 2.0)))
    5
    """
    step, *plane = grid.spacing_mm[0].tolist()
    pixel = sum(plane) / len(plane)
    return min(range(1, most + 1), key=lambda factor: abs(step / factor - pixel))


def finer(grid: Grid, factor: int) -> Grid:
    """The same field of view with ``factor`` slices for each; their thickness is their spacing."""
    made = grid.resize((grid.shape[0] * factor, *grid.shape[1:]))
    return replace(made, thickness_mm=made.spacing_mm[:, 0])


def _refined(image: Image, data: Tensor, grid: Grid) -> Image:
    """The volume with the times of the slices that its voxels come from."""
    slices, factor = image.grid.shape[0], grid.shape[0] // image.grid.shape[0]
    times, cycle = (t if t is None or t.shape[-1] != slices else t.repeat_interleave(factor, dim=-1)
                    for t in (image.times_s, image.cycle_s))
    return replace(image, data=data, grid=grid, times_s=times, cycle_s=cycle)


def check(image: Image) -> None:
    """Refuse what has no through-plane direction to refine, or values that are no numbers."""
    image.grid.require_mm("super-resolution")
    if image.grid.shape[0] < 2:
        raise SettingError("a stack of one slice", expected="two slices or more",
                           remedy="give the whole stack, not one slice of it")
    if not bool(torch.isfinite(torch.view_as_real(image.data.detach() + 0j)).all()):
        raise SignalError("an image with values that are no numbers", expected="finite values",
                          remedy="repair the image or its reconstruction")


def _check_factor(factor: int) -> None:
    if factor < 2:
        raise SettingError(f"factor {factor}", expected="2 or more", remedy="state how many voxels a slice becomes")
