"""Image errors of reconstructions on phantoms nobody trained on: ``python -m firstread.recipes.evaluate_cascade``.

Subjects of the test family, rendered three times finer than sampled, coils of the test family, noise; errors of the
magnitude against the noiseless fully sampled image, over the whole cine of one slice through the middle of the heart.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from firstread.acquire.coils import LoopCoils
from firstread.acquire.heart import heart_subject
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import FullySampled, VariableDensity
from firstread.core.errors import FirstreadError
from firstread.core.keys import Key
from firstread.core.records import Image
from firstread.core.stage import Stage
from firstread.nets.cascade import DeepCascade
from firstread.ops.quality import nrmse, psnr, ssim
from firstread.recipes.evaluate_acdc import interval
from firstread.reconstruct.cascade import Cascade
from firstread.reconstruct.direct import ZeroFilled
from firstread.reconstruct.iterative import CGSense, TemporalTV
from firstread.zoo.store import load

MATRIX, FRAMES, SNR, COILS = (112, 112), 16, 30, 8


def middle_slice(seed: int) -> Image:
    """A fine, noiseless cine of one slice of a test subject."""
    subject = heart_subject(seed=seed, family="test", matrix=MATRIX, spacing_mm=2.2, slices=2, frames=FRAMES,
                            slice_thickness_mm=8.0, gap_mm=30.0, fine=True)
    image = subject.image
    grid = image.grid.crop((1, 0, 0), (1, *image.grid.shape[1:]))
    return Image(image.rows, image.data[:, :, :, 1:2], grid)


def errors(seed: int, acceleration: float, stages: dict[str, Stage]) -> dict[str, tuple[float, float, float]]:
    """PSNR (peak: largest reference value), SSIM, NRMSE of every method on one subject."""
    image, key = middle_slice(seed), Key(seed, "encode")
    coils, lines = LoopCoils(count=COILS), VariableDensity(acceleration=acceleration)
    full = Encode(sampling=FullySampled(), coils=coils, snr=None, matrix=MATRIX, keep_sensitivities=True)
    encode = Encode(sampling=lines, coils=coils, snr=SNR, matrix=MATRIX)
    with torch.no_grad():
        reference = ZeroFilled()(full(image, key)).data.abs()
        kspace = encode(image, key)
        made = {name: stage(kspace).data.abs() for name, stage in stages.items()}
    return {name: (psnr(x, reference), ssim(x, reference), nrmse(x, reference)) for name, x in made.items()}


def figures(weights: str | Path, *, subjects: int, acceleration: float, first: int = 9000) -> dict[str, dict]:
    """Mean with its 95 % bootstrap interval over subjects, by method, and the cascade's gain over temporal TV."""
    weight = load(weights)
    cascade = Cascade(network=DeepCascade.from_weight(weight.card["network"], weight.state))
    stages: dict[str, Stage] = {"zero-filled": ZeroFilled(), "CG-SENSE": CGSense(), "temporal TV": TemporalTV(),
                                "cascade": cascade}
    found = [errors(first + n, acceleration, stages) for n in range(subjects)]
    table: dict[str, dict] = {}
    for name in stages:
        values = np.array([f[name] for f in found])
        table[name] = {measure: {"mean": round(float(values[:, i].mean()), 4), "interval_95": interval(values[:, i])}
                       for i, measure in enumerate(("psnr_db", "ssim", "nrmse"))}
    gain = np.array([f["cascade"][0] - f["temporal TV"][0] for f in found])
    over = {"mean": round(float(gain.mean()), 4), "interval_95": interval(gain)}
    table["cascade over temporal TV"] = {"psnr_db": over, "better": f"{int((gain > 0).sum())} of {subjects}"}
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", default="heart-cascade")
    parser.add_argument("--subjects", type=int, default=12)
    parser.add_argument("--acceleration", type=float, default=6.0)
    given = parser.parse_args(arguments)
    try:
        print(json.dumps(figures(given.weights, subjects=given.subjects, acceleration=given.acceleration), indent=1))
    except FirstreadError as error:
        print(f"evaluate_cascade: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
