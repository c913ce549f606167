"""Published tables, our rows: fastMRI and CMRxRecon 2023 by the challenges' own masks and measures.

    fully sampled volume ─▶ the challenge's mask ─▶ method ─▶ the challenge's measures ─▶ a table beside published rows
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.acquire.fastmri_masks import Kind, fastmri_mask
from firstread.chains.reconstruct import method_of, reconstruct_chain
from firstread.core.case import Case
from firstread.core.errors import FirstreadError, FormatError
from firstread.core.records import Image, KSpace
from firstread.io.challenges import (
    CineFiles,
    cmrxrecon_cines,
    cmrxrecon_kspace,
    cmrxrecon_record,
    cmrxrecon_slices,
    fastmri_truth,
    fastmri_volumes,
)
from firstread.io.rawdata import read_fastmri
from firstread.ops.quality import nmse, psnr, ssim_uniform
from firstread.reconstruct.direct import root_sum_of_squares
from firstread.trust.bootstrap import paired_t

Progress = Callable[[str], None]
MEASURES = ("NMSE", "PSNR dB", "SSIM")
FRAMES, SLICES = 3, 2  # that CMRxRecon's ranking looks at


@dataclass(frozen=True)
class Row:
    """One line of the table; values by measure. source: of a published row, empty for ours."""

    method: str
    acceleration: int
    volumes: int
    values: Mapping[str, str]
    source: str = ""


def fastmri_table(folder: Path, methods: Sequence[str], accelerations: Sequence[int], *, mask: Kind = "random",
                  volumes: int | None = None, progress: Progress = lambda text: None) -> str:
    """NMSE, PSNR and SSIM of every method on the volumes of a fastMRI folder, as a Markdown table.

    Measures of a volume as in fastMRI's ``evaluate``: the peak is the volume's largest value, SSIM under a flat 7 x 7
    window is averaged over slices; image and reference are cut to the middle square. A volume that cannot be read is
    left out, and said; the error is raised where none can be.
    """
    found = fastmri_volumes(folder)[:volumes]
    for acceleration in accelerations:
        fastmri_mask(320, acceleration, kind=mask, name="any")  # refuses accelerations that there are no masks for
    scores: dict[tuple[str, int], list[list[float]]] = {}
    coils, left_out = 0, 0
    for path in found:
        try:
            truth, _ = fastmri_truth(path)
            full, _ = read_fastmri(path)
        except FirstreadError as error:
            progress(f"{path.name} is left out: {error}")
            left_out += 1
            if left_out == len(found):
                raise
            continue
        coils = max(coils, full.data.shape[2])
        for acceleration in accelerations:
            drawn = fastmri_mask(full.data.shape[-1], acceleration, kind=mask, name=path.name)
            kept = drawn.reshape(1, 1, 1, 1, 1, -1) & (full.mask != 0)
            record = replace(full, data=full.data * kept, mask=kept)
            for name, image in _reconstructed(record, methods):
                progress(f"{path.name}  {acceleration}-fold  {name}")
                made = image.data[0, 0, 0].abs()
                scores.setdefault((name, acceleration), []).append(volume_scores(made, truth))
    published = [row for row in FASTMRI if row.acceleration in accelerations] if coils > 1 and mask == "random" else []
    title = f"fastMRI, {folder.name}, {mask} masks, {'multi' if coils > 1 else 'single'}-coil" + (
        f", {left_out} unreadable volumes left out" if left_out else "")
    return _table(title, scores, published, "volumes")


def volume_scores(image: Float[Tensor, "slice y x"], truth: Float[Tensor, "slice height width"]) -> list[float]:
    """NMSE, PSNR and SSIM of a volume by fastMRI's definitions.

    >>> truth = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> [round(v, 4) for v in volume_scores(truth, truth)]
    [0.0, inf, 1.0]
    """
    size = min(truth.shape[-1], *truth.shape[-2:], *image.shape[-2:])
    first, second = middle(image, (size, size)), middle(truth, (size, size))
    peak = float(second.max())
    return [nmse(first, second), psnr(first, second, peak=peak), ssim_uniform(first, second, peak=peak)]


def cmrxrecon_table(folder: Path, methods: Sequence[str], accelerations: Sequence[int], *, volumes: int | None = None,
                    progress: Progress = lambda text: None) -> str:
    """NMSE, PSNR and SSIM of every method on the cines of a CMRxRecon 2023 folder, as a Markdown table.

    As the challenge's evaluation: the two middle slices, the first three frames, the middle third by half of the
    matrix, every plane divided by its own largest value.
    """
    found = cmrxrecon_cines(folder)[:volumes]
    scores: dict[tuple[str, int], list[list[float]]] = {}
    for cine in found:
        middle_slices = _middle_slices(cine)
        full = cmrxrecon_kspace(cine.full, f"kspace_{cine.middle}full", middle_slices)
        truth = root_sum_of_squares(full[None], ("y", "x"))[0, :, 0]
        for acceleration in accelerations:
            record = cmrxrecon_record(cine, acceleration, middle_slices)
            for name, image in _reconstructed(record, methods):
                progress(f"{cine.coils} {cine.patient} {cine.view}  {acceleration}-fold  {name}")
                scores.setdefault((name, acceleration), []).append(ranking_scores(image.data[0, :, 0].abs(), truth))
    return _table(f"CMRxRecon 2023, cine, {folder.name}", scores, CMRXRECON, "cines")


def ranking_scores(image: Float[Tensor, "time slice y x"], truth: Float[Tensor, "time slice y x"]) -> list[float]:
    """Means of NMSE, PSNR and SSIM over the planes that CMRxRecon's ranking looks at, each divided by its maximum."""
    size = (_half_up(truth.shape[-2] / 2), _half_up(truth.shape[-1] / 3))  # x is the first axis of its files
    planes = [middle(v, size)[:FRAMES].flatten(0, 1) for v in (image, truth)]
    scores = []
    for made, true in zip(*planes, strict=True):
        one, two = made / made.max().clamp_min(1e-30), true / true.max().clamp_min(1e-30)
        scores.append([nmse(one, two), psnr(one, two, peak=1.0), ssim_uniform(one, two, peak=1.0)])
    return torch.tensor(scores, dtype=torch.float64).mean(dim=0).tolist()


def middle(data: Float[Tensor, "*lead y x"], size: tuple[int, int]) -> Float[Tensor, "*lead height width"]:
    """The middle ``size`` pixels (y, x), about ``N // 2``."""
    for dim, kept in zip((-2, -1), size, strict=True):
        data = data.narrow(dim, data.shape[dim] // 2 - kept // 2, kept)
    return data


def _reconstructed(record: KSpace, methods: Sequence[str]) -> Iterator[tuple[str, Image]]:
    for name in methods:
        chosen = method_of(name, record)
        with torch.inference_mode():
            image = reconstruct_chain(chosen)(Case({"kspace": record}))["image"]
        assert isinstance(image, Image)
        yield chosen, image


def _middle_slices(cine: CineFiles) -> list[int]:
    """The two slices that the ranking looks at: MATLAB's ``round(sz/2) - 1 : round(sz/2)``."""
    depth = cmrxrecon_slices(cine)
    if depth < SLICES:
        raise FormatError(f"{cine.full.name} of {depth} slice", expected="two or more", remedy="leave that cine out")
    last = _half_up(depth / 2)
    return list(range(last - SLICES, last))


def _half_up(value: float) -> int:
    return int(value + 0.5)


def _table(title: str, scores: Mapping[tuple[str, int], list[list[float]]], published: Sequence[Row], unit: str) -> str:
    rows = [Row(f"Firstread {name}", acceleration, len(values), _text(values))
            for (name, acceleration), values in sorted(scores.items(), key=lambda item: (item[0][1], item[0][0]))]
    lines = [f"# {title}", "", f"Mean over {unit}; in brackets the 95 % t interval of the mean (three or more).", "",
             f"| method | acceleration | {unit} | {' | '.join(MEASURES)} | source |", "|---|---|---|---|---|---|---|"]
    for row in (*rows, *published):
        acceleration = str(row.acceleration) if row.acceleration else "all"
        lines.append(f"| {row.method} | {acceleration} | {row.volumes or '–'} | "
                     f"{' | '.join(row.values[m] for m in MEASURES)} | {row.source or 'this run'} |")
    return "\n".join(lines) + "\n\nPublished rows are of other volumes: look at what their source says of them.\n"


def _text(values: Sequence[Sequence[float]]) -> dict[str, str]:
    table = torch.tensor(values, dtype=torch.float64)
    digits = {"NMSE": 4, "PSNR dB": 2, "SSIM": 4}
    made = {}
    for column, name in enumerate(MEASURES):
        of = table[:, column]
        text = f"{of.mean():.{digits[name]}f}"
        if len(of) >= 3 and bool(torch.isfinite(of).all()):
            found = paired_t(of[:, None], torch.zeros(len(of), 1, dtype=torch.float64))
            text += f" [{found.lower:.{digits[name]}f}, {found.upper:.{digits[name]}f}]"
        made[name] = text
    return made


_PROMPTMR = "PromptMR's repository, promptmr_examples/fastmri: 100 knee volumes of multicoil_val, random masks"
_DIRECT = "DIRECT's model zoo: challenge test set"


def _published(method: str, acceleration: int, volumes: int, nmse_: str, psnr_: str, ssim_: str, source: str) -> Row:
    return Row(method, acceleration, volumes, dict(zip(MEASURES, (nmse_, psnr_, ssim_), strict=True)), source)


FASTMRI = (
    _published("E2E-VarNet (trained on train and val)", 4, 46, "0.0053", "39.37", "0.9236", _PROMPTMR),
    _published("PromptMR", 4, 46, "0.0051", "39.71", "0.9264", _PROMPTMR),
    _published("E2E-VarNet (trained on train and val)", 8, 54, "0.0087", "37.30", "0.8936", _PROMPTMR),
    _published("HUMUS-Net", 8, 54, "0.0090", "37.20", "0.8946", _PROMPTMR),
    _published("PromptMR", 8, 54, "0.0080", "37.78", "0.8984", _PROMPTMR),
)
CMRXRECON = (_published("vSHARP", 0, 0, "0.0037", "46.2", "0.988", _DIRECT),)
