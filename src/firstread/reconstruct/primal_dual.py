"""The learned primal-dual network as a stage."""

from __future__ import annotations

from jaxtyping import Float, Num
from torch import Tensor

from firstread.core.records import Image
from firstread.core.sinogram import Sinogram
from firstread.core.stage import Stage
from firstread.nets.primal_dual import PrimalDualNetwork
from firstread.ops.attenuation import WATER_PER_MM
from firstread.ops.backprojection import filtered_backprojection
from firstread.ops.linear import LinearOp
from firstread.ops.projection import Projection
from firstread.reconstruct.ct import check_integrals, image_of
from firstread.reconstruct.learned import settings_of


class ScaledProjection(LinearOp):
    """``A / ‖A‖`` (by the bound of the norm), so that networks see the same scale whatever the geometry."""

    def __init__(self, projection: Projection):
        self.projection, self.norm = projection, projection.bound() ** 0.5

    def forward(self, x: Num[Tensor, "*lead y x"]) -> Num[Tensor, "*lead view bin"]:
        """``A x / ‖A‖``."""
        return self.projection(x) / self.norm

    def adjoint(self, y: Num[Tensor, "*lead view bin"]) -> Num[Tensor, "*lead y x"]:
        """``Aᵀ y / ‖A‖``."""
        return self.projection.adjoint(y) / self.norm


def learned_attenuation(network: PrimalDualNetwork, integrals: Float[Tensor, "n 1 view bin"],
                        projection: ScaledProjection) -> Float[Tensor, "n 1 y x"]:
    """Attenuation relative to water from line integrals relative to water (in mm), beginning at a Hann-filtered
    backprojection."""
    plain = projection.projection
    start = filtered_backprojection(integrals, plain.beam, plain.shape, plain.spacing_mm, window="hann")
    return network(integrals / projection.norm, projection, start)


class PrimalDual(Stage):
    """Learned primal-dual reconstruction (Adler and Öktem 2018), slice by slice.

    network: a trained ``PrimalDualNetwork``; it sees attenuation relative to water and a projection of norm one.
    water_per_mm: attenuation of water, what HU refer to.

    Reads a Sinogram, writes the Image "reconstruction" in HU. Raises GeometryError for an arc that is too short for
    the filtered backprojection that it begins at.
    """

    result = "reconstruction"

    def __init__(self, *, network: PrimalDualNetwork, water_per_mm: float = WATER_PER_MM):
        super().__init__()
        self.network, self.water_per_mm = network, water_per_mm

    def settings(self) -> str:
        """The network's size and the stage's own settings."""
        return f"{settings_of(self.network)}, {super().settings()}"

    def forward(self, sinogram: Sinogram) -> Image:
        check_integrals(sinogram)
        projection = ScaledProjection(Projection.of(sinogram.beam, sinogram.grid))
        planes = sinogram.data.flatten(0, 3)[:, None] / self.water_per_mm
        made = learned_attenuation(self.network, planes, projection)
        made = made.reshape(*sinogram.data.shape[:4], *made.shape[-2:])
        return image_of(sinogram, made * self.water_per_mm, self.water_per_mm)
