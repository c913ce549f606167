"""The posterior of a heart cine given its k-space, ready to be put into a chain."""

from __future__ import annotations

import torch

from firstread.nets.score import CineDenoiser
from firstread.reconstruct.iterative import TemporalTV
from firstread.reconstruct.posterior import Posterior
from firstread.zoo.store import load

PRIOR = "heart-prior"


def posterior(weights: str = PRIOR) -> Posterior:
    """Posterior draws with the default prior (or a weight's file), begun at temporal total variation.

    Best after ``Espirit(kernel=5)``: errors of the coil maps are what the draws do not know of. Start, spread and
    misfit were chosen on two subjects of the calibration family; a wider spread covers more, with a larger error.
    """
    return Posterior(network=prior(weights), start=TemporalTV(), first=0.1, spread=2.0, misfit=0.02)


def prior(weights: str = PRIOR) -> CineDenoiser:
    """The default prior on heart cines."""
    weight = load(weights)
    network = CineDenoiser.from_weight(weight.card["network"], weight.state)
    return network.to(memory_format=torch.channels_last)
