"""A small heart of rings and a segmentation by brightness, so that a whole chain runs in a moment."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from firstread.acquire.coils import GaussianCoils
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import VariableDensity
from firstread.analyze.segment import Segment
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Rows


class ByBrightness(nn.Module):
    """Logits by distance to a brightness of each class: blood bright, muscle between, no right ventricle."""

    def __init__(self, *, shift: float = 0.0):
        super().__init__()
        self.register_buffer("levels", torch.tensor([0.1, 0.95, 0.5 + shift, 9.0]))

    def forward(self, rows: Tensor) -> Tensor:
        return -((rows[:, 1:2] - self.levels[:, None, None]) / 0.12).square()


def small_heart(slices: int = 2, size: int = 32) -> Image:
    """A bright cavity in a ring of muscle; frames 0 to 3 contract and relax; the second slice contracts more."""
    y, x = torch.meshgrid(torch.arange(size) - size / 2, torch.arange(size) - size / 2, indexing="ij")
    r, frames = (x**2 + y**2).sqrt(), []
    for shrink in (0.0, 1.0, 2.0, 1.0):
        inner = [7.0 - shrink * (1 + 0.5 * z) for z in range(slices)]
        frames.append(torch.stack([torch.sigmoid(3 * (11 - r)) * (1 + torch.sigmoid(3 * (i - r))) / 2 for i in inner]))
    data = (0.05 + torch.stack(frames))[None, :, None].to(torch.complex64)
    times = torch.arange(4, dtype=torch.float64)[None, :, None] * 0.2
    return Image(Rows.subjects(1), data, Grid.from_spacing((slices, size, size), (10.0, 1.5, 1.5)), times,
                 torch.full((1, 1), 0.8, dtype=torch.float64))


def small_scan(*, snr: float = 12.0, size: int = 32) -> KSpace:
    encode = Encode(sampling=VariableDensity(acceleration=2, centre_lines=8), coils=GaussianCoils(count=2), snr=snr)
    return encode(small_heart(size=size), Key(1, "encode"))


def by_brightness() -> Segment:
    return Segment(networks=[ByBrightness(), ByBrightness(shift=0.08)], patch=32, search=32)
