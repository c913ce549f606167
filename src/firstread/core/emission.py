"""Coincidences of a PET scan along rays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Record
from firstread.core.sinogram import Beam, check_rays


@dataclass(frozen=True, eq=False)
class Emission(Record):
    """Prompt coincidences: ``y ~ Poisson(f · ∫ a dl + b)`` for an activity a.

    data: counts y, ``[batch, time, channel, z, view, bin]``.
    factors: f, what one unit of activity per mL along one millimetre of the ray gives: attenuation, sensitivity, time.
    background: b, expected randoms and scatter; None for none.
    grid: of the image that is asked for; the scanner turns about the middle of its planes.
    unit: of the activity, ``Bq/mL``.
    """

    data: Float[Tensor, "batch time channel z view bin"]
    grid: Grid
    beam: Beam
    factors: Float[Tensor, "batch #time #channel #z view bin"]
    background: Float[Tensor, "batch #time #channel #z view bin"] | None = None
    unit: str = "Bq/mL"
    source: Any = None

    def __post_init__(self):
        check_rays("coincidences", self.data, self.beam, self.grid)
        for name, values in (("counts", self.data), ("factors", self.factors), ("background", self.background)):
            if values is not None and not bool(((values.detach() >= 0) & torch.isfinite(values.detach())).all()):
                raise SignalError(f"{name} below zero or not finite", expected="zero or more", remedy=(
                    "give prompts and the background that is expected, not their difference" if name == "counts"
                    else f"correct the {name}"))
