"""The non-uniform Fourier transform beside FINUFFT, torchkbnufft, sigpy and BART: ``python bench/nufft.py``.

One golden-angle radial scan, 8 coils, complex64, one thread, each run in a process of its own. Every tool runs at
several settings; the table has, for each error asked, the setting with the least time for one forward and one adjoint
transform whose measured errors are both below it. Errors are relative, against the sums themselves in complex128, on
1000 samples (forward) and 200 pixels (adjoint), after the best complex scale. CPU seconds, not wall time, so that other
work on the machine counts less; what a tool prepares once for a trajectory is apart, and so are imports. BART has no
prepared state: its time is that of the command, its start taken off.
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
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

SETTINGS: dict[str, tuple[str, ...]] = {
    "firstread": ("1e-2", "1e-3", "1e-4", "1e-5"),
    "finufft": ("1e-2", "1e-3", "1e-4", "1e-5"),
    "torchkbnufft table": ("4", "6", "8"),
    "torchkbnufft matrix": ("4", "6"),
    "sigpy": ("1.25/4", "1.25/6", "2/4", "2/6"),
    "bart": ("default",),
}
TARGETS = (2e-2, 2e-3, 2e-4, 2e-5)
GRAMS = ("firstread", "torchkbnufft", "sigpy")
FOLDER = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())


def make_data(folder: Path, *, size: int, spokes: int, coils: int) -> None:
    """Places in cycles per field of view, random smooth coil images, random samples, and exact values of both sums."""
    import torch

    from firstread.acquire.trajectories import Radial
    from firstread.ops.nufft_exact import dft

    places = Radial(shots=spokes)(1, (size, size))[0].flatten(1)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(coils, size, size, dtype=torch.complex64, generator=generator)
    samples = torch.randn(coils, places.shape[1], dtype=torch.complex64, generator=generator)
    some = torch.randperm(places.shape[1], generator=generator)[:1000]
    pixels = torch.randperm(size * size, generator=generator)[:200]
    place = torch.stack((pixels // size, pixels % size)).double() - size // 2
    phase = 2 * torch.pi / size * (place.T @ places.double())
    adjoint = samples.to(torch.complex128) @ torch.polar(torch.full_like(phase, 1 / size), phase).T
    forward = dft(image.to(torch.complex128), places[:, some].double())
    np.savez(folder / "data.npz", places=places.numpy(), image=image.numpy(), samples=samples.numpy(),
             some=some.numpy(), pixels=pixels.numpy(), forward=forward.numpy(), adjoint=adjoint.numpy())


def cpu_seconds(children: bool = False) -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


Transform = Callable[[], np.ndarray]


def by_firstread(setting: str, places: np.ndarray, image: np.ndarray, samples: np.ndarray
                 ) -> tuple[Transform, Transform, float]:
    import torch

    from firstread.ops.nufft_plan import NufftPlan

    torch.set_num_threads(1)
    k, x, y = (torch.from_numpy(a) for a in (places, image, samples))
    NufftPlan(k, x.shape[1:], tolerance=float(setting)).adjoint(y)
    before = cpu_seconds()
    plan = NufftPlan(k, x.shape[1:], tolerance=float(setting))
    plan.adjoint(y[:1, :])
    prepared = cpu_seconds() - before
    before = cpu_seconds()
    plan.adjoint(y[:1, :])
    prepared -= cpu_seconds() - before
    return lambda: plan.forward(x).numpy(), lambda: plan.adjoint(y).numpy(), prepared


def by_finufft(setting: str, places: np.ndarray, image: np.ndarray, samples: np.ndarray
               ) -> tuple[Transform, Transform, float]:
    import finufft

    shape, coils = image.shape[1:], len(image)
    points = [np.ascontiguousarray(k * np.float32(2 * np.pi / n)) for k, n in zip(places, shape, strict=True)]

    def plan(kind: int, sign: int) -> finufft.Plan:
        made = finufft.Plan(kind, shape, coils, float(setting), sign, dtype="complex64", nthreads=1)
        made.setpts(*points)
        return made

    plan(2, -1), plan(1, 1)
    before = cpu_seconds()
    forward, adjoint = plan(2, -1), plan(1, 1)
    prepared = cpu_seconds() - before
    return lambda: forward.execute(image), lambda: adjoint.execute(samples), prepared


def by_torchkbnufft(setting: str, places: np.ndarray, image: np.ndarray, samples: np.ndarray, *, matrix: bool
                    ) -> tuple[Transform, Transform, float]:
    import torch
    import torchkbnufft

    torch.set_num_threads(1)
    shape = image.shape[1:]
    omega = torch.from_numpy(places * np.float32(2 * np.pi / shape[0]))
    before = cpu_seconds()
    forward = torchkbnufft.KbNufft(shape, numpoints=int(setting))
    adjoint = torchkbnufft.KbNufftAdjoint(shape, numpoints=int(setting))
    mats = torchkbnufft.calc_tensor_spmatrix(omega, shape, numpoints=int(setting)) if matrix else None
    prepared = cpu_seconds() - before
    x, y = torch.from_numpy(image)[None], torch.from_numpy(samples)[None]
    return (lambda: forward(x, omega, interp_mats=mats)[0].numpy(),
            lambda: adjoint(y, omega, interp_mats=mats)[0].numpy(), prepared)


def by_sigpy(setting: str, places: np.ndarray, image: np.ndarray, samples: np.ndarray
             ) -> tuple[Transform, Transform, float]:
    import sigpy

    oversampling, width = setting.split("/")
    window = {"oversamp": float(oversampling), "width": int(width)}
    coord = np.ascontiguousarray(places.T)
    return (lambda: sigpy.nufft(image, coord, **window),
            lambda: sigpy.nufft_adjoint(samples, coord, oshape=image.shape, **window), 0.0)


def by_bart(places: np.ndarray, image: np.ndarray, samples: np.ndarray, folder: Path
            ) -> tuple[Transform, Transform, float]:
    coils, y, x = image.shape
    count = places.shape[1]
    three = np.stack((places[1], places[0], np.zeros(count)), axis=1)  # x, y, z, the first fastest
    write_cfl(folder / "places", three, (3, count))
    write_cfl(folder / "image", image, (x, y, 1, coils))
    write_cfl(folder / "samples", samples, (1, count, 1, coils))

    def forward() -> np.ndarray:
        bart("nufft", *(folder / n for n in ("places", "image", "made")))
        return np.fromfile(folder / "made.cfl", dtype=np.complex64).reshape(coils, count)

    def adjoint() -> np.ndarray:
        bart("nufft", "-a", "-d", f"{x}:{y}:1", *(folder / n for n in ("places", "samples", "back")))
        return np.fromfile(folder / "back.cfl", dtype=np.complex64).reshape(coils, y, x)

    return forward, adjoint, 0.0


def bart(*arguments: str | Path) -> None:
    subprocess.run(["bart", *map(str, arguments)], check=True, capture_output=True,
                   env={**os.environ, "OMP_NUM_THREADS": "1"})


def write_cfl(path: Path, data: np.ndarray, dims: tuple[int, ...]) -> None:
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, dims)) + "\n")
    data.astype(np.complex64).tofile(path.with_suffix(".cfl"))


def error(made: np.ndarray, exact: np.ndarray) -> float:
    scale = np.vdot(made, exact) / np.vdot(made, made)
    return float(np.linalg.norm(scale * made - exact) / np.linalg.norm(exact))


def measure(tool: str, setting: str, folder: Path, repeats: int) -> dict:
    """In this process: errors, CPU seconds of preparation, forward and adjoint (medians), peak memory."""
    with np.load(folder / "data.npz") as file:
        data = {name: file[name] for name in file}
    arrays = data["places"], data["image"], data["samples"]
    if tool == "bart":
        forward, adjoint, prepared = by_bart(*arrays, folder)
    elif tool.startswith("torchkbnufft"):
        forward, adjoint, prepared = by_torchkbnufft(setting, *arrays, matrix=tool.endswith("matrix"))
    else:
        forward, adjoint, prepared = {"firstread": by_firstread, "finufft": by_finufft, "sigpy": by_sigpy}[tool](
            setting, *arrays)
    flat = adjoint().reshape(len(data["image"]), -1)
    found = {"tool": tool, "setting": setting, "prepare": prepared,
             "forward_error": error(forward().reshape(len(flat), -1)[:, data["some"]], data["forward"]),
             "adjoint_error": error(flat[:, data["pixels"]], data["adjoint"])}
    children = tool == "bart"
    before = cpu_seconds(children)
    if children:
        bart("version")
    start = cpu_seconds(children) - before
    for name, run in (("forward", forward), ("adjoint", adjoint)):
        spent = []
        for _ in range(repeats):
            before = cpu_seconds(children)
            run()
            spent.append(cpu_seconds(children) - before - start)
        found[name] = float(np.median(spent))
    return {**found, "memory_mb": None if children else peak_memory_mb()}


def peak_memory_mb() -> float:
    """Of this process since it began its own program (what ``getrusage`` says begins with that of its parent)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def measure_gram(tool: str, folder: Path, repeats: int) -> dict:
    """``Aᴴ A`` of all coil images by convolution (sigpy: forward and adjoint at its default), beside the exact one."""
    import torch

    torch.set_num_threads(1)
    with np.load(folder / "data.npz") as file:
        places, image = file["places"], file["image"]
    k, x, shape = torch.from_numpy(places), torch.from_numpy(image), image.shape[1:]
    from firstread.ops.nufft import nufft, nufft_adjoint

    wide = k.double()
    exact = nufft_adjoint(nufft(x[:1].to(torch.complex128), wide, tolerance=1e-8), wide, shape, tolerance=1e-8).numpy()
    if tool == "firstread":
        from firstread.ops.nufft_toeplitz import ramps, toeplitz_gram, toeplitz_kernel

        before = cpu_seconds()
        kernel, ramp = toeplitz_kernel(torch.ones(k.shape[1]), k, shape), ramps(shape, x)
        prepared = cpu_seconds() - before

        def run() -> np.ndarray:
            return toeplitz_gram(x[:, None], kernel, ramp)[:, 0].numpy()
    elif tool == "torchkbnufft":
        import torchkbnufft

        omega = k * (2 * np.pi / shape[0])
        before = cpu_seconds()
        kernel = torchkbnufft.calc_toeplitz_kernel(omega, shape, norm="ortho")
        prepared = cpu_seconds() - before
        operator = torchkbnufft.ToepNufft()

        def run() -> np.ndarray:
            return operator(x[None], kernel, norm="ortho")[0].numpy()
    else:
        import sigpy

        coord, prepared = np.ascontiguousarray(places.T), 0.0

        def run() -> np.ndarray:
            return sigpy.nufft_adjoint(sigpy.nufft(image, coord), coord, oshape=image.shape)
    made, spent = run(), []
    for _ in range(repeats):
        before = cpu_seconds()
        run()
        spent.append(cpu_seconds() - before)
    return {"tool": tool, "prepare": prepared, "error": error(made[:1], exact), "gram": float(np.median(spent))}


def measure_gradient(folder: Path, repeats: int) -> dict:
    """Forward; with backward for the image alone; for image and trajectory. Plans are made anew each time."""
    import torch

    from firstread.ops.nufft import nufft

    torch.set_num_threads(1)
    with np.load(folder / "data.npz") as file:
        k, x = torch.from_numpy(file["places"]), torch.from_numpy(file["image"])
    found = {}
    for name, wants in (("forward", (False, False)), ("image", (True, False)), ("image and trajectory", (True, True))):
        spent = []
        for _ in range(repeats + 1):
            image, places = x.clone().requires_grad_(wants[0]), k.clone().requires_grad_(wants[1])
            before = cpu_seconds()
            made = nufft(image, places)
            if wants[0]:
                made.abs().square().sum().backward()
            spent.append(cpu_seconds() - before)
        found[name] = float(np.median(spent[1:]))
    return found


def run(*arguments: str) -> dict:
    """One measurement in a process of its own."""
    return json.loads(subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True
                                     ).stdout.splitlines()[-1])


def table(found: list[dict]) -> list[str]:
    """For each error asked, every tool at its fastest setting that keeps it."""
    lines = []
    for target in TARGETS:
        kept: dict[str, dict] = {}
        for row in found:
            if max(row["forward_error"], row["adjoint_error"]) <= target:
                cost = row["forward"] + row["adjoint"]
                best = kept.get(row["tool"])
                if best is None or cost < best["forward"] + best["adjoint"]:
                    kept[row["tool"]] = row
        ours = kept["firstread"]["forward"] + kept["firstread"]["adjoint"]
        for tool in SETTINGS:
            if tool not in kept:
                lines.append(f"| {target:.0e} | {tool} | none | | | | | | | |")
                continue
            row = kept[tool]
            both = row["forward"] + row["adjoint"]
            memory = "–" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}"
            lines.append(f"| {target:.0e} | {tool} | {row['setting']} | {row['forward_error']:.1e} | "
                         f"{row['adjoint_error']:.1e} | {1e3 * row['prepare']:.0f} | {1e3 * row['forward']:.0f} | "
                         f"{1e3 * row['adjoint']:.0f} | {both / ours:.1f} | {memory} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", nargs=3, metavar=("TOOL", "SETTING", "FOLDER"), help="one transform, here")
    parser.add_argument("--gram", nargs=2, metavar=("TOOL", "FOLDER"), help="one gram, here")
    parser.add_argument("--gradient", metavar="FOLDER", help="the gradients, here")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--spokes", type=int, default=128)
    parser.add_argument("--coils", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results/nufft.md"))
    given = parser.parse_args()
    if given.one or given.gram or given.gradient:
        found = (measure(*given.one[:2], Path(given.one[2]), given.repeats) if given.one else
                 measure_gram(given.gram[0], Path(given.gram[1]), given.repeats) if given.gram else
                 measure_gradient(Path(given.gradient), given.repeats))
        print(json.dumps(found))
        return 0
    more = "--repeats", str(given.repeats)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        make_data(Path(name), size=given.size, spokes=given.spokes, coils=given.coils)
        rows = [run("--one", tool, setting, name, *more) for tool, settings in SETTINGS.items() for setting in settings]
        grams = [run("--gram", tool, name, *more) for tool in GRAMS]
        slopes = run("--gradient", name, *more)
    ours = next(g["gram"] for g in grams if g["tool"] == "firstread")
    bart_version = subprocess.run(["bart", "version"], capture_output=True, text=True, check=True).stdout.strip()
    command = (f"`python bench/nufft.py --size {given.size} --spokes {given.spokes} --coils {given.coils} --repeats "
               f"{given.repeats}`")
    gram_rows = [f"| {g['tool']} | {g['error']:.1e} | {1e3 * g['prepare']:.0f} | {1e3 * g['gram']:.0f} | "
                 f"{g['gram'] / ours:.1f} |" for g in grams]
    versions = ", ".join(f"{n} {version(n)}" for n in ("torch", "finufft", "torchkbnufft", "sigpy", "numpy"))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text("\n".join([
        "# Non-uniform Fourier transform beside its peers", "", *(__doc__ or "").strip().splitlines()[2:], "",
        f"{given.size}² pixels, {given.coils} coils, {given.spokes} spokes of {2 * given.size} samples; median of "
        f"{given.repeats}; {versions}, BART {bart_version}; {time.strftime('%Y-%m-%d')}. Command: {command}.", "",
        "Settings: tolerance asked (firstread, finufft), window width (torchkbnufft, oversampling 2), oversampling / "
        "width (sigpy). BART: `bart nufft`, `bart nufft -a`.", "",
        "| error below | tool | setting | forward error | adjoint error | prepare ms | forward ms | adjoint ms | "
        "forward + adjoint, times ours | peak MB |", "|---|---|---|---|---|---|---|---|---|---|", *table(rows), "",
        "## Gram by convolution", "", "| tool | error | prepare ms | gram ms | times ours |", "|---|---|---|---|---|",
        *gram_rows, "", "sigpy has no Toeplitz gram by this call: forward and adjoint at its default.", "",
        "## Gradients (firstread, tolerance 1e-3, plan made anew each time)", "", "| what | CPU ms |", "|---|---|",
        *(f"| {'forward' if name == 'forward' else f'forward and backward: {name}'} | {1e3 * value:.0f} |"
          for name, value in slopes.items()), ""]), encoding="utf-8")
    print(given.output.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    sys.exit(main())
