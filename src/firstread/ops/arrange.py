"""Images brought to the axes and the spacing that a network knows, labels with them, and probabilities back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import torch
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.ops.resample import resample

THICK = 1.5  # an axis this many times coarser than the others is the one across slices


def standard_axes(grid: Grid, *, slices: bool) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Order of the stored axes (as (z, y, x)) and which of them, after ordering, are flipped, towards the usual axes.

    Volumes are turned to the nearest of (head, back, left). slices: the coarsest axis comes first where it is clearly
    so; of the two in plane, x is the one more to the patient's left (else to the back) and y points to the back (else
    to the feet). A grid that is not the patient's keeps its axes, but for the coarsest. Looked at in the first row.
    """
    spacing = grid.spacing_mm[0]
    first = 0
    if slices:
        coarse = int(spacing.argmax())
        others = max(float(spacing[axis]) for axis in range(3) if axis != coarse)
        first = coarse if float(spacing[coarse]) > THICK * others else 0
    rest = tuple(axis for axis in range(3) if axis != first)
    if grid.frame != "patient":
        return ((first, *rest), (False, False, False)) if slices else ((0, 1, 2), (False, False, False))
    along = (grid.affine[0, :3, :3] / grid.affine[0, :3, :3].norm(dim=0)).flip(1).mT.tolist()  # rows: z, y, x in LPS
    if slices:
        leftness = [2 * abs(along[axis][0]) + abs(along[axis][1]) for axis in rest]
        order = (first, *(rest if leftness[1] >= leftness[0] else rest[::-1]))
    else:
        order = max(permutations(range(3)), key=lambda p: sum(abs(along[p[i]][2 - i]) for i in range(3)))
    flips = []
    for place, axis in enumerate(order):
        main = max(range(3), key=lambda i: abs(along[axis][i]))
        forward = along[axis][main] > 0
        flips.append(forward if slices and place == 1 and main == 2 else not forward)
    return (order[0], order[1], order[2]), (flips[0], flips[1], flips[2])


@dataclass(frozen=True, eq=False)
class Arrangement:
    """How one image is turned and resampled. stored: its grid (one row); turned, target: after each step."""

    stored: Grid
    turned: Grid
    target: Grid
    order: tuple[int, int, int]
    flips: tuple[int, ...]

    @classmethod
    def of(cls, grid: Grid, *, spacing_mm: tuple[float | None, float | None, float | None],
           slices: bool) -> Arrangement:
        """For the grid of one image; ``spacing_mm`` (z, y, x) after turning, None keeps what there is.

        Raises SettingError for several rows, GeometryError where millimetres are asked of a grid without them.
        """
        if grid.affine.shape[0] != 1:
            raise SettingError(f"a grid of {grid.affine.shape[0]} rows", expected="one row at a time",
                               remedy="select a row")
        order, flips = standard_axes(grid, slices=slices)
        turned = grid.permute(order)
        for axis, flip in zip(("z", "y", "x"), flips, strict=True):
            turned = turned.flip(axis) if flip else turned
        if any(s is not None for s in spacing_mm):
            grid.require_mm("a network that knows its spacing in millimetres")
        have = turned.spacing_mm[0].tolist()
        shape = [n if wanted is None else max(1, round(n * mm / wanted))
                 for n, mm, wanted in zip(turned.shape, have, spacing_mm, strict=True)]
        target = turned.resize((shape[0], shape[1], shape[2]))
        return cls(grid, turned, target, order, tuple(axis - 3 for axis in range(3) if flips[axis]))

    def image(self, data: Float[Tensor, "time channel z y x"]) -> Float[Tensor, "time channel tz ty tx"]:
        """Turned and resampled, linear; differentiable."""
        return _resampled(self._turn(data), self.turned, self.target)

    def labels(self, data: Integer[Tensor, "time z y x"], *, classes: int) -> Integer[Tensor, "time tz ty tx"]:
        """Turned and resampled: of the classes resampled one by one the largest; 255 (unknown) stays what it was."""
        turned = self._turn(data)
        if self.turned.shape == self.target.shape:
            return turned
        best, chosen = None, None
        for value in (*range(classes), 255):
            share = _resampled((turned == value).float().unsqueeze(1), self.turned, self.target)[:, 0]
            if best is None or chosen is None:
                best, chosen = share, torch.zeros_like(share, dtype=data.dtype)
            else:
                chosen = torch.where(share > best, torch.full_like(chosen, value), chosen)
                best = torch.maximum(share, best)
        assert chosen is not None
        return chosen

    def back(self, data: Float[Tensor, "time channel tz ty tx"]) -> Float[Tensor, "time channel z y x"]:
        """From the target onto the stored grid."""
        made = _resampled(data, self.target, self.turned).flip(self.flips)
        lead = data.ndim - 3
        inverse = sorted(range(3), key=lambda place: self.order[place])
        return made.permute(*range(lead), *(lead + place for place in inverse))

    def _turn(self, data: Shaped[Tensor, "*lead z y x"]) -> Tensor:
        lead = data.ndim - 3
        return data.permute(*range(lead), *(lead + axis for axis in self.order)).flip(self.flips)


def _resampled(data: Tensor, source: Grid, target: Grid) -> Tensor:
    if source.shape == target.shape:
        return data
    flat = data.flatten(0, 1).unsqueeze(0)
    return resample(flat, source, target, outside="border").reshape(*data.shape[:2], *target.shape)


def slice_inputs(volume: Float[Tensor, "channel z y x"], *, neighbours: int) -> Float[Tensor, "z inputs y x"]:
    """Each slice with ``neighbours`` on both sides as further channels; at the ends the last slice stands in.

    >>> slice_inputs(torch.arange(3.0).reshape(1, 3, 1, 1), neighbours=1)[:, :, 0, 0].int().tolist()
    [[0, 0, 1], [0, 1, 2], [1, 2, 2]]
    """
    count = volume.shape[1]
    places = torch.arange(count)[:, None] + torch.arange(-neighbours, neighbours + 1)
    return volume[:, places.clamp(0, count - 1)].movedim(0, 1).flatten(1, 2)
