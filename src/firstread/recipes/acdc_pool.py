"""ACDC's patients as subjects for joint training: real magnitude images, simulated phase (semi-simulated, optimistic).

Each phase of each patient has been reconstructed, and perhaps interpolated, by its scanner; only the middle of its
k-space, inside of what was measured, is taken: ``lines`` of some 220 to 300. Two frames, end-diastole and end-systole,
since only these have contours. The spacing is not in the files: 1.5 mm is assumed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from firstread.acquire.heart import LABEL_NAMES
from firstread.acquire.textures import smooth_field
from firstread.core.errors import InputError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import HardLabels, Image, Rows
from firstread.measure.cardiac import CardiacFunction
from firstread.ops.fourier import fft, ifft
from firstread.recipes.endpoint_pool import Stack, numbers_of, write_case
from firstread.recipes.evaluate_acdc import OURS, SPACING_MM

CYCLE_S = 0.9


def band(image: Float[Tensor, "*stack y x"], size: tuple[int, int]) -> Complex[Tensor, "*stack Y X"]:
    """The image of the middle ``size`` samples of k-space, intensities kept."""
    kspace = fft(image.to(torch.complex64))
    (y, x), (height, width) = image.shape[-2:], size
    top, left = y // 2 - height // 2, x // 2 - width // 2
    return ifft(kspace[..., top:top + height, left:left + width]) * (height * width / (y * x))**0.5


def resized(labels: Int[Tensor, "time z y x"], size: tuple[int, int]) -> Int[Tensor, "time z Y X"]:
    """The class that covers most of each new pixel."""
    share = torch.stack([(labels == index).float() for index in range(4)], dim=1)
    fine = torch.nn.functional.interpolate(share.flatten(0, 1), size=size, mode="bilinear", antialias=True,
                                           align_corners=False)
    return fine.unflatten(0, share.shape[:2]).argmax(dim=1)


def store_patient(path: Path, file: Path, stack: Stack) -> None:
    """Make a patient's subject of ``stack.slices`` slices between base and apex, both phases contoured, the columns
    about the heart; the file is there whole or not at all.

    Raises InputError for a patient whose images are smaller, or who has fewer contoured slices.
    """
    with np.load(file) as stored:
        image = torch.from_numpy(np.stack([stored["ed_image"], stored["es_image"]]).astype(np.float32))
        labels = torch.from_numpy(np.array(OURS)[np.stack([stored["ed_label"], stored["es_label"]])])
    size = (stack.lines, round(image.shape[-1] * stack.lines / image.shape[-2]))
    seen = (labels == 1).flatten(2).any(dim=2).all(dim=0).nonzero()[:, 0]
    if image.shape[-2] < stack.lines or size[1] < stack.columns or len(seen) < stack.slices:
        raise InputError(f"{file.name}: images of {tuple(image.shape[-2:])}, {len(seen)} slices with contours in both "
                         f"phases", expected=f"{stack.lines} lines, {stack.columns} columns and {stack.slices} such "
                         "slices or more", remedy="ask for fewer")
    chosen = seen[torch.linspace(0, len(seen) - 1, stack.slices + 2)[1:-1].round().long()] if stack.slices + 2 <= len(
        seen) else seen[:stack.slices]
    pixels, classes = band(image[:, chosen], size), resized(labels[:, chosen], size)
    middle = int((classes > 0).any(dim=0).any(dim=0).any(dim=0).nonzero().float().mean())
    left = min(max(middle - stack.columns // 2, 0), size[1] - stack.columns)
    bend = 1.5 * smooth_field(Key(int(file.stem[-3:]), "acdc").generator(), max(size), 3)[:size[0], :size[1]]
    pixels = (pixels * torch.polar(torch.ones_like(bend), bend))[..., left:left + stack.columns]
    spacing_mm = SPACING_MM[1] * image.shape[-2] / stack.lines
    step = float(chosen.diff().float().mean()) if stack.slices > 1 else 1.0
    grid = Grid.from_spacing((stack.slices, stack.lines, stack.columns), (step * SPACING_MM[0], spacing_mm, spacing_mm))
    times = {"times_s": torch.tensor([0.0, CYCLE_S / 2])[None, :, None].expand(1, 2, stack.slices).contiguous(),
             "cycle_s": torch.full((1, stack.slices), CYCLE_S)}
    contours = HardLabels(Rows.subjects(1), classes[None, :, None, ..., left:left + stack.columns].contiguous(), grid,
                          LABEL_NAMES, **times)
    numbers = numbers_of(CardiacFunction(warn=False)(contours))
    write_case(path, Image(Rows.subjects(1), pixels[None, :, None].contiguous(), grid, **times), contours,
               {"stack": numbers, "whole": numbers, "patient": file.stem})


def store_patients(folder: Path, source: Path, stack: Stack) -> list[Path]:
    """The files of all patients of ``source``, in order; what is there already stays.

    Raises InputError for a folder without patients.
    """
    files = sorted(source.glob("patient*.npz"))
    if not files:
        raise InputError(f"no patients in {source.name}", expected="files patientNNN.npz", remedy="give ACDC's folder")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{file.stem}-{stack.label()}.npz" for file in files]
    for path, file in zip(paths, files, strict=True):
        if not path.is_file():
            store_patient(path, file, stack)
    return paths
