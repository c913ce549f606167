"""Batches of random patches of prepared cases, a function of the step alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Integer
from torch import Generator, Tensor

from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.learn.augment import change_brightness, draw_map, sample_patch
from firstread.nets.plan import Plan
from firstread.ops.arrange import slice_inputs

Batch = tuple[Float[Tensor, "batch inputs *patch"], Integer[Tensor, "batch *patch"], Bool[Tensor, "batch classes"]]


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case at the plan's spacing and normalization.

    places: of each class that is there up to some hundred voxels ``(time, z, y, x)``; annotated: which classes were
    looked for in it (what lies in none of them may be any of the others).
    """

    image: Float[Tensor, "time channel z y x"]
    label: Integer[Tensor, "time z y x"]
    places: dict[int, Integer[Tensor, "voxel 4"]]
    annotated: Bool[Tensor, " classes"]
    spacing: tuple[float, float, float]


def find_places(label: Integer[Tensor, "time z y x"], *, classes: int, most: int = 500, seed: int = 0
                ) -> dict[int, Integer[Tensor, "voxel 4"]]:
    """Up to ``most`` random voxels of each foreground class."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for value in range(1, classes):
        where = torch.nonzero(label == value)
        if len(where):
            found[value] = where[torch.randperm(len(where), generator=generator)[:most]]
    return found


class Patches:
    """Step number to a batch of augmented patches: images, class indices, classes annotated."""

    def __init__(self, cases: Sequence[PreparedCase], plan: Plan, *, seed: int = 0) -> None:
        if not cases:
            raise SettingError("no cases to train on", expected="one or more", remedy="use fewer folds, or more cases")
        self.cases, self.plan = list(cases), plan
        self.key = Key(seed, "segment.patches")

    def __call__(self, step: int) -> Batch:
        rows = [self._one(self.key.generator(step, row)) for row in range(self.plan.training.batch)]
        return (torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows]),
                torch.stack([row[2] for row in rows]))

    def _one(self, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        plan = self.plan
        case = self.cases[_below(len(self.cases), generator)]
        time, *centre = self._centre(case, generator)
        size = case.image.shape[2:]
        if plan.dims == 2:
            first, last = max(0, centre[0] - plan.neighbours), min(size[0], centre[0] + plan.neighbours + 1)
            image = slice_inputs(case.image[time, :, first:last], neighbours=plan.neighbours)[centre[0] - first]
            label, middle, spacing = case.label[time, centre[0]], centre[1:], case.spacing[1:]
        else:
            image, label, middle, spacing = case.image[time], case.label[time], centre, case.spacing
        keep = _inside(middle, tuple(label.shape), plan.patch)
        where = draw_map(keep, plan.patch, spacing, plan.augmentation, generator)
        made, target = sample_patch(image, label, where)
        made = change_brightness(made, plan.augmentation, generator, together=2 * plan.neighbours + 1)
        return made, target, case.annotated

    def _centre(self, case: PreparedCase, generator: Generator) -> list[int]:
        if case.places and float(torch.rand((), generator=generator)) < self.plan.training.foreground:
            value = list(case.places)[_below(len(case.places), generator)]
            where = case.places[value]
            return where[_below(len(where), generator)].tolist()
        return [_below(n, generator) for n in case.label.shape]


def _inside(centre: Sequence[int], shape: tuple[int, ...], patch: tuple[int, ...]) -> tuple[float, ...]:
    """The centre moved so that the patch leaves the image as little as its size allows; edges of voxels at halves."""
    moved = []
    for c, n, p in zip(centre, shape, patch, strict=True):
        low, high = p / 2 - 0.5, n - p / 2 - 0.5
        moved.append((n - 1) / 2 if low > high else min(max(float(c), low), high))
    return tuple(moved)


def _below(count: int, generator: Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
