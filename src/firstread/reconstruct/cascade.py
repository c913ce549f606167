"""The learned reconstruction as a stage."""

from __future__ import annotations

import torch

from firstread.core.records import Image, KSpace
from firstread.core.stage import Stage
from firstread.nets.cascade import DeepCascade
from firstread.reconstruct.problem import image_from, problem_of


class Cascade(Stage):
    """Deep cascade with data consistency (Schlemper et al. 2018): k-space to complex image.

    network: a trained ``DeepCascade``; it sees images scaled to a brightness of about one.
    calibration_lines: the widest fully sampled centre that the coil sensitivities are estimated from.
    recompute: the network's blocks keep nothing for the gradient but run once more when it comes: much less memory.

    Reads a KSpace, writes the complex Image "reconstruction".
    """

    result = "reconstruction"

    def __init__(self, *, network: DeepCascade, calibration_lines: int = 32, recompute: bool = False):
        super().__init__()
        self.network = network
        self.calibration_lines = calibration_lines
        self.recompute = recompute

    def settings(self) -> str:
        """The network's size and the stage's own settings."""
        sizes = ", ".join(f"{name}={value!r}" for name, value in self.network.settings().items())
        return f"{sizes}, {super().settings()}"

    def forward(self, kspace: KSpace) -> Image:
        problem = problem_of(kspace, calibration_lines=self.calibration_lines)
        brightness = torch.ones((), device=kspace.data.device)
        if self.network.consistency is not None:
            brightness = problem.brightness()
        image = self.network(problem.measured / brightness, problem.encoding, recompute=self.recompute)
        return image_from(kspace, brightness * image)
