"""What a network is shown of a plane and of what is said about it, and its answer back on the plane.

A square window about what was pointed at, resampled to :data:`SIZE` pixels: the image (its inner 99 % at 0 … 1), how
likely each grey value is on what was pointed at, clicks on the object and off it, the box, and the plane before with
the mask found there.
"""

from __future__ import annotations

from math import ceil, floor

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.analyze.prompting import PlanePrompt, box_of

SIZE, CHANNELS = 96, 7
AROUND = {"box": 0.35, "before": 0.5}  # of the longer side, on each side of a box or a mask
LEAST_PX, CLICK_PX = 16, 2.5  # of a window's side; of a click, in the network's pixels
BINS, BANDWIDTH, FLOOR = 64, 0.07, 0.02  # of the densities of grey values
Window = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels of the plane; beyond the plane its outermost pixels go on."""


def about(corners: Float[Tensor, "n 2 2"], spacing_mm: tuple[float, float], margin_mm: float) -> Window:
    """The square in mm about boxes ((y0, x0), (y1, x1)) with a margin.

    >>> about(torch.tensor([[[10.0, 10.0], [30.0, 20.0]]]), (1.0, 1.0), 5.0)
    (5, 0, 36, 31)
    """
    step = torch.tensor(spacing_mm)
    low, high = corners[:, 0].amin(0), corners[:, 1].amax(0)
    half = max(float(((high - low) * step).max()) / 2 + margin_mm, LEAST_PX / 2 * max(spacing_mm))
    (y, x), (dy, dx) = ((low + high) / 2).tolist(), spacing_mm
    return floor(y - half / dy), floor(x - half / dx), ceil(y + half / dy) + 1, ceil(x + half / dx) + 1


def prompt_window(prompt: PlanePrompt, reach_mm: float) -> Window:
    """The part of a plane that is looked at: about the box, the mask before and the clicks, else as far as the reach.
    """
    clicks = prompt.points[prompt.positive][:, None].expand(-1, 2, -1)
    if prompt.box is not None:
        return _about_box(prompt.box, prompt.spacing_mm, AROUND["box"])
    if prompt.before is not None:
        return about_mask(prompt.before[1], clicks, prompt.spacing_mm)
    return about(clicks, prompt.spacing_mm, reach_mm)


def about_mask(mask: Bool[Tensor, "y x"], clicks: Float[Tensor, "n 2 2"], spacing_mm: tuple[float, float]) -> Window:
    """The window about a mask that is not empty, and about clicks."""
    box = box_of(mask)
    longer = float(((box[2:] - box[:2] + 1) * torch.tensor(spacing_mm)).max())
    return about(torch.cat((box.reshape(1, 2, 2), clicks)), spacing_mm, AROUND["before"] * longer)


def _about_box(box: Float[Tensor, " 4"], spacing_mm: tuple[float, float], share: float) -> Window:
    longer = float(((box[2:] - box[:2] + 1) * torch.tensor(spacing_mm)).max())
    return about(box.reshape(1, 2, 2), spacing_mm, share * longer)


def cut(plane: Float[Tensor, "y x"], window: Window) -> Float[Tensor, "SIZE SIZE"]:
    """The window of a plane as the network sees it; smoothed where it has more pixels than the network's."""
    top, left, bottom, right = window
    rows, columns = (torch.arange(a, b, device=plane.device).clamp(0, n - 1)
                     for a, b, n in zip((top, left), (bottom, right), plane.shape, strict=True))
    part = plane.index_select(0, rows).index_select(1, columns)
    return F.interpolate(part[None, None], (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)[0, 0]


def encode(image: Float[Tensor, "y x"], prompt: PlanePrompt, window: Window) -> Float[Tensor, "channel SIZE SIZE"]:
    """The network's input, :data:`CHANNELS` of it; differentiable in the image, whose limits are constants."""
    seen = cut(image, window)
    before, mask = torch.zeros_like(seen), torch.zeros_like(seen)
    if prompt.before is not None:
        before, mask = cut(prompt.before[0][0], window), cut(prompt.before[1].to(seen.dtype), window)
    low, high = _limits(seen if prompt.before is None else torch.stack((seen, before)))
    seen = ((seen - low) / (high - low)).clamp(-0.25, 1.25)
    if prompt.before is not None:
        before = ((before - low) / (high - low)).clamp(-0.25, 1.25)
    on_click, off_click = (_clicks(prompt.points[prompt.positive == sign], window).to(seen) for sign in (True, False))
    box, core = torch.zeros_like(seen), (on_click > 0.5).to(seen.dtype)
    if prompt.box is not None:
        box, core = (part.to(seen) for part in _box(prompt.box, window))
    like = likeness(seen, seen, core) if prompt.before is None else likeness(seen, before, mask)
    return torch.stack((seen, like, on_click, off_click, box, before, mask))


def likeness(values: Float[Tensor, "y x"], reference: Float[Tensor, "y x"], on: Float[Tensor, "y x"]
             ) -> Float[Tensor, "y x"]:
    """``f(v) / (f(v) + b(v))``: f, b are densities of ``reference`` on what is pointed at and off it, with a floor.

    Values between 0 and 1. Differentiable in ``values``; the densities are constants of the gradient.

    >>> grey = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    >>> likeness(grey, grey, torch.tensor([[0.0, 0.0, 1.0, 1.0]])).mul(100).round().int().tolist()
    [[2, 2, 98, 98]]
    """
    share, index = on.flatten(), (reference.detach().clamp(0, 1) * (BINS - 1)).round().long().flatten()
    held = torch.stack([torch.bincount(index, weights=w, minlength=BINS) for w in (share, 1 - share)]).to(values.dtype)
    line = torch.linspace(0, 1, BINS, dtype=values.dtype, device=values.device)
    near = torch.exp(-(line[:, None] - line).square() / (2 * BANDWIDTH**2))
    f, b = held / held.sum(dim=1, keepdim=True).clamp_min(1e-6) @ near + FLOOR
    table, place = f / (f + b), values.clamp(0, 1) * (BINS - 1)
    low = place.detach().floor().clamp(max=BINS - 2).long()
    return table[low] + (place - low) * (table[low + 1] - table[low])


def decode(logits: Float[Tensor, "SIZE SIZE"], window: Window, shape: tuple[int, int]) -> Float[Tensor, "y x"]:
    """Probabilities on the plane, zero outside the window."""
    top, left, bottom, right = window
    whole = F.interpolate(logits[None, None], (bottom - top, right - left), mode="bilinear", align_corners=False,
                          antialias=True)[0, 0].sigmoid()
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(bottom, shape[0]), min(right, shape[1])
    inner = whole[y0 - top:max(y1, y0) - top, x0 - left:max(x1, x0) - left]
    return F.pad(inner, (x0, shape[1] - x0 - inner.shape[1], y0, shape[0] - y0 - inner.shape[0]))


def _limits(values: Tensor) -> tuple[float, float]:
    """Grey values that 0 and 1 stand for: without the outermost half percent on either side."""
    flat = values.detach().flatten()[::5]
    low, high = torch.quantile(flat, flat.new_tensor([0.005, 0.995])).tolist()
    return low, high if high > low else low + 1.0


def _in_window(points: Float[Tensor, "n 2"], window: Window) -> Float[Tensor, "n 2"]:
    """Places (y, x) of the plane in the network's pixels."""
    top, left, bottom, right = window
    scale = torch.tensor([SIZE / (bottom - top), SIZE / (right - left)])
    return (points - torch.tensor([top, left]) + 0.5) * scale - 0.5


def _clicks(points: Float[Tensor, "n 2"], window: Window) -> Float[Tensor, "SIZE SIZE"]:
    """``max_n exp(-d² / (2 r²))``, zeros without a click."""
    made, line = torch.zeros(SIZE, SIZE), torch.arange(float(SIZE))
    for y, x in _in_window(points, window).tolist():
        made = torch.maximum(made, torch.exp(-((line - y)**2 / (2 * CLICK_PX**2)))[:, None]
                             * torch.exp(-((line - x)**2 / (2 * CLICK_PX**2)))[None])
    return made


def _box(box: Float[Tensor, " 4"], window: Window) -> tuple[Float[Tensor, "SIZE SIZE"], Float[Tensor, "SIZE SIZE"]]:
    """The box, and the ellipse in it."""
    (y0, x0), (y1, x1) = _in_window(box.reshape(2, 2) + torch.tensor([[-0.5], [0.5]]), window).tolist()
    line = torch.arange(float(SIZE))
    inside = ((line >= y0) & (line <= y1))[:, None] & ((line >= x0) & (line <= x1))[None]
    y, x = (line - (y0 + y1) / 2) / max((y1 - y0) / 2, 1.0), (line - (x0 + x1) / 2) / max((x1 - x0) / 2, 1.0)
    return inside.float(), (y[:, None]**2 + x[None]**2 <= 1).float()
