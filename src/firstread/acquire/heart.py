"""A beating-heart phantom: short-axis cine with the truth of every later stage.

    >>> subject = heart_subject(seed=1, matrix=(32, 32), spacing_mm=6.0, slices=3, frames=4)
    >>> subject.image.data.shape, subject.labels.names[1]
    (torch.Size([1, 4, 1, 3, 32, 32]), 'LV cavity')
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.acquire.heart_detail import Detail, shell_radii
from firstread.acquire.heart_motion import BeatingHeart
from firstread.acquire.heart_population import heart_of, streams
from firstread.acquire.heart_render import Look, Scan, render
from firstread.acquire.heart_scene import draw_detail, draw_look, draw_torso
from firstread.acquire.heart_stack import check_settings, draw_scan, finer_grid, patient_position, scan_grid
from firstread.acquire.heart_torso import Torso
from firstread.acquire.heart_truth import HeartTruth, heart_truth
from firstread.core.case import Case
from firstread.core.records import HardLabels, Image, Rows

LABEL_NAMES = ("background", "LV cavity", "LV myocardium", "RV cavity")


@dataclass(frozen=True, eq=False)
class Scene:
    """All that is drawn, and how it is scanned."""

    heart: BeatingHeart
    detail: Detail
    torso: Torso
    scan: Scan
    look: Look


@dataclass(frozen=True, eq=False)
class HeartSubject:
    """One phantom subject.

    image: noiseless complex cine ``[1, T, 1, z, y, x]``, LV blood about 1; labels: of the same stack; truth: analytic
    values; scene: what was drawn.
    """

    image: Image
    labels: HardLabels
    truth: HeartTruth
    scene: Scene


def heart_subject(*, seed: int, family: str = "train", pathology: str | None = None,
                  matrix: tuple[int, int] = (160, 160), spacing_mm: float = 1.5, slices: int | None = None,
                  slice_thickness_mm: float = 8.0, gap_mm: float = 2.0, frames: int = 20,
                  misregistration_mm: float = 1.5, fine: bool = False) -> HeartSubject:
    """One subject of the phantom.

    seed, family: which subject; families never share a subject. ``calibration`` is drawn as ``train`` is; ``test`` has
    another shape family (super-ellipsoids, higher harmonics, more and slimmer papillary heads, finer trabeculae),
    wider tissue and torso ranges, 3 T in half, and as many of each pathology.
    pathology: normal, dilated, hypertrophic, infarct or rv_disease; None draws one.
    matrix (y, x), spacing_mm: in plane; slices: from the base on, None covers the heart; slice_thickness_mm, gap_mm:
    their sum is the spacing along z; frames: per heart cycle.
    misregistration_mm: standard deviation of each slice's in-plane breath-hold offset; the labels move along.
    fine: the image before k-space is cropped, 3 times as fine in plane (labels stay on the scan's grid).

    Anatomy, volumes and motion depend on seed and family alone, not on how the subject is scanned.
    Raises SettingError for settings out of range.
    """
    check_settings(family=family, pathology=pathology, matrix=matrix, spacing_mm=spacing_mm, slices=slices,
                   thickness_mm=slice_thickness_mm, gap_mm=gap_mm, frames=frames, shift_mm=misregistration_mm)
    stream, test = streams(seed, family), family == "test"
    heart, targets = heart_of(seed=seed, family=family, pathology=pathology)
    detail = draw_detail(stream("detail"), heart, test=test)
    rng = stream("scan")
    scan = draw_scan(rng, heart, matrix=matrix, spacing_mm=spacing_mm, slices=slices, thickness_mm=slice_thickness_mm,
                     gap_mm=gap_mm, shift_mm=misregistration_mm, test=test)
    left_mm, below_mm = _reach_mm(heart, detail)
    torso = draw_torso(stream("torso"), left_mm=left_mm, below_mm=below_mm, wide=test)
    look = draw_look(stream("look"), scan, frames, test=test)
    phases = torch.arange(frames, dtype=torch.float64) / frames
    vary = torch.from_numpy(rng.standard_normal(len(scan.places_mm)).clip(-2.5, 2.5))
    cycle_s = 60 / targets.heart_rate * (1 + 0.03 * vary)
    position = patient_position(stream("position"), scan)
    image, labels = scan_scene(Scene(heart, detail, torso, scan, look), phases, cycle_s, position, fine=fine)
    return HeartSubject(image, labels, heart_truth(heart, targets, phases), Scene(heart, detail, torso, scan, look))


def scan_scene(scene: Scene, phases: Float[Tensor, " t"], cycle_s: Float[Tensor, " z"],
               position: Float[Tensor, "4 4"], *, fine: bool = False) -> tuple[Image, HardLabels]:
    """Image and labels of a scene at ``phases`` of the cycle, in slices whose cycle takes ``cycle_s``.

    position: heart coordinates (mm) to patient (LPS+ mm).
    """
    data, label = render(scene.heart, scene.detail, scene.torso, scene.scan, scene.look, phases, fine=fine)
    grid = scan_grid(scene.scan, position)
    place = {"times_s": (phases[:, None] * cycle_s[None])[None].float(), "cycle_s": cycle_s[None].float()}
    image = Image(Rows.subjects(1), data[None, :, None], finer_grid(grid) if fine else grid, **place)
    return image, HardLabels(Rows.subjects(1), label[None, :, None], grid, LABEL_NAMES, **place)


def _reach_mm(heart: BeatingHeart, detail: Detail) -> tuple[float, float]:
    """How far the heart at end-diastole reaches to the left of the image and down."""
    theta = torch.arange(360, dtype=torch.float64) * (2 * math.pi / 360)
    level = torch.linspace(0.0, 0.6 * heart.lv.length_mm, 5, dtype=torch.float64)
    outer = shell_radii(heart, detail, heart.at(torch.zeros(1)), theta, level)[0][-1, 0].amax(0)
    return float((-outer * theta.cos()).max()), float((outer * theta.sin()).max())


def example_subject() -> HeartSubject:
    """A small subject that is quick to make: a normal heart of the test family, 16 frames, 128² at 1.9 mm."""
    return heart_subject(seed=7, family="test", pathology="normal", matrix=(128, 128), spacing_mm=1.9,
                         slice_thickness_mm=8.0, gap_mm=4.0, frames=16)


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
