"""How the phantom's slices lie: over the heart, and with it in the patient."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.acquire.heart_motion import BeatingHeart
from firstread.acquire.heart_population import FAMILIES, PATHOLOGIES
from firstread.acquire.heart_render import FINER, Scan
from firstread.core.errors import SettingError
from firstread.core.geometry import Grid

BASE_TO_APEX = (0.60, -0.53, -0.60)
TO_LATERAL_WALL = (0.66, 0.75, 0.0)
"""Usual directions of the heart in the patient (LPS+): long axis; left and backwards in the short-axis plane."""


def draw_scan(rng: np.random.Generator, heart: BeatingHeart, *, matrix: tuple[int, int], spacing_mm: float,
              slices: int | None, thickness_mm: float, gap_mm: float, shift_mm: float, test: bool) -> Scan:
    """A stack from the base (of the ventricle that begins higher) to the apex, or of ``slices`` slices.

    Where the first slice lies against the base is random, as in a scan; the whole heart is within the stack.
    """
    step = thickness_mm + gap_mm
    first = min(0.0, heart.rv.base_mm) + rng.uniform(-0.5, 0.5) * step
    turn = float(rng.normal(0, 0.45 if test else 0.3))
    half = spacing_mm * min(matrix) / 2
    centre = float(0.1 * half * rng.uniform(-1, 1)), float(0.1 * half * rng.uniform(-1, 1))
    taper = rng.uniform(0.0, 0.4)
    count = slices or math.ceil((heart.lv.outer_length_mm - first) / step)
    offsets = shift_mm * rng.standard_normal((count, 2)).clip(-2.5, 2.5)
    shifts = tuple((float(dx), float(dy)) for dx, dy in offsets)
    return Scan(matrix, spacing_mm, thickness_mm, gap_mm, tuple(first + k * step for k in range(count)), centre, turn,
                shifts, taper)


def patient_position(rng: np.random.Generator, scan: Scan) -> Float[Tensor, "4 4"]:
    """Heart coordinates to patient: an oblique heart a little left of the middle."""
    along = np.array(BASE_TO_APEX) + 0.08 * rng.standard_normal(3)
    along /= np.linalg.norm(along)
    across = np.array(TO_LATERAL_WALL) - along * (along @ np.array(TO_LATERAL_WALL))
    across /= np.linalg.norm(across)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack((across, -np.cross(along, across), along), axis=1)
    matrix[:3, 3] = np.array([-20.0, -30.0, 10.0]) + rng.uniform(-15, 15, 3)
    return torch.from_numpy(matrix)


def scan_grid(scan: Scan, position: Float[Tensor, "4 4"]) -> Grid:
    """The stack in the patient: base first, right in the image is the lateral wall, down the inferior one (where the
    scan is not turned). Breath-hold offsets are not known to it, as in a real scan."""
    c, s = math.cos(scan.turn_rad), math.sin(scan.turn_rad)
    turn = torch.tensor([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
    corner = [-(n // 2) * scan.spacing_mm - at for n, at in zip(scan.matrix[::-1], scan.centre_mm, strict=True)]
    to_image = torch.diag(torch.tensor([scan.spacing_mm, scan.spacing_mm, scan.step_mm, 1.0], dtype=torch.float64))
    to_image[:3, 3] = torch.tensor([*corner, scan.places_mm[0]], dtype=torch.float64)
    thickness = torch.tensor([scan.thickness_mm], dtype=torch.float64)
    return Grid((position @ turn @ to_image)[None], (len(scan.places_mm), *scan.matrix), thickness)


def finer_grid(grid: Grid) -> Grid:
    """The same field of view with 3 times the pixels in plane; pixel N // 2 stays where it was."""
    z, y, x = grid.shape
    shape = z, FINER * y, FINER * x
    affine = grid.affine.clone()
    affine[:, :3, :2] = affine[:, :3, :2] / FINER
    middle = torch.tensor([x // 2, y // 2, 0.0], dtype=torch.float64)
    fine_middle = torch.tensor([shape[2] // 2, shape[1] // 2, 0.0], dtype=torch.float64)
    affine[:, :3, 3] = grid.to_mm(middle[None]) - affine[:, :3, :3] @ fine_middle
    return replace(grid, affine=affine, shape=shape)


def check_settings(*, family: str, pathology: str | None, matrix: tuple[int, int], spacing_mm: float,
                   slices: int | None, thickness_mm: float, gap_mm: float, frames: int, shift_mm: float) -> None:
    """Refuse what cannot be scanned."""
    if family not in FAMILIES:
        raise SettingError(f"family {family!r}", expected=f"one of {FAMILIES}", remedy="choose the family")
    if pathology is not None and pathology not in PATHOLOGIES:
        raise SettingError(f"pathology {pathology!r}", expected=f"one of {PATHOLOGIES}, or None",
                           remedy="choose the pathology")
    if min(matrix) < 16:
        raise SettingError(f"matrix {matrix}", expected="16 pixels or more along y and x", remedy="enlarge the matrix")
    if not (spacing_mm > 0 and thickness_mm > 0 and gap_mm >= 0):
        raise SettingError(f"spacing {spacing_mm} mm, thickness {thickness_mm} mm, gap {gap_mm} mm",
                           expected="spacing and thickness above zero, a gap of zero or more", remedy="correct them")
    if (slices is not None and slices < 1) or frames < 1 or shift_mm < 0:
        raise SettingError(f"{slices} slices, {frames} frames, misregistration {shift_mm} mm",
                           expected="at least one slice and frame, misregistration of zero or more",
                           remedy="correct them")
