"""HD95, ASSD and Dice of four labels beside MONAI, DeepMind's surface-distance, MedPy and SimpleITK.

    python bench/surface_metrics.py [-o bench/results/surface_metrics.md]

Two label maps of 192³ voxels (1.5 x 1 x 1 mm) in memory, truth and prediction: four ellipsoids of 18 to 36 voxels, the
predicted ones moved by up to two voxels with a rough edge; the second data set has 20 small islands of the labels far
away as well. One thread, each tool in a process of its own, CPU seconds (the least of three; MedPy once), imports and
a first call on a small map apart; memory is what the process grew by (0: it stayed below what loading had taken). MONAI
is handed one-hot tensors that are ready, the others what they take. Peers are installed with ``pip install monai
surface-distance medpy SimpleITK``; one that is not there is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

SPACING, LABELS = (1.5, 1.0, 1.0), (1, 2, 3, 4)
TOOLS = {"firstread": "firstread", "monai": "monai", "firstread, area-weighted": "firstread",
         "surface-distance": "surface-distance", "firstread, pooled": "firstread", "medpy": "medpy",
         "SimpleITK": "SimpleITK"}
BESIDE = {"monai": "firstread", "surface-distance": "firstread, area-weighted", "medpy": "firstread, pooled",
          "SimpleITK": "firstread"}
Numbers = list[dict[str, float]]


def make_data(file: Path, *, size: int, islands: int) -> None:
    """Truth and prediction as uint8."""
    from scipy import ndimage

    draw = np.random.default_rng(0)
    z, y, x = np.ogrid[:size, :size, :size]
    maps = [np.zeros((size,) * 3, dtype=np.uint8) for _ in range(2)]
    rough = ndimage.gaussian_filter(draw.standard_normal((size,) * 3).astype(np.float32), 6 * size / 192)
    rough *= 0.08 / rough.std()
    places = [((60, 60, 60), (30, 25, 28)), ((60, 60, 130), (18, 30, 24)), ((130, 70, 70), (35, 22, 30)),
              ((120, 130, 120), (28, 36, 30))]
    for label, (centre, radii) in enumerate(places, start=1):
        for predicted, labels in enumerate(maps):
            c = np.array(centre) + predicted * draw.uniform(-2, 2, 3)
            r = np.array(radii) * (1 + predicted * draw.uniform(-0.05, 0.05, 3))
            c, r = c * size / 192, r * size / 192
            inside = ((z - c[0]) / r[0])**2 + ((y - c[1]) / r[1])**2 + ((x - c[2]) / r[2])**2 + predicted * rough < 1
            labels[inside] = label
    for number in range(islands):
        a, b, c = draw.integers(2, size - 5, 3)
        maps[1][a:a + 3, b:b + 3, c:c + 3] = LABELS[number % 4]
    np.savez(file, truth=maps[0], predicted=maps[1])


def by_firstread(definition: str) -> Callable[[np.ndarray, np.ndarray], Callable[[], Numbers]]:
    import torch

    from firstread.trust.segmentation import ScoreSettings, score_labels

    torch.set_num_threads(1)
    settings = ScoreSettings(definition=definition)

    def prepare(truth: np.ndarray, predicted: np.ndarray) -> Callable[[], Numbers]:
        tensors = torch.from_numpy(truth), torch.from_numpy(predicted)

        def run() -> Numbers:
            found = score_labels(*tensors, LABELS, spacing_mm=SPACING, settings=settings)
            return [{"hd95": s["hd95_mm"], "assd": s["assd_mm"], "dice": s["dice"]} for s in found.values()]

        return run

    return prepare


def by_monai() -> Callable[[np.ndarray, np.ndarray], Callable[[], Numbers]]:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance

    torch.set_num_threads(1)

    def prepare(truth: np.ndarray, predicted: np.ndarray) -> Callable[[], Numbers]:
        one, two = (torch.from_numpy(np.stack([labels == k for k in LABELS]))[None] for labels in (truth, predicted))

        def run() -> Numbers:
            hd95 = compute_hausdorff_distance(two, one, include_background=True, percentile=95, spacing=SPACING)[0]
            assd = compute_average_surface_distance(two, one, include_background=True, symmetric=True,
                                                    spacing=SPACING)[0]
            dice = compute_dice(two, one, include_background=True)[0]
            return [{"hd95": float(h), "assd": float(a), "dice": float(d)}
                    for h, a, d in zip(hd95, assd, dice, strict=True)]

        return run

    return prepare


def by_surface_distance() -> Callable[[np.ndarray, np.ndarray], Callable[[], Numbers]]:
    from surface_distance import metrics

    def run_one(one: np.ndarray, two: np.ndarray) -> dict[str, float]:
        found = metrics.compute_surface_distances(one, two, SPACING)
        sides = metrics.compute_average_surface_distance(found)
        areas = found["surfel_areas_gt"].sum(), found["surfel_areas_pred"].sum()
        return {"hd95": metrics.compute_robust_hausdorff(found, 95),
                "assd": (sides[0] * areas[0] + sides[1] * areas[1]) / (areas[0] + areas[1]),
                "dice": metrics.compute_dice_coefficient(one, two)}

    return lambda truth, predicted: lambda: [run_one(truth == k, predicted == k) for k in LABELS]


def by_medpy() -> Callable[[np.ndarray, np.ndarray], Callable[[], Numbers]]:
    from medpy.metric import binary

    def run_one(one: np.ndarray, two: np.ndarray) -> dict[str, float]:
        return {"hd95": binary.hd95(two, one, SPACING), "assd": binary.assd(two, one, SPACING),
                "dice": binary.dc(two, one)}

    return lambda truth, predicted: lambda: [run_one(truth == k, predicted == k) for k in LABELS]


def by_simpleitk() -> Callable[[np.ndarray, np.ndarray], Callable[[], Numbers]]:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    def prepare(truth: np.ndarray, predicted: np.ndarray) -> Callable[[], Numbers]:
        images = [SimpleITK.GetImageFromArray(labels) for labels in (truth, predicted)]
        for image in images:
            image.SetSpacing(SPACING[::-1])

        def run() -> Numbers:
            overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
            overlap.Execute(*images)
            made = []
            for k in LABELS:
                far = SimpleITK.HausdorffDistanceImageFilter()
                far.Execute(*(image == k for image in images))
                made.append({"hd95": math.nan, "hd": far.GetHausdorffDistance(),
                             "assd": far.GetAverageHausdorffDistance(), "dice": overlap.GetDiceCoefficient(k)})
            return made

        return run

    return prepare


def measure(tool: str, file: Path, repeats: int) -> dict:
    """CPU seconds and growth in memory of one tool, and what it found."""
    with np.load(file) as data:
        truth, predicted = data["truth"], data["predicted"]
    name, _, definition = tool.partition(", ")
    makers = {"monai": by_monai, "surface-distance": by_surface_distance, "medpy": by_medpy,
              "SimpleITK": by_simpleitk}
    prepare = by_firstread(definition or "largest") if name == "firstread" else makers[name]()
    prepare(truth[::8, ::8, ::8].copy(), predicted[::8, ::8, ::8].copy())()
    run = prepare(truth, predicted)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(repeats):
        started = time.process_time()
        found = run()
        times.append(time.process_time() - started)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"seconds": min(times), "grown": grown, "found": found, "version": version(TOOLS[tool])}


def apart(one: Numbers, other: Numbers) -> dict[str, float]:
    """The largest difference of each number over the labels."""
    return {key: max(abs(a[key] - b[key]) for a, b in zip(one, other, strict=True)) for key in ("hd95", "assd", "dice")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("TOOL", "FILE"), help="one tool, here")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=Path("bench/results/surface_metrics.md"))
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], Path(given.one[1]), given.repeats)))
        return 0
    lines = ["# HD95, ASSD and Dice of four labels", "", (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].
             strip().replace("192³", f"{given.size}³"), "",
             "Time: over ours with the same definition of HD95 (the row above it). Difference: the largest over the "
             "labels of HD95 (mm), ASSD (mm) and Dice to that row. SimpleITK knows no HD95 and counts the whole mask's "
             "voxels in its mean: it is there for its time."]
    for title, islands in (("Prediction near the truth", 0), ("With islands far away", 20)):
        lines += ["", f"## {title}", "",
                  "| tool | version | CPU s | time / ours | MB | difference of HD95, ASSD, Dice |", "|---" * 6 + "|"]
        rows: dict[str, dict] = {}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "data.npz"
            make_data(file, size=given.size, islands=islands)
            for tool, package in TOOLS.items():
                try:
                    version(package)
                except PackageNotFoundError:
                    lines.append(f"| {tool} | not installed | | | | |")
                    continue
                done = subprocess.run([sys.executable, __file__, "--one", tool, str(file), "--repeats",
                                       str(1 if tool == "medpy" else given.repeats)], check=True, capture_output=True,
                                      text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
                row = rows[tool] = json.loads(done.stdout.splitlines()[-1])
                beside = rows.get(BESIDE.get(tool, ""))
                ratio, same = "1", ""
                if beside is not None:
                    ratio = f"{row['seconds'] / beside['seconds']:.1f}"
                    same = ", ".join("–" if math.isnan(v) else f"{v:.1g}"
                                     for v in apart(row["found"], beside["found"]).values())
                lines.append(f"| {tool} | {row['version']} | {row['seconds']:.3f} | {ratio} | {row['grown']:.0f} | "
                             f"{same} |")
                print(lines[-1], file=sys.stderr, flush=True)
    given.output.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
