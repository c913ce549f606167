"""Training slices for the segmentation out of the beating phantom, as they look after reconstruction.

``store_all`` draws subjects of the training family, scans each (its own matrix, slices, coils, noise and acceleration),
reconstructs it with the default cascade and keeps, on disk, the noiseless image, the reconstructed one and the distance
of every pixel to the three borders. ``PhantomSlices`` cuts random slices out of them, each with the two beside it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8
from torch import Tensor

from firstread.acquire.coils import GaussianCoils
from firstread.acquire.heart import heart_subject
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import FullySampled, VariableDensity
from firstread.acquire.slices_paint import contoured
from firstread.chains.heart import reconstruction
from firstread.core.case import Case
from firstread.core.keys import Key
from firstread.core.records import HardLabels
from firstread.core.stage import Chain
from firstread.ops.intensity import scale_percentiles
from firstread.ops.regions import signed_distance_mm
from firstread.recipes.files import write_array

FIRST_SEED = 60_000
STEP_MM = 0.25  # of the stored distances
SPACING_MM = 1.5


def store(path: Path, number: int) -> None:
    """Make subject ``number`` of the pool; the file is there whole or not at all.

    Arrays ``[time, z, y, x]``: seen, clean (half precision, magnitudes); distance ``[3, time, z, y, x]``: to the border
    of epicardium, LV cavity and RV cavity in steps of ``STEP_MM``, negative inside; spacing: of the pixels in mm.
    """
    rng = np.random.default_rng(Key(FIRST_SEED + number, "heart_cines").generator().initial_seed())
    spacing, thickness = rng.uniform(1.6, 2.2), rng.uniform(6, 10)
    made = heart_subject(seed=FIRST_SEED + number, family="train", matrix=(96, 96), spacing_mm=spacing,
                         slice_thickness_mm=thickness, gap_mm=rng.uniform(0, 4), frames=int(rng.choice([8, 8, 10, 14])))
    acceleration = rng.uniform(2, 8)
    sampling = FullySampled() if rng.random() < 0.15 else VariableDensity(acceleration=acceleration)
    encode = Encode(sampling=sampling, coils=GaussianCoils(count=int(rng.integers(5, 11))),
                    snr=math.exp(rng.uniform(math.log(12), math.log(80))))
    with torch.no_grad():
        kspace = encode(made.image, Key(number, "heart_cines"))
        seen = Chain(*reconstruction()).eval()(Case({"kspace": kspace}))["image"].data[0, :, 0].abs()
    clean = made.image.data[0, :, 0].abs()
    distance = borders(made.labels.data[0, :, 0].numpy(), spacing)
    write_array(path, seen=(seen / seen.max()).half().numpy(), clean=(clean / clean.max()).half().numpy(),
                distance=distance, spacing=np.array(spacing, dtype=np.float32))


def store_all(folder: Path, *, count: int) -> Path:
    """The folder with the subjects 0 to ``count - 1``; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:04d}.npz"
        if not path.is_file():
            store(path, number)
    return folder


def borders(labels: np.ndarray, spacing_mm: float) -> np.ndarray:
    """``signed_distance`` to the borders of epicardium, LV cavity and RV cavity, ``[3, *shape of labels]``."""
    return signed_distance(np.stack(((labels == 1) | (labels == 2), labels == 1, labels == 3)), spacing_mm)


def as_readers_contour(labels: HardLabels) -> HardLabels:
    """Masks whose borders are the anatomy's, redrawn as readers contour (``slices_paint.contoured``)."""
    spacing = float(labels.grid.spacing_mm[:, 1:].mean())
    distance = torch.from_numpy(borders(labels.data.numpy(), spacing)).float() * STEP_MM
    return replace(labels, data=contoured(*distance))


def signed_distance(masks: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Distance of each pixel's centre to the border of its slice's mask, negative inside, in steps of ``STEP_MM``.

    Borders run between pixels; distances beyond what int8 holds are cut.

    >>> signed_distance(np.array([[0, 0, 1, 1]], dtype=bool), 1.0).tolist()
    [[6, 2, -2, -6]]
    """
    found = signed_distance_mm(torch.from_numpy(masks), (spacing_mm, spacing_mm)).numpy()
    return ((found - 0.5 * spacing_mm * np.sign(found)) / STEP_MM).clip(-127, 127).round().astype(np.int8)


class PhantomSlices:
    """Batch number to (images ``[rows, 3, y, x]``, labels ``[rows, y, x]``) out of the stored subjects.

    A function of seed, number and the files alone. Seven in ten subjects are seen through the reconstruction; all are
    turned, scaled, shifted, shaded and made noisy at random.
    """

    def __init__(self, folder: Path, *, seed: int, subjects: int = 2, slices: int = 4, size: int = 96) -> None:
        self.files = sorted(folder.glob("*.npz"))
        self.key, self.subjects, self.slices, self.size = Key(seed, "phantom_slices"), subjects, slices, size

    def __call__(self, number: int) -> tuple[Tensor, Tensor]:
        generator = self.key.generator(number)
        made = [self._subject(generator) for _ in range(self.subjects)]
        return torch.cat([images for images, _ in made]), torch.cat([labels for _, labels in made])

    def _subject(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        seen, clean, distance, spacing = _load(self.files[int(uniform(0, len(self.files)))])
        pictures = seen if uniform(0, 1) < 0.7 else clean
        frames = torch.randint(len(pictures), (self.slices,), generator=generator)
        if uniform(0, 1) < 0.5:
            frames[:] = frames[0]
        depth = pictures.shape[1]
        centre = torch.randint(depth, (self.slices,), generator=generator)
        beside = torch.stack((centre - 1, centre, centre + 1), 1).clamp(0, depth - 1)
        if uniform(0, 1) < 0.5:
            beside = beside.flip(1)
        beside = beside if uniform(0, 1) < 0.75 else centre[:, None].expand(-1, 3)
        images = pictures[frames[:, None], beside].float()
        borders = distance[:, frames, centre].movedim(0, 1).float() * STEP_MM
        place = self._place(uniform, spacing, images.shape[-2:])
        both = F.grid_sample(torch.cat((images, borders), 1), place.expand(self.slices, -1, -1, -1),
                             align_corners=False, padding_mode="border")
        images, labels = both[:, :3], contoured(*both[:, 3:].movedim(1, 0))
        return self._look(images, generator, uniform), labels

    def _place(self, uniform, spacing: float, shape: torch.Size) -> Float[Tensor, "1 y x 2"]:
        """Where each pixel of the patch lies in the stored slice: turned, scaled, shifted, sometimes mirrored."""
        angle = uniform(-math.pi, math.pi) if uniform(0, 1) < 0.25 else uniform(-0.5, 0.5)
        scale = SPACING_MM * uniform(0.85, 1.18) / spacing
        line = torch.arange(self.size) - (self.size - 1) / 2
        y, x = torch.meshgrid(line * scale, line * scale, indexing="ij")
        x = -x if uniform(0, 1) < 0.1 else x
        turned_x = math.cos(angle) * x - math.sin(angle) * y + uniform(-9, 9)
        turned_y = math.sin(angle) * x + math.cos(angle) * y + uniform(-9, 9)
        return torch.stack((2 * turned_x / shape[1], 2 * turned_y / shape[0]), -1)[None]

    def _look(self, images: Float[Tensor, "rows 3 y x"], generator: torch.Generator, uniform) -> Tensor:
        """Shading, blur, noise and another grey scale, drawn once for all rows."""
        coarse = torch.randn(1, 1, 3, 3, generator=generator) * uniform(0, 0.35)
        shade = F.interpolate(coarse, size=(self.size, self.size), mode="bicubic", align_corners=True)
        images = images * shade.exp()
        if uniform(0, 1) < 0.4:
            sigma = uniform(0.3, 0.9)
            taps = torch.exp(-torch.arange(-2.0, 3.0).square() / (2 * sigma**2))
            taps = (taps / taps.sum()).expand(3, 1, 1, -1)
            images = F.conv2d(F.conv2d(images, taps, padding=(0, 2), groups=3), taps.mT, padding=(2, 0), groups=3)
        images = scale_percentiles(images)
        images = images + uniform(0, 0.05) * torch.randn(images.shape, generator=generator)
        return scale_percentiles(images.clamp(min=0) ** math.exp(uniform(-0.35, 0.35)))


@lru_cache(maxsize=256)
def _load(file: Path) -> tuple[Tensor, Tensor, Int8[Tensor, "3 time z y x"], float]:
    with np.load(file) as stored:
        return (torch.from_numpy(stored["seen"]), torch.from_numpy(stored["clean"]),
                torch.from_numpy(stored["distance"]), float(stored["spacing"]))
