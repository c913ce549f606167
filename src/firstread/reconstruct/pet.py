"""PET reconstructions: coincidences in, activity out."""

from __future__ import annotations

from firstread.core.emission import Emission
from firstread.core.errors import SettingError
from firstread.core.records import Image
from firstread.core.stage import Stage
from firstread.ops.emission import expectation_maximization
from firstread.ops.projection import Projection


class MLEM(Stage):
    """Maximum likelihood by expectation maximization (Shepp and Vardi 1982), attenuation and background in the model.

    iterations: early ones are smooth, later ones follow the noise.

    Reads an Emission, writes the Image "reconstruction" in the unit of its activity.
    """

    result = "reconstruction"

    def __init__(self, *, iterations: int = 40):
        super().__init__()
        if iterations < 1:
            raise SettingError(f"{iterations} iterations", expected="one or more", remedy="raise `iterations`")
        self.iterations = iterations

    def forward(self, emission: Emission) -> Image:
        return _reconstruct(emission, 1, self.iterations)


class OSEM(Stage):
    """Expectation maximization over ordered subsets of the views (Hudson and Larkin 1994): as MLEM, about as many times
    faster as there are subsets.

    subsets: of the views; iterations: passes over all of them.

    Reads an Emission, writes the Image "reconstruction" in the unit of its activity.
    """

    result = "reconstruction"

    def __init__(self, *, subsets: int = 10, iterations: int = 4):
        super().__init__()
        if subsets < 1 or iterations < 1:
            raise SettingError(f"{subsets} subsets, {iterations} iterations", expected="one or more of each",
                               remedy="correct the setting")
        self.subsets, self.iterations = subsets, iterations

    def forward(self, emission: Emission) -> Image:
        return _reconstruct(emission, self.subsets, self.iterations)


def _reconstruct(emission: Emission, subsets: int, iterations: int) -> Image:
    made = expectation_maximization(emission.data, Projection.of(emission.beam, emission.grid), emission.factors,
                                    emission.background, subsets=subsets, iterations=iterations)
    return Image(emission.rows, made, emission.grid, source=emission.source, notes=emission.notes)
