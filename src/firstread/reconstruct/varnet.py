"""The end-to-end variational network as a stage."""

from __future__ import annotations

from dataclasses import replace

from firstread.core.records import Image, KSpace
from firstread.core.stage import Stage
from firstread.nets.varnet import VariationalNetwork
from firstread.reconstruct.learned import reconstruct, settings_of


class VarNet(Stage):
    """End-to-end variational network (Sriram et al. 2020): multi-coil k-space to complex image, frame by frame.

    network: a trained ``VariationalNetwork``; it sees images scaled to a brightness of about one and refines the coil
    sensitivities that the centre lines give. Coils are not decorrelated before, as the network was trained.
    calibration_lines: the widest fully sampled centre that the first sensitivities are estimated from.

    Reads a KSpace, writes the complex Image "reconstruction".
    """

    result = "reconstruction"

    def __init__(self, *, network: VariationalNetwork, calibration_lines: int = 32):
        super().__init__()
        self.network = network
        self.calibration_lines = calibration_lines

    def settings(self) -> str:
        """The network's size and the stage's own settings."""
        return f"{settings_of(self.network)}, {super().settings()}"

    def forward(self, kspace: KSpace) -> Image:
        return reconstruct(replace(kspace, noise_covariance=None), self.network,
                           calibration_lines=self.calibration_lines)
