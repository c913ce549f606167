"""One method of promptable segmentation where the user points, another where its mask is carried on."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from firstread.analyze.prompting import PlanePrompt, Promptable


class Handover(Promptable):
    """``pointed`` in planes with a click or a box, ``carried`` in those that only have the mask of their neighbour.

    A network's small mistakes add up over many slices that hardly differ; the random walker follows grey values and
    stays. So the network finds what is meant, and the walker carries it on.
    """

    def __init__(self, *, pointed: Promptable, carried: Promptable) -> None:
        super().__init__()
        self.pointed, self.carried = pointed, carried
        self.channels = tuple(sorted(set(pointed.channels) & set(carried.channels)))
        self.points = pointed.points and carried.points

    def forward(self, image: Float[Tensor, "channel y x"], prompt: PlanePrompt) -> Float[Tensor, "y x"]:
        return (self.pointed if prompt.said else self.carried)(image, prompt)
