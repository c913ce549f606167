"""The posterior of a heart cine given its k-space, ready to be put into a chain."""

from __future__ import annotations

import torch

from firstread.nets.score import CineDenoiser
from firstread.reconstruct.plug_and_play import PlugAndPlay
from firstread.reconstruct.posterior import Posterior
from firstread.zoo.store import load

PRIOR = "heart-prior"


def posterior(weights: str = PRIOR) -> Posterior:
    """Posterior draws with the default prior (or a weight's file), begun at the plug-and-play image of the same prior.

    Best after ``Espirit(kernel=5)``: errors of the coil maps are what the draws do not know of.
    """
    network = prior(weights)
    return Posterior(network=network, start=PlugAndPlay(network=network))


def prior(weights: str = PRIOR) -> CineDenoiser:
    """The default prior on heart cines."""
    weight = load(weights)
    network = CineDenoiser.from_weight(weight.card["network"], weight.state)
    return network.to(memory_format=torch.channels_last)
