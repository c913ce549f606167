"""Rays that are mirror images or quarter turns of one another share one row of a projection's matrix.

The square has eight symmetries. Where the views of a scan are closed under them, as equally spaced ones mostly are, the
matrix of an eighth of the rays applied to eight turned and mirrored images gives all rays: less to compute and to keep,
and the eight images are neighbours in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int, Num
from torch import Tensor

from firstread.core.sinogram import Beam, ParallelBeam

Element = tuple[int, bool]
"""Quarter turns, after a mirror image (y to -y) or not."""
WHOLE: tuple[Element, ...] = tuple((k, mirror) for mirror in (False, True) for k in range(4))
MIRRORS: tuple[Element, ...] = ((0, False), (2, False), (0, True), (2, True))
TURNS: tuple[Element, ...] = ((0, False), (1, False), (2, False), (3, False))
HALF: tuple[Element, ...] = ((0, False), (2, False))
NONE: tuple[Element, ...] = ((0, False),)


@dataclass(frozen=True)
class RaySymmetry:
    """A group under which the rays are closed, and for every ray a base ray and the element that leads to it.

    base: numbers of the base rays; slot: for each ray ``base position * len(elements) + element``; ray: for each slot
    its ray, or the number of rays where another slot has it.
    """

    elements: tuple[Element, ...]
    base: Int[Tensor, " base"]
    slot: Int[Tensor, " ray"]
    ray: Int[Tensor, " slot"]


def ray_symmetry(beam: Beam, *, square: bool) -> RaySymmetry:
    """The largest group of the rays of ``beam`` through an image that is square, or only a rectangle.

    >>> scan = ParallelBeam.uniform(views=8, bins=6, bin_mm=1.0)
    >>> found = ray_symmetry(scan, square=True)
    >>> len(found.elements), len(found.base)
    (8, 9)
    """
    for elements in (WHOLE, MIRRORS, TURNS, HALF):
        if not square and any(k % 2 for k, _ in elements):
            continue
        images = [_image(beam, element) for element in elements]
        if all(image is not None for image in images):
            return _orbits(elements, torch.stack([image for image in images if image is not None]))
    return _orbits(NONE, torch.arange(len(beam.angles_rad) * beam.bins)[None])


def turned(planes: Num[Tensor, "n y x"], element: Element) -> Num[Tensor, "n v u"]:
    """The planes whose base rays have the sums of ``planes`` along the rays that ``element`` leads to."""
    rotated = torch.rot90(planes, element[0], (-2, -1))
    return rotated.flip(-2) if element[1] else rotated


def turned_back(planes: Num[Tensor, "n v u"], element: Element) -> Num[Tensor, "n y x"]:
    """The inverse of ``turned``."""
    return torch.rot90(planes.flip(-2) if element[1] else planes, -element[0], (-2, -1))


def _image(beam: Beam, element: Element) -> Tensor | None:
    """The number of the ray that each ray is led to; None where the scan does not have it.

    A quarter turn adds π/2 to the view's angle; the mirror leads view φ to π - φ and reverses the bins; a parallel view
    is itself after half a turn, bins reversed.
    """
    turns, mirror = element
    angles = beam.angles
    target = (math.pi - angles if mirror else angles) + turns * math.pi / 2
    period = math.pi if isinstance(beam, ParallelBeam) else 2 * math.pi
    rounds = (target[:, None] - angles) / period
    apart, view = (rounds - rounds.round()).abs().min(dim=1)
    if float(apart.max()) * period > 1e-7 or len(view.unique()) < len(view):
        return None
    odd = rounds.gather(1, view[:, None])[:, 0].round().long() % 2 == 1
    reverse = (odd if isinstance(beam, ParallelBeam) else torch.zeros_like(odd)) ^ mirror
    if beam.offset_mm != 0 and bool(reverse.any()):
        return None
    bins = torch.arange(beam.bins).expand(len(view), -1)
    return (view[:, None] * beam.bins + torch.where(reverse[:, None], beam.bins - 1 - bins, bins)).flatten()


def _orbits(elements: tuple[Element, ...], image: Int[Tensor, "element ray"]) -> RaySymmetry:
    rays = torch.arange(image.shape[1])
    base = torch.nonzero(image.min(dim=0).values == rays)[:, 0]
    count = len(elements)
    slot = torch.empty_like(rays)
    for number in reversed(range(count)):
        slot[image[number, base]] = torch.arange(len(base)) * count + number
    ray = torch.full((len(base) * count,), len(rays))
    ray[slot] = rays
    return RaySymmetry(elements, base, slot, ray)
