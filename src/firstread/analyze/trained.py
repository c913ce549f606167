"""Segmentation by networks that were trained with a plan, on the image's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.analyze.tile_memory import TileMemory, mebibytes
from firstread.analyze.tiles import tiled
from firstread.core.errors import SettingError, SignalError
from firstread.core.records import Image, Note, SoftLabels
from firstread.core.stage import Stage
from firstread.nets.plan import Plan
from firstread.ops.arrange import Arrangement, slice_inputs
from firstread.ops.intensity import scale_values

Windows = tuple[tuple[int, ...], int]  # their size, and how many at once


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
    instead of their mean. at_once: windows per call of a network. memory: bytes that may be taken beyond the image and
    the weights, without gradient; windows are then fewer at once, or smaller than the plan's (said in a note).

    Each frame is turned to the usual axes, resampled, scaled, segmented in overlapping windows, and its probabilities
    are resampled back, so labels lie on the image's own grid. Complex images are taken by magnitude. Differentiable
    with respect to ``image.data``. Raises SettingError for another number of channels, GeometryError for an image
    without millimetres where the plan knows some, SignalError for values that are no numbers.
    """

    result: ClassVar[str] = "labels"

    def __init__(self, *, networks: Sequence[nn.Module], plan: Plan, members: bool = False, at_once: int = 8,
                 memory: int | None = None) -> None:
        super().__init__()
        if not networks or at_once < 1 or (memory is not None and memory < 1):
            raise SettingError(f"{len(networks)} networks, {at_once} windows at once, {memory} bytes of memory",
                               expected="one or more of each", remedy="correct the settings")
        self.networks = nn.ModuleList(networks)
        self.plan, self.members, self.at_once, self.memory = plan, members, at_once, memory

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, background first."""
        return self.plan.names

    def forward(self, image: Image) -> SoftLabels:
        data = image.data.abs() if image.data.is_complex() else image.data
        data = data if data.is_floating_point() else data.float()
        made, seen = [], set()
        for number, row in enumerate(data):
            found, windows = self._one(row, image.select(torch.tensor([number])).grid)
            made.append(found)
            seen.add(windows)
        count = len(self.networks) if self.members else 1
        copies = image.repeat_rows(count)
        rows = copies.rows
        if count > 1:
            draw = rows.draw * count + torch.arange(count, device=rows.draw.device).repeat(image.batch)
            rows = replace(rows, draw=draw)
        smaller = [window for window, _ in seen if window != self.plan.patch]
        notes = (*image.notes, Note("small_windows", f"Segmented in windows of {smaller[0]} voxels, smaller than the "
                                    f"{self.plan.patch} of training, to stay under the memory stated.")) \
            if smaller else image.notes
        return SoftLabels(rows, torch.cat(made) if len(made) > 1 else made[0], copies.grid, self.plan.names,
                          copies.times_s, copies.cycle_s, image.source, notes=notes)

    def _one(self, data: Float[Tensor, "time channel z y x"], grid) -> tuple[Tensor, Windows]:
        """Probabilities ``[count, time, classes, z, y, x]`` of one row of the batch, on its stored grid."""
        arrangement = Arrangement.of(grid, spacing_mm=self.plan.spacing_mm, slices=self.plan.dims == 2)
        volume = prepared(data, arrangement, self.plan)
        windows = self._windows(volume, data)
        if self.members:
            back = [self._back(arrangement, self._frames(network, volume, windows)) for network in self.networks]
            return torch.stack(back), windows
        total = self._frames(self.networks[0], volume, windows)
        for network in self.networks[1:]:
            total = total + self._frames(network, volume, windows)
        return self._back(arrangement, total / len(self.networks) if len(self.networks) > 1 else total)[None], windows

    def _windows(self, volume: Float[Tensor, "time channel tz ty tx"], data: Float[Tensor, "time channel z y x"]
                 ) -> Windows:
        """Size of the windows and how many at once. Raises SettingError where ``memory`` does not suffice."""
        plan, at_once = self.plan, 1 if self.plan.dims == 3 else self.at_once
        if self.memory is None:
            return plan.patch, at_once
        if torch.is_grad_enabled():
            raise SettingError("a set memory with gradient", expected="it without", remedy="call the stage within "
                               "torch.no_grad(), or leave memory out")
        held = TileMemory.of(self.networks[0], plan.channels, plan.dims, device=volume.device)
        copies = len(plan.classes) * 4 * (len(self.networks) if self.members else 1)
        kept = volume.nbytes + (volume.shape[1:].numel() * plan.channels * 4 if plan.dims == 2 else 0)
        # of all frames, while it is put back: what was found, three times that on the image's grid, and where voxels go
        whole = copies * (volume[:, 0].numel() + 3 * data[:, 0].numel()) + 72 * data[0, 0].numel() + volume.nbytes
        if whole > self.memory:
            raise SettingError(f"a memory of {mebibytes(self.memory)} for {len(plan.classes)} classes of "
                               f"{'x'.join(map(str, data.shape[2:]))} voxels and {len(data)} frames",
                               expected=f"{mebibytes(whole)} or more",
                               remedy="give more, or segment a part of the image")
        before = copies * (volume[:, 0].numel() - volume[0, 0].numel())
        batch, space = (1, volume.shape[2:]) if plan.dims == 3 else (volume.shape[2], volume.shape[3:])
        return held.windows(batch, space, plan.patch, at_once, self.memory, beside=kept + before)

    def _frames(self, network: nn.Module, volume: Float[Tensor, "time channel z y x"], windows: Windows
                ) -> Float[Tensor, "time classes z y x"]:
        frames = [self._frame(network, frame, windows) for frame in volume]
        return torch.stack(frames) if len(frames) > 1 else frames[0].unsqueeze(0)

    def _back(self, arrangement: Arrangement, probability: Float[Tensor, "time classes tz ty tx"]
              ) -> Float[Tensor, "time classes z y x"]:
        made = arrangement.back(probability).clamp(0, 1)
        return made / made.sum(dim=1, keepdim=True)

    def _frame(self, network: nn.Module, volume: Float[Tensor, "channel z y x"], windows: Windows
               ) -> Float[Tensor, "classes z y x"]:
        plan, (window, at_once) = self.plan, windows
        if plan.dims == 3:
            return probabilities(tiled(network, volume[None], window=window, overlap=plan.overlap, at_once=at_once))[0]
        rows = slice_inputs(volume, neighbours=plan.neighbours)
        return probabilities(tiled(network, rows, window=window, overlap=plan.overlap, at_once=at_once)).movedim(0, 1)


def probabilities(logits: Float[Tensor, "batch classes *space"]) -> Float[Tensor, "batch classes *space"]:
    """Softmax over classes; without gradient in the memory of the logits.

    >>> probabilities(torch.zeros(1, 4, 1))[0, :, 0]
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    if torch.is_grad_enabled():
        return logits.softmax(1)
    logits = logits.sub_(logits.amax(1, keepdim=True)).exp_()
    return logits.div_(logits.sum(1, keepdim=True))
