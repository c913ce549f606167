"""A 3D U-Net over a volume in windows: ours beside MONAI's sliding window, same network, weights, windows and threads.

``python bench/tiled_inference.py --shape 160 256 256 --window 96``; each side runs in a process of its own. MONAI runs
at batch 1 (its default) and batch 4; ours at batch 4 in float32 and bfloat16. Reported: seconds (best of two),
peak memory, and the largest difference of the probabilities from MONAI's in float32.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("monai batch 1", "monai batch 4", "firstread", "firstread bf16")


def run(way: str, shape: tuple[int, ...], window: int, threads: int, out: Path) -> None:
    import torch

    from firstread.analyze.tiles import tiled
    from firstread.nets.unet import UNet

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = UNet(channels_in=1, channels_out=4, widths=(16, 32, 64, 128), dims=3).eval()
    volume = torch.randn(1, 1, *shape)

    def once():
        if way.startswith("monai"):
            from monai.inferers import sliding_window_inference

            return sliding_window_inference(volume, (window,) * 3, int(way[-1]), network, overlap=0.25, mode="gaussian")
        half = way.endswith("bf16")
        net = network.to(torch.bfloat16) if half else network
        return tiled(net, volume, window=(window,) * 3, overlap=0.25, at_once=4,
                     precision=torch.bfloat16 if half else None)

    seconds = []
    with torch.inference_mode():
        for _ in range(2):
            started = time.perf_counter()
            made = once()
            seconds.append(time.perf_counter() - started)
    torch.save(made.softmax(1)[:, :, ::4, ::4, ::4].float(), out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{min(seconds):.2f} {peak:.0f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(160, 256, 256))
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.way is not None:
        run(given.way, tuple(given.shape), given.window, given.threads, given.out)
        return 0
    import monai
    import torch

    print(f"monai {monai.__version__}, torch {torch.__version__}, {given.threads} thread(s), "
          f"shape {tuple(given.shape)}, windows {given.window}^3, overlap 0.25, gaussian")
    with tempfile.TemporaryDirectory() as folder:
        reference = None
        for way in WAYS:
            out = Path(folder) / "out.pt"
            command = [sys.executable, __file__, "--way", way, "--out", str(out), "--window", str(given.window),
                       "--threads", str(given.threads), "--shape", *map(str, given.shape)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, peak = done.stdout.split()[-2:]
            made = torch.load(out, weights_only=True)
            reference = made if reference is None else reference
            print(f"{way:16s} {seconds:>8s} s  {peak:>6s} MB  largest difference {(made - reference).abs().max():.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
