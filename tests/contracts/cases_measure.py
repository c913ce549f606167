"""One small case for each stage of the room ``measure``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from samples import Contract, soft_heart, tracer

from firstread.core.records import HardLabels

if TYPE_CHECKING:
    from firstread.measure.pet_header import PetHeader


def cardiac_function() -> Contract:
    from firstread.measure.cardiac import CardiacFunction

    return Contract(CardiacFunction(softness=0.1), {"labels": soft_heart()}, "labels")


def pet_header() -> PetHeader:
    from firstread.measure.pet_header import PetHeader

    return PetHeader(unit="BQML", dose_bq=370e6, half_life_s=6586.2, decay_s=3600.0, weight_kg=70.0)


def standardized_uptake() -> Contract:
    from firstread.measure.suv import StandardizedUptake

    return Contract(StandardizedUptake(header=pet_header()), {"image": tracer()}, "image")


def uptake_in_regions() -> Contract:
    from firstread.measure.suv import UptakeInRegions

    image = tracer()
    labels = HardLabels(image.rows, (image.data > 15000).to(torch.uint8), image.grid, ("background", "hot spot"))
    return Contract(UptakeInRegions(), {"image": image, "labels": labels})


CASES: dict[str, Callable[[], Contract]] = {
    "StandardizedUptake": standardized_uptake,
    "UptakeInRegions": uptake_in_regions,
    "CardiacFunction": cardiac_function,
}
