"""Simulated users: what somebody might say of an object on a plane, and what of a mask that is not yet right."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Generator, Tensor

from firstread.acquire.slices import random_stacks
from firstread.analyze.prompt_channels import Window, about, about_mask, cut, encode, prompt_window
from firstread.analyze.prompting import PlanePrompt, box_of, deepest
from firstread.core.keys import Key
from firstread.learn.losses import UNKNOWN
from firstread.recipes.prompt_scenes import Scene, draw_scene

LEAST_PX, SPACING = 12, (1.0, 1.0)  # of an object that is pointed at; of simulated planes, in mm
SCENES, STACK_STEPS = 3, 4  # scenes a step, each for two tasks; steps that share a heart
SHARES = {"click": 0.5, "box": 0.3, "before": 0.2}  # of the tasks that are not a neighbour's for sure


@dataclass(frozen=True, eq=False)
class Task:
    """One plane, what is said about it, the part of it that is looked at, what is right; corrections: clicks to come.
    """

    image: Float[Tensor, "y x"]
    truth: Bool[Tensor, "y x"]
    prompt: PlanePrompt
    window: Window
    corrections: int

    def input(self) -> Float[Tensor, "channel y x"]:
        """As the network sees it."""
        return encode(self.image, self.prompt, self.window)

    def target(self) -> UInt8[Tensor, "y x"]:
        """What the network should say: 1 on the object, UNKNOWN beyond the plane."""
        made = (cut(self.truth.float(), self.window) > 0.5).to(torch.uint8)
        for axis, size in enumerate(self.truth.shape):
            low, high = self.window[axis], self.window[axis + 2]
            at = low + (torch.arange(len(made)) + 0.5) * (high - low) / len(made)
            outside = (at < 0) | (at > size)
            made[outside if axis == 0 else (slice(None), outside)] = UNKNOWN
        return made

    def corrected(self, found: Bool[Tensor, "y x"], g: Generator) -> Task:
        """With one more click, where the network's mask is wrong; the same where it is right."""
        goal = self.target()
        wrong = (found != (goal == 1)) & (goal != UNKNOWN)
        place = _click(wrong, g, central=0.5) if int(wrong.sum()) >= 6 else None
        if place is None:
            return self
        top, left, bottom, right = self.window
        step = torch.tensor([(bottom - top) / len(found), (right - left) / len(found)])
        at = (place + 0.5) * step + torch.tensor([top, left]) - 0.5
        at = torch.minimum(at.round().clamp_min(0), torch.tensor(self.image.shape) - 1.0)
        sign = self.truth[int(at[0]), int(at[1])]
        return replace(self, prompt=_clicked(self.prompt, at, bool(sign)), corrections=self.corrections - 1)


def draw_tasks(key: Key, step: int) -> list[Task]:
    """The tasks of a step, a function of key and number alone: of each of SCENES scenes two, and two of a heart."""
    made = []
    for number in range(SCENES):
        g = key.generator(step, number)
        scene = draw_scene(key, step, number, 0)
        made += [draw_task(scene, g, "before" if _uniform(g, 0, 1) < 0.6 else None), draw_task(scene, g)]
    g = key.generator(step, SCENES)
    stacks, labels = _hearts(key, step // STACK_STEPS)
    for _ in range(2):
        made.append(draw_task(heart_scene(stacks, labels, g), g, "before" if _uniform(g, 0, 1) < 0.3 else None))
    return made


_STACKS: dict[tuple[Key, int], tuple[Tensor, Tensor]] = {}


def _hearts(key: Key, number: int) -> tuple[Float[Tensor, "slice y x"], Tensor]:
    """A simulated stack of short-axis slices; the last one is kept."""
    if (key, number) not in _STACKS:
        images, labels = random_stacks(Key(key.seed, key.stage + "_heart"), number, subjects=1, slices=4, size=112)
        _STACKS.clear()
        _STACKS[key, number] = (images[0], labels[0])
    return _STACKS[key, number]


def heart_scene(images: Tensor, labels: Tensor, g: Generator) -> Scene:
    """Two neighbouring slices and one of the heart's structures; magnified as scanners differ."""
    first = int(torch.randint(len(images) - 1, (), generator=g))
    order = [first, first + 1] if _uniform(g, 0, 1) < 0.5 else [first + 1, first]
    there = [v for v in (1, 2, 3) if int((labels[order[1]] == v).sum()) >= LEAST_PX]
    label = there[int(torch.randint(len(there), (), generator=g))] if there else 1
    turns = int(torch.randint(4, (), generator=g))
    return Scene(torch.rot90(images[order], turns, (1, 2)), torch.rot90(labels[order] == label, turns, (1, 2)))


def draw_task(scene: Scene, g: Generator, kind: str | None = None) -> Task:
    """What a user says of a scene. kind: ``click``, ``box`` or ``before`` (a mask of the neighbouring plane); where the
    object is only on the neighbour it is that, where it is on neither nothing is to be found.
    """
    drawn = _uniform(g, 0, 1)
    if kind is None:
        kind = "click" if drawn < SHARES["click"] else "box" if drawn < 1 - SHARES["before"] else "before"
    image, truth = scene.images[0], scene.truth[0]
    there, beside = int(truth.sum()) >= LEAST_PX, int(scene.truth[1].sum()) >= LEAST_PX
    if not there and kind != "before" and beside:
        image, truth, there = scene.images[1], scene.truth[1], True
    prompt = PlanePrompt.empty(SPACING)
    if (kind == "before" and beside) or not there:
        before = _inexact(scene.truth[1], g)
        prompt = prompt.after(scene.images[1][None], before if bool(before.any()) else _middle(before))
        if there and _uniform(g, 0, 1) < 0.15:
            prompt = _clicked(prompt, _place(truth, g), True)
    elif kind == "box":
        prompt = replace(prompt, box=_loose(box_of(truth), g))
        if _uniform(g, 0, 1) < 0.2:
            prompt = _clicked(prompt, _place(truth, g), True)
    else:
        for _ in range(1 if _uniform(g, 0, 1) < 0.8 else 2):
            prompt = _clicked(prompt, _place(truth, g), True)
    some = there and _uniform(g, 0, 1) < 0.4
    return Task(image, truth, prompt, _window(truth, prompt, g), 0 if not some else 1 + int(_uniform(g, 0, 2)))


def _window(truth: Bool[Tensor, "y x"], prompt: PlanePrompt, g: Generator) -> Window:
    """As the program takes it; of clicks alone half of the time as far as some reach, else about what was found."""
    if prompt.box is not None or prompt.before is not None:
        return prompt_window(prompt, 1.0)
    clicks = prompt.points[prompt.positive][:, None].expand(-1, 2, -1)
    box = box_of(truth)
    size = float((box[2:] - box[:2] + 1).max())
    if _uniform(g, 0, 1) < 0.5:
        return about(clicks, SPACING, min(size * math.exp(_uniform(g, math.log(0.6), math.log(4.0))), 60.0))
    top, left, bottom, right = about_mask(truth, clicks, SPACING)
    longer = bottom - top
    moved = [round(longer * 0.08 * _normal(g)) for _ in range(2)]
    more = round(longer * _uniform(g, -0.15, 0.2) / 2)
    return top + moved[0] - more, left + moved[1] - more, bottom + moved[0] + more, right + moved[1] + more


def _loose(box: Float[Tensor, " 4"], g: Generator) -> Float[Tensor, " 4"]:
    """A box as somebody draws it: half of them tight within a pixel, the others mostly too wide."""
    size = float((box[2:] - box[:2] + 1).max())
    if _uniform(g, 0, 1) < 0.5:
        away = torch.randint(-1, 2, (4,), generator=g) * 0.5
    else:
        away = size * (0.05 + 0.07 * torch.randn(4, generator=g))
    made = box + torch.cat((-away[:2], away[2:]))
    return made if float((made[2:] - made[:2]).min()) >= 1 else box


def _inexact(mask: Bool[Tensor, "y x"], g: Generator) -> Bool[Tensor, "y x"]:
    """A mask as it is carried on: mostly right, sometimes smoother, wider, narrower or ragged."""
    if _uniform(g, 0, 1) < 0.4:
        return mask
    width = 2 * int(_uniform(g, 1, 3.99)) + 1
    soft = F.avg_pool2d(mask[None, None].float(), width, 1, width // 2, count_include_pad=False)
    rough = F.interpolate(torch.randn(1, 1, 12, 12, generator=g), size=mask.shape, mode="bilinear", align_corners=True)
    return (soft + _uniform(g, 0, 0.25) * rough * (soft > 0))[0, 0] > _uniform(g, 0.25, 0.75)


def _middle(mask: Bool[Tensor, "y x"]) -> Bool[Tensor, "y x"]:
    """A few pixels in the middle, where a mask has none."""
    made, (y, x) = mask.clone(), (mask.shape[0] // 2, mask.shape[1] // 2)
    made[y - 2:y + 3, x - 2:x + 3] = True
    return made


def _place(mask: Bool[Tensor, "y x"], g: Generator) -> Float[Tensor, " 2"]:
    found = _click(mask, g, central=0.5)
    return torch.tensor([0.0, 0.0]) if found is None else found


def _click(mask: Bool[Tensor, "y x"], g: Generator, *, central: float) -> Float[Tensor, " 2"] | None:
    """A pixel of a mask: of its largest piece the deepest, or any."""
    from scipy import ndimage

    parts, count = ndimage.label(mask.numpy())
    if not count:
        return None
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    piece = torch.from_numpy(parts == sizes.argmax())
    if _uniform(g, 0, 1) < central:
        rows, columns = (piece.any(axis).nonzero().flatten() for axis in (1, 0))
        part = piece[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
        return deepest(part, SPACING) + torch.stack((rows[0], columns[0]))
    places = piece.nonzero()
    return places[int(torch.randint(len(places), (), generator=g))].float()


def _clicked(prompt: PlanePrompt, place: Float[Tensor, " 2"], sign: bool) -> PlanePrompt:
    return replace(prompt, points=torch.cat((prompt.points, place[None].float())),
                   positive=torch.cat((prompt.positive, torch.tensor([sign]))))


def _normal(g: Generator) -> float:
    return float(torch.randn((), generator=g))


def _uniform(g: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=g))
