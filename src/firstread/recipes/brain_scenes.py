"""Simulated scans of heads from tissue probability maps alone (SynthSeg, Billot 2023): labels drawn, then painted.

A head is drawn from the MNI152 maps at 2 mm, moved by a random map. Averaged maps hold no folds of any one person, so
the labels are drawn with smooth noise ``n_k`` in place of being the most probable ones,

    f = softmax(b (log p_k + n_k)),   label = argmax f,   image = sum_k f_k m_k,

with means ``m_k`` of contrasts that exist and of some that do not. Outside the brain: fluid, skull, soft tissue in
random patches, neck and face as plain solids, or nothing (brains cut out).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Generator, Tensor

from firstread.core.errors import InputError
from firstread.core.keys import Key
from firstread.core.records import Image
from firstread.io.open import read as open_file
from firstread.learn.augment import change_brightness, draw_map
from firstread.nets.plan import AugmentationPlan
from firstread.ops.arrange import Arrangement
from firstread.ops.intensity import scale_percentiles
from firstread.ops.resample import sample_unit
from firstread.ops.separable import resize, smooth

CLASSES = ("background", "CSF", "grey matter", "white matter")
SPACING_MM, MARGIN = 2.0, 20
FILES = {part: f"mni_icbm152_{part}_tal_nlin_sym_09a_converted.nii.gz" for part in ("t1", "gm", "wm")}
SPACE = AugmentationPlan(spatial_chance=1.0, rotation_deg=(20.0, 20.0, 20.0), scale=(0.82, 1.2), flip=("x",),
                         elastic_sd=1.4, elastic_voxels=12.0)
SCANNER = AugmentationPlan(blur_chance=0.5, blur_voxels=0.8, low_resolution_chance=0.0, gamma_chance=0.5,
                           gamma=(0.75, 1.35), bias_chance=0.7, bias_sd=0.25, noise_chance=0.8, noise_sd=0.06)
# lowest and highest mean: of fluid, of grey matter, of white less grey matter
CONTRASTS = {"T1": ((0.0, 0.3), (0.4, 0.65), (0.1, 0.35)), "T2": ((0.75, 1.0), (0.4, 0.65), (-0.3, -0.08)),
             "FLAIR": ((0.0, 0.25), (0.5, 0.8), (-0.22, -0.04))}
SHARES = {"T1": 0.45, "T2": 0.2, "FLAIR": 0.15, "any": 0.2}


@dataclass(frozen=True, eq=False)
class Maps:
    """The head at 2 mm, axes towards head, back and left.

    tissue: probabilities of fluid, grey and white matter; brain_mm, head_mm: distance to the brain and to brain, face
    and neck together, below zero inside.
    """

    tissue: Float[Tensor, "3 z y x"]
    brain_mm: Float[Tensor, "z y x"]
    head_mm: Float[Tensor, "z y x"]


def maps_folder(data: Path | None) -> Path:
    """Where the maps are: ``data``, or what nilearn brought with it. Raises InputError where they are not."""
    spec = None if data is not None else find_spec("nilearn")
    folder = data if data is not None else Path(spec.origin).parent / "datasets" / "data" if spec and spec.origin \
        else None
    if folder is None or not all((folder / name).is_file() for name in FILES.values()):
        raise InputError("no MNI152 tissue maps" if folder is None else f"no MNI152 tissue maps in {folder.name}",
                         expected=f"{', '.join(FILES.values())}", remedy="install nilearn, or give --data the folder "
                         "nilearn/datasets/data")
    return folder


def load_maps(folder: Path) -> Maps:
    """The maps of nilearn at 2 mm, with room around them."""
    t1, grey, white = (_at_2_mm(folder / FILES[part]) for part in ("t1", "gm", "wm"))
    inside = (t1 > 0.05 * t1.max()).float()
    grey, white = (part / 255 * inside for part in (grey, white))
    return maps_of(torch.stack(((inside - grey - white).clamp(min=0), grey, white)))


def maps_of(tissue: Float[Tensor, "3 z y x"]) -> Maps:
    """Room around the probabilities of three tissues, and the distances."""
    from scipy.ndimage import distance_transform_edt

    tissue = F.pad(tissue, [MARGIN] * 6)
    brain = tissue.sum(dim=0) > 0.5
    at = torch.nonzero(brain).double()
    middle, low, high = at.mean(dim=0), at.amin(dim=0), at.amax(dim=0)
    half = (high - low) / 2
    z, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in brain.shape), indexing="ij")
    across = (x - middle[2]) / half[2]
    neck = (across**2 + ((y - middle[1]) / half[1] - 0.1)**2 < 0.6) & (z < middle[0] - 0.4 * half[0])
    face = across**2 + ((y - low[1]) / half[1] - 0.15)**2 / 0.3 + ((z - low[0]) / half[0] - 0.1)**2 < 0.6
    distances = []
    for solid in (brain, brain | neck | face):
        mask = solid.numpy()
        distances.append(SPACING_MM * (distance_transform_edt(~mask) - distance_transform_edt(mask)))
    brain_mm, head_mm = (torch.from_numpy(d.astype(np.float32)) for d in distances)
    return Maps(tissue, brain_mm, head_mm)


def draw_scene(maps: Maps, key: Key, number: int, *, size: int, contrast: str | None = None,
               stripped: bool | None = None) -> tuple[Float[Tensor, "1 z y x"], Integer[Tensor, "z y x"]]:
    """Image and labels (:data:`CLASSES`) of a cube of ``size`` voxels: a function of key and number alone.

    contrast: one of :data:`SHARES`; stripped: whether nothing but the brain is seen; both drawn where None.
    """
    g = key.generator(number)
    space = (maps.brain_mm.shape[0], maps.brain_mm.shape[1], maps.brain_mm.shape[2])
    centre = _centre(maps, g)
    unit = draw_map(centre, (size,) * 3, (SPACING_MM,) * 3, SPACE, g).unit(space)
    stack = torch.cat((maps.tissue, maps.brain_mm[None], maps.head_mm[None]))
    at = sample_unit(stack[None], unit, outside="border")[0]
    fractions = draw_tissue(at[:3], at[3], g)
    label = torch.where(fractions[3] >= 0.5, 0, fractions[:3].argmax(dim=0) + 1).to(torch.uint8)
    seen = stripped if stripped is not None else _uniform(0, 1, g) < 0.45
    image = paint(fractions, at[3], at[4], means(contrast, g), g, stripped=seen)
    image = change_brightness(thick_slices(image, g)[None], SCANNER, g)
    scaled = scale_percentiles(image) * _uniform(0.75, 1.25, g)
    return scaled, label


def draw_tissue(probability: Float[Tensor, "3 z y x"], brain_mm: Float[Tensor, "z y x"], g: Generator
                ) -> Float[Tensor, "4 z y x"]:
    """Shares of fluid, grey and white matter in each voxel, and of all that is not brain."""
    shape = brain_mm.shape
    rough = _field(3, shape, _uniform(0.8, 1.6, g), g) * _uniform(0.4, 1.3, g)
    bias = torch.tensor([_uniform(-0.6, 1.0, g), _uniform(-0.3, 0.3, g), _uniform(-0.3, 0.3, g)])
    deep = torch.sigmoid((-brain_mm - 28) / 4)  # ventricles, which grow with age
    logit = (probability + 0.004).log() + rough + bias[:, None, None, None]
    logit[0] += deep * _uniform(-0.5, 1.5, g)
    share = (_uniform(1.5, 5.0, g) * logit).softmax(dim=0)
    around = _uniform(0.0, 3.0, g)  # fluid between brain and skull, mm
    edge = brain_mm + _field(1, shape, 2.5, g)[0] * 0.6
    outside = torch.sigmoid((edge - around) / 0.5)
    rim = torch.sigmoid(edge / 0.5)[None]
    fluid = torch.zeros_like(share)
    fluid[0] = 1
    return torch.cat(((share * (1 - rim) + fluid * rim) * (1 - outside), outside[None]))


def means(contrast: str | None, g: Generator) -> tuple[float, float, float]:
    """Means of fluid, grey and white matter, of a contrast or of one that is drawn."""
    drawn = float(torch.rand((), generator=g))
    for name, share in SHARES.items():
        drawn -= share
        if contrast is None and drawn < 0:
            contrast = name
    if contrast not in CONTRASTS:
        return _uniform(0, 1, g), _uniform(0, 1, g), _uniform(0, 1, g)
    fluid, grey, more = (_uniform(*ends, g) for ends in CONTRASTS[contrast])
    return fluid, grey, grey + more


def paint(fractions: Float[Tensor, "4 z y x"], brain_mm: Float[Tensor, "z y x"], head_mm: Float[Tensor, "z y x"],
          mean: tuple[float, float, float], g: Generator, *, stripped: bool) -> Float[Tensor, "z y x"]:
    """The image: tissues of their means with some texture, deep grey matter nearer to white, and what is around."""
    shape = brain_mm.shape
    texture = _field(3, shape, _uniform(0.5, 2.0, g), g) * _uniform(0.0, 0.05, g)
    levels = torch.tensor(mean)[:, None, None, None] + texture
    deep = torch.sigmoid((-brain_mm - 24) / 3) * _uniform(0.0, 0.5, g)
    levels[1] += deep * (mean[2] - mean[1])
    inside = (fractions[:3] * levels).sum(dim=0)
    if stripped:
        cut = brain_mm + _field(1, shape, 3.0, g)[0] * _uniform(0.0, 2.0, g) > _uniform(-1.0, 3.0, g)
        return torch.where(cut, 0.0, inside + fractions[3] * _uniform(0, 1, g))
    skull_mm, scalp_mm = _uniform(3.0, 9.0, g), _uniform(3.0, 12.0, g)
    wave = _field(1, shape, 5.0, g)[0]
    patches = _field(4, shape, _uniform(1.5, 4.0, g), g)
    soft = (torch.rand(4, generator=g)[:, None, None, None] * (6 * patches).softmax(dim=0)).sum(dim=0)
    bone = _uniform(0.0, 0.25, g) if _uniform(0, 1, g) < 0.7 else _uniform(0, 1, g)
    outer = torch.where(brain_mm < skull_mm + wave, bone, soft * _uniform(0.5, 1.3, g))
    air = head_mm > scalp_mm + skull_mm + 2 * wave
    return inside + fractions[3] * torch.where(air, 0.0, outer)


def thick_slices(image: Float[Tensor, "z y x"], g: Generator) -> Float[Tensor, "z y x"]:
    """Sometimes the image as slices of up to 7 mm along one axis would show it, read back linearly."""
    if _uniform(0, 1, g) > 0.35:
        return image
    axis, fewer = int(torch.randint(3, (), generator=g)), _uniform(1.0, 3.5, g)
    width = [0.0, 0.0, 0.0]
    width[axis] = 0.4 * fewer
    shape = list(image.shape)
    shape[axis] = max(2, round(shape[axis] / fewer))
    few = resize(smooth(image, (width[0], width[1], width[2])), (shape[0], shape[1], shape[2]))
    return resize(few, (image.shape[0], image.shape[1], image.shape[2]))


def _centre(maps: Maps, g: Generator) -> tuple[float, float, float]:
    """Mostly a place in the brain, else near it."""
    near = 0.0 if _uniform(0, 1, g) < 0.8 else 25.0
    places = torch.nonzero(maps.brain_mm.flatten() < near)[:, 0]
    flat = int(places[int(torch.randint(len(places), (), generator=g))])
    z, rest = divmod(flat, maps.brain_mm[0].numel())
    y, x = divmod(rest, maps.brain_mm.shape[2])
    return float(z), float(y), float(x)


def _field(count: int, shape: tuple[int, ...], sd_voxels: float, g: Generator) -> Float[Tensor, "count z y x"]:
    """Smooth Gaussian noise of standard deviation one."""
    made = smooth(torch.randn((count, *shape), generator=g), (sd_voxels,) * 3)
    return made / made.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)


def _uniform(low: float, high: float, g: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=g))


def _at_2_mm(path: Path) -> Float[Tensor, "z y x"]:
    image = open_file(path).case["image"]
    if not isinstance(image, Image):
        raise InputError(f"{path.name}, which is no image", expected="a NIfTI volume", remedy="give nilearn's files")
    arranged = Arrangement.of(image.grid, spacing_mm=(None, None, None), slices=False)
    data = arranged.image(image.data[0].float())[0]
    return F.avg_pool3d(data, int(SPACING_MM))[0]
