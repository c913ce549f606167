"""Segmentation by networks that were trained with a plan, on the image's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.analyze.tiles import tiled
from firstread.core.errors import SettingError, SignalError
from firstread.core.records import Image, SoftLabels
from firstread.core.stage import Stage
from firstread.nets.plan import Plan
from firstread.ops.arrange import Arrangement, slice_inputs
from firstread.ops.intensity import scale_values


def prepared(data: Float[Tensor, "time channel z y x"], arrangement: Arrangement, plan: Plan
             ) -> Float[Tensor, "time channel tz ty tx"]:
    """One image as the networks of ``plan`` know it: turned, resampled, scaled. Differentiable.

    Raises SettingError for a number of channels other than the plan's, SignalError for values that are no numbers.
    """
    if data.shape[1] != len(plan.normalization):
        raise SettingError(f"an image of {data.shape[1]} channels", expected=f"{len(plan.normalization)}, as the plan "
                           "says", remedy="give the channels that the model was trained on (for colours: one of them)")
    if not bool(torch.isfinite(data.detach()).all()):
        raise SignalError("an image with values that are no numbers", expected="finite values",
                          remedy="repair the image or its reconstruction")
    made = arrangement.image(data)
    return torch.stack([scale_values(made[:, c], n.kind, low=n.low, high=n.high, mean=n.mean, sd=n.sd)
                        for c, n in enumerate(plan.normalization)], dim=1)


class SegmentByPlan(Stage):
    """Probabilities of the plan's classes: the mean over networks, or one row for each.

    networks: as the plan describes them, one for each fold. members: one row per network, ``rows.draw`` counting them,
    instead of their mean. at_once: windows per call of a network.

    Each frame is turned to the usual axes, resampled, scaled, segmented in overlapping windows, and its probabilities
    are resampled back, so labels lie on the image's own grid. Complex images are taken by magnitude. Differentiable
    with respect to ``image.data``. Raises SettingError for another number of channels, GeometryError for an image
    without millimetres where the plan knows some, SignalError for values that are no numbers.
    """

    result: ClassVar[str] = "labels"

    def __init__(self, *, networks: Sequence[nn.Module], plan: Plan, members: bool = False, at_once: int = 8) -> None:
        super().__init__()
        if not networks or at_once < 1:
            raise SettingError(f"{len(networks)} networks, {at_once} windows at once", expected="one or more of each",
                               remedy="correct the settings")
        self.networks = nn.ModuleList(networks)
        self.plan, self.members, self.at_once = plan, members, at_once

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, background first."""
        return self.plan.names

    def forward(self, image: Image) -> SoftLabels:
        data = image.data.abs() if image.data.is_complex() else image.data
        data = data if data.is_floating_point() else data.float()
        made = [self._one(row, image.select(torch.tensor([number])).grid) for number, row in enumerate(data)]
        count = len(self.networks) if self.members else 1
        copies = image.repeat_rows(count)
        rows = copies.rows
        if count > 1:
            draw = rows.draw * count + torch.arange(count, device=rows.draw.device).repeat(image.batch)
            rows = replace(rows, draw=draw)
        return SoftLabels(rows, torch.cat(made), copies.grid, self.plan.names, copies.times_s, copies.cycle_s,
                          image.source, notes=image.notes)

    def _one(self, data: Float[Tensor, "time channel z y x"], grid) -> Float[Tensor, "count time classes z y x"]:
        """Probabilities of one row of the batch, on its stored grid."""
        arrangement = Arrangement.of(grid, spacing_mm=self.plan.spacing_mm, slices=self.plan.dims == 2)
        volume = prepared(data, arrangement, self.plan)
        made = []
        for network in self.networks:
            frames = [self._frame(network, frame) for frame in volume]
            made.append(torch.stack(frames))
        chosen = made if self.members else [torch.stack(made).mean(0) if len(made) > 1 else made[0]]
        back = [arrangement.back(probability).clamp(0, 1) for probability in chosen]
        return torch.stack([b / b.sum(dim=1, keepdim=True) for b in back])

    def _frame(self, network: nn.Module, volume: Float[Tensor, "channel z y x"]) -> Float[Tensor, "classes z y x"]:
        plan = self.plan
        if plan.dims == 3:
            return tiled(network, volume[None], window=plan.patch, overlap=plan.overlap, at_once=1)[0].softmax(0)
        rows = slice_inputs(volume, neighbours=plan.neighbours)
        logits = tiled(network, rows, window=plan.patch, overlap=plan.overlap, at_once=self.at_once)
        return logits.softmax(1).movedim(0, 1)
