"""``firstread segment predict``: a model and images in, labels on the images' own grids out."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from firstread.analyze.consensus import harden
from firstread.analyze.foreign import ForeignSegment
from firstread.analyze.segment import Segment
from firstread.analyze.trained import SegmentByPlan
from firstread.chains.models import open_segmenter
from firstread.core.errors import FirstreadError, InputError, OutputError, SettingError
from firstread.core.provenance import file_hash, versions, weights_hash
from firstread.core.records import HardLabels, Image, SoftLabels
from firstread.core.stage import Stage
from firstread.io.dicom.files import looks_like_dicom
from firstread.io.dicom.seg import write_seg
from firstread.io.dicom.source import DicomSource
from firstread.io.folder import check_free, new_folder
from firstread.io.nifti import write_image
from firstread.io.open import check as check_file
from firstread.io.open import detect
from firstread.io.open import read as open_file
from firstread.jobs.segment_resume import Earlier, earlier_in, kept

MARKER = "segmentation.json"
SCHEMA = "firstread.segmentation/1"
_CHANNEL = re.compile(r"_\d{4}(?=\.nii(\.gz)?$)")  # nnU-Net's number of a channel
Progress = Callable[[str], None]


@dataclass(frozen=True)
class PredictSettings:
    """probabilities: write those of each class too; seg: DICOM SEG for DICOM input; spacing_mm: (z, y, x) stated;
    memory_gib: what segmenting an image may take beyond it and the model; series: of DICOM folders, by number, UID or
    description; mirror: False leaves out the flipped copies that a model of another program averages, which is faster
    and not as it was trained; bfloat16: networks compute in it (:class:`~firstread.nets.precision.InPrecision`)."""

    probabilities: bool = False
    seg: bool = False
    spacing_mm: tuple[float, float, float] | None = None
    memory_gib: float | None = None
    series: str | None = None
    mirror: bool = True
    bfloat16: bool = False


def open_model(model: Path, memory_gib: float | None = None, *, bfloat16: bool = False
               ) -> tuple[Stage, tuple[int, ...] | None]:
    """The stage of a model folder or file, ours or another's, and the values that its classes are stored as."""
    stage = open_segmenter(model, memory=None if memory_gib is None else int(memory_gib * 2**30),
                           precision=torch.bfloat16 if bfloat16 else None)
    return stage, tuple(c.value for c in stage.plan.classes) if isinstance(stage, SegmentByPlan) else None


def hardened(stage: Stage, soft: SoftLabels) -> HardLabels:
    """The most probable class of every voxel; a short-axis heart is cleaned up, as ``firstread read`` does."""
    return harden(soft, clean=isinstance(stage, Segment))


def predict_to_folder(model: Path, images: Sequence[Sequence[Path]], folder: Path,
                      settings: PredictSettings | None = None, *, overwrite: bool = False, resume: bool = False,
                      progress: Progress = lambda text: None) -> dict[str, Any]:
    """Write ``NAME.nii.gz`` for every image (a list of files, one for each channel) and ``segmentation.json``.

    A folder of NIfTI files is as many images; nnU-Net's ``CASE_0000``, ``CASE_0001`` … are channels of one. What
    headers say is checked of all files before the first one is segmented. An image that fails all the same is named
    in ``failed`` and the others go on; then, and on Ctrl-C or any other end, the folder holds what is finished. resume:
    keep what ``folder`` holds of the same files, made by the same model and settings, and of files that are not asked
    for again or not reached; make the rest. Images that failed then and are not asked for again stay in ``failed``.

    Raises InputError and its kinds for models and images, OutputError for the folder; an InputError with the folder
    written where some images failed.
    """
    settings = settings or PredictSettings()
    _check_free(folder, again=overwrite or resume)
    stage, values = open_model(model, settings.memory_gib, bfloat16=settings.bfloat16)
    if not settings.mirror:
        _leave_out_mirrored(stage, model)
    images = [one for parts in images for one in _expanded(parts)]
    for path in dict.fromkeys(path for parts in images for path in parts):
        check_file(path, spacing_mm=settings.spacing_mm, series=settings.series)
        if settings.seg and detect(path) != "DICOM":
            raise _no_seg(path.name)
    if isinstance(stage, ForeignSegment):
        stage.watch = lambda text: progress(f"  {text}")
    names = _names(images)
    chosen = values or tuple(range(len(stage.classes)))
    head = _head(model, stage, chosen, settings)
    earlier = earlier_in(folder / MARKER, head) if resume else Earlier()
    rows: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    tried: dict[str, list[str]] = {}
    errors: list[BaseException] = []
    with new_folder(folder, marker=MARKER, overwrite=overwrite or resume) as work:
        for number, (name, parts) in enumerate(zip(names, images, strict=True), start=1):
            progress(f"{name} ({number} of {len(names)})")
            try:
                rows.append(kept(earlier.finished.get(name), parts, folder, work)
                            or _segmented(stage, chosen, name, parts, work, settings))
            except FirstreadError as error:
                errors.append(error)
                failed.append({"input": [p.name for p in parts], "reason": str(error)})
                progress(f"  {error}")
            except BaseException as error:  # Ctrl-C, memory that ends: what is finished is kept first
                errors.append(error)
                break
            tried[name] = [p.name for p in parts]
        rows += [row for name, row in earlier.finished.items() if name not in tried and kept(row, None, folder, work)]
        if errors and not rows:
            raise errors[0]
        document = {**head, "images": rows, "failed": failed + earlier.failed_but(tried.values()),
                    "versions": versions()}
        (work / MARKER).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if errors and not isinstance(errors[-1], FirstreadError):
        raise errors[-1]
    if failed:
        raise InputError(f"{len(failed)} of {len(images)} images that could not be segmented, first "
                         f"{failed[0]['reason'].rstrip('.')}", expected=f"all as the {len(rows)} that were",
                         remedy=f"mend those that {MARKER} names as failed, and add --resume")
    return document


def _head(model: Path, stage: Stage, values: Sequence[int], settings: PredictSettings) -> dict[str, Any]:
    """What a run says of itself before its images; another run goes on from it where this is the same."""
    return {"schema": SCHEMA, "statement": "Research software. Not for clinical use.", "model": model.name,
            "weights": weights_hash(stage), "settings": asdict(settings),
            "classes": [{"name": n, "value": v} for n, v in zip(stage.classes, values, strict=True)],
            "mirrored_copies": None if not isinstance(stage, ForeignSegment) else settings.mirror and bool(
                stage.preparation.mirror)}


def _check_free(folder: Path, *, again: bool) -> None:
    """As :func:`~firstread.io.folder.check_free`; of an earlier result it says that one may go on in it."""
    try:
        check_free(folder, marker=MARKER, overwrite=again)
    except OutputError as error:
        if again or not (folder / MARKER).is_file():
            raise
        raise OutputError(error.got, expected=error.expected, remedy="choose another with -o, add --resume to go on "
                          "in it, or --overwrite to begin anew") from error


def _segmented(stage: Stage, values: Sequence[int], name: str, parts: Sequence[Path], work: Path,
               settings: PredictSettings) -> dict[str, Any]:
    """One image: its files in ``work``, all or none, and what is said of it."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=work) as part:
        home = Path(part)
        try:
            image = read_channels(parts, spacing_mm=settings.spacing_mm, series=settings.series)
            with torch.no_grad():
                soft = stage(image)
        except FirstreadError as error:
            raise type(error)(f"{name}: {error.got}", expected=error.expected, remedy=error.remedy) from error
        hard = hardened(stage, soft)
        written = write_values(home / f"{name}.nii.gz", hard, values)
        if settings.probabilities:
            written += _write_probabilities(home, name, soft)
        if settings.seg:
            written += _write_seg(home, name, hard)
        for path in home.iterdir():
            path.rename(work / path.name)
    return {"name": name, "input": [p.name for p in parts], "sha256": [file_hash(p) for p in parts], "files": written,
            "volume_ml": _volumes(hard), "warnings": [n.text for n in soft.notes],
            "seconds": round(time.perf_counter() - started, 2)}


def _leave_out_mirrored(stage: Stage, model: Path) -> None:
    """Raises SettingError for a model that averages no flipped copies."""
    if not isinstance(stage, ForeignSegment) or not stage.preparation.mirror:
        raise SettingError(f"--no-mirror for {model.name}, which averages no flipped copies",
                           expected="it for a model that was trained to", remedy="leave it out")
    stage.preparation = replace(stage.preparation, mirror=())


def _expanded(parts: Sequence[Path]) -> list[list[Path]]:
    """The images of a folder of NIfTI files; anything else as it is."""
    if len(parts) != 1 or not parts[0].is_dir():
        return [list(parts)]
    files = sorted(f for f in parts[0].iterdir() if f.is_file() and f.name.endswith((".nii", ".nii.gz")))
    if not files or any(_is_dicom(file) for file in parts[0].rglob("*") if file.is_file() and file not in files):
        return [list(parts)]
    cases: dict[str, list[Path]] = {}
    for file in files:
        cases.setdefault(_CHANNEL.sub("", file.name), []).append(file)
    return list(cases.values())


def _is_dicom(file: Path) -> bool:
    with file.open("rb") as stream:
        return looks_like_dicom(stream.read(132))


def read_channels(parts: Sequence[Path], *, spacing_mm: tuple[float, float, float] | None = None,
                  series: str | None = None) -> Image:
    """One image out of a file for each channel. Raises InputError where they do not fit together."""
    made = []
    for path in parts:
        image = open_file(path, spacing_mm=spacing_mm, series=series).case.get("image")
        if not isinstance(image, Image):
            raise InputError(f"{path.name}, which holds k-space", expected="an image", remedy="reconstruct it first")
        if made and (image.grid.shape != made[0].grid.shape or image.data.shape[:2] != made[0].data.shape[:2]):
            raise InputError(f"{path.name} of shape {image.grid.shape}", expected=f"{made[0].grid.shape}, as the first "
                             "channel", remedy="give the channels of one image")
        made.append(image)
    first = made[0]
    data = torch.cat([(m.data.abs() if m.data.is_complex() else m.data).float() for m in made], dim=2)
    return Image(first.rows, data, first.grid, first.times_s, first.cycle_s, first.source, notes=first.notes)


def write_values(path: Path, labels: HardLabels, values: Sequence[int]) -> list[str]:
    """Labels as the values that the training data used; the names of what was written."""
    table = torch.tensor(values, dtype=torch.int16 if max(values) > 255 else torch.uint8)
    data = table[labels.data.long()]
    write_image(path, Image(labels.rows, data, labels.grid, labels.times_s, labels.cycle_s))
    return [path.name]


def _write_probabilities(work: Path, name: str, soft: SoftLabels) -> list[str]:
    written = []
    for index, label in enumerate(soft.names):
        path = work / f"{name}_p{index:02d}.nii.gz"
        write_image(path, Image(soft.rows, soft.data[:, :, index:index + 1], soft.grid, soft.times_s, soft.cycle_s))
        written.append(f"{path.name} ({label})")
    return written


def _no_seg(name: str) -> InputError:
    return InputError(f"DICOM SEG for {name}, which is no DICOM", expected="a DICOM series", remedy="leave --seg out")


def _write_seg(work: Path, name: str, hard: HardLabels) -> list[str]:
    if not isinstance(hard.source, DicomSource):
        raise _no_seg(name)
    home = work / f"{name}_seg"
    home.mkdir()
    return [f"{home.name}/{path.name}" for path in write_seg(hard, hard.source, home)]


def _volumes(hard: HardLabels) -> dict[str, list[float]] | None:
    """Of each class in each frame; None without millimetres."""
    if not hard.grid.has_mm:
        return None
    ml = hard.grid.voxel_ml.reshape(-1, 1)
    return {name: [round(float(v), 3) for v in ((hard.data[:, :, 0] == index).sum((-3, -2, -1)) * ml).sum(0)]
            for index, name in enumerate(hard.names) if index}


def _names(images: Sequence[Sequence[Path]]) -> list[str]:
    """A name for each result: the file's, without what says its type; numbered where two are equal."""
    firsts = [parts[0] if parts[0].name.strip(".") else parts[0].resolve() for parts in images]  # . and .. are no names
    stems = [path.name.split(".nii")[0] if ".nii" in path.name else path.stem for path in firsts]
    return [stem if stems.count(stem) == 1 else f"{stem}_{number + 1}" for number, stem in enumerate(stems)]
