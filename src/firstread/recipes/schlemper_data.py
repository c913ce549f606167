"""The images of the comparison after Schlemper et al. 2018: one complex image per frame, coils combined, maximum 1.

Phantom cines, a real cine (magnitudes with a made-up phase) and real complex single images, undersampled afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from firstread.acquire.heart import heart_subject
from firstread.acquire.noise import signal_level
from firstread.acquire.sampling import VariableDensity
from firstread.acquire.textures import smooth_field
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import KSpace, Rows
from firstread.ops.fourier import fft

CENTRE_LINES, FIRST_SUBJECT, FIELD_MM, SNR = 8, 9100, 320.0, 30.0
PHANTOM, CINE, SINGLE = "phantom", "real cine", "real single images"


@dataclass(frozen=True)
class Item:
    """One cine or image. data: the group it counts in; name: of the item, unique."""

    data: str
    name: str
    image: Complex[Tensor, "time y x"]


def phantoms(*, subjects: int, frames: int, size: int) -> list[Item]:
    """The middle slice of test subjects, with complex noise: mean magnitude over its standard deviation 30."""
    found = []
    for number in range(FIRST_SUBJECT, FIRST_SUBJECT + subjects):
        subject = heart_subject(seed=number, family="test", matrix=(size, size), spacing_mm=FIELD_MM / size, slices=3,
                                slice_thickness_mm=8.0, gap_mm=20.0, frames=frames)
        clean = subject.image.data[0, :, 0, 1]
        noise = torch.randn(clean.shape, dtype=clean.dtype, generator=Key(number, "schlemper").generator())
        found.append(_item(PHANTOM, f"subject {number}", clean + signal_level(clean.abs()) / SNR * noise))
    return found


def real_cines(path: Path, *, slices: int) -> list[Item]:
    """Slices of a stored magnitude cine, from the middle outwards, with a smooth random phase."""
    with np.load(path) as stored:
        images = torch.from_numpy(stored["images"].astype(np.float32))
    order = sorted(range(images.shape[1]), key=lambda z: abs(z - images.shape[1] // 2))
    found = []
    for z in order[:slices]:
        bend = 1.5 * smooth_field(Key(z, "schlemper").generator(), images.shape[-1], 3)
        found.append(_item(CINE, f"slice {z}", torch.polar(images[:, z], bend.expand_as(images[:, z]).contiguous())))
    return found


def real_images(folder: Path) -> list[Item]:
    """The first echo of every complex set, one frame each."""
    found = []
    for path in sorted(folder.glob("kellman_*.npz")):
        with np.load(path) as stored:
            found.append(_item(SINGLE, path.stem, torch.from_numpy(stored["images"][:1]).to(torch.complex64)))
    return found


def undersampled(item: Item, acceleration: float) -> KSpace:
    """Schlemper's mask, another one for every item and acceleration: ``int(N / R)`` lines with 8 in the centre."""
    frames, lines = item.image.shape[:2]
    generator = Key(0, f"{item.data}/{item.name}").generator(round(100 * acceleration))
    mask = VariableDensity(acceleration=acceleration, centre_lines=CENTRE_LINES)(frames, lines, generator)
    mask = mask[None, :, None, None, :, None]
    data, grid = fft(item.image)[None, :, None, None], Grid.pixels((1, *item.image.shape[1:]))
    return KSpace(Rows.subjects(1), mask * data, grid, mask)


def _item(data: str, name: str, image: Tensor) -> Item:
    return Item(data, name, image / image.abs().max())
