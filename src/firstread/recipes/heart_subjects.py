"""The subjects of the heart evidence: phantom, k-space, and every number measured on the way, one file per step.

Each step of a subject is stored under a name that holds what it depends on, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from firstread import acquire
from firstread.acquire.coils import LoopCoils
from firstread.acquire.heart import LABEL_NAMES, heart_subject
from firstread.acquire.heart_population import Family
from firstread.acquire.mri import Encode
from firstread.acquire.noise import signal_level
from firstread.acquire.sampling import VariableDensity
from firstread.analyze.consensus import Harden
from firstread.chains.heart import reconstruction, segmentation
from firstread.core.case import Case
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.provenance import weights_hash
from firstread.core.records import HardLabels, Image, KSpace, Phenotypes, Rows
from firstread.core.stage import Chain, Stage
from firstread.measure.cardiac import CardiacFunction
from firstread.ops.quality import nrmse, psnr, ssim
from firstread.ops.regions import dice
from firstread.recipes.files import write_array
from firstread.recipes.heart_cines import as_readers_contour

FIRST_SEED: Mapping[Family, int] = {"calibration": 20_000, "test": 40_000}
SCANNER_CODE = ("mri", "receiver", "coils", "sampling", "noise")
ZERO_FILLED, OURS = "zero-filled", "ours"


@dataclass(frozen=True)
class Scanner:
    """How the subjects are scanned: matrix² pixels of ``spacing_mm``, slices from above the base to beyond the apex.

    contrast: exponent of the image's magnitude before it is scanned; below 1, tissues look more alike.
    """

    matrix: int = 96
    spacing_mm: float = 2.0
    slice_thickness_mm: float = 8.0
    gap_mm: float = 4.0
    frames: int = 8
    coils: int = 8
    acceleration: float = 6.0
    snr: float = 30.0
    contrast: float = 1.0

    def label(self) -> str:
        """Short text that differs where any setting or the simulation's code does."""
        about = asdict(self)
        if self.contrast == 1.0:
            del about["contrast"]  # changes nothing then, nor the names of what was stored before it was a setting
        made = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        room = Path(acquire.__file__).parent
        for file in (*sorted(room.glob("heart*.py")), *(room / f"{name}.py" for name in SCANNER_CODE)):
            made.update(file.read_bytes())
        return made.hexdigest()[:8]


@dataclass(frozen=True, eq=False)
class Simulated:
    """One subject as scanned. magnitude: noiseless, fully sampled ``[time, z, y, x]``; truth: analytic values."""

    kspace: KSpace
    labels: HardLabels
    magnitude: Tensor
    truth: dict[str, float]
    pathology: str

    def as_image(self, data: Tensor) -> Image:
        """``data`` as the cine of this subject."""
        return Image(self.kspace.rows, data, self.kspace.grid, self.kspace.times_s, self.kspace.cycle_s)


def with_contrast(image: Complex[Tensor, "*axes"], exponent: float) -> Complex[Tensor, "*axes"]:
    """``x |x / m|^(c - 1)``, m the largest magnitude: phase kept, ratios of magnitudes to the power c.

    >>> with_contrast(torch.tensor([1.0 + 0j, -0.25 + 0j]), 0.5).real.tolist()
    [1.0, -0.5]
    """
    if exponent == 1.0:
        return image
    size = image.abs()
    return image * (size / size.max()).clamp_min(1e-6) ** (exponent - 1)


def simulate(scanner: Scanner, family: Family, index: int) -> Simulated:
    """Draw subject ``index`` of ``family`` and scan it with the coils of the test family."""
    seed, side = FIRST_SEED[family] + index, scanner.matrix
    made = heart_subject(seed=seed, family=family, matrix=(side, side), spacing_mm=scanner.spacing_mm,
                         slice_thickness_mm=scanner.slice_thickness_mm, gap_mm=scanner.gap_mm, frames=scanner.frames)
    encode = Encode(sampling=VariableDensity(acceleration=scanner.acceleration), coils=LoopCoils(count=scanner.coils),
                    snr=scanner.snr)
    image = replace(made.image, data=with_contrast(made.image.data, scanner.contrast))
    return Simulated(encode(image, Key(seed, "evidence")), made.labels, image.data[0, :, 0].abs(),
                     dict(made.truth.values), made.truth.pathology)


def save(path: Path, made: Simulated) -> None:
    """Store a subject, measured lines only."""
    kspace = made.kspace
    lines = kspace.mask[0, :, 0, :, :, 0] != 0
    meta = {"truth": made.truth, "pathology": made.pathology}
    assert kspace.noise_covariance is not None and kspace.times_s is not None and kspace.cycle_s is not None
    write_array(path, lines=lines.numpy(), data=kspace.data[0].movedim(1, 0)[:, lines].numpy(),
                covariance=kspace.noise_covariance.numpy(), affine=kspace.grid.affine.numpy(),
                times=kspace.times_s.numpy(), cycle=kspace.cycle_s.numpy(), magnitude=made.magnitude.half().numpy(),
                labels=made.labels.data.to(torch.uint8).numpy(), meta=np.array(json.dumps(meta)))


def load(path: Path) -> Simulated:
    """Read what ``save`` stored."""
    with np.load(path) as stored:
        part = {name: stored[name] for name in stored.files}
    lines, labels = torch.from_numpy(part["lines"]), torch.from_numpy(part["labels"])
    data = torch.zeros(len(part["data"]), *lines.shape, labels.shape[-1], dtype=torch.complex64)
    data[:, lines] = torch.from_numpy(part["data"])
    grid = Grid(torch.from_numpy(part["affine"]), (labels.shape[3], labels.shape[4], labels.shape[5]))
    times = {"times_s": torch.from_numpy(part["times"]), "cycle_s": torch.from_numpy(part["cycle"])}
    kspace = KSpace(Rows.subjects(), data.movedim(1, 0)[None], grid, lines[None, :, None, :, :, None].float(),
                    noise_covariance=torch.from_numpy(part["covariance"]), **times)
    meta = json.loads(str(part["meta"]))
    return Simulated(kspace, HardLabels(Rows.subjects(), labels, grid, LABEL_NAMES, **times),
                     torch.from_numpy(part["magnitude"]).float(), meta["truth"], meta["pathology"])


@dataclass(frozen=True, eq=False)
class Reader:
    """The chain from k-space to phenotypes in two halves, and what each depends on."""

    reconstruct: Chain
    measure: Chain
    members: int

    @classmethod
    def build(cls, weights: str | None) -> Reader:
        """With the default reconstruction and the segmentation ``weights`` (None: the default)."""
        stages = segmentation(weights)
        for network in stages[0].networks:
            network.to(memory_format=torch.channels_last)  # the same numbers up to rounding, in half the time
        measuring = (CardiacFunction().using(reads={"labels": "labels"}, writes="phenotypes.point"),
                     Harden().using(reads={"labels": "labels.members"}),
                     CardiacFunction(warn=False).using(reads={"labels": "labels.hard"}, writes="phenotypes.members"))
        return cls(Chain(*reconstruction()), Chain(*stages, *measuring), len(stages[0].networks))

    def label(self, half: Chain) -> str:
        """Short text that differs where settings or weights of ``half`` do."""
        steps = [f"{s.name} {s.settings()} {weights_hash(s)}" for s in half.steps]
        return hashlib.sha256("\n".join(steps).encode()).hexdigest()[:8]

    def weights(self, *, images: bool = False) -> dict[str, str]:
        """Hash of each stage that has weights; images: of those alone that images pass through."""
        halves = (self.measure,) if images else (self.reconstruct, self.measure)
        found = {s.name: weights_hash(s) for half in halves for s in half.steps}
        return {name: value for name, value in found.items() if value is not None}


def reconstructed(reader: Reader, made: Simulated) -> tuple[Tensor, dict[str, dict[str, float]]]:
    """The chain's image, and the errors of it and of the zero-filled one."""
    with torch.no_grad():
        case = reader.reconstruct(Case({"kspace": made.kspace}))
    return case["image"].data, {OURS: image_errors(case["image"], made.magnitude),
                                ZERO_FILLED: image_errors(case["zero_filled"], made.magnitude)}


def scanned(scanner: Scanner, made: Simulated, index: int) -> Tensor:
    """The fully sampled cine as a scanner would hand it out: magnitude with the noise of its SNR (Rician)."""
    sd = signal_level(made.magnitude) / scanner.snr / math.sqrt(2)
    generator = Key(index, "evidence images").generator()
    real, imaginary = (sd * torch.randn(made.magnitude.shape, generator=generator) for _ in range(2))
    return torch.hypot(made.magnitude + real, imaginary)[None, :, None]


def classical_errors(made: Simulated, stages: Sequence[Stage]) -> dict[str, dict[str, float]]:
    """The errors of reconstructions without training, by name and settings."""
    with torch.no_grad():
        return {f"{stage.name} ({stage.settings()})": image_errors(stage(made.kspace), made.magnitude)
                for stage in stages}


def image_errors(image: Image, true: Tensor) -> dict[str, float]:
    """PSNR (peak: the maximum of the true cine), SSIM and NRMSE of magnitudes after one least-squares scale."""
    shown = image.data[0, :, 0].abs().float()
    shown = shown * ((shown * true).sum() / shown.square().sum())
    return {"PSNR": psnr(shown, true), "SSIM": ssim(shown, true), "NRMSE": nrmse(shown, true)}


def measured(reader: Reader, made: Simulated, image: Tensor) -> dict[str, Any]:
    """Everything that the tables need of one subject, as plain numbers."""
    with torch.no_grad():
        case = reader.measure(Case({"image": made.as_image(image)}))
    convention = CardiacFunction(warn=False)(made.labels)
    return {"pathology": made.pathology, "truth": made.truth, "convention": _numbers(convention, 0),
            "readers": _numbers(CardiacFunction(warn=False)(as_readers_contour(made.labels)), 0),
            "point": _numbers(case["phenotypes.point"], 0),
            "members": [_numbers(case["phenotypes.members"], m) for m in range(reader.members)],
            "dice": _overlap(case["labels"], made.labels, convention),
            "notes": [note.code for note in case["phenotypes.point"].notes]}


def _numbers(phenotypes: Phenotypes, row: int) -> dict[str, float | None]:
    found = {name: None if p.value is None else p.value[row].item() for name, p in phenotypes.values.items()}
    return {name: value if value is not None and np.isfinite(value) else None for name, value in found.items()}


def _overlap(found: HardLabels, true: HardLabels, convention: Phenotypes) -> dict[str, dict[str, float]]:
    """Dice over the volume at the true end-diastolic and end-systolic frames, by class."""
    frames = {phase: int(convention[f"{phase}_frame"].value[0]) for phase in ("ED", "ES")}
    return {phase: {name: dice(found.data[0, t, 0] == i, true.data[0, t, 0] == i).item()
                    for i, name in enumerate(LABEL_NAMES) if i > 0} for phase, t in frames.items()}
