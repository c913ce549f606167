"""Phantom subjects as files: ISMRMRD k-space, NIfTI truth and truth.json; and the comparison with that truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstread.acquire.coils import LoopCoils
from firstread.acquire.heart import LABEL_NAMES, HeartSubject, example_subject, heart_subject
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import VariableDensity
from firstread.core.case import Case
from firstread.core.errors import InputError, SettingError
from firstread.core.keys import Key
from firstread.core.records import HardLabels, Image, Phenotypes, Record
from firstread.io.folder import new_folder
from firstread.io.ismrmrd import write as write_kspace
from firstread.io.nifti import read as read_image
from firstread.io.nifti import write_image, write_labels
from firstread.ops.quality import nrmse, psnr, ssim
from firstread.ops.regions import dice

MARKER = "simulation.json"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class HeartScan:
    """How a phantom heart is scanned: matrix (y, x) of a field of view 240 mm wide, frames per cycle, slices from the
    base on (None: what covers the heart)."""

    matrix: tuple[int, ...] = (160, 160)
    frames: int = 20
    slices: int | None = None

    def __post_init__(self):
        if len(self.matrix) != 2 or min(self.matrix) < 16:
            raise SettingError(f"a matrix of {self.matrix}", expected="two sizes y,x of 16 pixels or more",
                               remedy="write it as 160,160")


def simulate_hearts(folder: Path, *, subjects: int = 1, family: str = "test", pathology: str | None = None,
                    acceleration: float = 6.0, coils: int = 8, snr: float = 30.0, seed: int = 0,
                    scan: HeartScan | None = None, complex_parts: bool = False, example: bool = False,
                    overwrite: bool = False,
                    progress: Progress = lambda text: None) -> list[Path]:
    """Write ``subjects`` phantom hearts, a folder each: ``kspace.h5``, ``truth_*.nii.gz``, ``truth.json``.

    Subject i has seed ``seed + i``. complex_parts: besides the magnitude of the true image its real and imaginary
    part; example: one small subject, quickly made, whatever ``scan`` says. Raises OutputError, SettingError.
    """
    scan = scan or HeartScan()
    rows, columns = scan.matrix
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        names = [f"subject-{seed + i:04d}" for i in range(subjects)]
        for i, name in enumerate(names):
            progress(f"{name} ({i + 1} of {subjects})")
            subject = (example_subject() if example else
                       heart_subject(seed=seed + i, family=family, pathology=pathology, matrix=(rows, columns),
                                     spacing_mm=240.0 / columns, frames=scan.frames, slices=scan.slices))
            _write(work / name, subject, encoder(acceleration=acceleration, coils=coils, snr=snr), seed + i,
                   complex_parts=complex_parts)
        about = {"what": "simulated short-axis hearts with known truth", "family": "example" if example else family,
                 "pathology": pathology, "acceleration": acceleration, "coils": coils, "snr": snr, "seed": seed,
                 "subjects": names}
        (work / MARKER).write_text(json.dumps(about, indent=1), encoding="utf-8")
    return [folder / name for name in names]


def encoder(*, acceleration: float, coils: int, snr: float) -> Encode:
    """The scanner of the simulations: variable-density lines per frame, correlated noise, coils of the test family."""
    return Encode(sampling=VariableDensity(acceleration=acceleration), coils=LoopCoils(count=coils), snr=snr)


def _write(folder: Path, subject: HeartSubject, scanner: Encode, seed: int, *, complex_parts: bool) -> None:
    folder.mkdir()
    write_kspace(folder / "kspace.h5", scanner(subject.image, Key(seed, "encode")))
    data = subject.image.data
    parts = {"": data.abs()} | ({"_real": data.real, "_imaginary": data.imag} if complex_parts else {})
    for name, values in parts.items():
        write_image(folder / f"truth_image{name}.nii.gz", replace(subject.image, data=values.contiguous()))
    write_labels(folder / "truth_labels.nii.gz", subject.labels)
    (folder / "truth.json").write_text(json.dumps(subject.truth.as_dict(), indent=1), encoding="utf-8")


def read_truth(folder: Path) -> tuple[dict[str, Record], dict[str, Any]]:
    """The records ``truth.image`` and ``truth.labels``, and the analytic values, of a simulated subject."""
    paths = [folder / name for name in ("truth_image.nii.gz", "truth_labels.nii.gz", "truth.json")]
    for path in paths:
        if not path.is_file():
            raise InputError(f"no {path.name} in {folder}", expected="a subject's folder of `firstread simulate heart`",
                             remedy="correct --truth")
    image, mask = read_image(paths[0]), read_image(paths[1])
    labels = HardLabels(mask.rows, mask.data.to(torch.uint8), mask.grid, LABEL_NAMES, mask.times_s)
    return {"truth.image": image, "truth.labels": labels}, json.loads(paths[2].read_text(encoding="utf-8"))


def compare(case: Case, truth: Mapping[str, Record], analytic: Mapping[str, Any]) -> dict[str, float]:
    """Errors of a read case where the truth is known.

    PSNR (peak: the maximum of the true image), SSIM and NRMSE of the zero-filled and the reconstructed image, whose one
    scale is fitted by least squares; Dice of every class; and every measured number minus the analytic one.
    """
    found: dict[str, float] = {}
    true_image, true_labels = truth["truth.image"], truth["truth.labels"]
    for name, shown in (("zero_filled", "zero-filled"), ("image", "reconstruction")):
        made = case.get(name)
        if isinstance(made, Image) and isinstance(true_image, Image):
            found |= {f"{shown} {what}": value for what, value in image_errors(made, true_image).items()}
    labels = case.get("labels")
    if isinstance(labels, HardLabels) and isinstance(true_labels, HardLabels):
        for index, name in enumerate(labels.names[1:], start=1):
            overlap = dice(labels.data[:, :, 0] == index, true_labels.data[:, :, 0] == index)
            found[f"Dice {name}"] = overlap.mean().item()
    measured = case.get("phenotypes")
    if isinstance(measured, Phenotypes):
        for name, phenotype in measured.values.items():
            if phenotype.value is not None and name in analytic["values"]:
                error = phenotype.value[0].item() - analytic["values"][name]["value"]
                found[f"{name} minus truth ({phenotype.unit})"] = error
    return found


def image_errors(made: Image, true: Image) -> dict[str, float]:
    """PSNR, SSIM and NRMSE of magnitudes after one least-squares scale."""
    one, other = _magnitude(made), _magnitude(true)
    if one.shape != other.shape:
        raise InputError(f"a truth of shape {tuple(other.shape)} for an image of {tuple(one.shape)}",
                         expected="the truth of the same subject", remedy="correct --truth")
    one = one * ((one * other).sum() / one.square().sum().clamp_min(1e-30))
    return {"PSNR (dB)": psnr(one, other), "SSIM": ssim(one, other), "NRMSE": nrmse(one, other)}


def _magnitude(image: Image) -> Tensor:
    """``[time, z, y, x]`` of the first row."""
    return image.data[0, :, 0].abs().float()
