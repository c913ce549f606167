"""Through-plane super-resolution of short-axis hearts, five voxels for each slice (``heart-superres``).

Trained on the beating phantom's training family alone, with random grey scales, thickness, gap, slice profile,
breath-hold offsets and noise; half of the stacks come with one to three long-axis views.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.learn.fit import fit
from firstread.learn.prefetch import Prefetched
from firstread.nets.superres import SuperResolution
from firstread.ops.slice_profile import Profile, SectionProfile, profile_weights, spread
from firstread.recipes.files import refuse_data, write_array
from firstread.recipes.superres_hearts import FINE_MM, fine_heart, moved, rician, section_grid, section_of

NAME = "heart-superres"
SUMMARY = "through-plane super-resolution of short-axis hearts, from simulation alone"
SEED, STEPS, SUBJECTS, FIRST_SEED = 1, 2000, 32, 80_000
FACTOR, SLICES, SIZE, BATCH = 5, 6, 40, 2
PROFILES: tuple[Profile, ...] = ("box", "trapezoid", "gaussian")
ASSUMED: Profile = "trapezoid"


def network() -> SuperResolution:
    """The network of the weight."""
    return SuperResolution(factor=FACTOR, width=20, depth=4, blocks=2)


def store_all(folder: Path, *, count: int) -> Path:
    """The folder with training subjects 0 to ``count - 1``, magnitudes and labels in slices of 1 mm; resumable."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:04d}.npz"
        if not path.is_file():
            spacing = float(np.random.default_rng(FIRST_SEED + number).uniform(1.5, 2.2))
            made = fine_heart(seed=FIRST_SEED + number, family="train", spacing_mm=spacing)
            write_array(path, magnitude=made.image.data[0, :, 0].abs().half().numpy(), spacing=np.array(spacing),
                        labels=made.labels.data[0, :, 0].numpy())
    return folder


@lru_cache(maxsize=64)
def _load(file: Path) -> tuple[Tensor, Tensor, float]:
    with np.load(file) as stored:
        return (torch.from_numpy(stored["magnitude"]), torch.from_numpy(stored["labels"]), float(stored["spacing"]))


class ThickStacks:
    """Batch number to (slices, weights, views, truth) of ``BATCH`` stacks; a function of seed and number alone.

    labelled: followed by the share of each of the three classes in every voxel of the truth.
    """

    def __init__(self, folder: Path, *, seed: int, labelled: bool = False) -> None:
        self.files, self.key, self.labelled = sorted(folder.glob("*.npz")), Key(seed, "heart_superres"), labelled

    def __call__(self, number: int) -> tuple[Tensor, ...]:
        samples = [self._one(self.key.generator(number, row)) for row in range(BATCH)]
        return tuple(torch.stack(part) for part in zip(*samples, strict=True))

    def _one(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        def uniform(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        def pick(count: int) -> int:
            return int(torch.randint(count, (), generator=generator))

        magnitude, labels, spacing = _load(self.files[pick(len(self.files))])
        phase = pick(len(magnitude))
        heart = torch.nonzero(labels[phase] > 0).float().mean(dim=0)
        corner = [int(min(max(0, float(heart[a]) - SIZE / 2 + uniform(-10, 10)), magnitude.shape[a + 1] - SIZE))
                  for a in (1, 2)]
        box = (phase, slice(None), slice(corner[0], corner[0] + SIZE), slice(corner[1], corner[1] + SIZE))
        fine, way = grey_scale(magnitude[box].float(), generator), pick(16)
        fine = turned(fine, way)
        size = fine.shape[0]
        step = uniform(7.0, min(11.0, (size - 4) / SLICES))
        thickness = step * uniform(0.6, 1.0)
        begin = uniform(0.0, size - SLICES * step)
        fine_mm = torch.arange(size) + 0.5
        slices_mm = begin + (torch.arange(SLICES) + 0.5) * step
        voxels_mm = begin + (torch.arange(SLICES * FACTOR) + 0.5) * step / FACTOR
        boxes = profile_weights(voxels_mm, step / FACTOR, fine_mm, FINE_MM, profile="box")
        truth = _through(boxes, fine)
        real = PROFILES[pick(3)]
        seen = _through(profile_weights(slices_mm, thickness, fine_mm, FINE_MM, profile=real), fine)
        offsets = torch.randn((SLICES, 2), generator=generator) * uniform(0, 1.5) / spacing * (pick(2) == 0)
        seen = moved(seen[None, None, None], offsets)[0, 0].clamp(min=0)
        level = torch.quantile(seen, 0.99).clamp(min=1e-3)
        noise = float(level) * math.exp(uniform(math.log(0.005), math.log(0.06)))
        seen = rician(seen, noise, generator)
        weights = profile_weights(slices_mm, thickness, voxels_mm, step / FACTOR, profile=ASSUMED)
        views = torch.zeros(2, *truth.shape)
        if pick(2):
            grids = (_grid(fine.shape, FINE_MM, spacing, 0.5), _grid(truth.shape, step / FACTOR, spacing,
                                                                    begin + step / FACTOR / 2))
            views = _views(fine, grids, real, uniform, 1 + pick(3), noise, generator)
        sample = (seen / level, weights, views / torch.tensor([float(level), 1.0]).reshape(2, 1, 1, 1),
                  truth[None] / level)
        if not self.labelled:
            return sample
        classes = [_through(boxes, turned(labels[box] == c, way).float()) for c in (1, 2, 3)]
        return *sample, torch.stack(classes)


def _views(fine: Tensor, grids: tuple[Grid, Grid], profile: Profile, uniform: Any, count: int, noise: float,
           generator: torch.Generator) -> Tensor:
    """``spread`` of ``count`` planes through the middle, at even angles, each with an offset of its own."""
    spacing, size = float(grids[0].spacing_mm[0, 1]), fine.shape[0]
    middle, first = torch.tensor([uniform(-12, 12), uniform(-12, 12), 0.0], dtype=torch.float64), uniform(0, math.pi)
    data, thin = [], []
    for view in range(count):
        section = section_grid(grids[0], angle_rad=first + math.pi * view / count, through_mm=middle, pixel_mm=spacing,
                               half_mm=spacing * SIZE / 2 - 18, low_mm=1.0, high_mm=size - 2.0,
                               thickness_mm=uniform(5, 8))
        seen = section_of(fine[None, None, None], grids[0], section, profile=profile, offset_mm=uniform(-2, 2))
        data.append(rician(seen, noise, generator) * uniform(0.9, 1.1))
        thin.append(SectionProfile(section=section, volume=grids[1], thickness_mm=0.0))
    return spread(data, thin)[0, 0]


def _grid(shape: torch.Size, step_mm: float, spacing_mm: float, first_mm: float) -> Grid:
    """A grid along the axes whose first slice lies at ``first_mm``, centred in plane."""
    affine = torch.diag(torch.tensor([spacing_mm, spacing_mm, step_mm, 1.0], dtype=torch.float64))
    half = (SIZE - 1) / 2 * spacing_mm
    affine[:3, 3] = torch.tensor([-half, -half, first_mm], dtype=torch.float64)
    return Grid(affine[None], (shape[0], shape[1], shape[2]))


def _through(weights: Tensor, fine: Tensor) -> Tensor:
    return torch.einsum("kj,jyx->kyx", weights.float(), fine)


def grey_scale(fine: Tensor, generator: torch.Generator) -> Tensor:
    """A random grey scale: a piecewise linear curve through zero; mostly rising, in a quarter of images any."""
    knots = torch.linspace(0, 1.3, 6)
    steps = torch.rand(5, generator=generator) + 0.15
    curve = torch.cat((torch.zeros(1), steps.cumsum(0) / steps.sum()))
    if float(torch.rand((), generator=generator)) < 0.25:
        curve = torch.cat((torch.zeros(1), torch.rand(5, generator=generator)))
    place = (fine / knots[1]).clamp(0, 4.999)
    low = place.long()
    return curve[low] + (place - low) * (curve[low + 1] - curve[low])


def turned(fine: Tensor, way: int) -> Tensor:
    """One of the 16 ways to flip z, y, x and to swap y and x."""
    fine = fine.flip([axis for axis in range(3) if way >> axis & 1])
    return fine.transpose(1, 2) if way >> 3 else fine


def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Smooth L1 (Oktay 2016), of brightness 1, quadratic below 0.05."""
    slices, weights, views, truth = batch
    return F.smooth_l1_loss(model(slices, weights.float(), views), truth, beta=0.05)


def train(out: Path, device: str, steps: int | None, data: Path | None) -> None:
    """Train into ``out``; interrupted and called again it goes on.

    Raises SettingError when real data is given: this weight has seen none.
    """
    from safetensors.torch import save_file

    refuse_data(data, NAME)
    count = steps or STEPS
    folder = store_all(out / "hearts", count=max(1, count * SUBJECTS // STEPS))
    torch.manual_seed(SEED)
    net = fit(network().to(device), Prefetched(ThickStacks(folder, seed=SEED), last=count), _on(device), steps=count,
              seed=SEED, learning_rate=2e-3, checkpoint=out / "network.pt")
    save_file({k: v.detach().cpu().half().contiguous() for k, v in net.state_dict().items()},
              out / f"{NAME}.safetensors")
    card = {"name": NAME, "summary": SUMMARY, "recipe": "heart_superres", "seed": SEED, "steps": count,
            "stacks_shown": BATCH * count, "hearts": len(list(folder.glob("*.npz"))),
            "data": "the beating phantom's training family alone",
            "network": net.settings(), "profile": ASSUMED, "licence": "Apache-2.0"}
    (out / f"{NAME}.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _on(device: str) -> Any:
    return lambda model, batch: loss(model, tuple(part.to(device) for part in batch))
