"""Evidence for CT and PET on simulated scans of phantoms whose line integrals are known exactly.

    python -m firstread.recipes.evidence_ct -o docs/evidence

writes ``ct.md`` (filtered backprojection, SART, total variation, learned primal-dual by dose and number of views) and
``pet.md`` (contrast recovery and noise against iterations). ``--weight`` names the learned network.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from firstread.acquire.ellipses import draw_ellipses, random_ellipses, random_thorax
from firstread.core.errors import FirstreadError, InputError
from firstread.core.keys import Key
from firstread.core.provenance import weights_hash
from firstread.core.records import Image, Rows
from firstread.core.sinogram import Sinogram
from firstread.nets.primal_dual import PrimalDualNetwork
from firstread.ops.attenuation import WATER_PER_MM, hounsfield
from firstread.ops.quality import psnr, ssim
from firstread.recipes.ct_primal_dual import STEPS, beam, grid, network, scan
from firstread.recipes.evidence_pet import pet_page
from firstread.recipes.files import write_text
from firstread.recipes.heart_tables import mean_of
from firstread.reconstruct.ct import SART, FilteredBackprojection, SinogramTV
from firstread.reconstruct.primal_dual import PrimalDual

SEED, RADIUS_MM, PEAK_HU = 7_000, 150.0, 2000.0
SCANS = ((64, 1e6), (64, 1e4), (64, 3e3), (32, 1e5), (16, 1e5))
Method = Callable[[Sinogram], Image]
Numbers = dict[str, float]


def methods(photons: float, weight: Path | None) -> dict[str, Method]:
    """What is compared; λ of total variation grows as the dose falls."""
    smoothing = 0.1 * (1e6 / photons) ** 0.3
    chosen: dict[str, Method] = {
        "FBP, ramp": FilteredBackprojection(window="ramp"), "FBP, Hann": FilteredBackprojection(window="hann"),
        "SART": SART(subsets=8, iterations=15), "total variation": SinogramTV(regularization=smoothing, iterations=150)}
    if weight is not None:
        chosen["learned primal-dual"] = PrimalDual(network=learned(weight))
    return chosen


def learned(weight: Path) -> PrimalDualNetwork:
    """The network of a ``.safetensors`` file of the recipe ``ct-primal-dual``.

    Raises InputError where there is none.
    """
    from safetensors.torch import load_file

    if not weight.is_file():
        raise InputError(f"no weight {weight}", expected="a .safetensors file of the recipe ct-primal-dual",
                         remedy="train it with `firstread train ct-primal-dual -o DIR`")
    state = {name: value.float() for name, value in load_file(weight).items()}
    return PrimalDualNetwork.from_weight(network().settings(), state)


def phantom(family: str, number: int) -> Tensor:
    """Ellipses (as in training, other seeds) or a chest (never in training), relative to water."""
    generator = Key(SEED, family).generator(number)
    if family == "chests":
        return random_thorax(generator, RADIUS_MM)
    return random_ellipses(generator, RADIUS_MM, count=15)


@torch.no_grad()
def measured(family: str, number: int, views: int, photons: float, weight: Path | None) -> dict[str, Numbers]:
    """PSNR (peak 2000 HU), SSIM, root mean square error in HU and CPU time of every method on one scan."""
    ellipses = phantom(family, number)
    truth = hounsfield(draw_ellipses(ellipses, grid()) * WATER_PER_MM).float()
    data, weights = scan(ellipses, Key(SEED + views, f"{family} {photons:g}"), number, views, photons)
    sinogram = Sinogram(Rows.subjects(1), data[None, None], grid(), beam(views), weights[None, None])
    found = {}
    for name, method in methods(photons, weight).items():
        before = time.process_time()
        made = method(sinogram).data[0, 0, 0, 0].clamp_min(-1000)
        spent = time.process_time() - before
        found[name] = {"PSNR": psnr(made, truth, peak=PEAK_HU), "SSIM": ssim(made, truth, peak=PEAK_HU),
                       "RMSE": float((made - truth).square().mean().sqrt()), "time": 1e3 * spent}
    return found


COLUMNS = (("PSNR", "PSNR dB", 1), ("SSIM", "SSIM", 3), ("RMSE", "RMSE HU", 0))


def table(found: dict[tuple[int, float], list[dict[str, Numbers]]]) -> list[str]:
    """Scans and methods down; mean and 95 % bootstrap interval over phantoms."""
    lines = ["| views | photons | method | " + " | ".join(head for _, head, _ in COLUMNS) + " | CPU ms |",
             "|---" * (len(COLUMNS) + 4) + "|"]
    for (views, photons), phantoms in found.items():
        for name in phantoms[0]:
            cells = [mean_of(torch.tensor([p[name][key] for p in phantoms], dtype=torch.float64)).text(digits)
                     for key, _, digits in COLUMNS]
            spent = sorted(p[name]["time"] for p in phantoms)[len(phantoms) // 2]
            lines.append(f"| {views} | {photons:.0e} | {name} | {' | '.join(cells)} | {spent:.0f} |")
    return lines


def ct_page(count: int, weight: Path | None, report: Callable[[str], object]) -> str:
    """The page on CT."""
    lines = ["# CT: dose and views, on simulated scans", "",
             "Made by `python -m firstread.recipes.evidence_ct`. All data are **simulated**: exact line integrals of "
             "ellipses, each the mean of four rays in a bin, with Poisson noise of the stated photons per ray and "
             "electronic noise of 5; fan beam, 88 bins of 3.8 mm at the centre, full turn; images of 64 x 64 pixels of "
             "5 mm, against the mean of 16 points in each pixel. Total variation gets the counts behind each ray as "
             "weights. This is a small matrix: it compares methods and is no claim about a clinical scanner.", "",
             f"{count} phantoms of each family, seeds from {SEED}; mean [95 % bootstrap interval over phantoms]; "
             "PSNR with a peak of 2000 HU; CPU time of one thread, median, the projection's matrix made anew in each "
             "reconstruction. Total variation: λ = 0.1 (10⁶ / photons)^0.3, a rule from a few trials on one phantom "
             "of another seed; SART: 8 subsets, 15 passes."]
    if weight is not None:
        lines[-1] += (f" Learned primal-dual: weight {weights_hash(learned(weight))} of `firstread train "
                      f"ct-primal-dual` ({STEPS} steps, one training, given by `--weight`), "
                      "trained on ellipses of other seeds, 16 to 64 views and 3·10³ to 10⁶ photons.")
    for family, said in (("ellipses", "Random ellipses (the family of the training, other seeds)"),
                         ("chests", "Chests (a family that was never trained on)")):
        found = {}
        for views, photons in SCANS:
            found[views, photons] = [measured(family, number, views, photons, weight) for number in range(count)]
            report(f"{family}: {views} views, {photons:.0e} photons")
        lines += ["", f"## {said}", "", *table(found)]
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_ct", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/evidence"))
    parser.add_argument("--phantoms", type=int, default=6)
    parser.add_argument("--weight", type=Path, help="of the learned network; without it, it is left out")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        if not given.output.is_dir() or given.phantoms < 3:
            raise InputError(f"output {given.output}, {given.phantoms} phantoms", remedy="make the folder first",
                             expected="a folder that is there, three phantoms or more")

        def report(text: str) -> None:
            print(text, file=sys.stderr)

        write_text(given.output / "pet.md", pet_page(given.phantoms, report))
        write_text(given.output / "ct.md", ct_page(given.phantoms, given.weight, report))
    except FirstreadError as error:
        print(f"evidence_ct: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
