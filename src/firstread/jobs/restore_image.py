"""Restoration of one file: ``firstread restore denoise|gibbs|bias``.

    file (and mask) ─▶ case ─▶ chain of one stage ─▶ image.nii.gz, restore.json, page.html
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast, get_args

import torch

from firstread.core.case import Case
from firstread.core.errors import FormatError, InputError, SignalError
from firstread.core.provenance import file_hash, peak_memory_mb, versions
from firstread.core.records import HardLabels, Image, Record
from firstread.core.stage import Chain, Stage
from firstread.io.folder import check_free, new_folder
from firstread.io.open import detect
from firstread.io.open import read as open_file
from firstread.nets.denoise import ScaledDenoiser
from firstread.report.restored import MARKER, RestoredReport, write
from firstread.restore.bias import CorrectBias
from firstread.restore.denoise import CorrectRician, Denoise, DenoisePCA, DenoiseTV
from firstread.restore.gibbs import RemoveRinging
from firstread.restore.noise2self import Noise2Self
from firstread.zoo.store import load

Progress = Callable[[str], None]
Method = Literal["network", "noise2self", "pca", "tv"]
TITLES = {"denoise": "Denoised image", "gibbs": "Image without Gibbs ringing", "bias": "Image without bias field"}


def denoiser(method: str, *, noise: float | None = None, weight: str | Path = "denoise") -> Stage:
    """The stage of a denoising method.

    Raises InputError for an unknown method or weight, or a noise level or a weight for a method that takes none.
    """
    if method not in get_args(Method):
        raise InputError(f"the method {method!r}", expected=f"one of {', '.join(get_args(Method))}",
                         remedy="correct --method")
    if noise is not None and not 0 <= noise < math.inf:
        raise InputError(f"a noise level of {noise}", expected="a number of zero or more", remedy="correct --noise")
    if noise is not None and method in ("noise2self", "pca"):
        raise InputError(f"a noise level for {method}", expected="none: it takes the noise from the image",
                         remedy="leave --noise out, or use tv or network")
    if method != "network" and str(weight) != "denoise":
        raise InputError(f"a weight for {method}", expected="--method network with --weight",
                         remedy="leave --weight out, or add --method network")
    if method == "network":
        found = load(weight)
        try:
            return Denoise(network=ScaledDenoiser.from_weight(found.card["network"], found.state), noise=noise)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # RuntimeError: another network's parameters
            raise FormatError(f"{found.name}, which is no network of denoising", expected="the weight and the card "
                              "beside it (.json) that firstread train denoise writes", remedy="give both files of one "
                              "training, or leave --weight out") from error
    if method == "tv":
        return DenoiseTV(noise=noise)
    return DenoisePCA() if method == "pca" else Noise2Self()


def restore_image(path: Path, *stages: Stage, title: str, mask: Path | None = None, series: str | None = None,
                  seed: int = 0, divided: bool = False, progress: Progress = lambda text: None) -> RestoredReport:
    """One image through a chain of stages, of which the last makes the result.

    mask: where the body is, on the grid of the image (for a bias field); series: which of a DICOM folder; divided: the
    stages divide the image.

    Raises InputError for k-space or a mask that is no 3D image, and whatever reading a file and the stage may raise.
    """
    started = time.perf_counter()
    progress(f"opening {path.name}")
    records: dict[str, Record] = {"image": grey_image(path, series=series)}
    if mask is not None:
        records["mask"] = _mask(mask)
    with torch.no_grad():
        case = Chain(*stages)(Case(records, seed=seed), watch=lambda stage: progress(stage.name.replace("_", " ")))
    before, after = cast(Image, case["image"]), cast(Image, case[stages[-1].writes])
    apart = (before.data - after.data).abs().square().mean() / before.data.abs().square().mean().clamp(min=1e-30)
    return RestoredReport(case, before, after, title, file_hash(path), float(apart.sqrt()), versions(),
                          time.perf_counter() - started, peak_memory_mb(), divided)


def restore_image_to_folder(path: Path, folder: Path, verb: Literal["denoise", "gibbs", "bias"], *,
                            method: str = "tv", noise: float | None = None, rician: bool = False,
                            weight: str | Path = "denoise", mask: Path | None = None,
                            series: str | None = None, seed: int = 0, overwrite: bool = False,
                            progress: Progress = lambda text: None) -> RestoredReport:
    """Write ``image.nii.gz``, ``restore.json`` and ``page.html``; whole or not at all.

    rician: correct the bias that denoising leaves in magnitudes. Raises InputError for it with the network, which has
    learned it.
    """
    check_free(folder, marker=MARKER, overwrite=overwrite)
    stages: list[Stage] = [RemoveRinging() if verb == "gibbs" else CorrectBias()]
    if verb == "denoise":
        if rician and method == "network":
            raise InputError("a correction of Rician bias for the network", expected="none: the network has learned it",
                             remedy="leave --rician out")
        stages = [denoiser(method, noise=noise, weight=weight)]
        if rician:
            stages.append(CorrectRician(noise=noise).using(reads={"image": "image", "denoised": "denoised"}))
    if verb == "denoise" and method == "noise2self":
        progress("a network is trained on this image first: that takes a minute or more")
    report = restore_image(path, *stages, title=TITLES[verb], mask=mask, series=series, seed=seed,
                           divided=verb == "bias", progress=progress)
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        write(report, work)
    return report


def grey_image(path: Path, *, spacing_mm: tuple[float, float, float] | None = None, series: str | None = None) -> Image:
    """The images of a file or folder, as floats or complex numbers; series: which of a DICOM folder.

    Raises InputError for raw data, arrays without a header or colours, SignalError for zeros alone, and whatever
    reading may raise.
    """
    if detect(path) in ("npy", "MATLAB"):
        raise InputError(f"{path.name}, an array without a header", expected="images: NIfTI, DICOM, PNG or JPEG",
                         remedy="reconstruct k-space first (firstread reconstruct), or save images as NIfTI")
    image = open_file(path, spacing_mm=spacing_mm, series=series).case.get("image")
    if not isinstance(image, Image):
        raise InputError(f"{path.name}, which holds raw data", expected="images", remedy="reconstruct it first")
    if image.data.shape[2] != 1:
        raise InputError(f"{path.name} with {image.data.shape[2]} colours", expected="grey images",
                         remedy="give one channel")
    if not bool((image.data != 0).any()):
        raise SignalError(f"{path.name}, images without signal", expected="values other than zero",
                          remedy="check the file")
    return image if image.data.is_complex() else replace(image, data=image.data.float())


def _mask(path: Path) -> HardLabels:
    image = open_file(path).case.get("image")
    if not isinstance(image, Image) or image.data.shape[1] > 1:
        raise InputError(f"{path.name}, which is no 3D image", expected="a mask: a 3D file of zeros and ones",
                         remedy="draw the mask on the image")
    return HardLabels(image.rows, (image.data.abs() > 0.5).to(torch.uint8), image.grid, ("background", "body"))
