"""Segmentation by networks trained elsewhere (nnU-Net, MONAI, TorchScript, ONNX), fed as they were trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.analyze.canonical import to_ras
from firstread.analyze.prepare import body_mask, bounding_box, resampled, scaled
from firstread.analyze.windows import windowed
from firstread.core.errors import SettingError, SignalError
from firstread.core.preparation import Activation, Preparation
from firstread.core.records import Image, SoftLabels
from firstread.core.stage import Stage
from firstread.core.wrap import refuse_gradient

EVERY_S = 5.0  # between two words on how far it is


class ForeignSegment(Stage):
    """Class probabilities on the image's own grid by networks trained elsewhere.

    networks: folds of one model, each ``[1, channel, *window] -> [1, head, *window]``; names: of the classes,
    background first; preparation: how they see an image. activation: what makes probabilities of the heads; with
    ``sigmoid`` every head is a region, and ``regions`` says which class it leaves behind, later ones over earlier ones.
    members: one row for each network, ``rows.draw`` counting them, in ``labels.members``; else the mean of their logits
    in ``labels``. differentiable: False for networks that torch cannot see into. ``watch`` is told how many frames are
    done, at most once in some seconds.

    Every frame of every row is segmented by itself; channels of the image are the network's. Complex images are taken
    by magnitude. Differentiable with respect to ``image.data``. Raises SettingError for another number of channels,
    GeometryError for an image without millimetres or orientation where the model needs them, SignalError for values,
    or outputs of a network, that are no numbers.
    """

    result: ClassVar[str] = "labels"

    def __init__(self, *, networks: Sequence[nn.Module], names: tuple[str, ...], preparation: Preparation,
                 activation: Activation = "softmax", regions: tuple[int, ...] = (), members: bool = False,
                 differentiable: bool = True) -> None:
        super().__init__()
        heads = regions if activation == "sigmoid" else range(len(names))
        if not networks or len(names) < 2 or not heads or not all(0 <= c < len(names) for c in heads):
            raise SettingError(f"{len(networks)} networks for the classes {', '.join(names)} with regions {regions}",
                               expected="one network, two classes or more, and for each sigmoid head its class",
                               remedy="correct the model's classes")
        self.networks = nn.ModuleList(networks)
        self.names, self.preparation, self.activation = names, preparation, activation
        self.regions, self.members, self.differentiable = regions, members, differentiable
        self.watch: Callable[[str], None] = _nobody
        self._writes = "labels.members" if members else ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, background first; the channel of the labels is the position."""
        return self.names

    def settings(self) -> str:
        plan = self.preparation
        return (f"networks={len(self.networks)}, spacing_mm={plan.spacing_mm}, window={plan.window}, "
                f"overlap={plan.overlap}, mirror={plan.mirror}, activation={self.activation!r}")

    def forward(self, image: Image) -> SoftLabels:
        data = self._checked(image)
        watched = self.differentiable and torch.is_grad_enabled()
        with torch.enable_grad() if watched else torch.no_grad():
            made = self._volumes(data, image)
        if not self.differentiable and torch.is_grad_enabled() and image.data.requires_grad:
            made = refuse_gradient(self.name, made, image.data)
        count = len(self.networks) if self.members else 1
        copies = image.repeat_rows(count)
        draw = copies.rows.draw * count + torch.arange(count, device=copies.rows.draw.device).repeat(image.batch)
        return SoftLabels(replace(copies.rows, draw=draw) if self.members else image.rows, made, copies.grid,
                          self.names, copies.times_s, copies.cycle_s, image.source, notes=image.notes)

    def _volumes(self, data: Float[Tensor, "batch time channel z y x"], image: Image
                 ) -> Float[Tensor, "row time classes z y x"]:
        """Frame after frame, row after row."""
        rows, told = [], monotonic()
        for row, frames in enumerate(data):
            made = []
            for volume in frames:
                made.append(self._volume(volume, image, row))
                if monotonic() - told > EVERY_S:
                    told = monotonic()
                    self.watch(f"{row * len(frames) + len(made)} of {data.shape[0] * data.shape[1]} frames")
            rows.append(torch.stack(made, dim=1))
        return torch.stack(rows).flatten(0, 1)

    def logits(self, volume: Float[Tensor, "channel z y x"], image: Image, row: int = 0
               ) -> tuple[Float[Tensor, "member head d0 d1 d2"], Callable[[Tensor, Tensor], Tensor]]:
        """What the networks say of one volume of ``image``, on the voxels of its part that is not cropped away.

        Beside it, how to put such a part ``[head, z, y, x]`` back into a whole of outside values ``[head]``.
        """
        plan, grid, undo = self.preparation, image.grid.select(torch.tensor([row])), _same
        if plan.orientation is not None:
            volume, undo, grid = to_ras(volume, grid)
        volume = volume.permute(0, *(1 + a for a in plan.order))
        spacing = [round(float(grid.spacing_mm[0, a]), 5) for a in plan.order]
        whole, body = volume.shape[1:], body_mask(volume)
        box = bounding_box(body) if plan.crop else bounding_box(torch.ones_like(body))
        volume, body = volume[(slice(None), *box)], body[box]
        new = _target(plan.spacing_mm, spacing)
        shape = plan.image.shape(volume.shape[1:], spacing, new)
        if min(shape) < 1:
            raise SettingError(f"an image of {tuple(volume.shape[1:])} voxels of {tuple(spacing)} mm",
                               expected=f"at least one voxel of {tuple(new)} mm", remedy="check the file's spacing")
        seen = self._scaled(volume, body) if plan.scale_first else volume
        seen = resampled(seen, shape, plan.image, spacing=spacing, new=new)
        seen = seen if plan.scale_first else self._scaled(seen, body_mask(seen))
        back = torch.stack([resampled(one, volume.shape[1:], plan.logits, spacing=new, new=spacing)
                            for one in self._say_all(seen)])

        def place(part: Tensor, outside: Tensor) -> Tensor:
            full = outside.reshape(-1, 1, 1, 1).expand(-1, *whole).clone()
            full[(slice(None), *box)] = part
            return undo(full.permute(0, *(1 + plan.order.index(a) for a in range(3))))

        return back, place

    def _say_all(self, seen: Tensor) -> list[Tensor]:
        """The logits of each network, or their mean, without holding them all."""
        if self.members:
            return [self._say(network, seen) for network in self.networks]
        total = self._say(self.networks[0], seen)
        for network in self.networks[1:]:
            total = total + self._say(network, seen)
        return [total / len(self.networks)]

    def _say(self, network: nn.Module, seen: Tensor) -> Float[Tensor, "head d0 d1 d2"]:
        plan = self.preparation
        try:
            said = windowed(network, seen, window=plan.window, overlap=plan.overlap, blend=plan.blend,
                            mirror=plan.mirror)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:160]
            raise SettingError(f"a network that fails on {len(seen)} channels in windows of {plan.window} ({reason})",
                               expected="one that gives as many voxels as it gets",
                               remedy="correct the window and the channels that the model states") from error
        if not bool(torch.isfinite(said.detach()).all()):
            raise SignalError(f"outputs of a network that are no numbers, in stage {self.name!r}",
                              expected="finite outputs", remedy="check the model, and that the image is scaled as its "
                              "training images were")
        return said

    def _scaled(self, volume: Tensor, body: Tensor) -> Tensor:
        pairs = zip(volume, self.preparation.channels, strict=True)
        return torch.stack([scaled(channel, body, how) for channel, how in pairs])

    def _volume(self, volume: Tensor, image: Image, row: int) -> Float[Tensor, "member classes z y x"]:
        logits, place = self.logits(volume, image, row)
        heads = len(self.regions) if self.activation == "sigmoid" else len(self.names)
        if logits.shape[1] != heads:
            raise SettingError(f"a network of {logits.shape[1]} outputs for the classes {', '.join(self.names)}",
                               expected=f"{heads} outputs", remedy="correct the classes that the model states")
        outside = torch.zeros(len(self.names), dtype=logits.dtype, device=logits.device)
        outside[0] = 1
        return torch.stack([place(self._probabilities(one), outside) for one in logits])

    def _probabilities(self, logits: Float[Tensor, "head d0 d1 d2"]) -> Float[Tensor, "classes d0 d1 d2"]:
        if self.activation == "softmax":
            return logits.softmax(dim=0)
        return logits if self.activation == "none" else from_regions(logits.sigmoid(), self.regions, len(self.names))

    def _checked(self, image: Image) -> Float[Tensor, "batch time channel z y x"]:
        """Magnitude in single precision, if the model can take this image."""
        wanted = len(self.preparation.channels)
        if image.data.shape[2] != wanted:
            raise SettingError(f"an image of {image.data.shape[2]} channels", expected=f"{wanted}, as the model was "
                               "trained on", remedy="give the channels that the model names, in their order")
        if self.preparation.spacing_mm is not None:
            image.grid.require_mm("a model that was trained at a stated spacing")
        data = image.data.abs() if image.data.is_complex() else image.data
        if not torch.isfinite(data.detach()).all():
            raise SignalError("an image with values that are no numbers", expected="finite values",
                              remedy="repair the image or its reconstruction")
        return data.float()


def from_regions(regions: Float[Tensor, "region d0 d1 d2"], order: Sequence[int],
                 classes: int) -> Float[Tensor, "classes d0 d1 d2"]:
    """Class probabilities of overlapping regions, in proportion to ``min(p_i, min_(j > i) (1 - p_j))``.

    Region i leaves class ``order[i]`` where no later region covers it (nnU-Net's ``regions_class_order``); background
    where none is. The most probable class is the one that thresholds of one half would leave, as nnU-Net takes it.

    >>> from_regions(torch.tensor([1.0, 0.5]).reshape(2, 1, 1, 1), (1, 2), 3).flatten().tolist()
    [0.0, 0.5, 0.5]
    """
    free = torch.ones_like(regions[0])
    found: dict[int, Tensor] = {}
    for region, number in zip(reversed(list(regions)), reversed(order), strict=True):
        share = torch.minimum(region, free)
        found[number] = torch.maximum(found[number], share) if number in found else share
        free = torch.minimum(free, 1 - region)
    found[0] = free
    made = torch.stack([found.get(number, torch.zeros_like(free)) for number in range(classes)])
    return made / made.sum(dim=0)


def _target(wanted: tuple[float, ...] | None, spacing: list[float]) -> list[float]:
    """The spacing in the network's axes; a network of slices keeps the distance between them."""
    if wanted is None:
        return list(spacing)
    return [*spacing[:3 - len(wanted)], *wanted]


def _nobody(text: str) -> None:
    """Who is told where nobody asked."""


def _same(tensor: Tensor) -> Tensor:
    return tensor
