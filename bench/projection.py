"""Projection of a slice beside scikit-image and ASTRA: ``python bench/projection.py``.

One slice of 256 x 256 pixels of 1 mm, 180 parallel views of 363 bins of 1 mm, float32, one thread, each tool in a
process of its own. Errors: forward, against exact line integrals of ellipses, rays averaged over the width of a bin,
root mean square over that of the truth; adjoint, |<Ax, y> - <x, Aᵀy>| over |<Ax, y>|. CPU seconds; what a tool prepares
once for a geometry is apart, and so are imports (but for SciPy's, which ours makes when it first prepares). Installed
with ``pip install scikit-image astra-toolbox`` (whose wheel wants libcudart 12 and libcufft 11 to be found); a tool
that is not there is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

TOOLS = ("firstread", "astra line", "astra strip", "astra linear", "scikit-image")
PACKAGES = {"astra": "astra-toolbox", "scikit-image": "scikit-image"}
Transform = Callable[[np.ndarray], np.ndarray]


def make_data(file: Path, *, size: int, views: int, bins: int) -> None:
    """Ellipses on the grid, their exact line integrals, and random rays for the adjoint."""
    import torch

    from firstread.acquire.ellipses import draw_ellipses, measure_ellipses, shepp_logan
    from firstread.core.geometry import Grid
    from firstread.core.sinogram import ParallelBeam

    head = shepp_logan(0.48 * size)
    grid = Grid.from_spacing((1, size, size), (1.0, 1.0, 1.0))
    beam = ParallelBeam.uniform(views=views, bins=bins, bin_mm=1.0)
    rays = torch.rand(views, bins, generator=torch.Generator().manual_seed(0))
    np.savez(file, image=draw_ellipses(head, grid).float().numpy(), rays=rays.numpy(),
             exact=measure_ellipses(head, beam).numpy())


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def by_firstread(size: int, views: int, bins: int) -> tuple[Transform, Transform]:
    import torch

    from firstread.core.sinogram import ParallelBeam
    from firstread.ops.projection import Projection

    torch.set_num_threads(1)
    beam = ParallelBeam.uniform(views=views, bins=bins, bin_mm=1.0)
    projection = Projection(beam=beam, shape=(size, size), spacing_mm=(1.0, 1.0))

    def forward(x: np.ndarray) -> np.ndarray:
        return projection(torch.from_numpy(x)).numpy()

    return forward, lambda y: projection.adjoint(torch.from_numpy(y)).numpy()


def by_astra(kind: str, size: int, views: int, bins: int) -> tuple[Transform, Transform]:
    import astra

    # ASTRA's y runs up and its angles turn the other way: its view -θ is our view θ.
    volume = astra.create_vol_geom(size, size)
    angles = -math.pi * np.arange(views) / views
    made = astra.create_projector(kind, astra.create_proj_geom("parallel", 1.0, bins, angles), volume)
    operator = astra.OpTomo(made)
    return (lambda x: operator.FP(x)), (lambda y: operator.BP(y))


def by_skimage(size: int, views: int, bins: int) -> tuple[Transform, Transform]:
    from skimage.transform import iradon, radon

    degrees = 180 * np.arange(views) / views
    before = (bins - size) // 2
    pad = ((before, bins - size - before),) * 2

    def forward(x: np.ndarray) -> np.ndarray:  # its detector runs the other way for y upwards
        return radon(np.pad(x[::-1], pad), degrees, circle=True, preserve_range=True).T

    def adjoint(y: np.ndarray) -> np.ndarray:
        made = iradon(y.T, degrees, filter_name=None, circle=False, output_size=size) * 2 * views / math.pi
        return made[::-1]

    return forward, adjoint


def measure(tool: str, file: Path, repeats: int) -> dict:
    """Preparation, median times and errors of one tool."""
    with np.load(file) as data:
        image, rays, exact = (data[name] for name in ("image", "rays", "exact"))
    size, (views, bins) = image.shape[0], exact.shape
    kind = tool.partition(" ")[2]
    make = {"firstread": by_firstread, "scikit-image": by_skimage}.get(tool)
    if make is None:
        import astra  # noqa: F401
    before = cpu_seconds()
    forward, adjoint = by_astra(kind, size, views, bins) if make is None else make(size, views, bins)
    made, back = forward(image), adjoint(rays)
    prepared = cpu_seconds() - before
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for call, given, times in ((forward, image, spent[0]), (adjoint, rays, spent[1])):
            before = cpu_seconds()
            call(given)
            times.append(cpu_seconds() - before)
    ahead, down = (float(np.median(times)) for times in spent)
    left, right = float((made.astype(float) * rays).sum()), float((back.astype(float) * image).sum())
    package = PACKAGES.get(tool.partition(" ")[0], tool)
    return {"tool": tool, "version": version(package), "prepare": max(0.0, prepared - ahead - down), "forward": ahead,
            "adjoint": down, "error": float(np.linalg.norm(made - exact) / np.linalg.norm(exact)),
            "mismatch": abs(left - right) / abs(left)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("TOOL", "FILE"), help="one tool, here")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--views", type=int, default=180)
    parser.add_argument("--bins", type=int, default=363)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results/projection.md"))
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], Path(given.one[1]), given.repeats)))
        return 0
    lines = ["# Projection of one slice, parallel beam", "",
             f"`python bench/projection.py`: {given.size} x {given.size} pixels, {given.views} views of {given.bins} "
             "bins, float32, one thread, CPU ms (median). Error: against exact line integrals of the Shepp-Logan head. "
             "Mismatch: of adjoint and forward. Ratio: forward and adjoint together over ours.", "",
             "| tool | version | prepare | forward | adjoint | ratio | error | mismatch |", "|---" * 8 + "|"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        make_data(file, size=given.size, views=given.views, bins=given.bins)
        ours = 0.0
        for tool in TOOLS:
            try:
                version(PACKAGES.get(tool.partition(" ")[0], tool))
            except PackageNotFoundError:
                lines.append(f"| {tool} | not installed | | | | | | |")
                continue
            done = subprocess.run([sys.executable, __file__, "--one", tool, str(file), "--repeats", str(given.repeats)],
                                  check=True, capture_output=True, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            both = row["forward"] + row["adjoint"]
            ours = ours or both
            lines.append(f"| {tool} | {row['version']} | {1e3 * row['prepare']:.0f} | {1e3 * row['forward']:.1f} | "
                         f"{1e3 * row['adjoint']:.1f} | {both / ours:.1f} | {row['error']:.4f} | "
                         f"{row['mismatch']:.1e} |")
    given.output.write_text("\n".join([*lines, ""]), encoding="utf-8")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
