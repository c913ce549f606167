"""CG-SENSE and wavelets of a slice, temporal TV and locally low rank of a cine beside BART and sigpy.

``python bench/reconstruction.py``. All tools get the same k-space, mask and true coil maps, one thread, data in memory
(BART: files in a memory file system), each tool in a process of its own. Every tool is run at growing numbers of
iterations (wavelets and low rank, whose transforms and blocks differ: at several weights too); the row shows the least
CPU seconds whose error against the noiseless truth is within 2 % of the best that all tools reach. A tool that does not
reach it at any number of iterations tried is shown at its least error, marked "not reached", and sets no target. CPU
seconds, not wall time, so that other work on the machine counts less; start-up (imports, BART's own) is apart. Peak
memory is that of the whole process, for Python tools with their libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

JOBS = {"cg": "CG-SENSE, one slice", "wavelet": "wavelets, one slice", "tv": "temporal TV, cine",
        "llr": "locally low rank, cine"}
SLICE = ("cg", "wavelet")
TOOLS = ("firstread", "sigpy", "sigpy, ADMM", "bart")
RIDGE, VARIATION = 1e-3, 1e-2
# (job, tool): weights of the penalty and numbers of iterations; what is not here is not offered by the tool
RUNS: dict[tuple[str, str], tuple[tuple[float, ...], tuple[int, ...]]] = {
    ("cg", "firstread"): ((RIDGE,), (5, 10, 20, 30)), ("cg", "sigpy"): ((RIDGE,), (5, 10, 20, 30)),
    ("cg", "bart"): ((RIDGE,), (5, 10, 20, 30)),
    ("wavelet", "firstread"): ((5e-3, 1e-2, 2e-2), (20, 40, 60, 100)),
    ("wavelet", "sigpy"): ((5e-3, 1e-2, 2e-2), (20, 40, 60, 100)),
    ("wavelet", "bart"): ((5e-3, 1e-2, 2e-2), (20, 40, 60, 100)),
    ("tv", "firstread"): ((VARIATION,), (20, 40, 60, 100)), ("tv", "sigpy"): ((VARIATION,), (100, 240)),
    ("tv", "sigpy, ADMM"): ((VARIATION,), (10, 20)), ("tv", "bart"): ((VARIATION,), (10, 20, 40)),
    ("llr", "firstread"): ((1e-3, 3e-3, 1e-2, 3e-2), (20, 40)), ("llr", "bart"): ((1e-3, 3e-3, 1e-2, 3e-2), (20, 40)),
}
DEVICE_FOLDER = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


def make_data(folder: Path, *, size: int, frames: int, coils: int) -> None:
    """A beating disc in a body, variable-density lines 6-fold, noise at SNR 30: kspace, mask, maps, truth as .npy."""
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
    ripple = 0.05 * torch.sin(9 * x) * torch.cos(7 * y)
    body, heart = (y / 0.8) ** 2 + (x / 0.9) ** 2 < 1, y**2 + x**2 < radius**2
    image = 0.35 * body + 0.6 * heart + ripple * (y**2 + x**2 < 0.5)
    record = Image(Rows.subjects(1), image.clamp_min(0)[None, :, None, None].float(),
                   Grid.from_spacing((1, size, size), (8.0, 1.5, 1.5)))
    stage = Encode(sampling=VariableDensity(acceleration=6 if frames > 1 else 3, centre_lines=12), snr=30,
                   coils=LoopCoils(count=coils), keep_sensitivities=True, correlation=0.0)
    kspace = stage(record, Key(0, "encode"))
    np.save(folder / "kspace.npy", kspace.data[0, :, :, 0].numpy())
    np.save(folder / "mask.npy", kspace.mask[0, :, 0, 0, :, 0].numpy())
    np.save(folder / "maps.npy", kspace.sensitivities[0, 0, :, 0].numpy())
    np.save(folder / "truth.npy", record.data[0, :, 0, 0].numpy())


def cpu_seconds(children: bool = False) -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def by_firstread(job: str, folder: Path, weight: float, iterations: int) -> tuple[np.ndarray, float]:
    import torch

    from firstread.core.geometry import Grid
    from firstread.core.records import KSpace, Rows
    from firstread.ops.minimize import LeastSquares
    from firstread.ops.solve import conjugate_gradient
    from firstread.ops.variation import solve_total_variation
    from firstread.reconstruct.problem import problem_of
    from firstread.reconstruct.sparse import LocallyLowRank, Wavelet

    torch.set_num_threads(1)
    data, mask, maps = (torch.from_numpy(np.load(folder / f"{n}.npy")) for n in ("kspace", "mask", "maps"))
    grid = Grid.pixels((1, *data.shape[-2:]))
    kspace = KSpace(Rows.subjects(1), data[None, :, :, None], grid, mask[None, :, None, None, :, None],
                    maps[None, None, :, None])

    def run(count: int) -> torch.Tensor:
        problem = problem_of(kspace)
        gram, rhs = problem.encoding.gram, problem.rhs()
        if job == "cg":
            return conjugate_gradient(lambda v: gram(v) + weight * v, rhs, iterations=count, systems=4)
        fit, amount = LeastSquares(gram, rhs, problem.encoding.bound()), torch.full((1, 1, 1, 1, 1, 1), weight)
        if job == "tv":
            return solve_total_variation(fit, amount, iterations=count, tolerance=0.0).x
        return (Wavelet if job == "wavelet" else LocallyLowRank)(iterations=count, tolerance=0.0).solve(fit, amount).x

    with torch.no_grad():
        run(1)
        before = cpu_seconds()
        image = run(iterations)
        return image[0, :, 0, 0].numpy(), cpu_seconds() - before


def by_sigpy(job: str, folder: Path, weight: float, iterations: int, solver: str | None) -> tuple[np.ndarray, float]:
    import sigpy

    data, mask, maps = (np.load(folder / f"{n}.npy") for n in ("kspace", "mask", "maps"))
    shape = (len(data), 1, *data.shape[-2:])
    encode = sigpy.linop.Multiply(shape, maps)
    encode = sigpy.linop.FFT(encode.oshape, axes=(-2, -1)) * encode
    encode = sigpy.linop.Multiply(encode.oshape, mask[:, None, :, None].astype(np.float32)) * encode

    def run(count: int) -> np.ndarray:
        common = {"max_iter": count, "show_pbar": False}
        if job == "cg":
            return sigpy.app.LinearLeastSquares(encode, data, lamda=weight, **common).run()
        if job == "wavelet":
            transform = sigpy.linop.Wavelet(shape, axes=(-2, -1))
            penalty = sigpy.prox.UnitaryTransform(sigpy.prox.L1Reg(transform.oshape, weight), transform)
            return sigpy.app.LinearLeastSquares(encode, data, proxg=penalty, **common).run()
        finite = sigpy.linop.FiniteDifference(shape, axes=(0,))
        penalty = sigpy.prox.L1Reg(finite.oshape, weight)
        return sigpy.app.LinearLeastSquares(encode, data, proxg=penalty, G=finite, solver=solver, **common).run()

    run(1)
    before = cpu_seconds()
    image = run(iterations)
    return image[:, 0], cpu_seconds() - before


def by_bart(job: str, folder: Path, weight: float, iterations: int) -> tuple[np.ndarray, float]:
    data, maps = np.load(folder / "kspace.npy"), np.load(folder / "maps.npy")
    frames, coils, y, x = data.shape
    write_cfl(folder / "kspace", data, (x, y, 1, coils, 1, 1, 1, 1, 1, 1, frames))
    write_cfl(folder / "maps", maps, (x, y, 1, coils))
    before = cpu_seconds(children=True)
    subprocess.run(bart_command(job, folder, weight, iterations), check=True, capture_output=True,
                   env={**os.environ, "OMP_NUM_THREADS": "1"})
    spent = cpu_seconds(children=True) - before
    image = np.fromfile(folder / "image.cfl", dtype=np.complex64).reshape(frames, y, x)
    return image, spent


def bart_command(job: str, folder: Path, weight: float, iterations: int) -> list[str]:
    penalty = {"cg": ["-l2", "-r", str(weight)], "wavelet": ["-R", f"W:3:0:{weight}"],
               "tv": ["-R", f"T:1024:0:{weight}", "-C", "3", "-u", "0.05"],
               "llr": ["-R", f"L:3:3:{weight}", "-b", "8"]}[job]
    return ["bart", "pics", "-w", "1", "-i", str(iterations), *penalty,
            *(str(folder / n) for n in ("kspace", "maps", "image"))]


def write_cfl(path: Path, data: np.ndarray, dims: tuple[int, ...]) -> None:
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, dims)) + "\n")
    data.astype(np.complex64).tofile(path.with_suffix(".cfl"))


def measure(job: str, tool: str, weight: float, iterations: int, folder: Path) -> dict[str, float]:
    """In this process: error of the magnitude against the truth, CPU seconds, peak memory."""
    if tool.startswith("sigpy"):
        image, seconds = by_sigpy(job, folder, weight, iterations, "ADMM" if tool.endswith("ADMM") else None)
    else:
        image, seconds = (by_bart if tool == "bart" else by_firstread)(job, folder, weight, iterations)
    truth = np.load(folder / "truth.npy")
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 if tool == "bart" else peak_memory_mb()
    return {"weight": weight, "iterations": iterations, "seconds": seconds, "mb": memory,
            "nrmse": float(np.linalg.norm(np.abs(image) - truth) / np.linalg.norm(truth))}


def peak_memory_mb() -> float:
    """Of this process since it began its own program (what ``getrusage`` says begins with that of its parent)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def start_up(tool: str) -> float:
    """CPU seconds to be ready: imports, or BART's own start."""
    command = ["bart", "version"] if tool == "bart" else [sys.executable, "-c", {
        "firstread": "import firstread.reconstruct.iterative"}.get(tool, "import sigpy")]
    before = cpu_seconds(children=True)
    subprocess.run(command, check=True, capture_output=True)
    return cpu_seconds(children=True) - before


def compare(job: str, tools: list[str], *, size: int, frames: int, coils: int, repeats: int, most: int | None
            ) -> list[str]:
    """The rows of one job."""
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(dir=DEVICE_FOLDER) as name:
        make_data(Path(name), size=size, frames=frames, coils=coils)
        for tool in (t for t in tools if (job, t) in RUNS):
            counts = [str(c) for c in RUNS[job, tool][1] if most is None or c <= most]
            done = subprocess.run([sys.executable, __file__, "--one", job, tool, name, str(repeats), *counts],
                                  check=True, capture_output=True, text=True).stdout
            runs[tool] = [json.loads(line) for line in done.splitlines()]
            print(*runs[tool], sep="\n", flush=True)
    least = {tool: min(r["nrmse"] for r in rows) for tool, rows in runs.items()}
    able = [error for error in least.values() if error <= 1.1 * min(least.values())]
    target = 1.02 * max(able)
    lines, ours = [], 0.0
    for tool, rows in runs.items():
        kept = [r for r in rows if r["nrmse"] <= target]
        row = min(kept, key=lambda r: r["seconds"]) if kept else min(rows, key=lambda r: r["nrmse"])
        ours = ours or row["seconds"]
        note = "" if kept else " (not reached)"
        lines.append(f"| {JOBS[job]}, {frames} × {coils} × {size}² | {tool} | {row['weight']:g} | {row['iterations']} "
                     f"| {row['nrmse']:.4f}{note} | {row['seconds']:.2f} | {row['seconds'] / ours:.1f} | "
                     f"{row['mb']:.0f} | {start_up(tool):.2f} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", nargs="+", metavar="WHAT", help="job, tool, folder, repeats, iterations: here")
    parser.add_argument("--size", type=int, default=256, help="of the slice")
    parser.add_argument("--cine-size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most", type=int, help="skip runs of more iterations")
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results/reconstruction.md"))
    given = parser.parse_args()
    if given.one:
        job, tool, folder, repeats, *counts = given.one
        for weight in RUNS[job, tool][0]:
            for count in map(int, counts):
                found = [measure(job, tool, weight, count, Path(folder)) for _ in range(int(repeats))]
                print(json.dumps(sorted(found, key=lambda f: f["seconds"])[len(found) // 2]), flush=True)
        return 0
    rows = []
    for job in given.jobs:
        size, frames = (given.size, 1) if job in SLICE else (given.cine_size, given.frames)
        rows += compare(job, given.tools, size=size, frames=frames, coils=8, repeats=given.repeats, most=given.most)
    bart = subprocess.run(["bart", "version"], capture_output=True, text=True, check=True).stdout.strip()
    versions = ", ".join(f"{n} {version(n)}" for n in ("torch", "sigpy", "numpy"))
    commands = [f"- {JOBS[job]}: `{' '.join(bart_command(job, Path('FOLDER'), RUNS[job, 'bart'][0][0], 20))}`"
                for job in given.jobs]
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text("\n".join([
        "# Reconstruction beside BART and sigpy", "", *(__doc__ or "").strip().splitlines()[2:], "",
        f"Median of {given.repeats}; one thread; {versions}, BART {bart}; {time.strftime('%Y-%m-%d')}; a shared "
        "machine of two cores.", "", f"Command: `python {' '.join(sys.argv)}`. sigpy: `sigpy.app.LinearLeastSquares`, "
        "conjugate gradients, its accelerated gradients with `prox.UnitaryTransform`, and with `G = FiniteDifference` "
        "along time its primal-dual solver or ADMM. BART:", "", *commands, "",
        "| job | tool | λ | iterations | NRMSE | CPU s | times ours | peak memory MB | start-up CPU s |",
        "|---|---|---|---|---|---|---|---|---|", *rows, ""]), encoding="utf-8")
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    sys.exit(main())
