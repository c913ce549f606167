"""Random scenes with one object that somebody could point at: what promptable segmentation is trained on.

No anatomy: blobs, rough ones, walls about cavities, crescents, tubes, pairs, in textured surroundings with neighbours
that may look like them or touch them, under shading, blur and noise; every scene also a little farther on, as the next
slice of a stack would show it (domain randomization, Billot 2023; endless tasks, Wong 2024).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from firstread.acquire.textures import random_plane, tissues
from firstread.core.keys import Key
from firstread.ops.separable import smooth

SIZE, RADIUS = 112, (3.5, 42.0)
KINDS = {"blob": 0.3, "rough": 0.15, "ring": 0.3, "crescent": 0.08, "tube": 0.09, "pair": 0.08}


@dataclass(frozen=True, eq=False)
class Scene:
    """images, truth: of a plane and, behind it, of its neighbour."""

    images: Float[Tensor, "plane y x"]
    truth: Bool[Tensor, "plane y x"]


def draw_scene(key: Key, *number: int) -> Scene:
    """A scene of two planes of SIZE pixels: a function of key and number alone. In the first the object may be missing.

    >>> scene = draw_scene(Key(0, "doc"), 1)
    >>> scene.images.shape, bool(scene.truth[1].any())
    (torch.Size([2, 112, 112]), True)
    """
    g = key.generator(*number)
    radius = math.exp(_uniform(g, *(math.log(r) for r in RADIUS)))
    frame = _Frame(g, radius)
    kind = _pick(g, KINDS)
    outer, target, cavity = _object(g, frame, kind, radius)
    image = _surroundings(g, frame, outer, radius)
    if _uniform(g, 0, 1) < 0.08:  # the object ends before the first plane
        outer[0], target[0] = 1e3, 1e3
        cavity = None if cavity is None else torch.cat((torch.full_like(cavity[:1], 1e3), cavity[1:]))
    image = _painted(g, frame, image, target if cavity is None else outer, cavity, radius)
    if kind == "ring":
        told = _uniform(g, 0, 1)
        target = cavity if told < 0.3 and cavity is not None else outer if told > 0.88 else target
    return Scene(_seen(g, frame, image), target < 0)


class _Frame:
    """Coordinates in pixels about a middle near the plane's, bent, on two planes that differ a little."""

    def __init__(self, g: Generator, radius: float) -> None:
        self.g, self.along = g, _uniform(g, 0.0, 0.5)
        line = torch.arange(SIZE) - (SIZE - 1) / 2
        room = max(3.0, 0.5 * (SIZE / 2 - radius))
        y, x = (line - _uniform(g, -room, room) for _ in range(2))
        bend = _uniform(g, 0.0, 0.2) * radius * self.fields(int(_uniform(g, 2, 6))), \
            _uniform(g, 0.0, 0.2) * radius * self.fields(int(_uniform(g, 2, 6)))
        grow = torch.tensor([1.0, math.exp(0.18 * _normal(g))])[:, None, None]
        shift = [torch.tensor([0.0, 0.15 * radius * _normal(g)])[:, None, None] for _ in range(2)]
        self.y, self.x = grow * (y[None, :, None] + bend[0] + shift[0]), grow * (x[None, None] + bend[1] + shift[1])

    def fields(self, cells: int) -> Float[Tensor, "2 y x"]:
        """Smooth noise, mean 0, standard deviation about 1, the second plane's like the first's."""
        finer = _finer(cells + 2)
        first, other = 1.25 * (finer @ torch.randn((2, cells + 2, cells + 2), generator=self.g) @ finer.mT)
        angle = self.along * math.pi / 2
        return torch.stack((first, first * math.cos(angle) + other * math.sin(angle)))


@lru_cache(maxsize=64)
def _finer(count: int) -> Float[Tensor, "y count"]:
    """Cubic interpolation of ``count`` values to SIZE."""
    rows = torch.eye(count)[None, :, :, None].expand(-1, -1, -1, 2)
    return F.interpolate(rows, size=(SIZE, 2), mode="bicubic", align_corners=True)[0, :, :, 0].mT.contiguous()


def _star(g: Generator, frame: _Frame, radius: float, *, y0: float = 0.0, x0: float = 0.0) -> Float[Tensor, "2 y x"]:
    """About the distance to a bumpy, drawn-out disc, negative inside."""
    turn, long = _uniform(g, 0, math.pi), math.exp(abs(0.35 * _normal(g)))
    y, x = frame.y - y0, frame.x - x0
    u, v = (x * math.cos(turn) + y * math.sin(turn)) / long**0.5, (y * math.cos(turn) - x * math.sin(turn)) * long**0.5
    angle, edge = torch.atan2(v, u), torch.full_like(u, radius)
    bumps = _uniform(g, 0.0, 0.2)
    for k in (2, 3, 4):
        edge = edge + radius * bumps / k * _normal(g) * torch.cos(k * angle + _uniform(g, 0, 6.3))
    return (u * u + v * v).sqrt() - edge


def _object(g: Generator, frame: _Frame, kind: str, radius: float
            ) -> tuple[Float[Tensor, "2 y x"], Float[Tensor, "2 y x"], Float[Tensor, "2 y x"] | None]:
    """The whole, the object itself, and the cavity in it, as distances."""
    whole = _star(g, frame, radius)
    if kind == "rough":
        whole = whole + _uniform(g, 0.1, 0.35) * radius * frame.fields(int(_uniform(g, 6, 24)))
    elif kind == "crescent":
        away, angle = _uniform(g, 0.4, 0.9) * radius, _uniform(g, 0, 6.3)
        bite = _star(g, frame, radius * _uniform(g, 0.8, 1.1), y0=away * math.sin(angle), x0=away * math.cos(angle))
        whole = torch.maximum(whole, -bite)
    elif kind == "tube":
        turn, width = _uniform(g, 0, math.pi), max(1.3, radius * _uniform(g, 0.08, 0.25))
        u, v = frame.x * math.cos(turn) + frame.y * math.sin(turn), frame.y * math.cos(turn) - frame.x * math.sin(turn)
        v = v + radius * _uniform(g, 0, 0.5) * torch.sin(u / radius * _uniform(g, 0.5, 2.5) + _uniform(g, 0, 6.3))
        whole = torch.maximum(v.abs() - width, u.abs() - radius * _uniform(g, 0.8, 1.6))
    elif kind == "pair":
        away, angle = _uniform(g, 0.7, 1.2) * radius, _uniform(g, 0, 6.3)
        whole = torch.minimum(whole, _star(g, frame, radius * _uniform(g, 0.4, 0.9), y0=away * math.sin(angle),
                                           x0=away * math.cos(angle)))
    if kind != "ring":
        return whole, whole.clone(), None
    angle = torch.atan2(frame.y, frame.x)
    uneven = 1 + _uniform(g, 0, 0.5) * torch.cos(angle + _uniform(g, 0, 6.3))
    wall = max(1.6, radius * _uniform(g, 0.12, 0.5)) * uneven
    cavity = whole + wall + _uniform(g, 0, 0.15) * radius * frame.fields(int(_uniform(g, 5, 16)))
    shell = torch.maximum(whole, -cavity)
    if _uniform(g, 0, 1) < 0.15:  # open at one side
        gap = _uniform(g, 0.3, 1.2) - torch.remainder(angle + _uniform(g, 0, 6.3), 2 * math.pi)
        shell = torch.maximum(shell, gap * radius)
    return whole, shell, cavity


def _surroundings(g: Generator, frame: _Frame, outer: Float[Tensor, "2 y x"], radius: float) -> Float[Tensor, "2 y x"]:
    """Textured planes, mostly with something homogeneous in which the object lies, and neighbours about it."""
    drawn = _uniform(g, 0, 1)
    if drawn < 0.75:
        make = (lambda: random_plane(g, SIZE).abs()) if drawn < 0.4 else (lambda: tissues(g, SIZE))
        first, other = make(), make()
        image = torch.stack((first, first + 0.5 * frame.along * (other - first)))
    else:
        image = _uniform(g, 0, 1) + _uniform(g, 0, 0.15) * frame.fields(int(_uniform(g, 2, 20)))
    if _uniform(g, 0, 1) < 0.6:
        organ = _star(g, frame, radius * _uniform(g, 1.2, 3.0) + 4, y0=_normal(g) * 0.3 * radius,
                      x0=_normal(g) * 0.3 * radius)
        image = _laid(image, organ, _uniform(g, 0, 1), _uniform(g, 0.5, 3))
        image = image * (1 + _uniform(g, 0, 0.1) * frame.fields(9))
    if _uniform(g, 0, 1) < 0.3:  # all on one side of a line, such as a wall that is touched
        angle, place = _uniform(g, 0, 6.3), radius * _uniform(g, 0.6, 1.6)
        side = place - frame.x * math.cos(angle) - frame.y * math.sin(angle) + 0.1 * radius * frame.fields(3)
        image = _laid(image, side, _uniform(g, 0, 1), _uniform(g, 0.5, 2))
    return image


def _painted(g: Generator, frame: _Frame, image: Float[Tensor, "2 y x"], shape: Float[Tensor, "2 y x"],
             cavity: Float[Tensor, "2 y x"] | None, radius: float) -> Float[Tensor, "2 y x"]:
    """The object and its neighbours, some of which look like it."""
    rim = (shape > 0.5) & (shape < 4)
    around = float(image[rim].mean()) if bool(rim.any()) else 0.5
    apart = math.exp(_uniform(g, math.log(0.07), math.log(0.8))) * (1 if _uniform(g, 0, 1) < 0.5 else -1)
    value = around + apart if 0 <= around + apart <= 1.2 else around - apart
    alike = value if _uniform(g, 0, 1) < 0.6 else _uniform(g, 0, 1)
    for _ in range(int(_uniform(g, 0, 4.5))):
        angle, size = _uniform(g, 0, 6.3), radius * _uniform(g, 0.15, 1.0)
        away = (radius + size) * _uniform(g, 0.85, 1.7)
        other = _star(g, frame, size, y0=away * math.sin(angle), x0=away * math.cos(angle))
        level = alike if _uniform(g, 0, 1) < 0.5 else _uniform(g, 0, 1.1)
        image = _laid(image, other, level, _uniform(g, 0.5, 2.5))
    texture = 1 + _uniform(g, 0, 0.12) * frame.fields(int(_uniform(g, 3, 30)))
    soft = _uniform(g, 0.4, 2.0) if _uniform(g, 0, 1) < 0.8 else _uniform(g, 1.0, 0.35 * radius + 1)
    filled = _laid(image, shape, value * texture, soft)
    if _uniform(g, 0, 1) < 0.2:  # its core, or some parts of it, look otherwise
        core = shape + radius * _uniform(g, 0.3, 0.6) + 0.2 * radius * frame.fields(int(_uniform(g, 3, 8)))
        filled = _laid(filled, core, value + _uniform(g, -0.5, 0.5), _uniform(g, 0.5, 3))
    if cavity is not None:
        within = around + apart * _uniform(g, -0.3, 0.3) if _uniform(g, 0, 1) < 0.25 else \
            value + math.exp(_uniform(g, math.log(0.1), math.log(0.9))) * (1 if _uniform(g, 0, 1) < 0.5 else -1)
        filled = _laid(filled, cavity, within * (1 + _uniform(g, 0, 0.08) * frame.fields(8)), soft)
        if _uniform(g, 0, 1) < 0.4:  # islands of the wall in the cavity
            islands = torch.maximum(cavity + 0.5, _uniform(g, 0.9, 1.6) - frame.fields(int(_uniform(g, 10, 24))))
            filled = _laid(filled, islands * 2, value, 1.0)
    return filled


def _seen(g: Generator, frame: _Frame, image: Float[Tensor, "2 y x"]) -> Float[Tensor, "2 y x"]:
    """Through a scanner: shading, blur, noise (some of it smooth), a curve of grey values."""
    image = image.clamp_min(0) * torch.exp(_uniform(g, 0, 0.35) * frame.fields(1))
    if _uniform(g, 0, 1) < 0.6:
        width = _uniform(g, 0.3, 1.5)
        image = smooth(image[:, None], (0.0, width, width))[:, 0]
    level = _uniform(g, 0, 0.04) if _uniform(g, 0, 1) < 0.7 else _uniform(g, 0.03, 0.15)
    noise = torch.randn(image.shape, generator=g)
    if _uniform(g, 0, 1) < 0.4:
        noise = 1.8 * smooth(noise[:, None], (0.0, 0.7, 0.7))[:, 0]
    image = image + level * noise
    if _uniform(g, 0, 1) < 0.5:
        image = image.clamp_min(0) ** math.exp(0.3 * _normal(g))
    if _uniform(g, 0, 1) < 0.15:
        image = 1 - image
    return image * torch.tensor([1.0, _uniform(g, 0.9, 1.1)])[:, None, None]


def _laid(image: Tensor, distance: Tensor, value: Tensor | float, soft: float) -> Tensor:
    """``value`` over the image where the distance is negative, with an edge of ``soft`` pixels."""
    return image + (0.5 - distance / soft).clamp(0, 1) * (value - image)


def _pick(g: Generator, shares: dict[str, float]) -> str:
    drawn = _uniform(g, 0, sum(shares.values()))
    for name, share in shares.items():
        drawn -= share
        if drawn < 0:
            return name
    return name


def _normal(g: Generator) -> float:
    return float(torch.randn((), generator=g))


def _uniform(g: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=g))
