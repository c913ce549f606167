"""k draws at the reconstruction's posterior beside k single runs: ``python bench/draws.py -o bench/results/draws.md``.

A scan goes from k-space through coil maps (ESPIRiT) and posterior draws: once with ``samples=k``, and k times with one
draw each, as one who changes the seed would run it. CPU seconds of one thread, the two in turn, so that other work on
the machine counts less; the first round is not counted. The first draw is the same image either way (checked).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from datetime import date
from pathlib import Path

import torch

from firstread.chains.posterior import posterior
from firstread.core.case import Case
from firstread.core.stage import Chain
from firstread.recipes.heart_subjects import Scanner, simulate
from firstread.reconstruct.espirit import Espirit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="write the page there")
    parser.add_argument("--weights", default="heart-prior", help="a default weight's name or a .safetensors file")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--matrix", type=int, default=96)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    scanner = Scanner(matrix=asked.matrix, spacing_mm=192 / asked.matrix, gap_mm=90.0, frames=asked.frames)
    kspace = simulate(scanner, "test", 0).kspace
    stage = posterior(asked.weights)
    chain = Chain(Espirit(kernel=5), stage)

    def seconds(samples: int) -> tuple[float, torch.Tensor]:
        begun = time.process_time()
        with torch.no_grad():
            made = chain(Case({"kspace": kspace}), samples=samples)
        return time.process_time() - begun, made[stage.writes].data

    together, apart = [], []
    for number in range(asked.repeats + 1):
        whole, draws = seconds(asked.draws)
        singles = [seconds(1) for _ in range(asked.draws)]
        torch.testing.assert_close(singles[0][1], draws[:1])
        if number:
            together.append(whole)
            apart.append(sum(spent for spent, _ in singles))
        print(f"round {number}: {whole:.2f} s together", file=sys.stderr, flush=True)
    ratios = [a / b for a, b in zip(apart, together, strict=True)]
    time_, slices, side = kspace.data.shape[1], kspace.data.shape[3], kspace.data.shape[5]
    page = f"""# Draws at the reconstruction's posterior

{__doc__.split(chr(10) * 2, 1)[1].strip()}

{time_} frames of {slices} slices of {side} x {side}, {kspace.data.shape[2]} coils, simulated; {stage.settings()}; one \
thread; torch {torch.__version__}; {date.today()}; a shared, busy machine: read the ratio, not the seconds. Command: \
`python bench/draws.py --draws {asked.draws} --matrix {asked.matrix} --frames {asked.frames} --repeats {asked.repeats}`.

| | CPU s, median of {len(together)} |
|---|---|
| {asked.draws} single runs | {statistics.median(apart):.2f} |
| **{asked.draws} draws of one run** | {statistics.median(together):.2f} |

Single runs over draws of one run, round by round: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to \
{max(ratios):.2f} (aim: at least 2). What all draws share is coil maps and the image that they begin at.
"""
    print(page)
    if asked.output:
        asked.output.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
