"""The default cascade beside D5-C5 and D5-C10(S), and D5-C5 beside the same layers in plain torch.

``python bench/cascade.py``. One simulated slice of a beating disc, one thread, freed memory kept (as the command line
does, see ``cli/allocator.py``), each network in a process of its own; CPU seconds, the least of the repeats, so that
other work on the machine counts less. The time of a network does not depend on its weights: D5-C5 and D5-C10(S) have
random ones, so there is no error to compare. GFLOP are those of the convolutions alone, two for each multiplication.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

NETWORKS = {"default": "default cascade", "d5c5": "D5-C5, 3 x 3", "plain": "D5-C5, 3 x 3, plain torch",
            "d5c5t": "D5-C5, 3 x 3 x 3", "d5c10s": "D5-C10(S)"}
MANY = ("default",)  # what takes many coils as well


def network(name: str):
    """The network, ready."""
    from firstread.nets.cascade import DeepCascade, d5_c10_s
    from firstread.zoo.store import load

    if name == "default":
        stored = load("heart-cascade")
        return DeepCascade.from_weight(stored.card["network"], stored.state)
    if name == "d5c10s":
        return d5_c10_s().eval()
    return DeepCascade(kernel="tyx" if name == "d5c5t" else "yx").eval()


def plain(net, measured, encoding):
    """D5-C5 as one would write it: all frames at once, channels first."""
    import torch
    import torch.nn.functional as F

    from firstread.nets.cascade import data_consistency

    image = encoding.adjoint(measured)
    for block in net.blocks:
        x = torch.view_as_real(image[0, :, 0, 0]).movedim(-1, 1)
        for number, layer in enumerate(block.layers):
            x = F.conv2d(x, layer.weight, layer.bias, padding=1)
            x = F.relu(x) if number + 1 < len(block.layers) else x
        change = torch.view_as_complex(x.movedim(1, -1).contiguous())[None, :, None, None]
        image = data_consistency(image + change, measured, encoding)
    return image


def gflop(net, voxels: int) -> float:
    """Of all convolutions, for so many voxels."""
    return 2e-9 * voxels * sum(layer.weight.numel() for block in net.blocks for layer in block.layers)


def measure(name: str, coils: int, size: int, frames: int, repeats: int, threads: int) -> dict[str, float]:
    """In this process: seconds of the stage, and of its parts where the network has them."""
    import torch

    from firstread.cli.allocator import keep_freed_memory
    from firstread.reconstruct.cascade import Cascade

    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    kspace, net = scan(size, frames, coils), network(name)
    for block in net.blocks:
        if name != "default":
            torch.nn.init.normal_(block.layers[-1].weight, std=1e-3)
    stage = Cascade(network=net)

    def run() -> None:
        if name == "plain":
            from firstread.reconstruct.problem import problem_of

            problem = problem_of(kspace)
            plain(net, problem.measured, problem.encoding)
        else:
            stage(kspace)

    cpu, wall = [], []
    with torch.no_grad():
        for _ in range(repeats):
            begun = time.process_time(), time.perf_counter()
            run()
            cpu.append(time.process_time() - begun[0])
            wall.append(time.perf_counter() - begun[1])
    return {"cpu": min(cpu), "wall": min(wall), "gflop": gflop(net, frames * size * size)}


def scan(size: int, frames: int, coils: int):
    """A beating disc in a body, six-fold."""
    import torch

    from firstread.acquire.coils import LoopCoils
    from firstread.acquire.mri import Encode
    from firstread.acquire.sampling import VariableDensity
    from firstread.core.geometry import Grid
    from firstread.core.keys import Key
    from firstread.core.records import Image, Rows

    line = torch.linspace(-1, 1, size)
    y, x, t = line[None, :, None], line[None, None, :], torch.arange(frames)[:, None, None]
    radius = 0.25 + 0.06 * torch.cos(2 * torch.pi * t / frames)
    image = 0.35 * ((y / 0.8) ** 2 + (x / 0.9) ** 2 < 1) + 0.6 * (y**2 + x**2 < radius**2)
    record = Image(Rows.subjects(1), image[None, :, None, None].float(),
                   Grid.from_spacing((1, size, size), (8.0, 320 / size, 320 / size)))
    stage = Encode(sampling=VariableDensity(acceleration=6, centre_lines=8), snr=30, coils=LoopCoils(count=coils))
    return stage(record, Key(0, "encode"))


def peak_gflops() -> float:
    """GFLOP/s of a 64-channel 3 x 3 convolution of one frame that stays in cache, one thread: what can be had."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(1)
    x, w = torch.randn(1, 64, 64, 64), torch.randn(64, 64, 3, 3)
    best = float("inf")
    with torch.no_grad():
        for _ in range(30):
            begun = time.process_time()
            F.conv2d(x, w, padding=1)
            best = min(best, time.process_time() - begun)
    return 2e-9 * w.numel() * 64 * 64 / best


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "COILS"), help="here")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results/cascade.md"))
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], int(given.one[1]), given.size, given.frames, given.repeats,
                                 given.threads)))
        return 0
    sizes = ["--size", str(given.size), "--frames", str(given.frames), "--threads", str(given.threads)]
    rows, first = [], 0.0
    for name, coils in [(n, c) for n in given.networks for c in ((given.coils, 1) if n in MANY else (1,))]:
        repeats = given.repeats if name in MANY else 1
        done = subprocess.run([sys.executable, __file__, "--one", name, str(coils), "--repeats", str(repeats), *sizes],
                              check=True, capture_output=True, text=True).stdout
        found = json.loads(done)
        if name == "default" and coils == 1:
            first = found["cpu"]
        rows.append((NETWORKS[name], coils, found, repeats))
        print(*rows[-1], flush=True)
    lines = [f"| {title} | {coils} | {found['gflop']:.0f} | {found['cpu']:.1f} | {found['gflop'] / found['cpu']:.0f} | "
             f"{found['cpu'] / first if first and coils == 1 else float('nan'):.1f} | {repeats} |".replace("nan", "–")
             for title, coils, found, repeats in rows]
    import torch

    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text("\n".join([
        "# The default cascade beside D5-C5 and D5-C10(S)", "", *(__doc__ or "").strip().splitlines()[2:], "",
        f"{given.frames} frames of {given.size} x {given.size}, {given.threads} thread(s), torch {torch.__version__}, "
        f"{time.strftime('%Y-%m-%d')}; a convolution in cache reaches {peak_gflops():.0f} GFLOP/s there. Command: "
        f"`python {' '.join(sys.argv)}`.", "",
        "| network | coils | GFLOP | CPU s | GFLOP/s | times the default cascade, one coil | repeats |",
        "|---|---|---|---|---|---|---|", *lines, ""]), encoding="utf-8")
    print(given.output.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    sys.exit(main())
