"""One random change of a 128³ image with labels: ours beside TorchIO and MONAI.

The same job for all: affine (rotation, scale), elastic, bias field and noise, every time; labels by nearest neighbour.
Each way runs in a process of its own with one thread, data in memory; CPU seconds, not wall time, so that other work on
the machine counts less; the median after one warm-up, peak memory beyond the start. The peers' transforms are their
documented ones for this purpose: TorchIO ``RandomAffine``, ``RandomElasticDeformation`` (7³ control points),
``RandomBiasField``, ``RandomNoise``; MONAI ``Rand3DElasticd`` (affine and elastic in one resampling),
``RandBiasFieldd``, ``RandGaussianNoised``. Peak memory includes what a library's import needs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

WAYS = {"firstread": "firstread", "torchio": "TorchIO", "monai": "MONAI"}


def held_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def phantom(size: int):
    """Four nested balls with texture: labels 0 to 3."""
    import torch

    line = torch.linspace(-1, 1, size)
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    radius = (z**2 + y**2 + x**2).sqrt()
    label = ((radius < 0.8).int() + (radius < 0.55) + (radius < 0.3)).to(torch.uint8)
    image = torch.tensor([0.0, 1.0, 0.6, 0.8])[label.long()] + 0.05 * torch.sin(40 * x) * torch.sin(40 * y)
    return image, label


def ours(image, label) -> Callable[[int], tuple]:
    import torch

    from firstread.learn.augment import change_brightness, draw_map, sample_patch
    from firstread.nets.plan import AugmentationPlan

    plan = AugmentationPlan(spatial_chance=1.0, rotation_deg=(15.0, 15.0, 15.0), scale=(0.85, 1.15), elastic_sd=3.0,
                            elastic_voxels=32.0, bias_chance=1.0, noise_chance=1.0, blur_chance=0.0,
                            low_resolution_chance=0.0, gamma_chance=0.0)
    size = tuple(image.shape)
    middle = ((size[0] - 1) / 2, (size[1] - 1) / 2, (size[2] - 1) / 2)

    def once(number: int) -> tuple:
        generator = torch.Generator().manual_seed(number)
        where = draw_map(middle, size, (1.0, 1.0, 1.0), plan, generator)
        made, target = sample_patch(image[None], label, where)
        return change_brightness(made, plan, generator), target

    return once


def torchio(image, label) -> Callable[[int], tuple]:
    import torch
    import torchio as tio

    change = tio.Compose([tio.RandomAffine(scales=(0.85, 1.15), degrees=15),
                          tio.RandomElasticDeformation(num_control_points=7, max_displacement=7.5),
                          tio.RandomBiasField(), tio.RandomNoise(std=(0, 0.15))])

    def once(number: int) -> tuple:
        torch.manual_seed(number)
        made = change(tio.Subject(image=tio.ScalarImage(tensor=image[None]), label=tio.LabelMap(tensor=label[None])))
        return made["image"].data, made["label"].data

    return once


def monai(image, label) -> Callable[[int], tuple]:
    from monai.transforms import Compose, Rand3DElasticd, RandBiasFieldd, RandGaussianNoised

    change = Compose([
        Rand3DElasticd(keys=["image", "label"], sigma_range=(5, 7), magnitude_range=(50, 150), prob=1.0,
                       rotate_range=(0.26,) * 3, scale_range=(0.15,) * 3, mode=("bilinear", "nearest"),
                       padding_mode="border"),
        RandBiasFieldd(keys=["image"], prob=1.0), RandGaussianNoised(keys=["image"], prob=1.0, std=0.15)])

    def once(number: int) -> tuple:
        change.set_random_state(seed=number)
        made = change({"image": image[None], "label": label[None]})
        return made["image"], made["label"]

    return once


def run(way: str, size: int, repeats: int) -> dict[str, float]:
    """In this process: median CPU seconds of one sample, and peak MB beyond the start."""
    import torch

    torch.set_num_threads(1)
    image, label = phantom(size)
    before = held_mb()
    once = {"firstread": ours, "torchio": torchio, "monai": monai}[way](image, label)
    made, target = once(0)
    kept = sorted(int(v) for v in torch.as_tensor(target).unique())
    spent = []
    for number in range(1, repeats + 1):
        started = time.process_time()
        once(number)
        spent.append(time.process_time() - started)
    return {"seconds": statistics.median(spent), "peak": held_mb() - before, "labels": len(kept),
            "shape_kept": float(tuple(made.shape[-3:]) == (size,) * 3)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", metavar="WAY", help="one way, here")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "augment.md")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run(given.one, given.size, given.repeats)))
        return 0
    import torch

    found = {}
    for way in WAYS:
        done = subprocess.run([sys.executable, __file__, "--size", str(given.size), "--repeats", str(given.repeats),
                               "--one", way], capture_output=True, text=True, check=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
        print(way, found[way], flush=True)
    own = found["firstread"]["seconds"]
    lines = ["# Augmentation of a volume with labels, beside TorchIO and MONAI", "",
             *(__doc__ or "").strip().splitlines()[2:], "",
             f"{given.size}³ float32 image, uint8 labels; {given.repeats} samples; one thread; torch "
             f"{torch.__version__}, TorchIO {version('torchio')}, MONAI {version('monai')}; a shared, busy machine: "
             "read the ratios only; "
             f"{time.strftime('%Y-%m-%d')}.", "", f"Command: `python bench/augment.py --size {given.size} --repeats "
             f"{given.repeats}`.", "", "| way | CPU s a sample | times ours | peak MB |", "|---|---|---|---|",
             *(f"| {WAYS[way]} | {row['seconds']:.3f} | {row['seconds'] / own:.1f} | {row['peak']:.0f} |"
               for way, row in found.items()), ""]
    given.output.write_text("\n".join(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    sys.exit(main())
