"""Stacks of thick slices of a head that moves between the slices, with the truth of every slice beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, Rows
from firstread.ops.resample import sample
from firstread.ops.rigid import exponential

Fault = Literal["", "drop-out", "outlier"]
SUB_SLICES, SUB_PIXELS = 9, 2


@dataclass(frozen=True)
class Motion:
    """How far a head moves: standard deviations of the slow drift within a stack, of jumps, and between stacks."""

    drift_mm: float
    drift_deg: float
    jump_mm: float
    jump_deg: float
    between_mm: float
    between_deg: float
    jumps: int = 2


STILL = Motion(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0)
MILD = Motion(1.0, 2.0, 1.0, 2.0, 3.0, 5.0)
SEVERE = Motion(1.8, 4.0, 2.5, 5.0, 4.0, 8.0, 3)


@dataclass(frozen=True)
class Protocol:
    """How the stacks are taken: millimetres, share of faulty slices, noise (sd over the head's brightest signal)."""

    stacks: int = 6
    thickness_mm: float = 3.0
    gap_mm: float = 0.3
    pixel_mm: float = 1.0
    field_mm: float = 96.0
    drop_outs: float = 0.05
    outliers: float = 0.05
    noise: float = 0.02
    bias: float = 0.15

    def __post_init__(self):
        if min(self.thickness_mm, self.pixel_mm, self.field_mm) <= 0 or self.stacks < 1 or self.gap_mm < 0:
            raise SettingError(f"{self}", expected="one stack or more and lengths above zero", remedy="correct them")


@dataclass(frozen=True, eq=False)
class Stacks:
    """What was simulated: an Image per stack; of every slice, stack by stack, the pose and what is wrong with it.

    poses: the scanner's millimetres to those of the head, ``[slice, 4, 4]``; stack: which stack each slice is in.
    """

    images: tuple[Image, ...]
    poses: Float[Tensor, "slice 4 4"]
    stack: tuple[int, ...]
    faults: tuple[Fault, ...]


def acquire_stacks(head: Float[Tensor, "z y x"], spacing_mm: float, *, motion: Motion, protocol: Protocol | None = None,
                   seed: int = 0) -> Stacks:
    """Thick-slice stacks of a volume whose centre is the origin; axial, coronal, sagittal in turn, each tilted.

    Slices are interleaved (even, then odd). The profile is a flat one with cosine flanks, not the Gaussian that a
    reconstruction assumes; noise is Rician; each stack has a smooth bias field.

    >>> ball = torch.ones(12, 12, 12)
    >>> made = acquire_stacks(ball, 2.0, motion=STILL, protocol=Protocol(stacks=2, pixel_mm=4.0, field_mm=24.0))
    >>> made.images[0].data.shape, len(made.faults)
    (torch.Size([1, 1, 1, 8, 6, 6]), 16)
    """
    protocol = protocol or Protocol()
    images, poses, stack, faults = [], [], [], []
    for number in range(protocol.stacks):
        generator = Key(seed, "head stacks").generator(number)
        grid = _grid(protocol, number, generator)
        slices = grid.shape[0]
        pose = _motion(motion, slices, generator)
        fault = _faults(protocol, slices, generator)
        data = _cut(head, spacing_mm, grid, pose, protocol)
        data = _spoil(data, head, spacing_mm, grid, pose, protocol, fault, generator)
        top = float(head.max())
        data = data * _bias(grid, protocol.bias, generator) * (1 + 0.2 * float(torch.randn(1, generator=generator)))
        noise = protocol.noise * top * torch.randn(2, *data.shape, generator=generator)
        data = 1000 * ((data + noise[0])**2 + noise[1]**2).sqrt()
        images.append(Image(Rows.subjects(1), data[None, None, None], grid))
        poses.append(pose)
        stack += [number] * slices
        faults += fault
    return Stacks(tuple(images), torch.cat(poses), tuple(stack), tuple(faults))


def mask_on(brain: Bool[Tensor, "z y x"], spacing_mm: float, grid: Grid, poses: Float[Tensor, "#slice 4 4"]
            ) -> Bool[Tensor, "slice v u"]:
    """The brain as it lies in a stack's grid, with the head at one pose or at one for every slice."""
    points = grid.points_mm()[0]
    turned = points @ poses[:, None, :3, :3].transpose(-1, -2)
    return _at(brain.float(), spacing_mm, turned + poses[:, None, None, :3, 3]) > 0.5


def _grid(protocol: Protocol, number: int, generator: torch.Generator) -> Grid:
    step = protocol.thickness_mm + protocol.gap_mm
    pixels, slices = round(protocol.field_mm / protocol.pixel_mm), round(protocol.field_mm / step) + 1
    order = [(0, 1, 2), (0, 2, 1), (1, 2, 0)][number % 3]
    axes = torch.eye(3, dtype=torch.float64)[list(order)].T * torch.tensor([protocol.pixel_mm] * 2 + [step]).double()
    tilt = exponential(torch.cat((0.12 * torch.randn(3, generator=generator), torch.zeros(3))).double())[:3, :3]
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = tilt @ axes
    affine[:3, 3] = -affine[:3, :3] @ torch.tensor([(pixels - 1) / 2, (pixels - 1) / 2, (slices - 1) / 2]).double()
    thickness = torch.tensor([protocol.thickness_mm], dtype=torch.float64)
    return Grid(affine[None], (slices, pixels, pixels), thickness)


def _motion(motion: Motion, slices: int, generator: torch.Generator) -> Tensor:
    """Poses in slice order: a smoothed random walk and a few jumps over time, slices taken even first, then odd."""
    def scaled(length: float, degrees: float) -> Tensor:
        return torch.tensor([degrees * torch.pi / 180] * 3 + [length] * 3, dtype=torch.float64)

    walk = torch.randn(slices, 6, generator=generator).double()
    near = torch.arange(slices, dtype=torch.float64)
    smooth = torch.exp(-0.5 * ((near[:, None] - near) / 2)**2)
    drift = smooth @ walk
    drift = drift / drift.std(dim=0).clamp_min(1e-9) * scaled(motion.drift_mm, motion.drift_deg)
    at = torch.randint(1, slices, (motion.jumps,), generator=generator)
    jumps = torch.randn(motion.jumps, 6, generator=generator).double() * scaled(motion.jump_mm, motion.jump_deg)
    path = drift + ((near[:, None] >= at).double() @ jumps if motion.jumps else 0)
    whole = torch.randn(6, generator=generator).double() * scaled(motion.between_mm, motion.between_deg)
    order = torch.cat((torch.arange(0, slices, 2), torch.arange(1, slices, 2)))
    return exponential(path + whole)[torch.argsort(order)]


def _faults(protocol: Protocol, slices: int, generator: torch.Generator) -> list[Fault]:
    chance = torch.rand(slices, generator=generator)
    return ["drop-out" if c < protocol.drop_outs else "outlier" if c < protocol.drop_outs + protocol.outliers else ""
            for c in chance.tolist()]


def _cut(head: Tensor, spacing_mm: float, grid: Grid, pose: Tensor, protocol: Protocol) -> Tensor:
    """Slices of the moving head, averaged over sub-pixels and over sub-slices of the profile."""
    places = (torch.arange(SUB_SLICES, dtype=torch.float64) - SUB_SLICES // 2) / (SUB_SLICES // 2) * 0.75
    flank = (places.abs() - 0.25).clamp(0, 0.5)  # half height at half a thickness
    profile = 0.5 + 0.5 * torch.cos(2 * torch.pi * flank)
    profile = profile / profile.sum()
    inner = (torch.arange(SUB_PIXELS, dtype=torch.float64) + 0.5) / SUB_PIXELS - 0.5
    affine = grid.affine[0]
    normal = affine[:3, 2] / affine[:3, 2].norm()
    points = grid.points_mm()[0]
    total = torch.zeros(grid.shape)
    for place, share in zip(places.tolist(), profile.tolist(), strict=True):
        for u in inner.tolist():
            for v in inner.tolist():
                moved = points + place * protocol.thickness_mm * normal + u * affine[:3, 0] + v * affine[:3, 1]
                moved = torch.einsum("nij,nyxj->nyxi", pose[:, :3, :3], moved) + pose[:, None, None, :3, 3]
                total += share / SUB_PIXELS**2 * _at(head, spacing_mm, moved)
    return total


def _at(volume: Tensor, spacing_mm: float, points: Tensor) -> Tensor:
    centre = torch.tensor([(n - 1) / 2 for n in volume.shape[::-1]])
    return sample(volume[None, None], (points.float() / spacing_mm + centre)[None])[0, 0]


def _spoil(data: Tensor, head: Tensor, spacing_mm: float, grid: Grid, pose: Tensor, protocol: Protocol,
           faults: list[Fault], generator: torch.Generator) -> Tensor:
    """Drop-outs lose most signal, all over or in a half plane; outliers show the head blurred between other poses."""
    made = data.clone()
    height, width = data.shape[1:]
    across = torch.linspace(-1, 1, width)[None].expand(height, width)
    for number, fault in enumerate(faults):
        if fault == "drop-out":
            left = 0.1 + 0.3 * float(torch.rand(1, generator=generator))
            whole = bool(torch.rand(1, generator=generator) < 0.5)
            made[number] *= left if whole else left + (1 - left) * torch.sigmoid(8 * across)
        elif fault == "outlier":
            one = grid.crop((number, 0, 0), (1, height, width))
            shown = []
            for _ in range(3):
                twist = torch.randn(6, generator=generator).double() * torch.tensor([0.35] * 3 + [9.0] * 3).double()
                shown.append(_cut(head, spacing_mm, one, exponential(twist) @ pose[number:number + 1], protocol)[0])
            made[number] = torch.stack(shown).mean(dim=0)
    return made


def _bias(grid: Grid, strength: float, generator: torch.Generator) -> Tensor:
    """``exp`` of a random linear and quadratic field over the stack."""
    axes = [torch.linspace(-1, 1, n) for n in grid.shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    weights = strength * torch.randn(6, generator=generator)
    return torch.exp(sum(w * f for w, f in zip(weights.tolist(), (x, y, z, x * y, y * z, x * z), strict=True)))
