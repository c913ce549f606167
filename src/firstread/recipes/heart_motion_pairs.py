"""Pairs of phases of one short-axis slice whose motion is known, out of the beating phantom.

``store_all`` scans subjects once, noiseless, and keeps the curves that bound ventricles and muscle in each slice. The
motion from phase a to phase b is that of the section that the slice sees: at angle θ from the long axis a point keeps
its share of the cavity's radius, of the muscle's area, of the right ventricle's depth,

    r' = r endo_b / endo_a;    r'² = endo_b² + (r² - endo_a²) (epi_b² - endo_b²) / (epi_a² - endo_a²);
    r' = epi_b + (r - epi_a) (rv_b - epi_b) / (rv_a - epi_a),

and cavity and muscle turn by the difference of their twist; far from the heart nothing moves. So a contour goes to the
contour of the same slice, whatever moved through it. In between (fat, lung at the heart's border), and where a
ventricle is in the slice at one phase alone, the motion is not known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from firstread.acquire.heart import heart_subject
from firstread.acquire.heart_motion import radii
from firstread.acquire.heart_population import Family
from firstread.acquire.heart_window import PROFILE
from firstread.core.keys import Key
from firstread.ops.intensity import scale_percentiles
from firstread.ops.separable import smooth
from firstread.ops.velocity import exponential, sample_at
from firstread.recipes.files import write_array

FIRST_SEED: dict[Family, int] = {"train": 160_000, "calibration": 165_000, "test": 170_000}
SPACING_MM, SIZE = 1.5, 96  # of an example
FRAMES, ANGLES, MATRIX = 8, 180, 144
THIN_MM, FAR_MM = 2.0, 18.0  # a chamber thinner than this is not there; from here on around the heart nothing moves
SHARE_BENT, BENT = 0.3, 2.5  # of the examples whose moving image is bent besides, and how much (pixels)
Uniform = Callable[[float, float], float]


class Pair(NamedTuple):
    """Two phases ``[row, 1, y, x]`` as a network sees them, where each point of the first is in the second, and more.

    moved: displacement (x, y) in pixels; known: where that is so; clean_*: without noise and shading; *_labels: shares
    of LV cavity, LV myocardium, RV cavity in each pixel.
    """

    fixed: Float[Tensor, "row 1 y x"]
    moving: Float[Tensor, "row 1 y x"]
    moved: Float[Tensor, "row 2 y x"]
    known: Float[Tensor, "row 1 y x"]
    heart: Float[Tensor, "row 1 y x"]
    clean_fixed: Float[Tensor, "row 1 y x"]
    clean_moving: Float[Tensor, "row 1 y x"]
    fixed_labels: Float[Tensor, "row 3 y x"]
    moving_labels: Float[Tensor, "row 3 y x"]


class Stored(NamedTuple):
    """One subject. data ``[time, z, y, x]``; endo, epi, rv: radii in mm ``[time, z, angle]``; twist ``[time, z]``;
    left ``[time, z]``: whether the left ventricle is there; centre_mm ``[z, 2]``: of its axis in the image; turn: from
    image to heart."""

    data: Tensor
    endo: Tensor
    epi: Tensor
    rv: Tensor
    twist: Tensor
    left: Tensor
    centre_mm: Tensor
    turn_rad: float
    spacing_mm: float


def store(path: Path, number: int, family: Family) -> None:
    """Scan subject ``number`` of ``family``; the file is there whole or not at all."""
    seed = FIRST_SEED[family] + number
    rng = np.random.default_rng(Key(seed, "heart_motion").generator().initial_seed())
    spacing = rng.uniform(1.4, 1.9)
    made = heart_subject(seed=seed, family=family, matrix=(MATRIX, MATRIX), spacing_mm=spacing,
                         slice_thickness_mm=rng.uniform(6, 10), gap_mm=rng.uniform(0, 4), frames=FRAMES)
    heart, scan = made.scene.heart, made.scene.scan
    moment = heart.at(torch.arange(FRAMES, dtype=torch.float64) / FRAMES)
    theta = ((torch.arange(ANGLES, dtype=torch.float64) + 0.5) * (2 * math.pi / ANGLES))[None]
    found = []
    for k, place in enumerate(scan.places_mm):
        parts = [radii(heart, moment.spread(2), theta, torch.full((1, 1), at, dtype=torch.float64))
                 for at in (place, *scan.subslices_mm(k))]
        curves = [sum(w * getattr(part, name)[:, 0] for w, part in zip(PROFILE, parts[1:], strict=True))
                  for name in ("endo", "epi", "rv")]
        left = torch.stack([part.left[:, 0, 0] for part in parts[1:]]).all(dim=0)
        twist = (theta - parts[0].material_rad)[:, 0, 0]
        found.append((*curves, twist, left))
    endo, epi, rv, twist, left = (torch.stack(part, dim=1) for part in zip(*found, strict=True))
    data = made.image.data[0, :, 0].abs()
    data = (data / data.max()).clamp(0, 1)
    centre = torch.tensor(scan.shifts_mm) + torch.tensor(scan.centre_mm)
    write_array(path, data=(255 * data).round().to(torch.uint8).numpy(), endo=endo.float().numpy(),
                epi=epi.float().numpy(), rv=rv.float().numpy(), twist=twist.float().numpy(), left=left.numpy(),
                centre=centre.float().numpy(), turn=np.array(scan.turn_rad), spacing=np.array(spacing))


def store_all(folder: Path, *, count: int, family: Family = "train") -> list[Path]:
    """The files of the subjects 0 to ``count - 1``; what is there already stays."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{family}-{number:04d}.npz" for number in range(count)]
    for number, path in enumerate(files):
        if not path.is_file():
            store(path, number, family)
    return files


@lru_cache(maxsize=512)
def load(path: Path) -> Stored:
    """What :func:`store` wrote."""
    with np.load(path) as stored:
        parts = [torch.from_numpy(stored[name]) for name in ("data", "endo", "epi", "rv", "twist", "left", "centre")]
        return Stored(*parts, float(stored["turn"]), float(stored["spacing"]))


class HeartPairs:
    """Batch number to :class:`Pair` of ``rows`` slices; a function of seed, number and the files alone.

    Slices are turned, scaled, sometimes mirrored, shaded, noisy and in another grey scale; the moving one is sometimes
    bent.
    """

    def __init__(self, files: Sequence[Path], *, seed: int, rows: int = 8) -> None:
        self.files, self.key, self.rows = list(files), Key(seed, "heart_motion"), rows

    def __call__(self, number: int) -> Pair:
        made = [self._row(self.key.generator(number, row)) for row in range(self.rows)]
        return Pair(*(torch.stack(part) for part in zip(*made, strict=True)))

    def _row(self, generator: Generator) -> tuple[Tensor, ...]:
        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        subject = load(self.files[int(uniform(0, len(self.files)))])
        frames, depth = subject.data.shape[:2]
        k = int(uniform(0, depth))
        a, b = torch.randperm(frames, generator=generator)[:2].tolist()
        if uniform(0, 1) < 0.4:  # end-diastole and end-systole
            a, b = (0, 3) if uniform(0, 1) < 0.5 else (3, 0)
        angle = uniform(-math.pi, math.pi) if uniform(0, 1) < 0.15 else uniform(-0.6, 0.6)
        scale = SPACING_MM * math.exp(uniform(-0.25, 0.25))
        mirror = -1.0 if uniform(0, 1) < 0.1 else 1.0
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = scale * turn @ torch.diag(torch.tensor([mirror, 1.0]))
        shift = torch.tensor([uniform(-22, 22), uniform(-22, 22)])
        made = example(subject, k, a, b, matrix, shift, (SIZE, SIZE))
        if uniform(0, 1) < SHARE_BENT:
            made = _bend(made, generator, uniform)
        images = torch.stack((made[0], made[1]))
        seen = _look(images, generator, uniform)
        return seen[0], seen[1], *made[2:5], _unit(images[0]), _unit(images[1]), *made[5:]


def example(subject: Stored, k: int, a: int, b: int, matrix: Float[Tensor, "2 2"], shift: Float[Tensor, " 2"],
            size: tuple[int, int]) -> tuple[Tensor, ...]:
    """Both images ``[1, y, x]``, displacement (pixels), known, heart, and both labels of one slice.

    matrix, shift: from pixels, counted from the middle of the ``size``, to mm from the axis of the left ventricle.
    """
    line = [torch.arange(n) - (n - 1) / 2 for n in size]
    pixel = torch.stack(torch.meshgrid(*line, indexing="ij")[::-1], dim=-1)
    here = pixel @ matrix.T + shift  # mm along the image's axes, from the long axis
    stored = subject.data.shape[-1]
    index = (here + subject.centre_mm[k]) / subject.spacing_mm + stored // 2
    pictures = subject.data[[a, b], k].float()[None] / 255
    images = F.grid_sample(pictures, ((2 * index + 1) / stored - 1)[None], align_corners=False,
                           padding_mode="border")[0]
    c, s = math.cos(subject.turn_rad), math.sin(subject.turn_rad)
    turn = torch.tensor([[c, -s], [s, c]])
    x, y = (here @ turn.T).unbind(-1)
    moved, known, heart = motion(subject, k, a, b, x, y)
    back = torch.linalg.inv(turn @ matrix)
    mm = float(matrix.det().abs().sqrt())
    labels = [shares(subject, k, t, x, y, mm) for t in (a, b)]
    return (images[:1], images[1:], torch.einsum("ij,jyx->iyx", back, moved), known[None].float(), heart[None].float(),
            *labels)


def motion(subject: Stored, k: int, a: int, b: int, x: Float[Tensor, "y x"], y: Float[Tensor, "y x"]
           ) -> tuple[Float[Tensor, "2 y x"], Bool[Tensor, "y x"], Bool[Tensor, "y x"]]:
    """The formulas above at places in mm: displacement in mm, where it is known, and where the heart is."""
    r, theta = torch.hypot(x, y), torch.atan2(y, x)
    turned = theta + (subject.twist[b, k] - subject.twist[a, k])
    endo, epi, rv = (around(curve[a, k], theta) for curve in (subject.endo, subject.epi, subject.rv))
    endo_b, epi_b = (around(curve[b, k], turned) for curve in (subject.endo, subject.epi))
    beside_b, rv_b = (around(curve[b, k], theta) for curve in (subject.epi, subject.rv))
    cavity, muscle, right = r < endo, (r >= endo) & (r < epi), (r >= epi) & (r < rv)
    share = (r**2 - endo**2) / (epi**2 - endo**2).clamp_min(1e-3)
    to = torch.where(cavity, r * endo_b / endo.clamp_min(1e-3),
                     (endo_b**2 + share.clamp(0, 1) * (epi_b**2 - endo_b**2)).clamp_min(0).sqrt())
    deep = (beside_b + (r - epi) * (rv_b - beside_b) / (rv - epi).clamp_min(1e-3))
    to, angle = torch.where(right, deep, to), torch.where(right, theta, turned)
    still = r > torch.maximum(subject.rv[:, k], subject.epi[:, k]).amax() + FAR_MM
    both = bool(subject.left[a, k] & subject.left[b, k])
    open_left = (subject.endo[[a, b], k].mean(dim=1) > THIN_MM).all()
    left = (cavity & open_left | muscle) & both
    thick = (rv - epi > THIN_MM) & (rv_b - beside_b > THIN_MM)
    heart = left | right & thick
    moved = torch.stack((to * torch.cos(angle) - x, to * torch.sin(angle) - y))
    return torch.where(heart, moved, 0), heart | still, heart


def shares(subject: Stored, k: int, t: int, x: Float[Tensor, "y x"], y: Float[Tensor, "y x"], pixel_mm: float
           ) -> Float[Tensor, "3 y x"]:
    """Share of LV cavity, LV myocardium and RV cavity in each pixel, about."""
    r, theta = torch.hypot(x, y), torch.atan2(y, x)
    endo, epi, rv = (((around(curve[t, k], theta) - r) / pixel_mm + 0.5).clamp(0, 1)
                     for curve in (subject.endo, subject.epi, subject.rv))
    there = float(subject.left[t, k])
    return torch.stack((endo * there, (epi - endo).clamp_min(0) * there, (rv - epi).clamp_min(0)))


def around(curve: Float[Tensor, " angle"], theta: Float[Tensor, "y x"]) -> Float[Tensor, "y x"]:
    """A closed curve's radius at an angle, linear between its angles."""
    place = torch.remainder(theta / (2 * math.pi), 1.0) * len(curve) - 0.5
    low = place.floor()
    first, part = low.long() % len(curve), place - low
    return curve[first] * (1 - part) + curve[(first + 1) % len(curve)] * part


def _bend(made: tuple[Tensor, ...], generator: Generator, uniform: Uniform) -> tuple[Tensor, ...]:
    """The moving image and its labels bent by a random flow w: the way becomes ``w^-1(x + u(x)) - x``."""
    fixed, moving, moved, known, heart, labels, moving_labels = made
    sd = uniform(8, 20)
    velocity = smooth(torch.randn(1, 2, 1, *fixed.shape[1:], generator=generator), (0.0, sd, sd))
    velocity = F.pad(velocity * (uniform(0.1, 1.0) * BENT / velocity.norm(dim=1).amax()), (0, 0, 0, 0, 0, 0, 0, 1))
    there, back = exponential(velocity), exponential(-velocity)
    bent = sample_at(torch.cat((moving, moving_labels))[None, :, None], there)[0, :, 0]
    field = F.pad(moved, (0, 0, 0, 0, 0, 1))[None, :, None]
    total = field + sample_at(back, field)
    return fixed, bent[:1], total[0, :2, 0], known, heart, labels, bent[1:]


def _look(images: Float[Tensor, "2 1 y x"], generator: Generator, uniform: Uniform) -> Float[Tensor, "2 1 y x"]:
    """Shading, blur and another grey scale, nearly the same for both phases; noise for each."""
    size = images.shape[-2:]
    coarse = torch.randn(1, 1, 3, 3, generator=generator) * uniform(0, 0.35)
    apart = torch.randn(2, 1, 3, 3, generator=generator) * uniform(0, 0.06)
    images = images * F.interpolate(coarse + apart, size=size, mode="bicubic", align_corners=True).exp()
    if uniform(0, 1) < 0.5:
        sd = uniform(0.3, 1.0)
        images = smooth(images, (0.0, sd, sd))
    images = torch.stack([_unit(image) for image in images])
    images = images.clamp_min(0) ** math.exp(uniform(-0.45, 0.45) + uniform(-0.05, 0.05))
    noise = torch.randn(images.shape, generator=generator)
    if uniform(0, 1) < 0.5:  # as where an image was interpolated
        noise = smooth(noise, (0.0, 0.7, 0.7)) * 2
    return torch.stack([_unit(image) for image in images + uniform(0, 0.06) * noise])


def _unit(image: Tensor) -> Tensor:
    return scale_percentiles(image[None], low=0.001, high=0.999, most=2500).clamp(-0.1, 1.1)[0]
