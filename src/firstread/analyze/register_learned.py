"""Registration by a network in one pass, with its uncertainty, and a few steps on the pair itself if wanted."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.register import check_pair
from firstread.analyze.register_deformable import Effort, Shape, at_level, displacement, find_velocity, rescale
from firstread.core.alignment import Alignment
from firstread.core.errors import GeometryError, SettingError
from firstread.core.geometry import Transform
from firstread.core.records import Image
from firstread.core.stage import Stage
from firstread.nets.velocity import VelocityNet
from firstread.ops.intensity import scale_percentiles
from firstread.ops.similarity import LocalCorrelation
from firstread.ops.velocity import sample_at

LEAST = 8  # pixels a side that the network is shown


class LearnedRegister(Stage):
    """How ``moving`` lies on ``fixed`` by a network's velocity; differentiable with respect to both images.

    network: images of unit range ``[batch, z, y, x]`` to mean and log variance of a velocity at half the resolution
        (:class:`~firstread.nets.velocity.VelocityNet`): of volumes, or of stacks whose slices move each in its plane.
    refine: effort of an instance optimization from that start; None for none. It passes no gradient.
    spread_factor: what the network's spread is multiplied with, as its card says.

    Both images lie on one grid in millimetres, aligned before (:class:`~firstread.analyze.register.Register`).
    ``spread_mm`` is the standard deviation of the velocity in millimetres: to first order that of the displacement.
    Raises GeometryError for two grids, and what ``Register`` raises for images.
    """

    result = "alignment"

    def __init__(self, *, network: VelocityNet, refine: Effort | None = None, spread_factor: float = 1.0) -> None:
        super().__init__()
        if not spread_factor > 0:
            raise SettingError(f"a spread factor of {spread_factor}", expected="more than zero", remedy="correct it")
        self.network, self.refine, self.spread_factor = network, refine, spread_factor

    def forward(self, fixed: Image, moving: Image) -> Alignment:
        check_pair(fixed, moving)
        if not fixed.grid.same_as(moving.grid, tolerance_mm=0.01):
            raise GeometryError("two images on different grids", expected="one grid",
                                remedy="register them affinely and warp the moving one onto the fixed grid first")
        one, two = _unit(fixed.data), _unit(moving.data)
        slices = fixed.grid.shape[0] if self.network.dims == 2 else 0
        first, second = (in_planes(image) if slices else image for image in (one, two))
        z, y, x = fixed.grid.spacing_mm[0].tolist()
        mean, spread = foreseen(self.network, first, second, (z, y, x))
        if self.refine is not None:
            with torch.no_grad():
                mean = find_velocity(first, second, spacing_mm=(z, y, x), effort=self.refine, start=mean)
        shape = (first.shape[1], first.shape[2], first.shape[3])
        there, back, spread = (stacked(field, slices) if slices else field for field in (
            displacement(mean, shape), displacement(-mean, shape), spread))
        to_mm = fixed.grid.affine[:, :3, :3].to(there.dtype)
        eye = torch.eye(4, dtype=torch.float64, device=to_mm.device).expand(fixed.batch, 4, 4)
        there_mm, back_mm = (torch.einsum("bij,bjzyx->bizyx", to_mm, field) for field in (there, back))
        forward = Transform(eye, there_mm, fixed.grid, moving.grid)
        backward = Transform(eye, back_mm, moving.grid, fixed.grid)
        measure = LocalCorrelation(one)
        warped = sample_at(two[:, None], there)[:, 0]
        size = fixed.grid.spacing_mm.flip(1)[:, :, None, None, None].to(spread.dtype)
        return Alignment(fixed.rows, forward, backward, measure(two), measure(warped), "lncc",
                         self.spread_factor * spread * size)


def in_planes(stack: Float[Tensor, "batch z y x"]) -> Float[Tensor, "rows 1 y x"]:
    """Every slice as a row of its own."""
    return stack.flatten(0, 1)[:, None]


def stacked(field: Float[Tensor, "rows 3 1 y x"], slices: int) -> Float[Tensor, "batch 3 z y x"]:
    """The opposite for fields: rows of slices as stacks of ``slices``."""
    return field[:, :, 0].unflatten(0, (-1, slices)).transpose(1, 2)


def foreseen(network: VelocityNet, fixed: Float[Tensor, "batch z y x"], moving: Float[Tensor, "batch z y x"],
             spacing_mm: tuple[float, float, float]
             ) -> tuple[Float[Tensor, "batch 3 hz hy hx"], Float[Tensor, "batch 3 z y x"]]:
    """The network's velocity, in its own voxels, and its spread in voxels of the images, which it sees at its spacing.

    A grid of other spacing than the network's is resized in plane (in all axes where it is one for volumes).
    """
    shape = (fixed.shape[1], fixed.shape[2], fixed.shape[3])
    seen = _seen_shape(network, shape, spacing_mm)
    mean, log_variance = network(at_level(fixed, seen), at_level(moving, seen))
    return mean, rescale((log_variance / 2).exp(), shape)


def _seen_shape(network: VelocityNet, shape: Shape, spacing_mm: tuple[float, float, float]) -> Shape:
    wanted = network.spacing_mm
    if wanted is None:
        return shape
    z, y, x = (n if abs(s / wanted - 1) < 0.02 else max(LEAST, round(n * s / wanted))
               for n, s in zip(shape, spacing_mm, strict=True))
    return (shape[0] if network.dims == 2 or shape[0] == 1 else z), y, x


def _unit(data: Tensor) -> Float[Tensor, "batch z y x"]:
    values = (data.abs() if data.is_complex() else data).float()[:, 0, 0]
    return scale_percentiles(values, low=0.001, high=0.999).clamp(-0.1, 1.1)
