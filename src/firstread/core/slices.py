"""What slice-to-volume reconstruction makes: a volume, and what became of every slice that it was made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import Image

OUTSIDE = "does not show the region of interest"
State = Literal["used", "excluded", "outside"]


@dataclass(frozen=True, eq=False)
class SliceVolume(Image):
    """An isotropic Image made of moving slices.

    region: where it was reconstructed (1) and where it is empty (0), ``[batch, 1, 1, z, y, x]``.
    poses: millimetres of the scan to those of the volume, ``[batch, slice, 4, 4]``.
    weights: 0 (excluded) to 1; ncc: normalized cross-correlation of each slice with the volume as that slice sees it;
    scales: what each slice's intensities were multiplied by. All ``[batch, slice]``.
    stack, number: which slice of which stack it is, from 0; reasons: why it was excluded, empty where it was used.
    template: the stack that the volume is aligned with; template_reason: why that one.
    """

    region: Float[Tensor, "batch 1 1 z y x"] | None = None
    poses: Float[Tensor, "batch slice 4 4"] | None = None
    weights: Float[Tensor, "batch slice"] | None = None
    ncc: Float[Tensor, "batch slice"] | None = None
    scales: Float[Tensor, "batch slice"] | None = None
    stack: tuple[int, ...] = ()
    number: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()
    template: int = 0
    template_reason: str = ""

    def __post_init__(self):
        count = len(self.stack)
        tables = (self.poses, self.weights, self.ncc, self.scales)
        if not (len(self.number) == len(self.reasons) == count) or any(t is None or t.shape[1] != count
                                                                       for t in tables):
            raise SettingError(f"tables of other lengths than {count} slices", expected="one entry for every slice",
                               remedy="give poses, weights, ncc, scales, number and reasons of every slice")

    @property
    def states(self) -> tuple[State, ...]:
        """Of every slice: used, excluded for a reason, or outside the region of interest."""
        return tuple("used" if not reason else "outside" if reason == OUTSIDE else "excluded"
                     for reason in self.reasons)
