"""Hearts of the phantom in slices of 1 mm, and what a scanner makes of them: thick short-axis stacks, long-axis views.

The volume that is to be restored (2 mm) and the thick slices both come from the finer rendering, and the slices' true
profile is not the one that the restoration assumes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from firstread.acquire.heart import LABEL_NAMES, Scene, heart_subject, scan_scene
from firstread.acquire.heart_population import Family, streams
from firstread.acquire.heart_render import Look
from firstread.acquire.heart_scene import draw_look
from firstread.acquire.heart_stack import draw_scan, patient_position
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image
from firstread.ops.slice_profile import Profile, SectionProfile, profile_weights

FINE_MM = 1.0
GRAIN_MM = 3.0  # how far the texture of tissue is alike from slice to slice
MATRIX = 72


@dataclass(frozen=True, eq=False)
class FineHeart:
    """One subject at end-diastole and end-systole in slices of 1 mm.

    image: noiseless and complex; labels on the same grid; axis_mm: where the LV's long axis crosses the first slice
    (LPS+), the stack's z is along it; truth: analytic values.
    """

    image: Image
    labels: HardLabels
    axis_mm: Float[Tensor, " 3"]
    truth: dict[str, Any]


def fine_heart(*, seed: int, family: Family, spacing_mm: float = 2.0) -> FineHeart:
    """Subject ``seed`` of ``family`` in pixels of ``spacing_mm``, the 72² around the heart, from base to apex."""
    made = heart_subject(seed=seed, family=family, matrix=(16, 16), spacing_mm=12.0, slices=1, frames=1)
    stream, scene, test = streams(seed, family), made.scene, family == "test"
    scan = draw_scan(stream("superres"), scene.heart, matrix=(MATRIX, MATRIX), spacing_mm=spacing_mm, slices=None,
                     thickness_mm=FINE_MM, gap_mm=0.0, shift_mm=0.0, test=test)
    before = 10  # mm above the base, for a stack begins there
    places = tuple(scan.places_mm[0] + FINE_MM * k for k in range(-before, len(scan.places_mm) + 2))
    scan = replace(scan, places_mm=places, shifts_mm=((0.0, 0.0),) * len(places))
    look = along_z(draw_look(stream("look"), scan, 2, test=test))
    phases = torch.tensor([0.0, scene.heart.timing.end_systole], dtype=torch.float64)
    beat = torch.full((len(places),), 60 / made.truth.heart_rate, dtype=torch.float64)
    position = patient_position(stream("position"), scan)
    image, labels = scan_scene(Scene(scene.heart, scene.detail, scene.torso, scan, look), phases, beat, position)
    once = {"times_s": None, "cycle_s": None}
    start = position @ torch.tensor([0.0, 0.0, places[0], 1.0], dtype=torch.float64)
    return FineHeart(replace(image, **once), replace(labels, **once), start[:3], dict(made.truth.values))


def along_z(look: Look) -> Look:
    """The look with textures that are alike over ``GRAIN_MM`` from slice to slice, as strong as before."""
    reach = math.ceil(3 * GRAIN_MM)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) * FINE_MM / GRAIN_MM) ** 2)
    taps = taps / taps.square().sum().sqrt()

    def smooth(field: Tensor) -> Tensor:
        lines = F.pad(field.flatten(1).T[:, None], (reach, reach), mode="circular")
        return F.conv1d(lines, taps.to(field)[None, None])[:, 0].T.reshape(field.shape)

    flow = look.flow.mean(dim=1, keepdim=True)
    return replace(look, texture=1 + smooth(look.texture - 1), strands=smooth(look.strands),
                   flow=flow + smooth((look.flow - flow).T).T)


def stack_grid(fine: Grid, *, first_mm: float, step_mm: float, count: int, thickness_mm: float) -> Grid:
    """Slices along the fine volume's z, the first ``first_mm`` from the middle of its first slice."""
    affine = fine.affine.clone()
    unit = affine[:, :3, 2] / affine[:, :3, 2].norm(dim=1, keepdim=True)
    affine[:, :3, 3] += first_mm * unit
    affine[:, :3, 2] = step_mm * unit
    return Grid(affine, (count, *fine.shape[1:]), torch.full((len(affine),), thickness_mm, dtype=torch.float64))


def average(data: Tensor, fine: Grid, slices: Grid, *, profile: Profile, thickness_mm: float) -> Tensor:
    """Fine ``[batch, time, 1, z, y, x]`` as slices of that profile see it (one matrix for all rows)."""
    unit = fine.affine[0, :3, 2] / fine.affine[0, :3, 2].norm()
    first = float((slices.affine[0, :3, 3] - fine.affine[0, :3, 3]) @ unit)
    places = first + float(slices.spacing_mm[0, 0]) * torch.arange(slices.shape[0], dtype=torch.float64)
    weights = profile_weights(places, thickness_mm, FINE_MM * torch.arange(fine.shape[0], dtype=torch.float64), FINE_MM,
                              profile=profile)
    return torch.einsum("kj,btcjyx->btckyx", weights.to(data.dtype), data)


def target(heart: FineHeart, volume: Grid) -> Float[Tensor, "1 time 1 z y x"]:
    """The true magnitude on the restored grid, whose voxels are boxes."""
    return average(heart.image.data, heart.image.grid, volume, profile="box",
                   thickness_mm=float(volume.spacing_mm[0, 0])).abs()


def target_labels(heart: FineHeart, volume: Grid) -> HardLabels:
    """The class that fills most of each voxel of the restored grid."""
    hot = F.one_hot(heart.labels.data[:, :, 0].long(), len(LABEL_NAMES)).movedim(-1, 2).float()
    share = torch.cat([average(hot[:, :, c:c + 1], heart.labels.grid, volume, profile="box",
                               thickness_mm=float(volume.spacing_mm[0, 0])) for c in range(len(LABEL_NAMES))], dim=2)
    return HardLabels(heart.labels.rows, share.argmax(dim=2, keepdim=True).to(torch.uint8), volume, LABEL_NAMES)


def moved(slices: Tensor, shifts: Float[Tensor, "z 2"]) -> Tensor:
    """Slices ``[batch, time, 1, z, y, x]``, real, each shifted by (x, y) pixels: breath-holds that differ."""
    flat = slices.flatten(0, 2).transpose(0, 1)
    theta = torch.eye(2, 3).repeat(len(shifts), 1, 1)
    size = torch.tensor([slices.shape[-1], slices.shape[-2]]) / 2
    theta[:, :, 2] = -shifts.float() / size
    where = F.affine_grid(theta, list(flat.shape), align_corners=False)
    out = F.grid_sample(flat, where, mode="bicubic", padding_mode="border", align_corners=False)
    return out.transpose(0, 1).reshape(slices.shape)


def rician(magnitude: Tensor, sd: float, generator: torch.Generator) -> Tensor:
    """Magnitude of the signal with complex noise of ``sd`` in each part."""
    parts = sd * torch.randn((2, *magnitude.shape), generator=generator)
    return torch.hypot(magnitude + parts[0], parts[1])


def section_grid(fine: Grid, *, angle_rad: float, through_mm: Float[Tensor, " 3"], half_mm: float, pixel_mm: float,
                 low_mm: float, high_mm: float, thickness_mm: float) -> Grid:
    """A plane that contains the stack's z: columns at ``angle_rad`` in plane, rows along z from ``low_mm`` to
    ``high_mm`` above the first fine slice, through the point ``through_mm``."""
    across, down, along = (fine.affine[0, :3, c] / fine.affine[0, :3, c].norm() for c in range(3))
    column = math.cos(angle_rad) * across + math.sin(angle_rad) * down
    level = float((through_mm - fine.affine[0, :3, 3]) @ along)
    width, height = int(2 * half_mm / pixel_mm), int((high_mm - low_mm) / pixel_mm)
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, 0], affine[:3, 1] = pixel_mm * column, pixel_mm * along
    affine[:3, 2] = thickness_mm * torch.linalg.cross(column, along)
    affine[:3, 3] = through_mm + (low_mm - level) * along - (width - 1) / 2 * pixel_mm * column
    return Grid(affine[None], (1, height, width), torch.tensor([thickness_mm], dtype=torch.float64))


def section_of(data: Tensor, fine: Grid, section: Grid, *, profile: Profile, offset_mm: float = 0.0) -> Tensor:
    """What a view sees of real fine data, ``offset_mm`` beside where its grid says (another breath-hold)."""
    normal = section.affine[:, :3, 2] / section.affine[:, :3, 2].norm(dim=1, keepdim=True)
    affine = section.affine.clone()
    affine[:, :3, 3] += offset_mm * normal
    assert section.thickness_mm is not None
    op = SectionProfile(section=replace(section, affine=affine), volume=fine, samples=9, profile=profile,
                        thickness_mm=float(section.thickness_mm[0]))
    return op.to(data)(data)
