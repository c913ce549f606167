"""Registration measured where the answer is known: ``python -m firstread.recipes.evidence_registration FOLDER``.

    python -m firstread.recipes.evidence_registration FOLDER [--template FILE] [--patients N] -o docs/evidence

FOLDER holds ``brain/t1_scan_with_labels.npz``, ``brain/r16_slice.jpg``, ``brain/r64_slice.jpg`` and ``acdc/*.npz``;
``--template``: the MNI152 T1 template (comes with nilearn). Takes minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.analyze.register import Register
from firstread.analyze.register_motion import TrackMotion
from firstread.core.alignment import Alignment
from firstread.core.errors import FirstreadError, InputError
from firstread.core.geometry import Grid, Transform
from firstread.core.records import Image, Rows
from firstread.io.open import read as open_file
from firstread.jobs.register_notes import OFF_MM, round_trip
from firstread.ops.regions import dice
from firstread.ops.rigid import exponential as rigid
from firstread.ops.separable import smooth
from firstread.ops.velocity import exponential, sample_at
from firstread.ops.warp import apply, apply_inverse, compose, jacobian_determinant, sample_mm, warp
from firstread.recipes.files import write_text

SEEDS, SPACING_MM, FIRST_SEED = 2, 2.0, 0
Row = dict[str, float]


def two_flows(shape: tuple[int, int, int], seed: int) -> Float[Tensor, "1 3 z y x"]:
    """A smooth map without folds that is not the flow of one stationary velocity; in voxels, about 4 of them large."""
    generator = torch.Generator().manual_seed(seed)

    def velocity(sd: float, size: float) -> Tensor:
        made = smooth(torch.randn(1, 3, *shape, generator=generator), (sd, sd, sd))
        return made * size / made.norm(dim=1).flatten().quantile(0.95)

    first, second = exponential(velocity(10.0, 4.0)), exponential(velocity(6.0, 2.5))
    return second + sample_at(first, second)


def other_contrast(image: Float[Tensor, "z y x"], seed: int, *, inverted: bool) -> Float[Tensor, "z y x"]:
    """The image with another gamma (or inverted where there is tissue), shaded by about 15 percent, noise 2 percent."""
    generator = torch.Generator().manual_seed(1000 + seed)
    shade = smooth(torch.randn(image.shape, generator=generator), (20.0, 20.0, 20.0))
    tissue = (image / 0.1).clamp(0, 1)
    bright = tissue * (1.1 - image.clamp(0, 1)) ** 1.5 if inverted else image.clamp_min(0) ** 0.8
    made = bright * (1 + 0.15 * shade / shade.std()).clamp(0.5, 1.5)
    return (made + 0.02 * torch.randn(image.shape, generator=generator)).clamp_min(0)


def known_map(volume: Image, labels: Tensor | None, seed: int, *, kind: str) -> Row:
    """One volume moved by a known map and registered back: error in millimetres, Dice, folds, inverse consistency."""
    grid, image = volume.grid, volume.data[0, 0, 0]
    generator = torch.Generator().manual_seed(500 + seed)
    twist = torch.randn(6, generator=generator, dtype=torch.float64) * torch.tensor([0.1] * 3 + [8.0] * 3)
    matrix = rigid(twist).clone()
    if kind != "rigid":
        matrix[:3, :3] @= torch.eye(3) + 0.05 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    true = Transform(matrix[None], None, grid, grid)
    if kind == "deformable":
        field = torch.einsum("bij,bjzyx->bizyx", grid.affine[:, :3, :3].float(), two_flows(grid.shape, seed))
        true = compose(true, Transform(torch.eye(4, dtype=torch.float64)[None], field, grid, grid))
    fixed_data = warp(image[None, None], grid, true, grid)[0, 0]
    inside = fixed_data > 0.1
    fixed = replace(volume, data=other_contrast(fixed_data, seed, inverted=kind != "deformable")[None, None, None])
    started = time.process_time()
    found = Register(kind=kind)(fixed, volume)
    seconds = time.process_time() - started
    places = grid.points_mm()[:, inside][:, ::7]
    wanted = apply(true, places)
    error = (apply(found.forward, places) - wanted).norm(dim=-1)[0]
    back = (apply(found.backward, apply(found.forward, places)) - places).norm(dim=-1)
    row = {"before": float((places - wanted).norm(dim=-1).mean()), "error": float(error.mean()),
           "p95": float(error.quantile(0.95)), "inverse": float(back.mean()), "seconds": seconds,
           **there_and_back(found, grid),
           "folds": float((jacobian_determinant(found.forward, grid) <= 0).sum())}
    if labels is not None:
        truth, start, end = (warp(labels[None, None].float(), grid, t, grid, mode="nearest")[0, 0]
                             for t in (true, Transform.identity(), found.forward))
        values = [v for v in truth.unique().tolist() if v > 0 and (truth == v).sum() > 100]
        row |= {name: sum(float(dice(truth == v, seen == v)) for v in values) / len(values)
                for name, seen in (("dice before", start), ("dice", end))}
    return row


def there_and_back(found: Alignment, grid: Grid) -> Row:
    """How far there and back again misses over all voxels, the air around the body included: mean and most, in mm."""
    mean, most = round_trip(found.forward, found.backward, grid)
    return {"all back": mean, "most back": most}


def brain(path: Path) -> tuple[Image, Tensor]:
    """The scan and its labels at 2 mm."""
    with np.load(path) as stored:
        volume = smooth(torch.from_numpy(stored["vol"]).float(), (0.8, 0.8, 0.8))[::2, ::2, ::2].contiguous()
        labels = torch.from_numpy(stored["seg"]).float()[::2, ::2, ::2].contiguous()
    grid = Grid.from_spacing((volume.shape[0], volume.shape[1], volume.shape[2]), (SPACING_MM,) * 3)
    return Image(Rows.subjects(1), volume[None, None, None], grid), labels


def template(path: Path) -> Image:
    """The MNI152 template at 2 mm, of unit range."""
    whole = open_file(path).case["image"]
    data = smooth(whole.data[0, 0, 0].float(), (0.8, 0.8, 0.8))[::2, ::2, ::2].contiguous()
    scale = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
    grid = Grid(whole.grid.affine @ scale, (data.shape[0], data.shape[1], data.shape[2]))
    return Image(Rows.subjects(1), (data / data.max())[None, None, None], grid)


def slices(folder: Path) -> Row:
    """The pair r16 and r64: correlation and folds; there are no labels."""
    one, two = (replace(found, data=found.data[:, :, :1].float()) for found in (
        open_file(folder / f"{name}_slice.jpg", spacing_mm=(1.0, 1.0, 1.0)).case["image"] for name in ("r16", "r64")))
    started = time.process_time()
    found = Register()(one, two)
    seconds = time.process_time() - started

    def correlation(transform: Transform) -> float:
        seen = warp(two.data[:, 0], two.grid, transform, one.grid)
        return float(torch.corrcoef(torch.stack((one.data.flatten(), seen.flatten())))[0, 1])

    return {"before": correlation(Transform.identity()), "after": correlation(found.forward), "seconds": seconds,
            **there_and_back(found, one.grid),
            "folds": float((jacobian_determinant(found.forward, one.grid) <= 0).sum())}


def cine(path: Path) -> Row:
    """End-systole and end-diastole of one patient: Dice of contours carried by the tracked motion, both ways."""
    with np.load(path) as stored:
        frames = torch.stack([torch.from_numpy(stored[f"{name}_image"].astype(np.float32)) for name in ("ed", "es")])
        ed, es = (torch.from_numpy(stored[f"{name}_label"].astype(np.int64)) for name in ("ed", "es"))
    grid = Grid.from_spacing((frames.shape[1], frames.shape[2], frames.shape[3]), (8.0, 1.0, 1.0))
    started = time.process_time()
    image = Image(Rows.subjects(1), frames[None, :, None], grid)
    motion = TrackMotion(periodic=False, smooth_frames=0.0)(image)
    seconds = time.process_time() - started
    moved = warp(es[None, None].float(), grid, motion.at(1), grid, mode="nearest")[0, 0]
    places = apply_inverse(motion.at(1), grid.points_mm(), tolerance_mm=0.01)
    onward = sample_mm(ed[None, None].float(), grid, places, mode="nearest")[0, 0]
    row = {"seconds": seconds}
    for name, value in (("RV", 1), ("myocardium", 2), ("LV", 3)):
        row |= {f"{name} before": float(dice(es == value, ed == value)), name: float(dice(moved == value, ed == value)),
                f"{name} onward": float(dice(onward == value, es == value))}
    folded = jacobian_determinant(motion.at(1), grid)[0] <= 0
    return row | {"folds": float(folded.double().mean()), "folds in heart": float(folded[ed > 0].double().mean())}


def hearts(folder: Path) -> Row:
    """The first patient's end-diastole onto the second's, pixels as millimetres, slices 8 apart: a steep map, hard to
    invert. Least and most of its Jacobian; how far the inverse misses at its own voxels, and at which share of these by
    more than 0.1; there and back at the fixed image's voxels."""
    images = []
    for path in sorted((folder / "acdc").glob("*.npz"))[:2]:
        with np.load(path) as stored:
            data = torch.from_numpy(stored["ed_image"].astype(np.float32))
        grid = Grid.from_spacing((data.shape[0], data.shape[1], data.shape[2]), (8.0, 1.0, 1.0))
        images.append(Image(Rows.subjects(1), data[None, None, None], grid))
    found = Register()(images[1], images[0])
    grown = jacobian_determinant(found.forward, images[1].grid)
    grid = found.backward.from_grid
    assert grid is not None
    points = grid.points_mm()
    own = (apply(found.forward, apply(found.backward, points)) - points).norm(dim=-1)
    return {"least": float(grown.min()), "largest": float(grown.max()), "own": float(own.mean()),
            "off": float((own > OFF_MM).double().mean()), **there_and_back(found, images[1].grid)}


def spread(values: Sequence[float], digits: int = 2) -> str:
    """``mean (least to most)``.

    >>> spread([1.0, 3.0], 1)
    '2.0 (1.0 to 3.0)'
    """
    return f"{np.mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def interval(values: Sequence[float]) -> str:
    """Mean and its 95 % interval by 2000 bootstrap draws of patients, seed 0."""
    random = np.random.default_rng(0)
    draws = random.choice(np.array(values), (2000, len(values))).mean(axis=1)
    return f"{np.mean(values):.3f} ({np.quantile(draws, 0.025):.3f} to {np.quantile(draws, 0.975):.3f})"


def share(rows: Sequence[Row], key: str) -> str:
    """The mean in percent, and in how many rows it is not zero.

    >>> share([{"a": 0.0}, {"a": 0.01}], "a")
    '0.5000 % (in 1 of 2)'
    """
    values = [row[key] for row in rows]
    return f"{100 * np.mean(values):.4f} % (in {sum(v > 0 for v in values)} of {len(values)})"


def page(maps: dict[str, list[Row]], pair: Row, patients: list[Row], steep: Row | None = None) -> str:
    """The page in Markdown."""
    lines = ["# Registration", "", "Made by `python -m firstread.recipes.evidence_registration`, one thread; CPU "
             "seconds. No network, nothing was trained. Mean and, in brackets, least and most.", "",
             "## Known maps, semi-simulated", "",
             f"A volume at {SPACING_MM:g} mm moved by a known map (seeds {FIRST_SEED} to {FIRST_SEED + SEEDS - 1}), "
             "shaded, with noise of 2 %, and registered back to what it was. Rigid and affine: the moved one with "
             "inverted contrast in tissue, air dark. Deformable: an affine and two flows after one another, which no "
             "stationary velocity makes exactly. Errors in the body, mm. Optimistic: both show the same anatomy.", "",
             "| volume, map | mm before | error, mm | 95th percentile | there and back, mm | folded voxels | "
             "Dice before | Dice after | s |", "|---|---|---|---|---|---|---|---|---|"]
    for name, rows in maps.items():
        columns = [spread([row[key] for row in rows]) for key in ("before", "error", "p95")]
        columns += [spread([row["inverse"] for row in rows], 3), f"{sum(row['folds'] for row in rows):.0f}"]
        columns += [spread([row[key] for row in rows], 3) if key in rows[0] else "" for key in ("dice before", "dice")]
        lines.append(f"| {name} | " + " | ".join(columns) + f" | {np.mean([row['seconds'] for row in rows]):.1f} |")
    far = "; ".join(f"{name}: {np.mean([row['all back'] for row in rows]):.3f} and "
                    f"{max(row['most back'] for row in rows):.2f}" for name, rows in maps.items()
                    if name.endswith("deformable"))
    if far:
        lines += ["", "There and back over all voxels, the air around the body included (mean of the seeds, and "
                  f"most of any voxel, mm): {far}."]
    lines += ["", "## Two brains in one slice each (r16, r64)", "",
              f"Real, no labels. Correlation {pair['before']:.3f} before, {pair['after']:.3f} after (affine, then "
              f"deformable), {pair['folds']:.0f} folded pixels, {pair['seconds']:.1f} s. There and back over all "
              f"pixels {pair['all back']:.3f} mm on average, {pair['most back']:.2f} at most.", ""]
    if patients:
        lines += ["## From end-systole to end-diastole (ACDC)", "",
                  f"Real, {len(patients)} patients. Contours drawn at end-systole, carried to end-diastole by the "
                  "motion tracked between both images, slice by slice, against those drawn there; and those of "
                  "end-diastole carried to end-systole by its inverse. The source states no spacing: pixels are the "
                  "unit. Dice with 95 % intervals (patients resampled).", "",
                  "| | at rest | ES carried to ED | ED carried to ES |", "|---|---|---|---|"]
        lines += [f"| {name} | " + " | ".join(interval([row[key] for row in patients]) for key in (
            f"{name} before", name, f"{name} onward")) + " |" for name in ("RV", "myocardium", "LV")]
        lines += ["", f"Folded (Jacobian at or below zero): {share(patients, 'folds')} of all pixels, "
                  f"{share(patients, 'folds in heart')} of those in the heart; "
                  f"{np.mean([row['seconds'] for row in patients]):.1f} s a patient."]
    if steep is not None:
        lines += ["", "## Two hearts", "", "Real: end-diastole of the first of these patients onto that of the second, "
                  "affine and deformable, which asks for a map that is hard to invert. Jacobian "
                  f"{steep['least']:.2f} to {steep['largest']:.1f}; the inverse misses by {steep['own']:.3f} on "
                  f"average at its own voxels, by more than {OFF_MM} at {100 * steep['off']:.2f} % of them; there and "
                  "back at the voxels of the fixed image, where both files are interpolated, misses by "
                  f"{steep['all back']:.2f} on average and {steep['most back']:.1f} at most. `firstread register` "
                  "warns and gives these numbers."]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_registration", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="real data: brain/, acdc/")
    parser.add_argument("--template", type=Path, help="the MNI152 T1 template, NIfTI")
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/evidence"))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr)  # noqa: E731
    try:
        scan = given.folder / "brain" / "t1_scan_with_labels.npz"
        if not scan.is_file() or not given.output.is_dir():
            raise InputError(f"real data {given.folder}, output {given.output}", expected="folders that are there",
                             remedy="give the folder that holds brain/ and acdc/")
        volume, labels = brain(scan)
        sources: dict[str, tuple[Image, Tensor | None]] = {"brain scan": (volume, labels)}
        if given.template is not None:
            sources["MNI152"] = (template(given.template), None)
        maps: dict[str, list[Row]] = {}
        for name, (image, drawn) in sources.items():
            for kind in ("rigid", "affine", "deformable") if drawn is not None else ("deformable",):
                maps[f"{name}, {kind}"] = [known_map(image, drawn, FIRST_SEED + k, kind=kind) for k in range(SEEDS)]
                say(f"{name}, {kind}: {maps[f'{name}, {kind}'][0]}")
        pair = slices(given.folder / "brain")
        say(f"slices: {pair}")
        patients = []
        for path in sorted((given.folder / "acdc").glob("*.npz"))[:given.patients]:
            patients.append(cine(path))
            say(f"{path.stem}: {patients[-1]}")
        steep = hearts(given.folder) if len(patients) > 1 else None
        say(f"two hearts: {steep}")
        write_text(given.output / "registration.md", page(maps, pair, patients, steep))
    except FirstreadError as error:
        print(f"evidence_registration: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
