"""The variational network on coils and images nobody trained on: ``python -m firstread.recipes.evaluate_varnet``.

Simulated objects with coils of the test family and, with ``--realdata FOLDER``, the real 16-coil brain: undersampled
afterwards, every method under the same masks, against the root sum of squares of the fully sampled coil images. Writes
``varnet.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from firstread.acquire.coils import LoopCoils
from firstread.acquire.mri import encode_lower
from firstread.acquire.noise import correlated_noise, random_covariance, signal_level
from firstread.acquire.sampling import VariableDensity
from firstread.acquire.textures import random_plane
from firstread.core.errors import FirstreadError, InputError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import KSpace, Rows
from firstread.core.stage import Stage
from firstread.nets.varnet import VariationalNetwork
from firstread.recipes.evidence_schlemper import errors, table
from firstread.recipes.files import write_text
from firstread.reconstruct.direct import ZeroFilled, root_sum_of_squares
from firstread.reconstruct.iterative import CGSense, SpatialTV
from firstread.reconstruct.varnet import VarNet
from firstread.zoo.store import load

COILS, SIZE, SNR = 16, 96, 60.0
ACCELERATIONS, CENTRE_LINES = (2.0, 4.0, 6.0), 10
BRAIN, OBJECTS = "brain", "objects"


def methods(weights: str) -> Mapping[str, Stage]:
    """The variational network beside what needs no training."""
    weight = load(weights)
    network = VariationalNetwork.from_weight(weight.card["network"], weight.state)
    return {"zero-filled": ZeroFilled(), "CG-SENSE": CGSense(), "spatial TV": SpatialTV(),
            "VarNet (simulation only)": VarNet(network=network)}


def simulated(number: int) -> Complex[Tensor, "coil y x"]:
    """K-space of an object of no anatomy, rendered three times as fine, with 16 current-loop coils and noise."""
    generator = Key(number, "evaluate_varnet").generator()
    fine = random_plane(generator, 3 * SIZE)
    maps = LoopCoils(count=COILS)(Grid.from_spacing((1, *fine.shape), (5.0, 1.0, 1.0)), generator)[:, 0]
    clean = encode_lower(maps * fine, (SIZE, SIZE))
    covariance = (signal_level(fine.abs()) / SNR) ** 2 * random_covariance(COILS, 0.3, generator)
    return clean + correlated_noise(covariance, (SIZE, SIZE), generator)


def measure(data: str, item: str, kspace: Complex[Tensor, "coil y x"], stages: Mapping[str, Stage], masks: int
            ) -> list[dict[str, Any]]:
    """All methods under ``masks`` random masks per acceleration; the reference is scaled to a maximum of 1."""
    reference = root_sum_of_squares(kspace[None, None, :, None])[0, :, 0, 0]
    kspace, reference = kspace / reference.max(), reference / reference.max()
    cells = []
    for acceleration in ACCELERATIONS:
        sampling = VariableDensity(acceleration=acceleration, centre_lines=CENTRE_LINES)
        for seed in range(masks):
            mask = sampling(1, kspace.shape[1], torch.Generator().manual_seed(seed))[None, :, None, None, :, None]
            grid = Grid.pixels((1, *kspace.shape[1:]))
            scan = KSpace(Rows.subjects(1), mask * kspace[None, None, :, None], grid, mask)
            cells += [{"data": data, "item": f"{item}, mask {seed}", "acceleration": acceleration, "method": method,
                       **errors(stage, scan, reference)} for method, stage in stages.items()]
    return cells


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evaluate_varnet")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/evidence"))
    parser.add_argument("--weights", default="varnet", help="a default weight's name or a .safetensors file")
    parser.add_argument("--realdata", type=Path, help="folder with kspace/brain_16coil.npy")
    parser.add_argument("--objects", type=int, default=10)
    parser.add_argument("--masks", type=int, default=5, help="per acceleration, of the brain")
    given = parser.parse_args(arguments)
    stages = methods(given.weights)
    cells = []
    if given.realdata is not None:
        path = given.realdata / "kspace" / "brain_16coil.npy"
        if not path.is_file():
            raise InputError(f"no {path}", expected="kspace/brain_16coil.npy in the folder of real data",
                             remedy="give another --realdata, or leave it out")
        cells += measure(BRAIN, "slice", torch.from_numpy(np.load(path)), stages, given.masks)
    for number in range(given.objects):
        cells += measure(OBJECTS, f"object {number}", simulated(number), stages, 1)
    brain = ["Not measured: no real data was given."]
    if given.realdata is not None:
        brain = table(cells, BRAIN, list(stages))
    text = REPORT.format(centre=CENTRE_LINES, masks=given.masks, objects=given.objects, coils=COILS, size=SIZE,
                         snr=SNR, brain="\n".join(brain), simulated="\n".join(table(cells, OBJECTS, list(stages))))
    given.output.mkdir(parents=True, exist_ok=True)
    write_text(given.output / "varnet.md", text)
    print(text)
    return 0


REPORT = """# The variational network on what it was not trained on

Made by `python -m firstread.recipes.evaluate_varnet --objects {objects} --masks {masks}`. Single images, fully sampled,
undersampled afterwards along y by Schlemper's rule with {centre} centre lines. Errors of magnitudes over the whole
image against the root sum of squares of the fully sampled data, noise included; the peak of PSNR and SSIM is its
largest value. Cells: mean [lowest, highest] over images and masks, not intervals of a population. All methods estimate
the coils from the undersampled data; regularization is each stage's default. The network was trained on simulation
alone (see its card).

## Brain, 16 coils, 96 x 96: real multi-coil k-space of one person, {masks} masks per acceleration

{brain}

## Simulated: {objects} objects of no anatomy

{coils} current-loop coils, which are not those of the training, {size} x {size}, SNR {snr:g}.

{simulated}
"""

if __name__ == "__main__":
    try:
        sys.exit(main())
    except FirstreadError as problem:
        print(f"evaluate_varnet: {problem}", file=sys.stderr)
        sys.exit(2)
