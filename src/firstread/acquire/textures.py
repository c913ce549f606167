"""Random planes that look like no organ in particular: what reconstructions that must not know the anatomy train on.

Nested outlines (skin, bone, inside), tissues as level sets of random fields from coarse to fine, ellipses, fine folds,
smooth shading and phase: domain randomization (Billot et al. 2023) without any real image.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Generator, Tensor

from firstread.core.errors import SettingError


def random_plane(generator: Generator, size: int) -> Complex[Tensor, "y x"]:
    """A random object, magnitudes between 0 and about 1.5, with a smooth phase; zero outside its outline.

    size: pixels along each side, 16 or more.

    >>> plane = random_plane(torch.Generator().manual_seed(0), 32)
    >>> plane.shape, bool(plane.abs().max() > 0.1)
    (torch.Size([32, 32]), True)
    """
    if size < 16:
        raise SettingError(f"a plane of {size} pixels", expected="16 or more", remedy="raise `size`")
    line = torch.linspace(-1, 1, size)
    y, x = line[:, None], line[None, :]
    outline = _outline(generator, y, x)
    rim, bone = _uniform(generator, 0.03, 0.12), _uniform(generator, 0.0, 0.12)
    inside = _edge(outline + rim + bone, size)
    image = tissues(generator, size) * inside
    skin = _edge(outline, size) - _edge(outline + rim, size)
    image = image + skin * _uniform(generator, 0.1, 1.3)
    for _ in range(int(_uniform(generator, 0, 10))):
        shape = _ellipse(generator, y, x)
        cover = _edge(shape, size) * inside * _uniform(generator, 0.4, 1.0)
        image = image + cover * (_uniform(generator, 0, 1.2) - image)
    shading = torch.exp(_uniform(generator, 0, 0.5) * smooth_field(generator, size, 3))
    bend = _uniform(generator, 0, 2.5) * smooth_field(generator, size, int(_uniform(generator, 2, 6)))
    detail = _uniform(generator, 0, 0.08) * smooth_field(generator, size, size // 4)
    return torch.polar((image * (1 + detail)).clamp_min(0) * shading, bend + 2 * math.pi * _uniform(generator, 0, 1))


def tissues(generator: Generator, size: int) -> Float[Tensor, "y x"]:
    """A few tissues of random brightness, bounded by level sets of random fields, some of them finely folded."""
    image = torch.full((size, size), _uniform(generator, 0.05, 1.0))
    for _ in range(int(_uniform(generator, 1, 5))):
        cells = int(math.exp(_uniform(generator, math.log(3), math.log(size / 5))))
        field = smooth_field(generator, size, cells)
        if _uniform(generator, 0, 1) < 0.5:  # folds: a band on either side of a level
            field = _uniform(generator, 0.1, 0.6) - (field - _uniform(generator, -0.5, 0.5)).abs()
        else:
            field = field - _uniform(generator, -0.8, 0.8)
        sharp = size / (2.5 * cells)  # the field changes by about one over a cell
        cover = torch.sigmoid(sharp * _uniform(generator, 1.0, 3.0) * field)
        image = image + cover * (_uniform(generator, 0, 1.1) - image)
    return image


def smooth_field(generator: Generator, size: int, cells: int) -> Float[Tensor, "y x"]:
    """A smooth random field, mean 0 and standard deviation about 1, with ``cells`` bumps across."""
    coarse = torch.randn((1, 1, cells + 2, cells + 2), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
    return 1.25 * fine[0, 0]


def _outline(generator: Generator, y: Tensor, x: Tensor) -> Tensor:
    """A bumpy ellipse around the middle, negative inside, in half fields of view."""
    angle = torch.atan2(y, x)
    radius = _uniform(generator, 0.65, 1.0)
    for k in (2, 3, 4):
        bump = _uniform(generator, -0.12, 0.12) / k
        radius = radius + bump * torch.cos(k * angle + _uniform(generator, 0, 6.3))
    v, u = y - _uniform(generator, -0.1, 0.1), x - _uniform(generator, -0.1, 0.1)
    return (u * u + v * v).sqrt() - radius * _uniform(generator, 0.85, 1.0)


def _ellipse(generator: Generator, y: Tensor, x: Tensor) -> Tensor:
    """A turned ellipse, negative inside, about a distance near its border."""
    turn = _uniform(generator, 0, math.pi)
    v, u = y - _uniform(generator, -0.7, 0.7), x - _uniform(generator, -0.7, 0.7)
    a, b = (math.exp(_uniform(generator, math.log(0.02), math.log(0.4))) for _ in range(2))
    p, q = u * math.cos(turn) + v * math.sin(turn), v * math.cos(turn) - u * math.sin(turn)
    return ((p / a) ** 2 + (q / b) ** 2 + 1e-6).sqrt().sub(1) * min(a, b)


def _edge(signed: Tensor, size: int) -> Tensor:
    """Share of a pixel that is inside, from a signed distance in half fields of view."""
    return (0.5 - signed * size / 2).clamp(0, 1)


def _uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))
