"""A beating-heart phantom: short-axis cine with the truth of every later stage.

    >>> subject = heart_subject(seed=1, matrix=(32, 32), spacing_mm=6.0, slices=3, frames=4)
    >>> subject.image.data.shape, subject.labels.names[1]
    (torch.Size([1, 4, 1, 3, 32, 32]), 'LV cavity')
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from firstread.acquire.heart_detail import shell_radii
from firstread.acquire.heart_motion import BeatingHeart
from firstread.acquire.heart_population import FAMILIES, MIX, PATHOLOGIES, draw_heart, draw_targets
from firstread.acquire.heart_render import FINER, Scan, render
from firstread.acquire.heart_scene import draw_detail, draw_look, draw_torso
from firstread.acquire.heart_truth import HeartTruth, heart_truth
from firstread.core.case import Case
from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import HardLabels, Image, Rows

LABEL_NAMES = ("background", "LV cavity", "LV myocardium", "RV cavity")


@dataclass(frozen=True, eq=False)
class HeartSubject:
    """One phantom subject.

    image: noiseless complex cine ``[1, T, 1, z, y, x]``, LV blood about 1; labels: of the same grid; truth: analytic
    values; heart, scan: what was drawn and how the stack lies over it.
    """

    image: Image
    labels: HardLabels
    truth: HeartTruth
    heart: BeatingHeart
    scan: Scan


def heart_subject(*, seed: int, family: str = "train", pathology: str | None = None,
                  matrix: tuple[int, int] = (160, 160), spacing_mm: float = 1.5, slices: int | None = None,
                  slice_thickness_mm: float = 8.0, gap_mm: float = 2.0, frames: int = 20,
                  misregistration_mm: float = 1.5, fine: bool = False) -> HeartSubject:
    """One subject of the phantom.

    seed, family: which subject; families never share a subject. ``calibration`` is drawn as ``train`` is; ``test`` has
    another shape family (super-ellipsoids, higher harmonics, more and slimmer papillary heads, finer trabeculae),
    wider tissue and torso ranges, 3 T in half, and as many of each pathology.
    pathology: None draws one. matrix (y, x), spacing_mm: in plane; slices: None covers the heart from above its base
    to beyond its apex; slice_thickness_mm, gap_mm: their sum is the spacing along z; frames: per heart cycle.
    misregistration_mm: standard deviation of each slice's in-plane breath-hold offset; the labels move along.
    fine: the image before k-space is cropped, 3 times as fine in plane (labels stay on the scan's grid).

    Anatomy, volumes and motion depend on seed and family alone, not on how the subject is scanned.
    Raises SettingError for settings out of range.
    """
    _check(family, pathology, matrix, spacing_mm, slices, slice_thickness_mm, gap_mm, frames, misregistration_mm)
    stream = _streams(seed, family)
    test = family == "test"
    chosen = pathology or PATHOLOGIES[int(stream("pathology").choice(5, p=MIX["test" if test else "train"]))]
    targets = draw_targets(stream("targets"), chosen)
    heart = draw_heart(stream("heart"), targets, chosen, family)
    detail = draw_detail(stream("detail"), heart, test=test)

    rng = stream("scan")
    step = slice_thickness_mm + gap_mm
    first = rng.uniform(-0.9, 0.1) * step - 2.0
    count = slices or math.ceil((heart.lv.outer_length_mm - first) / step)
    turn, tilt = float(rng.normal(0, 0.45 if test else 0.3)), rng.uniform(-1, 1, 2)
    places = tuple(first + k * step for k in range(count))
    offsets = misregistration_mm * rng.standard_normal((count, 2)).clip(-2.5, 2.5)
    shifts = tuple((float(dx), float(dy)) for dx, dy in offsets)
    half = spacing_mm * min(matrix) / 2
    centre = float(0.1 * half * tilt[0]), float(0.1 * half * tilt[1])
    scan = Scan(matrix, spacing_mm, slice_thickness_mm, places, centre, turn, shifts, taper=rng.uniform(0.0, 0.4))
    cycle = 60 / targets.heart_rate * (1 + 0.03 * torch.from_numpy(rng.standard_normal(count).clip(-2.5, 2.5)))

    phases = torch.arange(frames, dtype=torch.float64) / frames
    theta = torch.arange(360, dtype=torch.float64) * (2 * math.pi / 360)
    level = torch.linspace(0.0, 0.6 * heart.lv.length_mm, 5, dtype=torch.float64)
    outer = shell_radii(heart, detail, heart.at(torch.zeros(1)), theta, level)[0][-2, 0].amax(0)
    torso = draw_torso(stream("torso"), left_mm=float((-outer * theta.cos()).max()),
                       below_mm=float((outer * theta.sin()).max()), wide=test)
    look = draw_look(stream("look"), scan, frames, test=test)
    data, label = render(heart, detail, torso, scan, look, phases, fine=fine)

    grid = _grid(scan, step, stream("position"))
    times = (phases[:, None] * cycle[None])[None].float()
    place = {"times_s": times, "cycle_s": cycle[None].float()}
    rows = Rows.subjects(1)
    shape = (count, FINER * matrix[0], FINER * matrix[1])
    image = Image(rows, data[None, :, None], _finer(grid, shape) if fine else grid, **place)
    labels = HardLabels(rows, label[None, :, None], grid, LABEL_NAMES, **place)
    return HeartSubject(image, labels, heart_truth(heart, targets, chosen, phases), heart, scan)


def example_subject() -> HeartSubject:
    """A small subject that is quick to make: 8 slices, 16 frames, 128² at 1.9 mm."""
    return heart_subject(seed=7, family="test", pathology="normal", matrix=(128, 128), spacing_mm=1.9, slices=8,
                         slice_thickness_mm=8.0, gap_mm=5.0, frames=16)


class HeartSubjects:
    """A Source of phantom subjects: cases with ``truth.image``, ``truth.labels`` and ``truth.phenotypes``.

    count subjects of ``family``, with seeds from ``seed`` on; the other arguments are ``heart_subject``'s.

    >>> case = next(iter(HeartSubjects(count=1, matrix=(32, 32), spacing_mm=6.0, slices=2, frames=2)))
    >>> sorted(case)
    ['truth.image', 'truth.labels', 'truth.phenotypes']
    """

    def __init__(self, *, count: int, seed: int = 0, family: str = "train", pathology: str | None = None,
                 matrix: tuple[int, int] = (160, 160), spacing_mm: float = 1.5, slices: int | None = None,
                 slice_thickness_mm: float = 8.0, gap_mm: float = 2.0, frames: int = 20):
        self.count, self.seed, self.family, self.pathology = count, seed, family, pathology
        self.matrix, self.spacing_mm, self.slices = matrix, spacing_mm, slices
        self.slice_thickness_mm, self.gap_mm, self.frames = slice_thickness_mm, gap_mm, frames

    def __len__(self) -> int:
        return self.count

    def subject(self, index: int) -> HeartSubject:
        """The subject number ``index``."""
        return heart_subject(seed=self.seed + index, family=self.family, pathology=self.pathology, matrix=self.matrix,
                             spacing_mm=self.spacing_mm, slices=self.slices, slice_thickness_mm=self.slice_thickness_mm,
                             gap_mm=self.gap_mm, frames=self.frames)

    def __iter__(self) -> Iterator[Case]:
        for index in range(self.count):
            made = self.subject(index)
            records = {"image": made.image, "labels": made.labels, "phenotypes": made.truth.phenotypes()}
            yield Case({f"truth.{name}": record for name, record in records.items()}, seed=self.seed + index)


def _streams(seed: int, family: str):
    """Independent generators by name, so that one part's draws never move another's."""

    def stream(name: str) -> np.random.Generator:
        return np.random.default_rng(Key(seed, f"heart_subject/{family}/{name}").generator().initial_seed())

    return stream


def _grid(scan: Scan, step_mm: float, rng: np.random.Generator) -> Grid:
    """The stack in the patient: base first, right is the lateral wall, down the inferior one."""
    along = np.array([0.60, -0.53, -0.60]) + 0.08 * rng.standard_normal(3)
    along /= np.linalg.norm(along)
    across = np.array([0.66, 0.75, 0.0])
    across -= along * (across @ along)
    across /= np.linalg.norm(across)
    down = -np.cross(along, across)
    c, s = math.cos(scan.turn_rad), math.sin(scan.turn_rad)
    right, below = c * across + s * down, c * down - s * across
    heart = np.array([-20.0, -30.0, 10.0]) + rng.uniform(-15, 15, 3)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = right * scan.spacing_mm, below * scan.spacing_mm, along * step_mm
    corner = np.array([-(scan.matrix[1] // 2) * scan.spacing_mm, -(scan.matrix[0] // 2) * scan.spacing_mm])
    in_plane = corner - np.array(scan.centre_mm)
    affine[:3, 3] = heart + right * in_plane[0] + below * in_plane[1] + along * scan.places_mm[0]
    return Grid(torch.from_numpy(affine)[None], (len(scan.places_mm), *scan.matrix),
                torch.tensor([scan.thickness_mm], dtype=torch.float64))


def _finer(grid: Grid, shape: tuple[int, int, int]) -> Grid:
    """The same field of view with 3 times the pixels in plane; pixel N // 2 stays where it was."""
    affine = grid.affine.clone()
    affine[:, :3, :2] = affine[:, :3, :2] / FINER
    middle = torch.tensor([grid.shape[2] // 2, grid.shape[1] // 2, 0], dtype=torch.float64)
    fine_middle = torch.tensor([shape[2] // 2, shape[1] // 2, 0], dtype=torch.float64)
    affine[:, :3, 3] = grid.to_mm(middle[None]) - (affine[:, :3, :3] @ fine_middle)
    return Grid(affine, shape, grid.thickness_mm, grid.frame)


def _check(family, pathology, matrix, spacing_mm, slices, thickness_mm, gap_mm, frames, shift_mm) -> None:
    def refuse(got: str, expected: str, remedy: str) -> None:
        raise SettingError(got, expected=expected, remedy=remedy)

    if family not in FAMILIES:
        refuse(f"family {family!r}", f"one of {FAMILIES}", "choose the family")
    if pathology is not None and pathology not in PATHOLOGIES:
        refuse(f"pathology {pathology!r}", f"one of {PATHOLOGIES} or None", "choose the pathology")
    if min(matrix) < 16:
        refuse(f"matrix {matrix}", "16 pixels or more along y and x", "enlarge the matrix")
    if not (spacing_mm > 0 and thickness_mm > 0 and gap_mm >= 0):
        refuse(f"spacing {spacing_mm} mm, thickness {thickness_mm} mm, gap {gap_mm} mm",
               "spacing and thickness above zero, a gap of zero or more", "correct them")
    if (slices is not None and slices < 1) or frames < 1 or shift_mm < 0:
        refuse(f"{slices} slices, {frames} frames, misregistration {shift_mm} mm",
               "at least one slice and frame, misregistration of zero or more", "correct them")
