"""One training step of the segmentation tool's network beside MONAI's U-Net.

Forward, Dice with cross entropy at the finest scale alone (the same loss for both), backward, AdamW; each way in a
process of its own with one thread, data in memory; CPU seconds, not wall time; the fastest step after a warm-up (other
programs only slow a step); peak memory beyond the start. MONAI's ``UNet`` has two residual units (its tutorials'
setting); both work at half resolution from the first convolution on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

WAYS = {"firstread": "firstread, residual encoder", "monai": "MONAI `UNet`, residual units"}
JOBS = {"2d": "8 slices of 128×128 with neighbours", "3d": "2 volumes of 48×96×96"}


def held_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(way: str, job: str, repeats: int) -> dict[str, float]:
    """In this process: CPU seconds of the fastest step, peak MB beyond the start, parameters."""
    import torch

    from firstread.learn.losses import annotated_dice_cross_entropy
    from firstread.nets.resunet import ResUNet

    torch.set_num_threads(1)
    torch.manual_seed(0)
    dims = 2 if job == "2d" else 3
    shape, channels = ((8, 3, 128, 128), 3) if dims == 2 else ((2, 1, 48, 96, 96), 1)
    if way == "firstread":
        network = ResUNet(channels_in=channels, channels_out=4, strides=((2,) * dims,) * 4)
    else:
        from monai.networks.nets import UNet

        network = UNet(spatial_dims=dims, in_channels=channels, out_channels=4, strides=(2, 2, 2, 2), num_res_units=2,
                       channels=(16, 32, 64, 128, 256) if dims == 2 else (16, 32, 64, 128, 224))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    image, target = torch.randn(shape), torch.randint(0, 4, (shape[0], *shape[2:]), dtype=torch.uint8)
    annotated = torch.ones(shape[0], 4, dtype=torch.bool)
    before, spent = held_mb(), []
    for _ in range(repeats + 1):
        started = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        annotated_dice_cross_entropy(network(image), target, annotated).backward()
        optimizer.step()
        spent.append(time.process_time() - started)
    return {"seconds": min(spent[1:]), "peak": held_mb() - before,
            "parameters": sum(p.numel() for p in network.parameters())}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--one", nargs=2, metavar=("WAY", "JOB"), help="one run, here")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "training_step.md")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(run(*given.one, given.repeats)))
        return 0
    import torch

    rows = []
    for job in given.jobs:
        found = {}
        for way in WAYS:
            done = subprocess.run([sys.executable, __file__, "--repeats", str(given.repeats), "--one", way, job],
                                  capture_output=True, text=True, check=True)
            found[way] = json.loads(done.stdout.splitlines()[-1])
            print(job, way, found[way], flush=True)
        own = found["firstread"]
        rows += [f"| {JOBS[job]} | {WAYS[way]} | {row['parameters'] / 1e6:.2f} M | {row['seconds']:.2f} | "
                 f"{row['seconds'] / own['seconds']:.2f} | {row['peak']:.0f} |" for way, row in found.items()]
    lines = ["# A training step beside MONAI", "", *(__doc__ or "").strip().splitlines()[2:], "",
             f"float32; {given.repeats} steps; one thread; torch {torch.__version__}, MONAI {version('monai')}; a "
             f"shared, busy machine: read the ratios only; {time.strftime('%Y-%m-%d')}.", "",
             f"Command: `python bench/training_step.py --repeats {given.repeats}`.", "",
             "| batch | network | parameters | CPU s a step | times ours | peak MB |", "|---|---|---|---|---|---|",
             *rows, ""]
    given.output.write_text("\n".join(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    sys.exit(main())
