"""Registration by a network in one pass, with its uncertainty, and a few steps on the pair itself if wanted."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.analyze.register import check_pair, diffeomorphism
from firstread.analyze.register_deformable import Effort, displacement, find_velocity, rescale
from firstread.core.alignment import Alignment
from firstread.core.errors import GeometryError
from firstread.core.geometry import Transform
from firstread.core.records import Image
from firstread.core.stage import Stage
from firstread.ops.intensity import scale_percentiles
from firstread.ops.similarity import LocalCorrelation
from firstread.ops.velocity import sample_at


class LearnedRegister(Stage):
    """How ``moving`` lies on ``fixed`` by a network's velocity; differentiable with respect to both images.

    network: images of unit range ``[batch, z, y, x]`` to mean and log variance of a velocity at half the resolution
        (:class:`~firstread.nets.velocity.VelocityNet`).
    refine: effort of an instance optimization from that start; None for none. It passes no gradient.

    Both images lie on one grid in millimetres, aligned before (:class:`~firstread.analyze.register.Register`).
    ``spread_mm`` is the standard deviation of the velocity in millimetres: to first order that of the displacement, as
    the network believes it; it is not calibrated.
    Raises GeometryError for two grids, and what ``Register`` raises for images.
    """

    result = "alignment"

    def __init__(self, *, network: nn.Module, refine: Effort | None = None) -> None:
        super().__init__()
        self.network, self.refine = network, refine

    def forward(self, fixed: Image, moving: Image) -> Alignment:
        check_pair(fixed, moving)
        if not fixed.grid.same_as(moving.grid, tolerance_mm=0.01):
            raise GeometryError("two images on different grids", expected="one grid",
                                remedy="register them affinely and warp the moving one onto the fixed grid first")
        one, two = _unit(fixed.data), _unit(moving.data)
        mean, log_variance = self.network(one, two)
        if self.refine is not None:
            spacing = fixed.grid.spacing_mm[0].tolist()
            with torch.no_grad():
                mean = find_velocity(one, two, spacing_mm=(spacing[0], spacing[1], spacing[2]), effort=self.refine,
                                     start=mean)
        start = Transform.identity(fixed.batch)
        forward, backward = diffeomorphism(mean, start, fixed.grid, moving.grid)
        measure = LocalCorrelation(one)
        warped = sample_at(two[:, None], displacement(mean, fixed.grid.shape))[:, 0]
        spread = rescale((log_variance / 2).exp(), fixed.grid.shape) * fixed.grid.spacing_mm.flip(1)[
            :, :, None, None, None].to(mean.dtype)
        return Alignment(fixed.rows, forward, backward, measure(two), measure(warped), "lncc", spread)


def _unit(data: Tensor) -> Float[Tensor, "batch z y x"]:
    values = (data.abs() if data.is_complex() else data).float()[:, 0, 0]
    return scale_percentiles(values, low=0.001, high=0.999).clamp(-0.1, 1.1)
