"""Contrast recovery and noise of PET reconstructions against iterations, on simulated scans of hot and cold discs."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from firstread.acquire.ellipses import draw_ellipses, measure_ellipses
from firstread.acquire.pet import spread
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.sinogram import ParallelBeam
from firstread.ops.attenuation import WATER_511_PER_MM
from firstread.ops.backprojection import filtered_backprojection
from firstread.ops.emission import expectation_maximization, poisson_log_likelihood
from firstread.ops.projection import Projection
from firstread.recipes.heart_tables import mean_of

SEED, COUNTS, RATIO, SIZE, PIXEL_MM = 9_000, 3e5, 4.0, 80, 3.0
RANDOMS, SCATTER, SCATTER_MM, RESOLUTION_MM = 0.4, 0.3, 50.0, 4.0
HOT, COLD, RING_MM = (10.0, 13.0, 17.0, 22.0), (28.0, 37.0), 57.2
RUNS = (("MLEM", 1, (4, 8, 16, 32, 64)), ("OSEM, 8 subsets", 8, (1, 2, 4, 8)))


def discs() -> dict[float, tuple[float, float]]:
    """Centres (x, y in mm) of the discs by diameter, on a ring as in the NEMA body phantom."""
    angles = torch.arange(6) * torch.pi / 3
    return {diameter: (RING_MM * float(angle.cos()), RING_MM * float(angle.sin()))
            for diameter, angle in zip((*HOT, *COLD), angles, strict=True)}


def phantom() -> tuple[Tensor, Tensor]:
    """Activity and attenuation (relative to water): a body of 200 x 180 mm, hot discs 4 to 1, cold ones without."""
    body = [[1.0, 100.0, 90.0, 0.0, 0.0, 0.0]]
    inserts = [[RATIO - 1 if diameter in HOT else -1.0, diameter / 2, diameter / 2, x, y, 0.0]
               for diameter, (x, y) in discs().items()]
    return torch.tensor(body + inserts, dtype=torch.float64), torch.tensor(body, dtype=torch.float64)


def measures(image: Tensor, grid: Grid) -> dict[str, float]:
    """Recovery of each disc (NEMA NU 2's contrast over the true one) and the background's noise: sd over mean."""
    x, y, _ = grid.points_mm()[0, 0].unbind(-1)
    background = (x**2 + y**2).sqrt() < 30
    level = float(image[background].mean())
    found = {"noise %": 100 * float(image[background].std()) / level}
    for diameter, (u, v) in discs().items():
        ratio = float(image[((x - u) ** 2 + (y - v) ** 2).sqrt() <= diameter / 2].mean()) / level
        share = (ratio - 1) / (RATIO - 1) if diameter in HOT else 1 - ratio
        found[f"{diameter:.0f} mm"] = 100 * share
    return found


def pet_page(count: int, report: Callable[[str], object]) -> str:
    """The page on PET, from ``count`` draws of the noise."""
    grid = Grid.from_spacing((1, SIZE, SIZE), (3.0, PIXEL_MM, PIXEL_MM))
    beam = ParallelBeam.uniform(views=96, bins=96, bin_mm=3.0)
    projection = Projection.of(beam, grid)
    activity, body = phantom()
    factors = torch.exp(-WATER_511_PER_MM * measure_ellipses(body, beam))
    trues = factors * spread(measure_ellipses(activity, beam), RESOLUTION_MM / 2.355 / beam.bin_mm)
    scale = COUNTS / float(trues.sum())
    factors, trues = scale * factors, scale * trues
    background = RANDOMS * trues.mean() + SCATTER * spread(trues, SCATTER_MM / beam.bin_mm)
    rows: dict[tuple[str, int], list[dict[str, float]]] = {}
    for number in range(count):
        counts = torch.poisson(trues + background, generator=Key(SEED, "pet").generator(number))
        y, f, b = (v.float()[None] for v in (counts, factors, background))
        for name, subsets, kept in RUNS:
            before = time.process_time()

            def note(passes: int, x: Tensor, name: str = name, kept: tuple[int, ...] = kept, y: Tensor = y,
                     f: Tensor = f, b: Tensor = b, before: float = before) -> None:
                if passes in kept:
                    found = measures(x[0], grid) | {"ms": 1e3 * (time.process_time() - before)}
                    found["likelihood"] = float(poisson_log_likelihood(y, f * projection(x) + b)[0])
                    rows.setdefault((name, passes), []).append(found)

            expectation_maximization(y, projection, f, b, subsets=subsets, iterations=max(kept), report=note)
        before = time.process_time()
        direct = filtered_backprojection((y - b) / f, beam, grid.shape[1:], (PIXEL_MM, PIXEL_MM), window="hann")
        rows.setdefault(("FBP, Hann", 0), []).append(
            measures(direct[0], grid) | {"ms": 1e3 * (time.process_time() - before)})
        report(f"PET: draw {number + 1} of {count}")
    truth = measures(draw_ellipses(activity, grid), grid)
    heads = [f"{d:.0f} mm" for d in (*HOT, *COLD)]
    best = max(sum(r["likelihood"] for r in found) / count for found in rows.values() if "likelihood" in found[0])
    lines = ["# PET: contrast recovery and noise, on simulated scans", "",
             "Made by `python -m firstread.recipes.evidence_ct`. All data are **simulated**: exact line integrals of a "
             "body of 200 x 180 mm with hot discs (4 to 1; 10 to 22 mm) and cold ones (28, 37 mm), blurred by 4 mm "
             f"(FWHM) along the detector, {COUNTS:.0e} true coincidences in one slice, attenuation of water, randoms "
             f"{RANDOMS:.0%} and scatter {SCATTER:.0%} of the trues, both known to the reconstruction; the blur is "
             f"not. Images of {SIZE} x {SIZE} pixels of 3 mm. Recovery in % of the true contrast, as in NEMA NU 2 "
             "(discs, not spheres); noise: standard deviation over mean in a disc of 60 mm of the background.", "",
             f"{count} draws of the noise, seeds from {SEED}; mean [95 % bootstrap interval over draws]. "
             "Log-likelihood below the best row, mean. CPU time of one thread, median, the matrix made anew in each "
             "reconstruction.",
             "", "| method | passes | " + " | ".join(heads) + " | noise % | log-likelihood | CPU ms |",
             "|---" * (len(heads) + 5) + "|"]
    for (name, passes), found in rows.items():
        cells = [mean_of(torch.tensor([r[key] for r in found], dtype=torch.float64)).text(0) for key in heads]
        noise = mean_of(torch.tensor([r["noise %"] for r in found], dtype=torch.float64)).text(1)
        less = f"{sum(r['likelihood'] for r in found) / count - best:.0f}" if "likelihood" in found[0] else "–"
        spent = sorted(r["ms"] for r in found)[count // 2]
        lines.append(f"| {name} | {passes or '–'} | {' | '.join(cells)} | {noise} | {less} | {spent:.0f} |")
    cells = [f"{truth[key]:.0f}" for key in heads]
    lines.append(f"| the truth on these pixels | – | {' | '.join(cells)} | {truth['noise %']:.1f} | – | – |")
    return "\n".join([*lines, ""])
