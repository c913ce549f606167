"""Pairs of two kinds of image of real bodies, from public files, for :mod:`firstread.recipes.evidence_modalities_real`.

FAIR: the folder ``kernel/data`` of the public repository C4IR/FAIR.m, pictures without a stated spacing. NV: the public
repository neurolabusc/niivue-images, NIfTI. Neither is part of Firstread.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.register_linear import level
from firstread.core.errors import InputError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.io.open import read as open_file

Kind = Literal["rigid", "affine"]
SPACING_MM = 2.0
HAND_MM = (250.0, 200.0)  # the domain that FAIR gives the hands is 20 x 25, here taken as centimetres (y, x)
HAND_MARKS = torch.tensor([  # x, y of the template, x, y of the reference, y upward; set by hand by the author of FAIR
    [5.5841, 17.2664, 2.6807, 12.7797], [10.7243, 21.6121, 7.2028, 19.6795], [13.2477, 21.6121, 10.1865, 20.8916],
    [15.2570, 19.2290, 12.5175, 20.0991], [15.8645, 15.1636, 14.3357, 16.7424], [5.3972, 8.1075, 7.9953, 6.3462],
    [7.5000, 5.9579, 11.8648, 5.6469]], dtype=torch.float64)


@dataclass(frozen=True)
class Pair:
    """Which files, who is in them, and what may map one on the other; unit: of lengths; home: the folder."""

    name: str
    home: Literal["nv", "fair"]
    fixed: str
    moving: str
    kind: Kind
    who: str
    unit: str = "mm"


PAIRS = (
    Pair("PD on T1", "nv", "chris_t1", "chris_PD", "rigid", "one man"),
    Pair("perfusion (ASL) on T1", "nv", "chris_t1", "pcasl", "rigid", "one man"),
    Pair("perfusion (ASL) on PD", "nv", "chris_PD", "pcasl", "rigid", "one man"),
    Pair("vessels (MRA) on T1", "nv", "chris_t1", "chris_MRA", "rigid", "one man"),
    Pair("fMRI on T1", "nv", "chris_t1", "fmri_pitch", "rigid", "not said"),
    Pair("brain, contrast agent, on T1", "nv", "chris_t1", "MR_Gd", "rigid", "two people"),
    Pair("brain, contrast agent, on T1, affine", "nv", "chris_t1", "MR_Gd", "affine", "two people"),
    Pair("T1 on the MNI152 template", "nv", "spm152", "chris_t1", "affine", "man and template"),
    Pair("CT of a skull phantom on T1", "nv", "chris_t1", "CT_pitch", "affine", "man and phantom"),
    Pair("PET on CT, slice", "fair", "PET-CT-CT", "PET-CT-PET", "rigid", "one patient", "pixels"),
    Pair("PET on CT, slice, affine", "fair", "PET-CT-CT", "PET-CT-PET", "affine", "one patient", "pixels"),
    Pair("T2 on T1, slice", "fair", "MRIhead-R", "MRIhead-T", "rigid", "one head", "pixels"),
    Pair("hand on hand, X-ray", "fair", "hands-R", "hands-T", "affine", "two hands"),
)


def read_image(home: Path, stem: str) -> Image:
    """One frame of a file, the mean where there are several, in voxels of 2 mm or more; pictures in grey with pixels
    of 1 (of the hands: as FAIR states their size). Raises InputError where the file is not there."""
    found = next((path for end in (".nii.gz", ".jpg") if (path := home / f"{stem}{end}").is_file()), None)
    if found is None:
        raise InputError(f"no file {stem} in {home.name}", expected="the public files by their own names",
                         remedy="see the docstring for where they are from")
    picture = found.suffix == ".jpg"
    image = open_file(found, spacing_mm=(1.0, 1.0, 1.0) if picture else None).case["image"]
    assert isinstance(image, Image)
    data = image.data.float().mean(dim=(1, 2), keepdim=True)
    grid = image.grid
    if stem.startswith("hands"):
        spacing = (1.0, HAND_MM[0] / data.shape[-2], HAND_MM[1] / data.shape[-1])
        grid = replace(Grid.from_spacing(grid.shape, spacing), frame=grid.frame)
    if not picture:
        made = level(data[0, 0, 0], grid, SPACING_MM)
        data, grid = made.data[None, None, None], made.grid
    return Image(Rows.subjects(1), data, grid)


def hand_marks(grid: Grid) -> tuple[Float[Tensor, "1 7 3"], Float[Tensor, "1 7 3"]]:
    """Seven places of the fixed hand and the same of the moving one, in the millimetres of their grid."""
    rows, columns = grid.shape[1:]

    def place(xy: Tensor) -> Tensor:
        index = torch.stack((xy[:, 0] * 10 * columns / HAND_MM[1] - 0.5, rows - 0.5 - xy[:, 1] * 10 * rows / HAND_MM[0],
                             torch.zeros(len(xy), dtype=xy.dtype)), dim=1)
        return grid.to_mm(index[None])

    return place(HAND_MARKS[:, 2:]), place(HAND_MARKS[:, :2])
