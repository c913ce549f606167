"""From anatomy to pixels: drawn 3 x finer in plane and in 4 sub-slices, then sampled in k-space as a scanner does.

The fine image f is the average of the sub-slices weighted with the slice profile. Its centred k-space, cropped to the
matrix and tapered at its edges, is transformed back, so that edges ring as they do in a scan. Along each axis that is

    image = D f,   D_ji = (1 / 3n) sum_{k = -n//2}^{(n-1)//2} w_k exp(2 pi i k [(j - n//2) / n - (i - 3n//2) / 3n])

The label of a voxel is the class that fills most of it (36 sub-voxels, all alike).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Integer
from torch import Tensor

from firstread.acquire.heart_detail import Detail, shell_radii
from firstread.acquire.heart_motion import BeatingHeart
from firstread.acquire.heart_tissue import BINS, bins_of
from firstread.acquire.heart_torso import Torso, paint_torso
from firstread.acquire.heart_window import PROFILE, HeartWindow

FINER = 3
ANGLES = 1440


@dataclass(frozen=True)
class Scan:
    """How the stack lies over the heart.

    matrix: (y, x); places_mm: of the slices along the long axis; centre_mm: the heart's axis in the image, (x, y);
    turn_rad: from image to heart; shifts_mm: in-plane offset of each slice's breath-hold, (x, y); taper: share of
    k-space that fades out at its edge.
    """

    matrix: tuple[int, int]
    spacing_mm: float
    thickness_mm: float
    gap_mm: float
    places_mm: tuple[float, ...]
    centre_mm: tuple[float, float]
    turn_rad: float
    shifts_mm: tuple[tuple[float, float], ...]
    taper: float = 0.0

    @property
    def step_mm(self) -> float:
        """From slice to slice."""
        return self.thickness_mm + self.gap_mm

    def subslices_mm(self, k: int) -> list[float]:
        """The places that are averaged for slice ``k``."""
        return [self.places_mm[k] + ((s + 0.5) / len(PROFILE) - 0.5) * self.thickness_mm for s in range(len(PROFILE))]

    def points(self, k: int) -> tuple[Float[Tensor, "y x"], Float[Tensor, "y x"]]:
        """Heart coordinates (x, y) in mm of the fine pixels of slice ``k``."""
        height, width = (FINER * n for n in self.matrix)
        step = self.spacing_mm / FINER
        x = (torch.arange(width) - width // 2) * step - self.centre_mm[0] - self.shifts_mm[k][0]
        y = (torch.arange(height) - height // 2) * step - self.centre_mm[1] - self.shifts_mm[k][1]
        c, s = math.cos(self.turn_rad), math.sin(self.turn_rad)
        return c * x[None, :] - s * y[:, None], s * x[None, :] + c * y[:, None]


@dataclass(frozen=True, eq=False)
class Look:
    """What is not anatomy.

    table: signal of each tissue at each off-resonance. On the fine grid: off_resonance_hz; shading, coil bias with
    phase; texture of all tissue; strands, texture of the torso, which each tissue has by its share ``lumps``; warp_mm
    of the torso's outlines. flow: brightness of blood by frame and slice.
    """

    table: Float[Tensor, "tissues bins"]
    off_resonance_hz: Float[Tensor, "y x"]
    shading: Complex[Tensor, "y x"]
    texture: Float[Tensor, "slices y x"]
    strands: Float[Tensor, "slices y x"]
    lumps: Float[Tensor, " tissues"]
    warp_mm: Float[Tensor, "2 y x"]
    flow: Float[Tensor, "t slices"]


def crop_matrix(size: int, taper: float = 0.0) -> Complex[Tensor, "n fine"]:
    """D of the formula above, from ``3 n`` samples to ``n``; w falls as a cosine over the outer ``taper``.

    >>> crop_matrix(4).sum(dim=1).real
    tensor([1., 1., 1., 1.])
    """
    fine = FINER * size
    k = torch.arange(-(size // 2), (size - 1) // 2 + 1, dtype=torch.float64)
    edge = ((k.abs() / (size / 2) - (1 - taper)) / max(taper, 1e-9)).clamp(0, 1)
    weight = 0.5 + 0.5 * torch.cos(math.pi * edge)
    j = (torch.arange(size, dtype=torch.float64) - size // 2) / size
    i = (torch.arange(fine, dtype=torch.float64) - fine // 2) / fine
    one = torch.ones((), dtype=torch.float64)
    back = torch.polar(one, 2 * math.pi * j[:, None] * k) * weight
    return (back @ torch.polar(one, -2 * math.pi * k[:, None] * i) / fine).to(torch.complex64)


def render(heart: BeatingHeart, detail: Detail, torso: Torso, scan: Scan, look: Look, phases: Float[Tensor, " t"], *,
           fine: bool = False) -> tuple[Complex[Tensor, "t z y x"], Integer[Tensor, "t z ly lx"]]:
    """The cine and its labels; ``fine`` leaves the image 3 x as fine in plane, before the crop."""
    moment = heart.at(phases)
    theta = (torch.arange(ANGLES, dtype=torch.float64) + 0.5) * (2 * math.pi / ANGLES)
    bins = bins_of(look.off_resonance_hz)
    down, across = (crop_matrix(n, scan.taper) for n in scan.matrix)
    factor = look.texture * look.shading
    images, labels = [], torch.zeros((len(phases), len(scan.places_mm), *scan.matrix), dtype=torch.uint8)
    for k in range(len(scan.places_mm)):
        places = scan.subslices_mm(k)
        curves, at = shell_radii(heart, detail, moment, theta, torch.tensor(places, dtype=torch.float64))
        x, y = scan.points(k)
        codes = paint_torso(torso, x + look.warp_mm[0], y + look.warp_mm[1], places)
        uneven = (1 + look.lumps[codes] * look.strands[k]).clamp(min=0)
        around = look.table.take(codes * BINS + bins) * uneven
        still = sum(w * part for w, part in zip(PROFILE, around, strict=True))
        rows, columns = _window(curves[-1].amax(dim=(0, 1)), theta, scan, k)
        box = (slice(FINER * rows.start + _first(scan.matrix[0]), FINER * rows.stop + _first(scan.matrix[0])),
               slice(FINER * columns.start + _first(scan.matrix[1]), FINER * columns.stop + _first(scan.matrix[1])))
        window = HeartWindow(heart, detail, moment, curves, at.left[:, :, 0], places, x[box], y[box], bins[box],
                             around[:, *box])
        drawn = [window.frame(t, look.table, float(look.flow[t, k])) for t in range(len(phases))]
        labels[:, k, rows, columns] = torch.stack([label for _, label in drawn])
        if fine:
            frames = (still * factor[k]).expand(len(phases), *still.shape).clone()
            frames[:, *box] = torch.stack([signal for signal, _ in drawn]) * factor[k][box]
            images.append(frames)
        else:
            change = torch.stack([(signal - still[box]) * factor[k][box] for signal, _ in drawn])
            background = down @ (still * factor[k]) @ across.T
            images.append(background + down[:, box[0]] @ change @ across[:, box[1]].T)
    return torch.stack(images, dim=1), labels


def _first(size: int) -> int:
    """Fine index at which voxel 0 begins: fine pixel ``3 n // 2`` is the middle of voxel ``n // 2``."""
    return (FINER * size) // 2 - FINER * (size // 2) - FINER // 2


def _window(reach_mm: Float[Tensor, " n"], theta: Float[Tensor, " n"], scan: Scan, k: int) -> tuple[slice, slice]:
    """Rows and columns of the voxels that the heart may fill in slice ``k``."""
    image_angle = theta - scan.turn_rad
    found = []
    for axis, along in ((0, torch.sin(image_angle)), (1, torch.cos(image_angle))):
        n, centre = scan.matrix[axis], scan.centre_mm[1 - axis] + scan.shifts_mm[k][1 - axis]
        low = math.floor((centre + float((reach_mm * along).min())) / scan.spacing_mm) + n // 2 - 1
        high = math.ceil((centre + float((reach_mm * along).max())) / scan.spacing_mm) + n // 2 + 2
        found.append(slice(min(max(low, 1), n - 2), max(min(high, n - 1), 2)))
    return found[0], found[1]
