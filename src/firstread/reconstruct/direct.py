"""Direct reconstructions: root sum of squares, the adjoint (zero-filled), and the combination of filled k-space."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import Image, KSpace
from firstread.core.stage import Stage
from firstread.ops.fourier import ifft
from firstread.reconstruct.problem import image_from, problem_of


def root_sum_of_squares(kspace: Complex[Tensor, "batch time coil z y x"], axes: Sequence[str] = ("y", "x")
                        ) -> Float[Tensor, "batch time 1 z y x"]:
    """``sqrt(Σ_c |F⁻¹ y_c|²)`` (Roemer et al. 1990).

    >>> import torch
    >>> root_sum_of_squares(torch.ones(1, 1, 4, 1, 1, 1, dtype=torch.complex64)).item()
    2.0
    """
    return ifft(kspace, axes).abs().square().sum(dim=2, keepdim=True).sqrt()


class ZeroFilled(Stage):
    """K-space to image by the adjoint of the encoding, ``x = Sᴴ Fᴴ M y``: what was not measured is zero.

    calibration_lines: the widest fully sampled centre that the coil sensitivities are estimated from.

    Reads a KSpace, writes the complex Image "zero_filled".
    """

    result = "zero_filled"

    def __init__(self, *, calibration_lines: int = 32):
        super().__init__()
        self.calibration_lines = calibration_lines

    def forward(self, kspace: KSpace) -> Image:
        return image_from(kspace, problem_of(kspace, calibration_lines=self.calibration_lines).rhs())


class CombineCoils(Stage):
    """Filled k-space to image by ``x = (Sᴴ S)⁻¹ Sᴴ F⁻¹ y``, the least squares of every pixel (Roemer et al. 1990).

    For what ``Grappa``, ``Homodyne`` or ``POCS`` wrote. The adjoint of ``ZeroFilled`` is this up to ``Sᴴ S``, which is
    one only where noise is white. Lines that are still empty count as zero; pixels that no coil sees are zero.

    Reads a KSpace, writes the complex Image "reconstruction". Raises SettingError for several sets of coil maps.
    """

    result = "reconstruction"

    def __init__(self, *, calibration_lines: int = 32):
        super().__init__()
        self.calibration_lines = calibration_lines

    def forward(self, kspace: KSpace) -> Image:
        problem = problem_of(kspace, calibration_lines=self.calibration_lines)
        if problem.encoding.sets > 1:
            raise SettingError(f"{problem.encoding.sets} sets of coil maps", expected="one set",
                               remedy="use Espirit(sets=1), or CGSense, which solves for all of them")
        image, maps = problem.rhs(), problem.encoding.sensitivities
        if maps is not None:
            energy = (maps.conj() * maps).real.sum(dim=2, keepdim=True)
            seen = energy > 1e-6 * energy.amax(dim=(-1, -2), keepdim=True)
            image = image * (seen / energy.where(seen, 1.0))
        return image_from(kspace, image)
