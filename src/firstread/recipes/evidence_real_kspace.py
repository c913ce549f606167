"""Reconstruction of real complex data: ``python -m firstread.recipes.evidence_real_kspace FOLDER -o OUT``.

Fully sampled data are undersampled afterwards and reconstructed; the reference is the fully sampled magnitude. Writes
``real-kspace.md`` and one picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from firstread.acquire.sampling import Sampling, UniformLines, VariableDensity
from firstread.core.errors import FirstreadError, InputError
from firstread.core.geometry import Grid
from firstread.core.records import KSpace, Rows
from firstread.core.stage import Chain, Stage
from firstread.nets.cascade import DeepCascade, d5_c5_from_arrays
from firstread.nets.varnet import VariationalNetwork
from firstread.ops.fourier import fft
from firstread.ops.quality import nrmse, psnr, ssim
from firstread.recipes.files import write_text
from firstread.reconstruct.cascade import Cascade
from firstread.reconstruct.direct import CombineCoils, ZeroFilled, root_sum_of_squares
from firstread.reconstruct.espirit import Espirit
from firstread.reconstruct.grappa import Grappa
from firstread.reconstruct.iterative import CGSense, SpatialTV
from firstread.reconstruct.noncartesian import Gridding
from firstread.reconstruct.sparse import Wavelet
from firstread.reconstruct.varnet import VarNet
from firstread.zoo.store import load

ACCELERATIONS, CENTRE_LINES, CALIBRATION_LINES = (2, 4, 6), 10, 16
MASKS = 5
Methods = Mapping[str, tuple[Stage, ...]]


def random_lines(acceleration: int) -> Sampling:
    """Schlemper's rule."""
    return VariableDensity(acceleration=acceleration, centre_lines=CENTRE_LINES)


def even_lines(acceleration: int) -> Sampling:
    """The pattern of parallel imaging: every R-th line and a calibration region."""
    return UniformLines(acceleration=acceleration, centre_lines=CALIBRATION_LINES)


@dataclass(frozen=True)
class Score:
    """Errors of one reconstruction of one image under one mask."""

    data: str
    acceleration: int
    method: str
    psnr_db: float
    ssim: float
    nrmse: float


def kspace_of(data: Complex[Tensor, "coil y x"], sampling: Sampling, seed: int) -> KSpace:
    """One frame of k-space with some of the lines along y kept."""
    mask = sampling(1, data.shape[1], torch.Generator().manual_seed(seed))[None, :, None, None, :, None]
    return KSpace(Rows.subjects(1), mask * data[None, None, :, None], Grid.pixels((1, *data.shape[1:])), mask)


def cascade() -> Stage:
    """The shipped network."""
    weight = load("heart-cascade")
    return Cascade(network=DeepCascade.from_weight(weight.card["network"], weight.state))


def varnet() -> Stage:
    """The shipped variational network, trained on simulation alone."""
    weight = load("varnet")
    return VarNet(network=VariationalNetwork.from_weight(weight.card["network"], weight.state))


def methods_for_coils() -> Methods:
    """What is compared on multi-coil data: stages in a row, with the usual λ and with λ by SURE (the command's)."""
    return {"zero-filled": (ZeroFilled(),),
            "GRAPPA": (Grappa(), CombineCoils()),
            "SENSE, low-resolution maps": (CGSense(),),
            "SENSE, ESPIRiT maps": (Espirit(), CGSense()),
            "SENSE, ESPIRiT maps, λ by SURE": (Espirit(), CGSense(regularization=None)),
            "SENSE, soft ESPIRiT (2 sets)": (Espirit(sets=2), CGSense()),
            "spatial TV, low-resolution maps": (SpatialTV(),),
            "spatial TV, ESPIRiT maps": (Espirit(), SpatialTV()),
            "spatial TV, ESPIRiT maps, λ by SURE": (Espirit(), SpatialTV(regularization=None)),
            "wavelet, ESPIRiT maps": (Espirit(), Wavelet()),
            "wavelet, ESPIRiT maps, λ by SURE": (Espirit(), Wavelet(regularization=None)),
            "VarNet (ours, simulation only)": (varnet(),),
            "cascade (ours, simulated hearts)": (cascade(),)}


def methods_for_one_coil(folder: Path) -> Methods:
    """What is compared on one coil; the published D5-C5 is a network for it."""
    with np.load(folder / "deep_cascade" / "d5_c5.npz") as arrays:
        published = Cascade(network=d5_c5_from_arrays(arrays))
    return {"zero-filled": (ZeroFilled(),), "spatial TV": (SpatialTV(),),
            "wavelet": (Wavelet(),),
            "cascade (ours, simulated hearts)": (cascade(),), "D5-C5 (published weights)": (published,)}


def spirals(path: Path, size: int = 256) -> list[str]:
    """Rows of errors with every second to fourth interleave, against least squares of all of them."""
    with np.load(path) as stored:
        places = torch.from_numpy(np.stack((stored["k"].imag.T, stored["k"].real.T))).float() * size
        data = torch.from_numpy(stored["data"]).permute(2, 1, 0)[None, None, :, None]

    def images(every: int) -> dict[str, Tensor]:
        part = data[..., ::every, :].contiguous()
        kspace = KSpace(Rows.subjects(1), part, Grid.pixels((1, size, size)), torch.ones(1, 1, 1, 1, 1, 1),
                        trajectory=places[None, None, :, ::every].contiguous())
        stages: dict[str, Stage] = {"gridding": Gridding(), "SENSE": CGSense(regularization=1e-3),
                                    "spatial TV": SpatialTV(regularization=2e-3)}
        with torch.no_grad():
            return {name: stage(kspace).data[0, 0, 0, 0].abs() for name, stage in stages.items()}

    reference = images(1)["SENSE"]
    lines = ["| interleaves | method | PSNR dB | SSIM | NRMSE |", "|---|---|---|---|---|"]
    for every in (2, 3, 4):
        for name, image in images(every).items():
            against = (image * (image * reference).sum() / image.square().sum(), reference)
            lines.append(f"| {len(range(0, data.shape[-2], every))} | {name} | {psnr(*against):.1f} | "
                         f"{ssim(*against):.3f} | {nrmse(*against):.3f} |")
    return lines


def scores(name: str, data: Complex[Tensor, "coil y x"], methods: Methods, masks: int,
           rule: Callable[[int], Sampling] = random_lines) -> list[Score]:
    """All methods under all masks, against the fully sampled magnitude (root sum of squares)."""
    reference = root_sum_of_squares(data[None, None, :, None])[0, 0, 0]
    made = []
    for acceleration in ACCELERATIONS:
        for seed in range(masks):
            kspace = kspace_of(data, rule(acceleration), seed)
            for method, stages in methods.items():
                with torch.no_grad():
                    image = Chain(*stages)(kspace)[stages[-1].writes].data[0, 0, 0].abs()
                made.append(Score(name, acceleration, method, psnr(image, reference), ssim(image, reference),
                                  nrmse(image, reference)))
    return made


def table(found: Sequence[Score]) -> list[str]:
    """Rows of mean [lowest, highest] over images and masks, the mean alone where there is one."""
    lines = ["| acceleration | method | PSNR dB | SSIM | NRMSE |", "|---|---|---|---|---|"]
    keys = dict.fromkeys((s.acceleration, s.method) for s in found)
    for acceleration, method in keys:
        rows = [s for s in found if (s.acceleration, s.method) == (acceleration, method)]
        columns = ([s.psnr_db for s in rows], 1), ([s.ssim for s in rows], 3), ([s.nrmse for s in rows], 3)
        cells = [f"{np.mean(v):.{d}f}" + (f" [{min(v):.{d}f}, {max(v):.{d}f}]" if len(v) > 1 else "")
                 for v, d in columns]
        lines.append(f"| {acceleration} | {method} | {' | '.join(cells)} |")
    return lines


def undersampled_by_the_scanner(data: Complex[Tensor, "coil y x"]) -> list[Tensor]:
    """Zero-filled, CG-SENSE and spatial TV of data whose zeros were not measured."""
    mask = (data.abs().sum(dim=0) > 0).float()[None, None, None, None]
    kspace = KSpace(Rows.subjects(1), data[None, None, :, None], Grid.pixels((1, *data.shape[1:])), mask)
    stages = (ZeroFilled(calibration_lines=24), CGSense(calibration_lines=24), SpatialTV(calibration_lines=24))
    with torch.no_grad():
        return [stage(kspace).data[0, 0, 0, 0].abs() for stage in stages]


def picture(panels: Sequence[Tensor], path: Path) -> None:
    """Images side by side, each with its own window."""
    from PIL import Image as Picture

    joined = torch.cat([image / torch.quantile(image, 0.995) for image in panels], dim=1).clamp(0, 1)
    Picture.fromarray((255 * joined).byte().numpy()).save(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_real_kspace")
    parser.add_argument("folder", type=Path, help="real data, with kspace/, kellman/ and deep_cascade/")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/evidence"))
    given = parser.parse_args(arguments)
    folder, output = given.folder, given.output
    if not (folder / "kspace").is_dir():
        raise InputError(f"{folder}", expected="the folder of real data, with kspace/ and kellman/",
                         remedy="run python -m firstread.recipes.evidence_real_kspace FOLDER")
    output.mkdir(parents=True, exist_ok=True)
    brain = torch.from_numpy(np.load(folder / "kspace" / "brain_16coil.npy"))
    found = scores("brain", brain, methods_for_coils(), masks=MASKS)
    even = scores("brain", brain, methods_for_coils(), masks=1, rule=even_lines)
    kept = ", ".join(str(int(kspace_of(brain, even_lines(r), 0).mask.sum())) for r in ACCELERATIONS)
    hearts, sets = [], sorted((folder / "kellman").glob("kellman_*.npz"))
    one_coil = methods_for_one_coil(folder)
    for path in sets:
        with np.load(path) as stored:
            image = torch.from_numpy(stored["images"][0])
        hearts += scores(path.stem, fft(image / image.abs().max())[None], one_coil, masks=1)
    rows = spirals(folder / "kspace" / "spiral.npz")
    clinical = torch.from_numpy(np.load(folder / "kspace" / "brain_8coil_undersampled.npy"))
    picture(undersampled_by_the_scanner(clinical), output / "brain-8coil.png")
    text = REPORT.format(centre=CENTRE_LINES, calibration=CALIBRATION_LINES, masks=MASKS, sets=len(sets), kept=kept,
                         brain="\n".join(table(found)), even="\n".join(table(even)), hearts="\n".join(table(hearts)),
                         spiral="\n".join(rows))
    write_text(output / "real-kspace.md", text)
    print(text)
    return 0


REPORT = """# Reconstruction of real complex data

Made by

    python -m firstread.recipes.evidence_real_kspace FOLDER -o docs/evidence

Single images, fully sampled, undersampled afterwards along y, {masks} random masks per acceleration, seeds from 0
(heart: one per image). Errors are of magnitudes over the whole image against the fully sampled root sum of squares; the
peak of PSNR and SSIM is the largest value of the reference. Cells: mean [lowest, highest] over images and masks.

Coil maps and kernels are estimated from the undersampled data: low-resolution images of the centre, or
[ESPIRiT](../coils.md) with one or two sets of maps. Regularization is the usual number of each stage, chosen on
phantoms (a few weights were looked at on two of these images before), or found for each image by Stein's unbiased
risk estimate ("λ by SURE"): what `firstread reconstruct` does when no number is given. The rule by which ESPIRiT
lowers its crop where calibration lines are few was found on the brain below, with two of its masks. No network was
trained on these data: ours saw simulation alone.

No raw cine could be had: nothing here was measured on multi-coil k-space of a beating heart.

## Brain, 16 coils, 96 x 96 (real multi-coil k-space, retrospectively undersampled)

Lines by Schlemper's rule, {centre} of them in the centre:

{brain}

Every second, fourth and sixth line and {calibration} in the centre ({kept} lines of 96; one mask each), the pattern
that parallel imaging is made for:

{even}

A kernel of GRAPPA bridges gaps of a few lines; random lines leave wider ones than {centre} calibration lines can teach.

## Heart, one coil, {sets} views of one person, first echo (retrospective, optimistic)

Coil-combined complex gradient-echo images, Fourier transformed back: this is *semi-simulated* and optimistic, for the
images were reconstructed, combined and stored before. One person; the views are not independent.

{hearts}

The networks were trained on short-axis cines (ours: simulated, with one frame in eight without time and one in ten with
one coil; D5-C5: the authors' cines); a single image gives them no time to share, and compressed sensing is better.

## Spirals: a resolution phantom, 8 coils, 60 interleaves

Every second, third and fourth interleave against least squares of all 60, so this is agreement with it, not accuracy;
256 x 256, each image scaled to the reference by least squares (density compensation of a trajectory with gaps leaves
its scale open). SENSE with λ = 0.001, TV with 0.002 of the brightness, not tuned.

{spiral}

No picture: the data state no licence.

## Brain, 8 coils, undersampled by the scanner (no reference, picture only)

![zero-filled, CG-SENSE, spatial TV](brain-8coil.png)

Left to right: zero-filled, CG-SENSE, spatial TV. Data: mikgroup/sigpy-mri-tutorial (BSD-3-Clause).
"""

if __name__ == "__main__":
    try:
        sys.exit(main())
    except FirstreadError as problem:
        print(f"evidence_real_kspace: {problem}", file=sys.stderr)
        sys.exit(2)
