"""Promptable segmentation without weights: intensities of what was pointed at, and a random walker that keeps to edges.
"""

from __future__ import annotations

from math import ceil, floor, inf

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.analyze.prompting import PlanePrompt, Promptable, box_of
from firstread.core.errors import SettingError
from firstread.ops.random_walker import random_walker
from firstread.ops.regions import largest_component, signed_distance_mm

BINS = 32


class RandomWalker(Promptable):
    """Random walker with priors from intensities and places, taken anew ``rounds`` times as in GrabCut.

        q = π f(I) / (π f(I) + (1 - π) b(I)),    (L + γ) p = γ q

    f, b: densities of intensity on the object and around it (kernel estimates of bandwidth ``bandwidth``, intensities
    scaled to 0 … 1 within the window); π: prior of place: about a click, within a box (the ellipse in it), or within
    the mask of the plane before. weight: γ; edge: of :func:`~firstread.ops.random_walker.edge_weights`. reach_mm: how
    far from a click alone the object may reach; pixels farther, and those outside a box, are none of it. Only what is
    connected with the click or the mask before is kept, and in a box the largest piece.

    Differentiable with respect to the image, the window and what is connected being constants. Sources: Grady 2005,
    2006; Rother, Kolmogorov and Blake 2004.
    """

    def __init__(self, *, weight: float = 0.05, edge: float = 0.1, bandwidth: float = 0.05, reach_mm: float = 50.0,
                 rounds: int = 3) -> None:
        super().__init__()
        if not all(0 < value < inf for value in (weight, edge, bandwidth, reach_mm)) or rounds < 1:
            raise SettingError(f"weight {weight}, edge {edge}, bandwidth {bandwidth}, reach {reach_mm} mm, {rounds} "
                               "rounds", expected="all finite and above zero", remedy="correct them")
        self.weight, self.edge, self.bandwidth, self.reach_mm, self.rounds = weight, edge, bandwidth, reach_mm, rounds

    def forward(self, image: Float[Tensor, "channel y x"], prompt: PlanePrompt) -> Float[Tensor, "y x"]:
        top, left, bottom, right = window(tuple(image.shape[1:]), prompt, self.reach_mm)
        here = (slice(top, bottom), slice(left, right))
        plane = image[(0, *here)]
        seen = plane if prompt.before is None else torch.stack((plane, prompt.before[0][(0, *here)]))
        low, high = _limits(seen.detach())
        scaled = (plane - low) / (high - low)
        y, x = (v.to(plane.device) for v in _pixels(here))
        place, outside, core = _places(prompt, here, y, x, self.reach_mm)
        inside = _discs(prompt, y, x, radius_px=1.5, positive=True)
        outside = (outside | _discs(prompt, y, x, radius_px=1.5, positive=False)) & ~inside
        if prompt.before is None:
            on, off, rounds = core.to(plane.dtype), (~core & ~inside).to(plane.dtype), self.rounds
            reference = scaled
        else:
            reference = (seen[1].detach() - low) / (high - low)
            on = prompt.before[1][here].to(plane.dtype)
            off, rounds = 1 - on, 1
        p = place
        for _ in range(rounds):
            ratio = _posterior(scaled, reference, on, off, place, self.bandwidth)
            p = random_walker(scaled, ratio, inside=inside, outside=outside, weight=self.weight, edge=self.edge,
                              spacing_mm=prompt.spacing_mm)
            mask = p.detach() > 0.5
            p = p * (largest_component(mask, axes=2) if prompt.box is not None else connected(mask, core | inside))
            reference, on, off = scaled, p.clamp(0, 1), (1 - p).clamp(0, 1)
        around = (left, image.shape[2] - right, top, image.shape[1] - bottom)
        return torch.nn.functional.pad(p, around).clamp(0, 1)


def window(shape: tuple[int, int], prompt: PlanePrompt, reach_mm: float) -> tuple[int, int, int, int]:
    """The part (top, left, bottom, right) of a plane that is looked at."""
    boxes = []
    if prompt.box is not None:
        side = max(4.0, 0.25 * float((prompt.box[2:] - prompt.box[:2]).max()))
        boxes.append(torch.cat((prompt.box[:2] - side, prompt.box[2:] + side)))
    elif prompt.before is not None:
        box = box_of(prompt.before[1])
        side = max(8.0, 0.5 * float((box[2:] - box[:2]).max()))
        boxes.append(torch.cat((box[:2] - side, box[2:] + side)))
    reach = torch.tensor([reach_mm / step for step in prompt.spacing_mm])
    if prompt.box is None:
        near = 1.0 if prompt.before is None else 0.25
        boxes += [torch.cat((p - near * reach, p + near * reach)) for p in prompt.points[prompt.positive]]
    corners = torch.stack(boxes)
    top, left = (max(0, floor(v)) for v in corners[:, :2].amin(0).tolist())
    bottom, right = (min(size, ceil(v) + 1) for size, v in zip(shape, corners[:, 2:].amax(0).tolist(), strict=True))
    return top, left, bottom, right


def connected(mask: Bool[Tensor, "y x"], seeds: Bool[Tensor, "y x"]) -> Bool[Tensor, "y x"]:
    """The components (4 neighbours) of a mask that hold a seed; of seeds that all lie beside it, none.

    >>> connected(torch.tensor([[1, 0, 1, 1]]).bool(), torch.tensor([[0, 0, 0, 1]]).bool()).int().tolist()
    [[0, 0, 1, 1]]
    """
    import numpy as np
    from scipy import ndimage

    parts, _ = ndimage.label(mask.cpu().numpy())
    held = np.unique(parts[seeds.cpu().numpy()])
    return torch.from_numpy(np.isin(parts, held[held > 0])).to(mask.device)


def _limits(values: Tensor) -> tuple[float, float]:
    """Intensities that 0 and 1 stand for: without the outermost half percent on either side."""
    low, high = (float(torch.quantile(values.flatten()[:: max(1, values.numel() // 2**20)], q)) for q in (0.005, 0.995))
    return low, high if high > low else low + 1.0


def _pixels(here: tuple[slice, slice]) -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(*(torch.arange(s.start, s.stop, dtype=torch.float32) for s in here), indexing="ij")
    return y, x


def _discs(prompt: PlanePrompt, y: Tensor, x: Tensor, *, radius_px: float, positive: bool) -> Bool[Tensor, "y x"]:
    """Pixels within a radius of the clicks of one kind."""
    made = torch.zeros_like(y, dtype=torch.bool)
    for place in prompt.points[prompt.positive == positive]:
        made |= (y - place[0])**2 + (x - place[1])**2 <= radius_px**2
    return made


def _places(prompt: PlanePrompt, here: tuple[slice, slice], y: Tensor, x: Tensor, reach_mm: float
            ) -> tuple[Tensor, Tensor, Tensor]:
    """Prior of place, pixels that are none of the object, and pixels that are taken for it at first."""
    dy, dx = prompt.spacing_mm
    if prompt.box is not None:
        y0, x0, y1, x1 = prompt.box.tolist()
        away = (((y - (y0 + y1) / 2) / ((y1 - y0) / 2 + 0.5))**2 + ((x - (x0 + x1) / 2) / ((x1 - x0) / 2 + 0.5))**2)
        outside = (y < y0 - 0.5) | (y > y1 + 0.5) | (x < x0 - 0.5) | (x > x1 + 0.5)
        place, core = torch.sigmoid((1 - away.sqrt()) / 0.15), away <= 1
    elif prompt.before is not None:
        mask = prompt.before[1][here]
        distance = signed_distance_mm(mask, prompt.spacing_mm).float()
        radius = (float(mask.sum()) * dy * dx / torch.pi)**0.5
        place = torch.sigmoid(-distance / max(1.5 * max(dy, dx), 0.2 * radius))
        core, outside = mask, torch.zeros_like(mask)
    else:
        near = torch.stack([((y - p[0]) * dy)**2 + ((x - p[1]) * dx)**2 for p in prompt.points[prompt.positive]])
        distance = near.amin(0).sqrt()
        place, outside = torch.full_like(y, 0.5), distance > reach_mm
        core = distance <= 3 * max(dy, dx)
    for place_of, sign in zip(prompt.points, prompt.positive.tolist(), strict=True):
        others = prompt.points[prompt.positive != sign]
        apart = min([float(((other - place_of) * torch.tensor([dy, dx])).norm()) for other in others], default=0.0)
        width = min(max(apart / 2, 2 * max(dy, dx)), reach_mm / 4)
        weight = torch.exp(-(((y - place_of[0]) * dy)**2 + ((x - place_of[1]) * dx)**2) / (2 * width**2))
        place = place + weight * ((1.0 if sign else 0.0) - place) * 0.95
    return place.clamp(0.01, 0.99), outside, core & ~outside


def _kernels(values: Tensor, bandwidth: float) -> Tensor:
    """How near values are to each of BINS places from 0 to 1, ``[y, x, bin]``."""
    centres = torch.linspace(0, 1, BINS, dtype=values.dtype, device=values.device)
    return torch.exp(-(values.clamp(0, 1)[..., None] - centres).square() / bandwidth**2)  # two of them: bandwidth


def _posterior(values: Tensor, reference: Tensor, on: Tensor, off: Tensor, place: Tensor, bandwidth: float) -> Tensor:
    """``q``; both densities have a floor, so that a grey value never seen says nothing."""
    near = _kernels(values, bandwidth)
    known = near if reference is values else _kernels(reference, bandwidth)
    held = torch.einsum("kyx,yxb->kb", torch.stack((on, off)), known)
    f, b = (near @ (held / held.sum(dim=1, keepdim=True).clamp_min(1e-12)).T + 0.02).unbind(-1)
    return place * f / (place * f + (1 - place) * b)
