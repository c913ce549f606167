"""ESPIRiT maps of a slice beside BART `ecalib` and sigpy `EspiritCalib`: ``python bench/calibration.py``.

All tools get the same k-space (loop coils, an ellipse with structure, noise), 24 x 24 calibration samples, kernel 6 and
crop 0.8, one thread, data in memory (BART: files in a memory file system), each run in a process of its own. The error
is the mean over the object of ``sqrt(1 - |<S, S_true>|²)``, the sine of the angle between the maps found and the true
ones at a pixel; the share of the object that was cropped stands beside it. CPU seconds, not wall time, so that other
work on the machine counts less; start-up (imports, BART's own) is apart.
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

# BART's -t is on squared singular values: 0.0004 is the share of 0.02 that sigpy and Firstread take by default
BART = ["bart", "ecalib", "-r", "24", "-k", "6", "-c", "0.8"]
RUNS = {"firstread": ("firstread", 1, []), "BART, -t 0.0004": ("bart", 1, ["-m", "1", "-t", "0.0004"]),
        "BART, its own threshold (0.001)": ("bart", 1, ["-m", "1"]),
        "sigpy, 100 iterations (default)": ("sigpy", 1, [100]),
        "sigpy, 30 iterations": ("sigpy", 1, [30]), "firstread, 2 sets": ("firstread", 2, []),
        "BART, 2 sets, -t 0.0004": ("bart", 2, ["-m", "2", "-t", "0.0004"])}
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


def make_data(folder: Path, *, size: int, coils: int, seed: int) -> None:
    """Kspace, true maps and object as .npy."""
    import torch

    from firstread.acquire.coils import LoopCoils
    from firstread.core.geometry import Grid
    from firstread.ops.fourier import fft

    generator = torch.Generator().manual_seed(seed)
    maps = LoopCoils(count=coils)(Grid.from_spacing((1, size, size), (8.0, 1.0, 1.0)), generator)[:, 0]
    line = torch.linspace(-1, 1, size)
    y, x = line[:, None], line[None]
    image = ((y / 0.8) ** 2 + (x / 0.9) ** 2 < 1) * (0.4 + 0.3 * torch.sin(9 * x) * torch.cos(7 * y))
    image = image + 0.6 * (y**2 + x**2 < 0.1)
    noise = torch.randn(maps.shape, dtype=maps.dtype, generator=generator)
    np.save(folder / "kspace.npy", (fft(maps * image) + 0.01 * noise).numpy())
    np.save(folder / "maps.npy", maps.numpy())
    np.save(folder / "object.npy", (image > 0.05).numpy())


def cpu_seconds(children: bool = False) -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def by_firstread(folder: Path, sets: int) -> tuple[np.ndarray, float]:
    import torch

    from firstread.core.geometry import Grid
    from firstread.core.records import KSpace, Rows
    from firstread.reconstruct.espirit import Espirit

    torch.set_num_threads(1)
    data = torch.from_numpy(np.load(folder / "kspace.npy"))
    kspace = KSpace(Rows.subjects(1), data[None, None, :, None], Grid.pixels((1, *data.shape[1:])),
                    torch.ones(1, 1, 1, 1, 1, 1))
    stage = Espirit(sets=sets)
    stage(kspace)
    before = cpu_seconds()
    maps = stage(kspace).sensitivities
    return maps[0, :, :, 0].numpy(), cpu_seconds() - before


def by_sigpy(folder: Path, iterations: int) -> tuple[np.ndarray, float]:
    from sigpy.mri.app import EspiritCalib

    data = np.load(folder / "kspace.npy")

    def run(count: int) -> np.ndarray:
        return EspiritCalib(data, calib_width=24, kernel_width=6, crop=0.8, max_iter=count, show_pbar=False).run()

    run(1)
    before = cpu_seconds()
    maps = run(iterations)
    return maps[None], cpu_seconds() - before


def by_bart(folder: Path, sets: int, options: list[str]) -> tuple[np.ndarray, float]:
    data = np.load(folder / "kspace.npy")
    coils, y, x = data.shape
    (folder / "k.hdr").write_text(f"# Dimensions\n{x} {y} 1 {coils}\n")
    data.astype(np.complex64).tofile(folder / "k.cfl")
    before = cpu_seconds(children=True)
    subprocess.run([*BART, *options, str(folder / "k"), str(folder / "s")], check=True, capture_output=True,
                   env={**os.environ, "OMP_NUM_THREADS": "1"})
    spent = cpu_seconds(children=True) - before
    return np.fromfile(folder / "s.cfl", dtype=np.complex64).reshape(sets, coils, y, x), spent


def measure(name: str, folder: Path) -> dict[str, float]:
    """In this process: the first set's error, the share of the object that the crop took, CPU seconds."""
    tool, sets, options = RUNS[name]
    if tool == "firstread":
        maps, seconds = by_firstread(folder, sets)
    elif tool == "bart":
        maps, seconds = by_bart(folder, sets, options)
    else:
        maps, seconds = by_sigpy(folder, options[0])
    true, inside = np.load(folder / "maps.npy"), np.load(folder / "object.npy")
    energy = (np.abs(maps[0]) ** 2).sum(axis=0)
    kept = inside & (energy > 0)
    cosine = np.abs((maps[0].conj() * true).sum(axis=0))[kept] ** 2 / energy[kept]
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 if tool == "bart" else peak_memory_mb()
    return {"error": float(np.sqrt(np.clip(1 - cosine, 0, None)).mean()),
            "cropped": float(1 - kept.sum() / inside.sum()), "seconds": seconds, "mb": memory}


def peak_memory_mb() -> float:
    """Of this process since it began its own program (what ``getrusage`` says begins with that of its parent)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def start_up(tool: str) -> float:
    """CPU seconds to be ready: imports, or BART's own start."""
    command = ["bart", "version"] if tool == "bart" else [sys.executable, "-c", {
        "firstread": "import firstread.reconstruct.espirit", "sigpy": "import sigpy.mri.app"}[tool]]
    before = cpu_seconds(children=True)
    subprocess.run(command, check=True, capture_output=True)
    return cpu_seconds(children=True) - before


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("RUN", "FOLDER"), help="one run, here")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results/calibration.md"))
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], Path(given.one[1]))))
        return 0
    rows, ours = [], {}
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        make_data(Path(name), size=given.size, coils=given.coils, seed=given.seed)
        for run, (tool, sets, _) in RUNS.items():
            found = [json.loads(subprocess.run([sys.executable, __file__, "--one", run, name], check=True,
                                               capture_output=True, text=True).stdout) for _ in range(given.repeats)]
            middle = sorted(found, key=lambda f: f["seconds"])[given.repeats // 2]
            ours.setdefault(sets, middle["seconds"])
            rows.append(f"| {run} | {middle['error']:.5f} | {100 * middle['cropped']:.2f} | {middle['seconds']:.2f} | "
                        f"{middle['seconds'] / ours[sets]:.2f} | {middle['mb']:.0f} | {start_up(tool):.2f} |")
            print(rows[-1], flush=True)
    bart = subprocess.run(["bart", "version"], capture_output=True, text=True, check=True).stdout.strip()
    versions = ", ".join(f"{n} {version(n)}" for n in ("torch", "sigpy", "numpy"))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text("\n".join([
        "# Coil calibration beside BART and sigpy", "", *(__doc__ or "").strip().splitlines()[2:], "",
        f"{given.coils} coils, {given.size}², seed {given.seed}, simulated; median of {given.repeats}; one thread; "
        f"{versions}, BART {bart}; {time.strftime('%Y-%m-%d')}. `times ours` is against our row of as many sets.", "",
        f"Command: `python bench/calibration.py --size {given.size} --coils {given.coils} --repeats {given.repeats}`. "
        f"BART: `{' '.join(BART)} -m SETS [-t …] kspace maps`.", "",
        "| tool | error | object cropped % | CPU s | times ours | peak memory MB | start-up CPU s |",
        "|---|---|---|---|---|---|---|", *rows, ""]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")
    sys.exit(main())
