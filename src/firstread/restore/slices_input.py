"""Stacks of slices as they come, checked and joined; and the slices of one subject, cropped to where they matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from firstread.core.batched import concatenate
from firstread.core.errors import GeometryError, InputError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.ops.resample import sample

REACH_MM = 12.0  # how far beyond the mask slices may have come from


@dataclass(frozen=True, eq=False)
class SliceSet:
    """Slices (or patches of them) in the frame of the volume: rigid millimetres with the volume's centre as origin.

    values: ``[slice, y, x]``; share: how much each pixel counts, 0 where nothing was measured.
    affine: pixel (x, y, 0) to the frame, as the scanner states it. sigma_mm: profile in and through plane.
    stack, number: from where; parent: which slice a patch belongs to.
    """

    values: Float[Tensor, "slice v u"]
    share: Float[Tensor, "slice v u"]
    affine: Float[Tensor, "slice 4 4"]
    sigma_mm: Float[Tensor, "slice 2"]
    stack: Int[Tensor, " slice"]
    number: Int[Tensor, " slice"]
    parent: Int[Tensor, " slice"]

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def plane(self) -> tuple[int, int]:
        return self.values.shape[1], self.values.shape[2]

    def points(self) -> Float[Tensor, "slice v u 3"]:
        """The centre of every pixel in the frame, single precision."""
        height, width = self.plane
        affine = self.affine.float()
        y = torch.arange(height, dtype=torch.float32)[:, None, None]
        x = torch.arange(width, dtype=torch.float32)[:, None]
        return affine[:, None, None, :3, 3] + y * affine[:, None, None, :3, 1] + x * affine[:, None, None, :3, 0]


def join_stacks(stacks: Sequence[Image]) -> Image:
    """Several stacks as one Image: a batch row (part) per stack, NaN where a smaller stack has nothing.

    Raises InputError for anything but two or more 3D stacks of real numbers, GeometryError where one has no
    millimetres or no slices. A stack of unknown thickness counts as one without gaps.

    >>> grid = Grid.from_spacing((4, 8, 8), (3.0, 1.0, 1.0))
    >>> one, other = (Image(Rows.subjects(1), torch.ones(1, 1, 1, 4, 8, 8), grid) for _ in range(2))
    >>> join_stacks([one, other]).data.shape
    torch.Size([2, 1, 1, 4, 8, 8])
    """
    if len(stacks) < 2:
        raise InputError(f"{len(stacks)} stack{'' if len(stacks) == 1 else 's'}", expected="two or more, best three or "
                         "more in different orientations", remedy="add stacks; what lies between the slices of one "
                         "stack was not measured twice, so motion cannot be told from anatomy")
    for index, stack in enumerate(stacks):
        name = f"stack {index + 1}"
        shape = tuple(stack.data.shape)
        if stack.batch != 1 or shape[1] != 1 or shape[2] != 1:
            raise InputError(f"{name} with {stack.batch * shape[1] * shape[2]} volumes (4D)", expected="one 3D stack "
                             "of slices per file", remedy="split it, and give each volume as a stack of its own")
        if stack.data.is_complex():
            raise InputError(f"{name} of complex numbers", expected="magnitudes", remedy="take the absolute value")
        stack.grid.require_mm(f"placing {name}")
        if shape[3] < 4 or min(shape[4:]) < 8:
            raise GeometryError(f"{name} of {shape[3]} slices of {shape[4]} x {shape[5]} pixels", expected="4 slices "
                                "of 8 x 8 pixels or more", remedy="leave that stack out")
    shape = tuple(max(s.data.shape[axis] for s in stacks) for axis in (3, 4, 5))
    rows = []
    for index, stack in enumerate(stacks):
        data = stack.data.new_full((1, 1, 1, *shape), torch.nan, dtype=torch.float32)
        data[..., :stack.data.shape[3], :stack.data.shape[4], :stack.data.shape[5]] = stack.data
        grid = stack.grid
        thickness = grid.spacing_mm[:, 0] if grid.thickness_mm is None else grid.thickness_mm
        part = torch.tensor([index])
        rows.append(Image(Rows(stack.rows.subject, part, stack.rows.draw), data,
                          Grid(grid.affine, shape, thickness.double(), grid.frame)))
    notes = tuple(dict.fromkeys(note for stack in stacks for note in stack.notes))
    return replace(concatenate(rows), source=stacks[0].source, notes=notes)


def cut_slices(stacks: Image, to_frame: Float[Tensor, "4 4"], mask: Bool[Tensor, "z y x"], spacing_mm: float,
               stack_poses: Float[Tensor, "stack 4 4"]) -> SliceSet:
    """All slices that may show the mask, cropped about it; mask and ``spacing_mm`` are those of the volume.

    stack_poses: of whole stacks, in the frame. Raises GeometryError where a stack never meets the mask.
    """
    from firstread.ops.slice_sampling import profile_sigma_mm

    found: list[tuple[int, int, Tensor, Tensor]] = []  # stack, number, values, affine
    boxes = []
    reach = dilate(mask, REACH_MM / spacing_mm).float()
    for row in range(stacks.batch):
        data = stacks.data[row, 0, 0]
        affine = to_frame @ stacks.grid.affine[row]
        seen = _sampled(reach, spacing_mm, stack_poses[row] @ affine, tuple(data.shape)) & data.isfinite()
        if not bool(seen.any()):
            raise GeometryError(f"stack {row + 1} does not overlap the region of interest (the mask, or what the "
                                "other stacks show)", remedy="check that all stacks are of one examination, or leave "
                                "this one out", expected="stacks that show the same part of the body")
        boxes.append([_range(seen.any(dim=dims)) for dims in ((1, 2), (0, 2), (0, 1))])
    height = max(b[1][1] - b[1][0] for b in boxes)
    width = max(b[2][1] - b[2][0] for b in boxes)
    for row, (across, down, right) in enumerate(boxes):
        affine = to_frame @ stacks.grid.affine[row]
        for z in range(*across):
            values = stacks.data.new_full((height, width), torch.nan)
            part = stacks.data[row, 0, 0, z, down[0]:down[1], right[0]:right[1]]
            values[:part.shape[0], :part.shape[1]] = part
            corner = torch.tensor([right[0], down[0], z, 1], dtype=torch.float64)
            moved = affine.clone()
            moved[:3, 3] = (affine @ corner)[:3]
            found.append((row, z, values, moved))
    values = torch.stack([f[2] for f in found]).float()
    stack = torch.tensor([f[0] for f in found])
    assert stacks.grid.thickness_mm is not None
    pixel = stacks.grid.spacing_mm[:, 1:].mean(dim=1)
    sigma = profile_sigma_mm(pixel, stacks.grid.thickness_mm)[stack]
    return SliceSet(values.nan_to_num(0.0), values.isfinite().float(), torch.stack([f[3] for f in found]), sigma, stack,
                    torch.tensor([f[1] for f in found]), torch.arange(len(found)))


def check_finite(stacks: Image) -> None:
    """Refuse stacks without signal."""
    for row in range(stacks.batch):
        data = stacks.data[row].detach()
        values = data[data.isfinite()]
        if values.numel() == 0 or bool(values.max() <= values.min()):
            raise SignalError(f"stack {row + 1} is the same everywhere", expected="an image",
                              remedy="leave that stack out")


def dilate(mask: Bool[Tensor, "z y x"], voxels: float) -> Bool[Tensor, "z y x"]:
    """The mask grown by a ball of ``voxels``, by steps of cubes and crosses in turn."""
    grown = mask.float()[None, None]
    for step in range(max(0, round(voxels))):
        cube = torch.nn.functional.max_pool3d(grown, 3, 1, 1)
        if step % 2:
            grown = cube
        else:
            grown = torch.stack([torch.nn.functional.max_pool3d(grown, size, 1, pad) for size, pad in
                                 (((3, 1, 1), (1, 0, 0)), ((1, 3, 1), (0, 1, 0)), ((1, 1, 3), (0, 0, 1)))]).amax(dim=0)
    return grown[0, 0] > 0


def _sampled(mask: Tensor, spacing_mm: float, affine: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Where the mask is, on the voxels (z, y, x) of ``affine``."""
    index = Grid(affine[None], (shape[0], shape[1], shape[2])).points_mm()[0].float() / spacing_mm
    centre = torch.tensor([(n - 1) / 2 for n in mask.shape[::-1]])
    return sample(mask[None, None], (index + centre)[None], mode="nearest")[0, 0] > 0.5


def _range(line: Tensor) -> tuple[int, int]:
    places = line.nonzero()[:, 0]
    return int(places[0]), int(places[-1]) + 1
