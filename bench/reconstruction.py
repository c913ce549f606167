"""CG-SENSE of a slice and temporal TV of a cine beside BART and sigpy: ``python bench/reconstruction.py``.

All tools get the same k-space, mask and true coil maps, one thread, data in memory (BART: files in a memory file
system), each run in a process of its own. Every tool is run at growing numbers of iterations; the row shows the CPU
seconds at the first number whose error against the noiseless truth is within 2 % of the best that all tools reach.
CPU seconds, not wall time, so that other work on the machine counts less; start-up (imports, BART's own) is apart.
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

JOBS = {"cg": "CG-SENSE, one slice", "tv": "temporal TV, cine"}
TOOLS = ("firstread", "sigpy", "bart")
ITERATIONS = {("cg", "firstread"): (5, 10, 20, 30), ("cg", "sigpy"): (5, 10, 20, 30), ("cg", "bart"): (5, 10, 20, 30),
              ("tv", "firstread"): (20, 40, 60, 100), ("tv", "sigpy"): (40, 100, 160, 240),
              ("tv", "bart"): (5, 10, 20, 40)}
RIDGE, VARIATION = 1e-3, 1e-2
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


def by_firstread(job: str, folder: Path, iterations: int) -> tuple[np.ndarray, float]:
    import torch

    from firstread.core.geometry import Grid
    from firstread.core.records import KSpace, Rows
    from firstread.ops.solve import conjugate_gradient
    from firstread.ops.variation import minimize_total_variation
    from firstread.reconstruct.problem import problem_of

    torch.set_num_threads(1)
    data, mask, maps = (torch.from_numpy(np.load(folder / f"{n}.npy")) for n in ("kspace", "mask", "maps"))
    grid = Grid.pixels((1, *data.shape[-2:]))
    kspace = KSpace(Rows.subjects(1), data[None, :, :, None], grid, mask[None, :, None, None, :, None],
                    maps[None, None, :, None])

    def run(count: int) -> torch.Tensor:
        problem = problem_of(kspace)
        gram, rhs = problem.encoding.gram, problem.rhs()
        if job == "cg":
            return conjugate_gradient(lambda v: gram(v) + RIDGE * v, rhs, iterations=count, systems=4)
        return minimize_total_variation(gram, rhs, torch.tensor(VARIATION), bound=problem.encoding.bound(),
                                        iterations=count)

    with torch.no_grad():
        run(1)
        before = cpu_seconds()
        image = run(iterations)
        return image[0, :, 0, 0].numpy(), cpu_seconds() - before


def by_sigpy(job: str, folder: Path, iterations: int) -> tuple[np.ndarray, float]:
    import sigpy

    data, mask, maps = (np.load(folder / f"{n}.npy") for n in ("kspace", "mask", "maps"))
    shape = (len(data), 1, *data.shape[-2:])
    encode = sigpy.linop.Multiply(shape, maps)
    encode = sigpy.linop.FFT(encode.oshape, axes=(-2, -1)) * encode
    encode = sigpy.linop.Multiply(encode.oshape, mask[:, None, :, None].astype(np.float32)) * encode

    def run(count: int) -> np.ndarray:
        if job == "cg":
            return sigpy.app.LinearLeastSquares(encode, data, lamda=RIDGE, max_iter=count, show_pbar=False).run()
        finite = sigpy.linop.FiniteDifference(shape, axes=(0,))
        penalty = sigpy.prox.L1Reg(finite.oshape, VARIATION)
        app = sigpy.app.LinearLeastSquares(encode, data, proxg=penalty, G=finite, max_iter=count, show_pbar=False)
        return app.run()

    run(1)
    before = cpu_seconds()
    image = run(iterations)
    return image[:, 0], cpu_seconds() - before


def by_bart(job: str, folder: Path, iterations: int) -> tuple[np.ndarray, float]:
    data, maps = np.load(folder / "kspace.npy"), np.load(folder / "maps.npy")
    frames, coils, y, x = data.shape
    write_cfl(folder / "kspace", data, (x, y, 1, coils, 1, 1, 1, 1, 1, 1, frames))
    write_cfl(folder / "maps", maps, (x, y, 1, coils))
    before = cpu_seconds(children=True)
    subprocess.run(bart_command(job, folder, iterations), check=True, capture_output=True,
                   env={**os.environ, "OMP_NUM_THREADS": "1"})
    spent = cpu_seconds(children=True) - before
    image = np.fromfile(folder / "image.cfl", dtype=np.complex64).reshape(frames, y, x)
    return image, spent


def bart_command(job: str, folder: Path, iterations: int) -> list[str]:
    penalty = ["-l2", "-r", str(RIDGE)] if job == "cg" else ["-R", f"T:1024:0:{VARIATION}", "-C", "3", "-u", "0.05"]
    return ["bart", "pics", "-w", "1", "-i", str(iterations), *penalty,
            *(str(folder / n) for n in ("kspace", "maps", "image"))]


def write_cfl(path: Path, data: np.ndarray, dims: tuple[int, ...]) -> None:
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, dims)) + "\n")
    data.astype(np.complex64).tofile(path.with_suffix(".cfl"))


def measure(job: str, tool: str, iterations: int, folder: Path) -> dict[str, float]:
    """In this process: error against the truth (scale fitted, phase too) and CPU seconds."""
    run = {"firstread": by_firstread, "sigpy": by_sigpy, "bart": by_bart}[tool]
    image, seconds = run(job, folder, iterations)
    truth = np.load(folder / "truth.npy")
    return {"iterations": iterations, "nrmse": float(np.linalg.norm(np.abs(image) - truth) / np.linalg.norm(truth)),
            "seconds": seconds}


def start_up(tool: str) -> float:
    """CPU seconds to be ready: imports, or BART's own start."""
    command = ["bart", "version"] if tool == "bart" else [sys.executable, "-c", {
        "firstread": "import firstread.reconstruct.iterative", "sigpy": "import sigpy"}[tool]]
    before = cpu_seconds(children=True)
    subprocess.run(command, check=True, capture_output=True)
    return cpu_seconds(children=True) - before


def compare(job: str, *, size: int, frames: int, coils: int, repeats: int) -> list[str]:
    """The rows of one job."""
    with tempfile.TemporaryDirectory(dir=DEVICE_FOLDER) as name:
        folder = Path(name)
        make_data(folder, size=size, frames=frames, coils=coils)
        runs: dict[str, list[dict[str, float]]] = {}
        for tool in TOOLS:
            runs[tool] = []
            for count in ITERATIONS[job, tool]:
                found = [json.loads(subprocess.run(
                    [sys.executable, __file__, "--one", job, tool, str(count), str(folder)], check=True,
                    capture_output=True, text=True).stdout) for _ in range(repeats)]
                runs[tool].append(sorted(found, key=lambda f: f["seconds"])[repeats // 2])
                print(job, tool, runs[tool][-1], flush=True)
    target = 1.02 * max(min(r["nrmse"] for r in rows) for rows in runs.values())
    chosen = {tool: next(r for r in rows if r["nrmse"] <= target) for tool, rows in runs.items()}
    ours = chosen["firstread"]["seconds"]
    lines = []
    for tool, row in chosen.items():
        name = f"{JOBS[job]}, {frames} × {coils} × {size}²"
        lines.append(f"| {name} | {tool} | {row['iterations']} | {row['nrmse']:.4f} | {row['seconds']:.2f} | "
                     f"{row['seconds'] / ours:.2f} | {start_up(tool):.2f} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", nargs=4, metavar=("JOB", "TOOL", "COUNT", "FOLDER"), help="one run, here")
    parser.add_argument("--size", type=int, default=256, help="of the slice")
    parser.add_argument("--cine-size", type=int, default=256)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results/reconstruction.md"))
    given = parser.parse_args()
    if given.one:
        job, tool, count, folder = given.one
        print(json.dumps(measure(job, tool, int(count), Path(folder))))
        return 0
    shapes = {"cg": (given.size, 1), "tv": (given.cine_size, given.frames)}
    rows = [row for job in given.jobs
            for row in compare(job, size=shapes[job][0], frames=shapes[job][1], coils=8, repeats=given.repeats)]
    bart = subprocess.run(["bart", "version"], capture_output=True, text=True, check=True).stdout.strip()
    versions = ", ".join(f"{n} {version(n)}" for n in ("torch", "sigpy", "numpy"))
    commands = " and ".join(f"`{' '.join(bart_command(job, Path('FOLDER'), 10))}`" for job in JOBS)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text("\n".join([
        "# Reconstruction beside BART and sigpy", "", *(__doc__ or "").strip().splitlines()[2:], "",
        f"Median of {given.repeats}; one thread; {versions}, BART {bart}; {time.strftime('%Y-%m-%d')}.", "",
        f"Command: `python bench/reconstruction.py --size {given.size} --cine-size {given.cine_size} --frames "
        f"{given.frames} --repeats {given.repeats}`. BART: {commands}. sigpy: `sigpy.app.LinearLeastSquares`, conjugate"
        " gradients, and primal-dual with `G = FiniteDifference` along time.", "",
        "| job | tool | iterations | NRMSE | CPU s | times ours | start-up CPU s |", "|---|---|---|---|---|---|---|",
        *rows, ""]), encoding="utf-8")
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    sys.exit(main())
