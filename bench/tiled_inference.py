"""A 3D U-Net over a volume in windows: ours beside MONAI's sliding window, same weights, windows and thread.

Each way runs in a process of its own, data in memory. Peer rows: the network of torch's own layers in MONAI's inferer,
batch 1 (its default) and batch 4; a further row gives MONAI's inferer our network, so that it shows what the tiles
alone cost. With ``--keep-memory`` glibc keeps freed memory (``mallopt``), on both sides. CPU seconds, not wall time, so
that other work on the machine counts less, after one window as warm-up; peak memory is what the process held at most
less what it held before the first window. Difference: the largest of the probabilities from the first row's.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

WAYS = {"monai 1": "MONAI, batch 1, torch's layers", "monai 4": "MONAI, batch 4, torch's layers",
        "monai 1 ours": "MONAI, batch 1, our layers", "firstread": "firstread, one window at a time"}
TRIM_THRESHOLD, MMAP_MAX = -1, -4


def held_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(way: str, shape: tuple[int, ...], window: int, out: Path) -> dict[str, float]:
    """In this process: CPU seconds and peak MB beyond the start; probabilities go to ``out``."""
    import torch
    from torch import nn

    from firstread.analyze.tiles import tiled
    from firstread.nets.unet import Conv3d, GroupNorm3d, UNet

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = UNet(channels_in=1, channels_out=4, widths=(16, 32, 64, 128), dims=3).eval()
    volume = torch.randn(1, 1, *shape)
    size = (window,) * 3
    if way in ("monai 1", "monai 4"):
        for module in network.modules():
            module.__class__ = {Conv3d: nn.Conv3d, GroupNorm3d: nn.GroupNorm}.get(type(module), type(module))
    if way.startswith("monai"):
        from monai.inferers import sliding_window_inference

        def infer(x: torch.Tensor) -> torch.Tensor:
            return sliding_window_inference(x, size, int(way.split()[1]), network, overlap=0.25, mode="gaussian")
    else:
        def infer(x: torch.Tensor) -> torch.Tensor:
            return tiled(network, x, window=size, overlap=0.25, at_once=1)

    with torch.inference_mode():
        before = held_mb()
        infer(volume[:, :, :window, :window, :window])
        started = time.process_time()
        made = infer(volume)
        seconds, peak = time.process_time() - started, held_mb() - before
        torch.save(made.softmax(1)[:, :, ::4, ::4, ::4], out)
    return {"seconds": seconds, "peak": peak}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(160, 256, 256))
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--keep-memory", action="store_true", help="glibc keeps freed memory, on both sides")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--one", nargs=2, metavar=("WAY", "OUT"), help="one run, here")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "tiled_inference.md")
    given = parser.parse_args()
    shape = tuple(given.shape)
    if given.one:
        if given.keep_memory:
            libc = ctypes.CDLL("libc.so.6")
            if not (libc.mallopt(MMAP_MAX, 0) and libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)):
                raise OSError("mallopt refused the setting")
        print(json.dumps(run(given.one[0], shape, given.window, Path(given.one[1]))))
        return 0
    import torch

    arguments = ["--shape", *map(str, shape), "--window", str(given.window), *["--keep-memory"] * given.keep_memory]
    found, reference, rows = {}, None, []
    with tempfile.TemporaryDirectory() as folder:
        for way in given.ways:
            out = str(Path(folder) / "out.pt")
            done = subprocess.run([sys.executable, __file__, *arguments, "--one", way, out], capture_output=True,
                                  text=True, check=True)
            found[way] = json.loads(done.stdout.splitlines()[-1])
            print(way, found[way], flush=True)
            made = torch.load(out, weights_only=True)
            reference = made if reference is None else reference
            found[way]["difference"] = float((made - reference).abs().max())
    ours = found["firstread"]
    rows = [f"| {WAYS[way]} | {row['seconds']:.1f} | {row['seconds'] / ours['seconds']:.2f} | {row['peak']:.0f} | "
            f"{row['peak'] / ours['peak']:.2f} | {row['difference']:.0e} |" for way, row in found.items()]
    head = ["# Tiled inference beside MONAI's sliding window", "", *(__doc__ or "").strip().splitlines()[2:], "",
            f"Volume {' × '.join(map(str, shape))}, windows {given.window}³, overlap 0.25, Gaussian blend; U-Net of "
            f"widths 16, 32, 64, 128, four classes, float32; one thread; torch {torch.__version__}, MONAI "
            f"{version('monai')}; freed memory {'kept' if given.keep_memory else 'as glibc does'}; one run, a shared, "
            f"busy machine: read the ratios only; {time.strftime('%Y-%m-%d')}.", "",
            f"Command: `python bench/tiled_inference.py {' '.join(arguments)}`.", ""]
    table = ["| way | CPU s | times ours | peak MB | times ours | difference |", "|---|---|---|---|---|---|", *rows, ""]
    given.output.write_text("\n".join([*head, *table]), encoding="utf-8")
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    sys.exit(main())
