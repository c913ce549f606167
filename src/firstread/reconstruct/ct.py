"""CT reconstructions: line integrals in, Hounsfield units out."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import GeometryError, SettingError, SignalError
from firstread.core.records import Image
from firstread.core.sinogram import Sinogram
from firstread.core.stage import Stage
from firstread.ops.attenuation import WATER_PER_MM, hounsfield
from firstread.ops.backprojection import Window, filtered_backprojection, window_values
from firstread.ops.minimize import LeastSquares, Solution, primal_dual
from firstread.ops.projection import Projection, plane_spacing_mm
from firstread.ops.proximal import conjugate, group_soft_threshold
from firstread.ops.sart import sart
from firstread.ops.variation import PLANE, Differences


class FilteredBackprojection(Stage):
    """Filtered backprojection of parallel and fan beams, short scans included (``ops.backprojection``).

    window, cutoff: over the ramp filter; cutoff is a share of the detector's Nyquist frequency.
    water_per_mm: attenuation of water, what HU refer to.

    Reads a Sinogram, writes the Image "reconstruction" in HU. Raises GeometryError for an arc that is too short.
    """

    result = "reconstruction"

    def __init__(self, *, window: Window = "hann", cutoff: float = 1.0, water_per_mm: float = WATER_PER_MM):
        super().__init__()
        window_values(window, torch.zeros(1), cutoff)
        self.window, self.cutoff, self.water_per_mm = window, cutoff, water_per_mm

    def forward(self, sinogram: Sinogram) -> Image:
        check_integrals(sinogram)
        made = filtered_backprojection(sinogram.data, sinogram.beam, sinogram.grid.shape[1:],
                                       plane_spacing_mm(sinogram.grid), window=self.window, cutoff=self.cutoff)
        return image_of(sinogram, made, self.water_per_mm)


class SART(Stage):
    """The simultaneous algebraic reconstruction technique with ordered subsets (``ops.sart``), from zero.

    subsets: of the views; iterations: passes over all of them; relaxation: of the steps. Attenuation stays above zero.
    water_per_mm: attenuation of water, what HU refer to.

    Reads a Sinogram, writes the Image "reconstruction" in HU. After Andersen and Kak, Ultrason. Imaging 6:81 (1984).
    """

    result = "reconstruction"

    def __init__(self, *, subsets: int = 20, iterations: int = 10, relaxation: float = 0.5,
                 water_per_mm: float = WATER_PER_MM):
        super().__init__()
        if subsets < 1 or iterations < 1 or not 0 < relaxation < 2:
            raise SettingError(f"{subsets} subsets, {iterations} iterations, relaxation {relaxation}",
                               expected="one or more of each, relaxation between 0 and 2", remedy="correct the setting")
        self.subsets, self.iterations, self.relaxation = subsets, iterations, relaxation
        self.water_per_mm = water_per_mm

    def forward(self, sinogram: Sinogram) -> Image:
        check_integrals(sinogram)
        made = sart(sinogram.data, Projection.of(sinogram.beam, sinogram.grid), subsets=self.subsets,
                    iterations=self.iterations, relaxation=self.relaxation)
        return image_of(sinogram, made, self.water_per_mm)


class SinogramTV(Stage):
    """Weighted least squares with total variation in each slice, by the primal-dual solver, from zero attenuation up::

        min_{μ ≥ 0}  ½ Σ_i w_i ((A μ)_i - p_i)² + λ Σ sqrt(|D_y μ|² + |D_x μ|²)

    regularization: λ in Hounsfield units, relative to the norm of ``Aᵀ W A``. w are the sinogram's weights, mean 1
    in each row; equal ones where it has none. Weights that differ much (thick bodies) make it slow: they pay where few
    photons arrive, elsewhere a sinogram without weights is nearer its end after as many iterations. It begins at
    filtered backprojection where the beam allows, else at SART.
    iterations, tolerance: when to stop (``ops.minimize.primal_dual``). water_per_mm: what HU refer to.

    Reads a Sinogram, writes the Image "reconstruction" in HU. After Sidky and Pan, Phys. Med. Biol. 53:4777 (2008).
    """

    result = "reconstruction"

    def __init__(self, *, regularization: float = 0.3, iterations: int = 200, tolerance: float = 1e-4,
                 water_per_mm: float = WATER_PER_MM):
        super().__init__()
        if regularization < 0 or iterations < 1 or tolerance < 0:
            raise SettingError(f"regularization {regularization}, {iterations} iterations, tolerance {tolerance}",
                               expected="λ ≥ 0, one iteration or more, tolerance ≥ 0", remedy="correct the setting")
        self.regularization, self.iterations, self.tolerance = regularization, iterations, tolerance
        self.water_per_mm = water_per_mm

    def forward(self, sinogram: Sinogram) -> Image:
        check_integrals(sinogram)
        projection = Projection.of(sinogram.beam, sinogram.grid)
        weights = sinogram.weights
        if weights is not None:
            weights = weights / weights.flatten(1).mean(dim=1)[:, None, None, None, None, None]
        made = solve_sinogram_tv(sinogram.data, weights, projection, self.regularization / 1000 * self.water_per_mm,
                                 start=_first(sinogram, projection), iterations=self.iterations,
                                 tolerance=self.tolerance)
        return image_of(sinogram, made.x, self.water_per_mm)


def solve_sinogram_tv(measured: Float[Tensor, "*lead view bin"], weights: Float[Tensor, "*lead view bin"] | None,
                      projection: Projection, smallest: float, *, start: Float[Tensor, "*lead y x"],
                      iterations: int = 100, tolerance: float = 1e-4) -> Solution:
    """``argmin_{μ ≥ 0} ½‖A μ − p‖²_W + λ TV(μ)`` with ``λ = smallest · ‖AᵀWA‖`` by ``ops.minimize.primal_dual``."""
    def gram(x: Tensor) -> Tensor:
        rays = projection(x)
        return projection.adjoint(rays if weights is None else weights * rays)

    bound = projection.bound(weights)
    rhs = projection.adjoint(measured if weights is None else weights * measured)
    largest, differences = torch.tensor(smallest * bound, dtype=rhs.dtype, device=rhs.device), Differences(PLANE)
    ball = conjugate(lambda v, step: group_soft_threshold(v, step * largest, (0,)))
    return primal_dual(LeastSquares(gram, rhs, bound), ball, differences, norm=differences.bound(), start=start,
                       proximal=lambda v, _: v.clamp_min(0), iterations=iterations, tolerance=tolerance)


def _first(sinogram: Sinogram, projection: Projection) -> Tensor:
    """Where the iterations begin: filtered backprojection, or SART where an arc is too short for it."""
    try:
        made = filtered_backprojection(sinogram.data, sinogram.beam, projection.shape, projection.spacing_mm,
                                       window="hann")
    except GeometryError:
        made = sart(sinogram.data, projection, subsets=1, iterations=5, relaxation=1.0)
    return made.clamp_min(0)


def check_integrals(sinogram: Sinogram) -> None:
    """Refuse line integrals that no reconstruction can use."""
    if sinogram.data.is_complex() or not bool(torch.isfinite(sinogram.data.detach()).all()):
        raise SignalError("line integrals that are complex or have NaN", expected="finite real numbers",
                          remedy="take -ln(I / I₀) of counts above zero")


def image_of(sinogram: Sinogram, attenuation: Float[Tensor, "batch time channel z y x"], water_per_mm: float) -> Image:
    """The image in HU of attenuation per millimetre."""
    return Image(sinogram.rows, hounsfield(attenuation, water_per_mm), sinogram.grid, source=sinogram.source,
                 notes=sinogram.notes)
