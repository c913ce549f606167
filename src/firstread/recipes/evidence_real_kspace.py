"""Reconstruction of real complex data: ``python -m firstread.recipes.evidence_real_kspace REALDATA_FOLDER``.

Fully sampled data are undersampled afterwards and reconstructed; the reference is the fully sampled magnitude. Writes
``docs/evidence/real-kspace.md`` and one picture.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from firstread.acquire.sampling import VariableDensity
from firstread.core.errors import InputError
from firstread.core.geometry import Grid
from firstread.core.records import KSpace, Rows
from firstread.core.stage import Stage
from firstread.nets.cascade import DeepCascade, d5_c5_from_arrays
from firstread.ops.fourier import fft
from firstread.ops.quality import nrmse, psnr, ssim
from firstread.reconstruct.cascade import Cascade
from firstread.reconstruct.direct import ZeroFilled, root_sum_of_squares
from firstread.reconstruct.iterative import CGSense, SpatialTV
from firstread.zoo.store import load

ACCELERATIONS, CENTRE_LINES = (2, 4, 6), 10


@dataclass(frozen=True)
class Score:
    """Errors of one reconstruction of one image under one mask."""

    data: str
    acceleration: int
    method: str
    psnr_db: float
    ssim: float
    nrmse: float


def kspace_of(data: Complex[Tensor, "coil y x"], acceleration: int | None, seed: int) -> KSpace:
    """One frame of k-space with lines along y kept by Schlemper's rule; None keeps all."""
    lines = data.shape[1]
    mask = torch.ones(1, lines)
    if acceleration is not None:
        sampling = VariableDensity(acceleration=acceleration, centre_lines=CENTRE_LINES)
        mask = sampling(1, lines, torch.Generator().manual_seed(seed))
    mask = mask[None, :, None, None, :, None]
    return KSpace(Rows.subjects(1), mask * data[None, None, :, None], Grid.pixels((1, *data.shape[1:])), mask)


def methods(folder: Path, coils: int) -> Mapping[str, Stage]:
    """What is compared; the published D5-C5 is a network for one coil."""
    weight = load("heart-cascade")
    found: dict[str, Stage] = {"zero-filled": ZeroFilled()}
    if coils > 1:
        found["CG-SENSE"] = CGSense()
    found["spatial TV"] = SpatialTV()
    network = DeepCascade.from_weight(weight.card["network"], weight.state)
    found["cascade (ours, simulated hearts)"] = Cascade(network=network)
    if coils == 1:
        with np.load(folder / "deep_cascade" / "d5_c5.npz") as arrays:
            found["D5-C5 (published weights)"] = Cascade(network=d5_c5_from_arrays(arrays))
    return found


def scores(name: str, data: Complex[Tensor, "coil y x"], stages: Mapping[str, Stage], masks: int) -> list[Score]:
    """All methods under all masks, against the fully sampled magnitude (root sum of squares)."""
    reference = root_sum_of_squares(data[None, None, :, None])[0, 0, 0]
    made = []
    for acceleration in ACCELERATIONS:
        for seed in range(masks):
            kspace = kspace_of(data, acceleration, seed)
            for method, stage in stages.items():
                with torch.no_grad():
                    image = stage(kspace).data[0, 0, 0].abs()
                made.append(Score(name, acceleration, method, psnr(image, reference), ssim(image, reference),
                                  nrmse(image, reference)))
    return made


def table(found: Sequence[Score]) -> list[str]:
    """Rows of mean [lowest, highest] over images and masks."""
    lines = ["| acceleration | method | PSNR dB | SSIM | NRMSE |", "|---|---|---|---|---|"]
    keys = dict.fromkeys((s.acceleration, s.method) for s in found)
    for acceleration, method in keys:
        rows = [s for s in found if (s.acceleration, s.method) == (acceleration, method)]
        columns = ([s.psnr_db for s in rows], 1), ([s.ssim for s in rows], 3), ([s.nrmse for s in rows], 3)
        cells = [f"{np.mean(v):.{d}f} [{min(v):.{d}f}, {max(v):.{d}f}]" for v, d in columns]
        lines.append(f"| {acceleration} | {method} | {' | '.join(cells)} |")
    return lines


def picture(data: Complex[Tensor, "coil y x"], path: Path) -> None:
    """Zero-filled, CG-SENSE and spatial TV of data that came undersampled, side by side."""
    from PIL import Image as Picture

    mask = (data.abs().sum(dim=0) > 0).float()[None, None, None, None]
    kspace = KSpace(Rows.subjects(1), data[None, None, :, None], Grid.pixels((1, *data.shape[1:])), mask)
    panels = []
    for stage in (ZeroFilled(calibration_lines=24), CGSense(calibration_lines=24), SpatialTV(calibration_lines=24)):
        with torch.no_grad():
            image = stage(kspace).data[0, 0, 0, 0].abs()
        panels.append(image / torch.quantile(image, 0.995))
    joined = torch.cat(panels, dim=1).clamp(0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray((255 * joined).byte().numpy()).save(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1 or not (Path(given[0]) / "kspace").is_dir():
        raise InputError(" ".join(given) or "no folder", expected="the folder of real data, with kspace/ and kellman/",
                         remedy="run python -m firstread.recipes.evidence_real_kspace FOLDER")
    folder, output = Path(given[0]), Path("docs/evidence")
    brain = torch.from_numpy(np.load(folder / "kspace" / "brain_16coil.npy"))
    found = scores("brain", brain, methods(folder, 16), masks=5)
    hearts, sets = [], sorted((folder / "kellman").glob("kellman_*.npz"))
    one_coil = methods(folder, 1)
    for path in sets:
        with np.load(path) as stored:
            image = torch.from_numpy(stored["images"][0])
        hearts += scores(path.stem, fft(image / image.abs().max())[None], one_coil, masks=1)
    text = REPORT.format(centre=CENTRE_LINES, sets=len(sets), brain="\n".join(table(found)),
                         hearts="\n".join(table(hearts)))
    output.mkdir(parents=True, exist_ok=True)
    (output / "real-kspace.md").write_text(text, encoding="utf-8")
    picture(torch.from_numpy(np.load(folder / "kspace" / "brain_8coil_undersampled.npy")), output / "brain-8coil.png")
    print(text)
    return 0


REPORT = """No raw cine could be had: nothing here was measured on multi-coil k-space of a beating heart.

# Reconstruction of real complex data

Made by `python -m firstread.recipes.evidence_real_kspace FOLDER`. Single images, fully sampled, undersampled afterwards
along y by Schlemper's rule with {centre} centre lines, five random masks per acceleration (heart: one per image).
Errors are of magnitudes over the whole image against the fully sampled root sum of squares; the peak of PSNR and SSIM
is the largest value of the reference. Cells: mean [lowest, highest] over images and masks. Coil maps are estimated
from the undersampled data. Regularization is each stage's default, chosen on phantoms (a few weights were looked at on
two of these images before).

## Brain, 16 coils, 96 x 96 (real multi-coil k-space, retrospectively undersampled)

{brain}

## Heart, one coil, {sets} views of one person, first echo (retrospective, optimistic)

Coil-combined complex gradient-echo images, Fourier transformed back: this is *semi-simulated* and optimistic, for the
images were reconstructed, combined and stored before. One person; the views are not independent.

{hearts}

The networks were trained on short-axis cines (ours: simulated, with one frame in eight without time and one in ten with
one coil; D5-C5: the authors' cines); a single image gives them no time to share.

## Brain, 8 coils, undersampled by the scanner (no reference, picture only)

![zero-filled, CG-SENSE, spatial TV](brain-8coil.png)

Left to right: zero-filled, CG-SENSE, spatial TV. Data: mikgroup/sigpy-mri-tutorial (BSD-3-Clause).
"""

if __name__ == "__main__":
    sys.exit(main())
