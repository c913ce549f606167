"""The convolutional recurrent network as a stage."""

from __future__ import annotations

from firstread.core.records import Image, KSpace
from firstread.core.stage import Stage
from firstread.nets.crnn import RecurrentNetwork
from firstread.reconstruct.learned import reconstruct, settings_of


class Recurrent(Stage):
    """Convolutional recurrent network for cines (Qin et al. 2019): k-space to complex image.

    network: a trained ``RecurrentNetwork``. With a trained weight of data consistency it sees images scaled to a
    brightness of about one; the published noiseless one sees the data as they are (its authors' images have maximum 1).
    calibration_lines: the widest fully sampled centre that the coil sensitivities are estimated from.

    Reads a KSpace, writes the complex Image "reconstruction".
    """

    result = "reconstruction"

    def __init__(self, *, network: RecurrentNetwork, calibration_lines: int = 32):
        super().__init__()
        self.network = network
        self.calibration_lines = calibration_lines

    def settings(self) -> str:
        """The network's size and the stage's own settings."""
        return f"{settings_of(self.network)}, {super().settings()}"

    def forward(self, kspace: KSpace) -> Image:
        return reconstruct(kspace, self.network, calibration_lines=self.calibration_lines,
                           scaled=self.network.consistency is not None)
