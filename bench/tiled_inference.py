"""A 3D U-Net over a volume in windows: ours beside MONAI's sliding window, same weights, windows and thread.

Each way runs in a process of its own, data in memory. Peer rows: the network of torch's own layers in MONAI's inferer,
batch 1 (its default) and batch 4; a further row gives MONAI's inferer our network, so that it shows what the tiles
alone cost. With ``--keep-memory`` glibc keeps freed memory (``mallopt``), on both sides. CPU seconds, not wall time, so
that other work on the machine counts less, after one window as warm-up; peak memory is the most that the process held
(VmHWM) less what it held before the warm-up, when the code had been loaded. Difference: the largest of the
probabilities from the first row's.

With ``--memory MB`` ours is told that budget, and finds its windows; MONAI's sliding window has no such setting, so its
user tries window sizes: further rows. Freed memory is then given back on both sides, so that what a process holds is
what its tensors hold.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

WAYS = {"monai 1": "MONAI, batch 1, torch's layers", "monai 4": "MONAI, batch 4, torch's layers",
        "monai 1 ours": "MONAI, batch 1, our layers", "firstread": "firstread, one window at a time",
        "firstread bfloat16": "firstread, one window at a time, bfloat16"}
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
SMALLER = {"monai 1": (1.0, 0.75, 0.5)}  # shares of the window that a user of MONAI tries under a budget


def held_mb(what: str) -> float:
    """VmRSS, what the process holds, or VmHWM, the most since the last reset."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def run(way: str, shape: tuple[int, ...], window: int, out: Path, memory: float | None = None) -> dict[str, float]:
    """In this process: CPU seconds and peak MB beyond the start; probabilities go to ``out``."""
    import torch
    from torch import nn

    from firstread.analyze.tiles import tiled
    from firstread.nets.precision import InPrecision
    from firstread.nets.unet import Conv3d, GroupNorm3d, UNet

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network: nn.Module = UNet(channels_in=1, channels_out=4, widths=(16, 32, 64, 128), dims=3).eval()
    volume = torch.randn(1, 1, *shape)
    size = (window,) * 3
    network = InPrecision(network, torch.bfloat16) if way.endswith("bfloat16") else network
    if way in ("monai 1", "monai 4"):
        for module in network.modules():
            module.__class__ = {Conv3d: nn.Conv3d, GroupNorm3d: nn.GroupNorm}.get(type(module), type(module))
    if way.startswith("monai"):
        from monai.inferers import sliding_window_inference

        def infer(x: torch.Tensor) -> torch.Tensor:
            return sliding_window_inference(x, size, int(way.split()[1]), network, overlap=0.25, mode="gaussian")
    else:
        def infer(x: torch.Tensor) -> torch.Tensor:
            return tiled(network, x, window=size, overlap=0.25, at_once=1,
                         memory=None if memory is None else int(memory * 2**20))

    with torch.inference_mode():
        network(volume[:, :, :32, :32, :32])  # code is loaded when it first runs, and is no tensor
        before = held_mb("VmRSS")
        infer(volume[:, :, :window, :window, :window])
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM begins anew
        started = time.process_time()
        made = infer(volume)
        seconds, peak = time.process_time() - started, held_mb("VmHWM") - before
        torch.save(made.softmax(1)[:, :, ::4, ::4, ::4], out)
    return {"seconds": seconds, "peak": peak}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(160, 256, 256))
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--keep-memory", action="store_true", help="glibc keeps freed memory, on both sides")
    parser.add_argument("--memory", type=float, help="MB that ours may take beyond the image and the weights")
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
        if given.memory:
            libc = ctypes.CDLL("libc.so.6")
            if not all(libc.mallopt(what, 2**20) for what in (TRIM_THRESHOLD, MMAP_THRESHOLD)):
                raise OSError("mallopt refused the setting")
        print(json.dumps(run(given.one[0], shape, given.window, Path(given.one[1]), given.memory)))
        return 0
    import torch

    arguments = ["--shape", *map(str, shape), "--window", str(given.window), *["--keep-memory"] * given.keep_memory,
                 *(["--memory", str(given.memory)] if given.memory else [])]
    found, reference, rows = {}, None, []
    with tempfile.TemporaryDirectory() as folder:
        tried = [(way, share) for way in given.ways for share in (SMALLER.get(way, (1.0,)) if given.memory else (1.0,))]
        for way, share in tried:
            out, window = str(Path(folder) / "out.pt"), 8 * round(share * given.window / 8)
            done = subprocess.run([sys.executable, __file__, *arguments, "--window", str(window), "--one", way, out],
                                  capture_output=True, text=True, check=True)
            name = WAYS[way] + (f", window {window}³" if way in SMALLER and given.memory else "")
            found[name] = json.loads(done.stdout.splitlines()[-1])
            print(name, found[name], flush=True)
            made = torch.load(out, weights_only=True)
            reference = made if reference is None else reference
            found[name]["difference"] = float((made - reference).abs().max())
    ours = found[WAYS["firstread"]]
    rows = [f"| {name} | {row['seconds']:.1f} | {row['seconds'] / ours['seconds']:.2f} | {row['peak']:.0f} | "
            f"{row['peak'] / ours['peak']:.2f} | {row['difference']:.0e} |" for name, row in found.items()]
    freed = "kept" if given.keep_memory else "given back" if given.memory else "as glibc does"
    head = ["# Tiled inference beside MONAI's sliding window", "", *(__doc__ or "").strip().splitlines()[2:], "",
            f"Volume {' × '.join(map(str, shape))}, windows {given.window}³, overlap 0.25, Gaussian blend; U-Net of "
            f"widths 16, 32, 64, 128, four classes, float32; one thread; torch {torch.__version__}, MONAI "
            f"{version('monai')}; freed memory {freed}; "
            f"{f'ours under a budget of {given.memory:g} MB; ' if given.memory else ''}one run, a shared, "
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
