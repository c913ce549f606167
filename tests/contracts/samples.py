"""The contract of a stage, and small records that many of its cases are made from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Record, Rows, SoftLabels
from firstread.core.stage import Stage

NAMES = ("background", "LV cavity", "LV myocardium", "RV cavity")


@dataclass(frozen=True)
class Contract:
    """stage and its records; gradient: the input that a gradient must reach; batches: takes several subjects."""

    stage: Stage
    records: dict[str, Record]
    gradient: str | None = None
    batches: bool = True


def blob(frames: int = 3, size: int = 24) -> Image:
    """A smooth complex disc that shrinks over time."""
    y, x = torch.meshgrid(torch.arange(size) - size / 2, torch.arange(size) - size / 2, indexing="ij")
    radius = torch.linspace(size / 3, size / 4, frames)[:, None, None]
    disc = torch.sigmoid(radius - (x**2 + y**2).sqrt())
    data = (0.1 + disc) * torch.exp(0.02j * x)
    grid = Grid.from_spacing((1, size, size), (8.0, 1.5, 1.5))
    times = torch.arange(frames, dtype=torch.float64)[None, :, None] * 0.05
    return Image(Rows.subjects(1), data[None, :, None, None].to(torch.complex64), grid, times)


def kspace(frames: int = 3) -> KSpace:
    from firstread.acquire.coils import GaussianCoils
    from firstread.acquire.mri import Encode
    from firstread.acquire.sampling import VariableDensity

    sampling = VariableDensity(acceleration=2, centre_lines=6)
    return Encode(sampling=sampling, coils=GaussianCoils(count=3), snr=50.0)(blob(frames), Key(1, "encode"))


def soft_heart(slices: int = 7, size: int = 48) -> SoftLabels:
    """Rings of muscle around a cavity that contracts, an RV beside it; soft edges."""
    y, x = torch.meshgrid(torch.arange(size) - 26.0, torch.arange(size) - 22.0, indexing="ij")
    r = (x**2 + y**2).sqrt()
    frames = []
    for inner in (9.0, 7.0, 6.0, 8.0):
        cavity, outer = torch.sigmoid(2 * (inner - r)), torch.sigmoid(2 * (14.0 - r))
        right = torch.sigmoid(2 * (10.0 - ((x - 16) ** 2 + y**2).sqrt())) * (1 - outer)
        classes = torch.stack(((1 - outer) * (1 - right), cavity, outer - cavity * outer, right))
        frames.append(classes / classes.sum(dim=0))
    data = torch.stack(frames)[:, :, None].expand(-1, -1, slices, -1, -1)[None].clone()
    grid = Grid.from_spacing((slices, size, size), (10.0, 1.8, 1.8))
    times = torch.arange(4, dtype=torch.float64)[None, :, None] * 0.2
    return SoftLabels(Rows.subjects(1), data, grid, NAMES, times, torch.full((1, 1), 0.8, dtype=torch.float64))


def network() -> torch.nn.Module:
    """An untrained segmentation network; what it says is not the question here."""
    from firstread.nets.unet import UNet

    torch.manual_seed(0)
    return UNet(channels_in=3, channels_out=4, widths=(4, 8)).eval()


def denoiser() -> torch.nn.Module:
    """An untrained denoiser whose last layer is not zero."""
    from firstread.nets.score import CineDenoiser

    torch.manual_seed(0)
    net = CineDenoiser(widths=(4, 4))
    torch.nn.init.normal_(net.tail.weight, std=0.02)
    return net.eval()


def body() -> Image:
    """A CT of a disc of water with an insert."""
    grid = Grid.from_spacing((2, 16, 16), (5.0, 12.0, 12.0))
    x, y, _ = grid.points_mm()[0].unbind(-1)
    inside, insert = torch.sigmoid((80 - (x**2 + y**2).sqrt()) / 4), torch.sigmoid((20 - (x - 30).abs() - y.abs()) / 4)
    return Image(Rows.subjects(1), (1000 * inside - 1000 + 200 * insert)[None, None, None].float(), grid)


def tracer() -> Image:
    """Activity of a warm disc with a hot spot, in Bq/mL."""
    ct = body()
    x, y, _ = ct.grid.points_mm()[0].unbind(-1)
    hot = torch.sigmoid((25 - ((x + 20) ** 2 + y**2).sqrt()) / 4)
    return replace(ct, data=(5 * (ct.data + 1000).clamp_min(0) + 20000 * hot.float()))
