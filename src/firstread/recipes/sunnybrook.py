"""Sunnybrook's short-axis slices (CC0; left-ventricular cavity contours) as training patches, split by patient.

The folder holds one ``sc-*.npz`` per patient: ``images`` uint8 ``[frame, y, x]``, ``labels`` 0/1, the endocardium with
papillary muscles inside. Neither spacing nor slice order is given, so slices stand alone and their scale is random.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.errors import InputError
from firstread.core.keys import Key
from firstread.ops.intensity import scale_percentiles
from firstread.ops.resample import sample

EVERY = 5  # each fifth patient is held out


@dataclass(frozen=True)
class Slice:
    """One contoured slice: signal in [0, 1] and where the cavity is."""

    patient: str
    image: Float[Tensor, "y x"]
    cavity: Bool[Tensor, "y x"]


def read_slices(folder: Path, *, held_out: bool) -> list[Slice]:
    """The contoured slices of the training patients, or of those held out (each fifth in name order).

    Raises InputError for a folder without patients.
    """
    files = sorted(folder.glob("sc-*.npz"))
    if not files:
        raise InputError(f"no patients in {folder.name}", expected="files sc-*.npz", remedy="give Sunnybrook's folder")
    slices = []
    for number, file in enumerate(files):
        if (number % EVERY == EVERY - 1) != held_out:
            continue
        with np.load(file) as stored:
            for image, label in zip(stored["images"], stored["labels"], strict=True):
                if label.any():
                    slices.append(Slice(file.stem, torch.from_numpy(image.astype(np.float32) / 255),
                                        torch.from_numpy(label > 0)))
    return slices


def patch_index(slice_: Slice, generator: torch.Generator, size: int) -> Float[Tensor, "size size 2"]:
    """Where a random patch takes its pixels: near the cavity, turned, mirrored and scaled at random.

    One pixel of the patch is 0.95 to 1.4 of the slice's: those are some 1.2 to 1.5 mm wide, the patch's 1.5 mm.
    """
    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    centre = torch.nonzero(slice_.cavity).float().mean(0).flip(0)
    centre = centre + torch.tensor([uniform(-24, 14), uniform(-18, 18)])
    angle, scale = uniform(-0.7, 0.7), uniform(0.95, 1.4)
    if uniform(0, 1) < 0.2:
        angle = uniform(-3.14, 3.14)
    turn = scale * torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float32)
    line = torch.arange(size) - (size - 1) / 2
    offset = torch.stack(torch.meshgrid(line, line, indexing="ij")[::-1], dim=-1)
    if uniform(0, 1) < 0.1:
        offset = offset * torch.tensor([-1.0, 1.0])
    return offset @ turn.T + centre


class SunnybrookPatches:
    """Batch number to (images, cavity, known): ``count`` random patches; a function of seed and number alone.

    images: ``[count, 3, y, x]``, the slice three times; cavity and known: bool ``[count, y, x]``. Pixels beyond the
    slice's edge are not known: they are no labelled background.
    """

    def __init__(self, slices: list[Slice], *, seed: int, count: int = 4, size: int = 96) -> None:
        self.slices, self.key, self.count, self.size = slices, Key(seed, "sunnybrook"), count, size
        names = sorted({s.patient for s in slices})
        self.of_patient = [[i for i, s in enumerate(slices) if s.patient == name] for name in names]

    def __call__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        made = [self._patch(self.key.generator(number, k)) for k in range(self.count)]
        images, cavity, known = (torch.stack(column) for column in zip(*made, strict=True))
        return images.unsqueeze(1).expand(-1, 3, -1, -1), cavity, known

    def _patch(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        patient = self.of_patient[int(torch.randint(len(self.of_patient), (), generator=generator))]
        chosen = self.slices[patient[int(torch.randint(len(patient), (), generator=generator))]]
        index = patch_index(chosen, generator, self.size).unsqueeze(0)
        planes = torch.stack((chosen.image, chosen.cavity.float(), torch.ones_like(chosen.image))).unsqueeze(0)
        image, cavity, known = sample(planes, index)[0]
        power, level = torch.exp(0.25 * torch.randn((2,), generator=generator)) * torch.tensor([1.0, 0.006])
        noisy = (image + level * torch.randn(image.shape, generator=generator)).clamp(min=0) ** power
        return scale_percentiles(noisy.unsqueeze(0))[0], cavity > 0.5, known > 0.99
