"""Short-axis segmentation as a stage: find the heart, segment a patch around it, put it back on the image's grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstread.analyze.orientation import upright
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Note, SoftLabels
from firstread.core.stage import Stage
from firstread.ops.intensity import scale_percentiles
from firstread.ops.neighbours import with_neighbours
from firstread.ops.resample import resample

NAMES = ("background", "LV cavity", "LV myocardium", "RV cavity")
ASSUMED = Note("assumed_spacing", "The image has no spacing; the network saw it as if its pixels were {} mm wide.")
LARGER = Note("large_pixels", "The pixels are larger than 2.5 mm; the network was trained on 1.3 to 1.8 mm.")


class Segment(Stage):
    """Probabilities of left and right ventricle from a short-axis stack or cine, by an ensemble.

    networks: members, each ``[rows, 3 slices, y, x] -> [rows, classes, y, x]`` logits; the three are the slice
    before, the slice itself and the one after (:func:`~firstread.ops.neighbours.with_neighbours`).
    spacing_mm: the pixel size that the networks know; patch: pixels of the square around the heart.
    search: pixels of the central square in which the heart is looked for.
    rows_at_once: slices per call of a network, which bounds the memory.
    members: one row of ``labels.members`` per input row and member, ``rows.draw`` counting members; else their mean.

    The labels lie on the input's grid. Where
    the grid is the patient's, the slices are turned upright first, so that flipped or transposed copies of one image
    give the same labels. Complex images are taken by magnitude. Differentiable with respect to ``image.data``; where
    the patch lies is a constant of the gradient. Raises SettingError for more than one channel, SignalError for values
    that are no numbers.
    """

    result: ClassVar[str] = "labels.members"

    def __init__(self, *, networks: Sequence[nn.Module], names: tuple[str, ...] = NAMES, spacing_mm: float = 1.5,
                 patch: int = 128, search: int = 192, rows_at_once: int = 32, members: bool = True) -> None:
        super().__init__()
        if not networks or min(spacing_mm, patch, search, rows_at_once) <= 0:
            raise SettingError(f"{len(networks)} networks, spacing {spacing_mm} mm, patch {patch}",
                               expected="one network or more and sizes above zero", remedy="correct the settings")
        self.networks = nn.ModuleList(networks)
        self.names, self.spacing_mm, self.patch, self.search = names, spacing_mm, patch, search
        self.rows_at_once, self.members = rows_at_once, members

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, background first."""
        return self.names

    def forward(self, image: Image) -> SoftLabels:
        data = _magnitude(image.data)
        assumed = Grid.from_spacing(image.grid.shape, (8.0, self.spacing_mm, self.spacing_mm), batch=image.batch)
        grid = image.grid if image.grid.has_mm else replace(assumed, frame="none")
        turned, upright_grid, undo = upright(data, grid)
        batch, time = data.shape[:2]
        target = self._working_grid(upright_grid)
        working = resample(turned, upright_grid, target)
        members = []
        corner = self._find(working.detach())
        crop = _crop(working, corner, self.patch)
        probabilities = self._probabilities(crop)
        for member in probabilities:
            foreground = _uncrop(member[:, :, 1:], corner, target.shape).flatten(1, 2)
            back = resample(foreground, target, upright_grid).unflatten(1, (time, -1)).clamp(0, 1)
            rest = (1 - back.sum(dim=2, keepdim=True)).clamp(min=0)
            members.append(undo(torch.cat((rest, back), dim=2)))
        stacked = torch.stack(members, dim=1)
        made = (stacked if self.members else stacked.mean(dim=1, keepdim=True)).flatten(0, 1)
        count = len(made) // batch
        rows = image.rows.repeat_rows(count)
        draw = rows.draw * count + torch.arange(count, device=rows.draw.device).repeat(batch)
        notes = () if image.grid.has_mm else (replace(ASSUMED, text=ASSUMED.text.format(self.spacing_mm)),)
        if image.grid.has_mm and bool((image.grid.spacing_mm[:, 1:] > 2.5).any()):
            notes = (*notes, LARGER)
        copies = image.repeat_rows(count)
        return SoftLabels(replace(rows, draw=draw), made, copies.grid, self.names, copies.times_s, copies.cycle_s,
                          image.source, notes=image.notes).noted(*notes)

    def _working_grid(self, grid: Grid) -> Grid:
        """The slices of ``grid`` in pixels of ``spacing_mm`` about the same centre."""
        spacing = grid.spacing_mm.mean(0)
        height, width = (max(1, round(float(n * s) / self.spacing_mm))
                         for n, s in zip(grid.shape[1:], spacing[1:], strict=True))
        affine = grid.affine.clone()
        for column, old, new in ((0, grid.shape[2], width), (1, grid.shape[1], height)):
            mm = grid.spacing_mm[:, 2 - column]
            unit = grid.affine[:, :3, column] / mm[:, None]
            affine[:, :3, column] = unit * self.spacing_mm
            affine[:, :3, 3] += unit * ((old - 1) * mm - (new - 1) * self.spacing_mm)[:, None] / 2
        return replace(grid, affine=affine, shape=(grid.shape[0], height, width))

    @torch.no_grad()
    def _find(self, working: Float[Tensor, "batch time z y x"]) -> list[tuple[int, int]]:
        """The corner (y, x) of the patch around the heart, per batch row, the same for all frames and slices.

        First pass on the central square, second on the patch found; up to two frames and every other slice, with the
        first network.
        """
        few = working[:, :: max(1, working.shape[1] // 2)][:, :2, working.shape[2] // 2 % 2 :: 2]
        size = min(self.search, max(few.shape[-2:]))
        corner = [((few.shape[-2] - size) // 2, (few.shape[-1] - size) // 2)] * len(few)
        for _ in range(2):
            found = self._probabilities(_crop(few, corner, size), networks=[self.networks[0]])[0].sum(dim=(1, 3))
            corner = [_around(left, heart, start, self.patch) for left, heart, start
                      in zip(found[:, 1:3].sum(1), found[:, 1:].sum(1), corner, strict=True)]
            size = self.patch
        return corner

    def _probabilities(self, crop: Float[Tensor, "batch time z y x"], *,
                       networks: Sequence[nn.Module] | None = None) -> list[Float[Tensor, "batch time classes z y x"]]:
        """Class probabilities of every slice, one tensor per member."""
        batch, time, slices = crop.shape[:3]
        rows = with_neighbours(scale_percentiles(crop.flatten(0, 1)))
        out = []
        for network in networks or self.networks:
            made = torch.cat([F.softmax(network(part), dim=1) for part in rows.split(self.rows_at_once)])
            out.append(made.unflatten(0, (batch, time, slices)).movedim(2, 3))
        return out


def _magnitude(data: Tensor) -> Tensor:
    """Magnitude, one channel, finite; ``[batch, time, z, y, x]``."""
    if data.shape[2] != 1:
        raise SettingError(f"an image of {data.shape[2]} channels", expected="one channel",
                           remedy="combine coils or select a channel before segmenting")
    data = data.abs() if data.is_complex() else data
    data = data if data.is_floating_point() else data.float()
    if not torch.isfinite(data.detach()).all():
        raise SignalError("an image with values that are no numbers", expected="finite values",
                          remedy="repair the image or its reconstruction")
    return data[:, :, 0]


def _around(left: Float[Tensor, "y x"], heart: Float[Tensor, "y x"], start: tuple[int, int],
            patch: int) -> tuple[int, int]:
    """Corner of the patch centred on what of the heart lies near the heaviest spot of the left ventricle.

    The middle where there is no heart.
    """
    smooth = F.avg_pool2d(left[None, None], 41, stride=1, padding=20, count_include_pad=False)[0, 0]
    peak = torch.nonzero(smooth == smooth.max())[0]
    y, x = torch.meshgrid(*(torch.arange(n, device=heart.device) for n in heart.shape), indexing="ij")
    near = heart * ((y - peak[0]).abs() < 45) * ((x - peak[1]).abs() < 45)
    total = near.sum()
    if total < 1:
        centre = (heart.shape[0] / 2, heart.shape[1] / 2)
    else:
        centre = (float((near * y).sum() / total), float((near * x).sum() / total))
    return start[0] + round(centre[0] - patch / 2), start[1] + round(centre[1] - patch / 2)


def _crop(data: Float[Tensor, "batch time z y x"], corner: list[tuple[int, int]], size: int) -> Tensor:
    """The square at ``corner`` of every row; zeros outside the image."""
    rows = []
    for row, (top, left) in zip(data, corner, strict=True):
        height, width = row.shape[-2:]
        inner = row[..., max(0, top):max(0, min(height, top + size)), max(0, left):max(0, min(width, left + size))]
        before = (max(0, -left), max(0, -top))
        after = (size - before[0] - inner.shape[-1], size - before[1] - inner.shape[-2])
        rows.append(F.pad(inner, (before[0], after[0], before[1], after[1])))
    return torch.stack(rows)


def _uncrop(patch: Float[Tensor, "batch time channel z y x"], corner: list[tuple[int, int]],
            shape: tuple[int, int, int]) -> Tensor:
    """The inverse of ``_crop``: zeros around the patch, what hung over the edge cut off."""
    size = patch.shape[-1]
    rows = []
    for row, (top, left) in zip(patch, corner, strict=True):
        rows.append(F.pad(row, (left, shape[2] - left - size, top, shape[1] - top - size)))
    return torch.stack(rows)
