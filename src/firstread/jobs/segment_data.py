"""Images with labels as they lie in folders: found, paired, opened and checked."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Integer
from torch import Tensor

from firstread.analyze.canonical import onto
from firstread.core.errors import FirstreadError, FormatError, GeometryError, InputError, UnsupportedError
from firstread.core.geometry import Grid
from firstread.core.records import Image
from firstread.io.dicom.seg_read import open_seg, seg_files
from firstread.io.open import read as open_file
from firstread.jobs.segment_seg import placed, require_numbers, values_of, values_used

ENDINGS = (".nii.gz", ".nii", ".npy", ".mat", ".png", ".jpg", ".jpeg", ".dcm")
# what follows the patient's name in the names of files: patient001_frame12, P7-ES, sub-03_slice4
PART = re.compile(r"([_.\-]+((frame|phase|time|slice|ed|es)[_\-]?\d*|[tsz]\d+))+$", re.IGNORECASE)
_LAYOUTS = "images/ and labels/, nnU-Net's imagesTr/ and labelsTr/ with dataset.json, or a .csv with image and label"


@dataclass(frozen=True)
class Sample:
    """One image with its labels. images: a file for each channel; annotated: names or values of the classes that were
    looked for, empty for all; segments: of DICOM SEG labels the value of each segment."""

    name: str
    patient: str
    images: tuple[Path, ...]
    label: Path
    annotated: tuple[str, ...] = ()
    segments: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class DataSet:
    """names: of label values where stated; ignored: the value of voxels that nobody decided on; named: ``dataset.json``
    names the classes, so that no other value may occur."""

    samples: tuple[Sample, ...]
    names: Mapping[int, str] = field(default_factory=dict)
    modalities: tuple[str, ...] = ()
    ignored: int | None = None
    named: bool = False


def find_data(source: Path) -> DataSet:
    """The samples of a folder or a table.

    Patients: the column ``patient`` of a table; else the file's name without an ending such as ``_frame01`` or ``_ES``.
    Labels may be DICOM SEG; their segments get the values of the classes stated (``dataset.json``) or, where none are
    stated, name the classes themselves. Raises InputError where nothing is found, images and labels do not pair or a
    segment is no class, FormatError for a bad table or a damaged segmentation.
    """
    if source.is_file() and source.suffix.lower() == ".csv":
        found = DataSet(_table(source))
    elif (source / "images").is_dir() and (source / "labels").is_dir():
        names, ignored, modalities = _stated(source) if (source / "dataset.json").is_file() else ({}, None, ())
        found = DataSet(_paired(source / "images", source / "labels"), names, modalities[:1], ignored)
    elif (source / "dataset.json").is_file():
        found = _nnunet(source)
    else:
        raise InputError(f"no data set in {source.name}", expected=_LAYOUTS, remedy="arrange the files like that")
    if not found.samples:
        raise InputError(f"no images with labels in {source.name}", expected=_LAYOUTS, remedy="check the folder")
    return _with_segments(replace(found, named=any(found.names)))


def _with_segments(found: DataSet) -> DataSet:
    """What DICOM SEG labels call their segments, as values."""
    files = [seg_files(sample.label) for sample in found.samples]
    opened = [open_seg(path) for paths in files for path in paths]
    if not opened:
        return found
    values = values_of(opened, found.names, ignored=found.ignored)
    if not found.names and not all(files):
        require_numbers(opened, values, remedy='state them in dataset.json: {"labels": {"liver": 1}}')
    pairs = tuple(values.items())
    samples = tuple(replace(s, segments=pairs) if own else s for s, own in zip(found.samples, files, strict=True))
    return replace(found, samples=samples, names=found.names or values_used(values))


def check_named(data: DataSet, cases: Sequence[Mapping[str, Any]]) -> None:
    """Refuse label values that ``dataset.json``, where it names classes, does not name: most often they are slips.

    cases: ``name`` and ``voxels`` by value, as a fingerprint's ``each``. Raises InputError that names case and values.

    >>> check_named(DataSet((), {1: "liver"}, named=True), [{"name": "p1", "voxels": {"0": 9, "1": 3}}])
    """
    allowed = {0, *data.names, *(() if data.ignored is None else (data.ignored,))}
    strange = {case["name"]: values for case in cases
               if (values := sorted(int(v) for v in case["voxels"] if int(v) not in allowed))}
    if not data.named or not strange:
        return
    first, values = next(iter(strange.items()))
    known = ", ".join(f"{v} ({name})" for v, name in sorted({0: "background", **data.names}.items()))
    raise InputError(first + (f" and {counted(len(strange) - 1, 'other case')}" if len(strange) > 1 else "")
                     + f": label values {values} that dataset.json does not name", expected=f"some of {known}",
                     remedy="correct the labels, or name the values in dataset.json")


def counted(number: int, what: str) -> str:
    """A number of things, in words.

    >>> counted(1, "case"), counted(2, "case")
    ('1 case', '2 cases')
    """
    return f"{number} {what}{'s' * (number != 1)}"


def patient_of(name: str) -> str:
    """The patient in the name of a case.

    >>> patient_of("patient001_frame12"), patient_of("P7-ES"), patient_of("sub-03_t2_z14")
    ('patient001', 'P7', 'sub-03')
    >>> patient_of("BRATS_001"), patient_of("amos_0001"), patient_of("PAT12"), patient_of("chris")
    ('BRATS_001', 'amos_0001', 'PAT12', 'chris')
    """
    return PART.sub("", name) or name


def load_sample(sample: Sample, *, ignored: int | None = None) -> tuple[Image, Integer[Tensor, "time z y x"]]:
    """Image (channels joined) and label values of a case.

    Raises GeometryError where label and image lie on different grids, FormatError for labels that are no whole numbers
    of 0 and more, and whatever reading may raise; all name the case.
    """
    parts = [_image(path, sample.name) for path in sample.images]
    for path, part in zip(sample.images[1:], parts[1:], strict=True):
        _same_grid(sample.name, path.name, part.grid, parts[0].grid)
    first = parts[0]
    data = torch.cat([(p.data.abs() if p.data.is_complex() else p.data).float() for p in parts], dim=2)
    image = Image(first.rows, data, first.grid, first.times_s, first.cycle_s, first.source, notes=first.notes)
    if sample.segments:
        try:
            files = [open_seg(path) for path in seg_files(sample.label)]
            values = placed(files, image.grid, dict(sample.segments), frames=data.shape[1], source=image.source,
                            name=sample.name)
        except FormatError as error:
            raise FormatError(f"{sample.name}: {error.got}", expected=error.expected, remedy=error.remedy) from error
        return image, values
    mask = _image(sample.label, sample.name)
    if (turned := onto(mask.data, mask.grid, image.grid)) is not None:
        mask = replace(mask, data=turned, grid=image.grid)
    _same_grid(sample.name, sample.label.name, mask.grid, image.grid)
    if mask.data.shape[1] != data.shape[1] or mask.data.shape[2] != 1:
        raise GeometryError(f"{sample.name}: labels of {mask.data.shape[1]} frames and {mask.data.shape[2]} channels",
                            expected=f"{data.shape[1]} frames, one channel", remedy="give labels for every frame")
    values = mask.data[0, :, 0]
    if bool((values < 0).any()) or (values.is_floating_point() and bool((values != values.round()).any())):
        raise FormatError(f"{sample.name}: labels that are no whole numbers of 0 and more", expected="class values",
                          remedy="write hard labels, the background as 0")
    return image, values.to(torch.int32)


def class_indices(values: Integer[Tensor, "time z y x"], known: Mapping[int, int], ignored: int | None, name: str
                  ) -> Integer[Tensor, "time z y x"]:
    """Label values as positions in the plan's classes; 255 where the value is the ignored one.

    Raises InputError for a value that the plan does not know.
    """
    made = torch.full(values.shape, 255, dtype=torch.uint8)
    found = [int(v) for v in torch.unique(values)]
    strange = [v for v in found if v not in known and v != ignored]
    if strange:
        raise InputError(f"{name}: label values {strange} that the plan does not know", expected=f"some of "
                         f"{sorted(known)}", remedy="correct the labels, or add the classes to plan.json")
    for value in found:
        if value in known:
            made[values == value] = known[value]
    return made


def _image(path: Path, name: str) -> Image:
    try:
        image = open_file(path).case.get("image")
    except FirstreadError as error:
        raise type(error)(f"{name}: {error.got}", expected=error.expected, remedy=error.remedy) from error
    if not isinstance(image, Image):
        raise InputError(f"{name}: {path.name}, which holds k-space", expected="an image", remedy="reconstruct it")
    if image.data.shape[2] != 1:
        raise UnsupportedError(f"{name}: {path.name} with {image.data.shape[2]} colours", expected="grey values",
                               remedy="write each channel to a file of its own")
    return image


def _same_grid(name: str, file: str, grid: Grid, other: Grid) -> None:
    if grid.shape != other.shape:
        raise GeometryError(f"{name}: {file} of shape {grid.shape}", expected=f"{other.shape}, as the image has",
                            remedy="resample the labels onto the image's grid")
    if grid.has_mm and other.has_mm and not grid.same_as(other, tolerance_mm=0.1 * float(other.spacing_mm.min())):
        raise GeometryError(f"{name}: {file} at another place than the image", expected="the same grid, to a tenth of "
                            "a voxel", remedy="correct the header, or resample the labels onto the image's grid")


def _stem(path: Path) -> str | None:
    return next((path.name[: -len(end)] for end in ENDINGS if path.name.lower().endswith(end)), None)


def _paired(images: Path, labels: Path) -> tuple[Sample, ...]:
    """Files of equal names in two folders; a folder of DICOM counts as a file."""
    def named(folder: Path) -> dict[str, Path]:
        return {name: p for p in sorted(folder.iterdir()) if not p.name.startswith(".")
                and (name := p.name if p.is_dir() else _stem(p)) is not None}

    here, there = named(images), named(labels)
    lonely = sorted(set(here) ^ set(there))
    if lonely:
        shown = ", ".join(lonely[:3]) + " …" * (len(lonely) > 3)
        raise InputError(f"{counted(len(lonely), 'file')} without a partner ({shown})",
                         expected="an image and a label of the same name", remedy="complete or remove them")
    return tuple(Sample(name, patient_of(name), (path,), there[name]) for name, path in here.items())


def _stated(source: Path) -> tuple[dict[int, str], int | None, tuple[str, ...]]:
    """Names of label values, the value of undecided voxels and the channels, of nnU-Net's ``dataset.json``."""
    names: dict[int, str] = {}
    ignored = None
    try:
        about = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
        channels = about.get("channel_names") or about.get("modality") or {"0": "unknown"}
        for name, value in about["labels"].items():
            if isinstance(value, list):
                raise UnsupportedError(f"dataset.json with the region {name!r} of several labels", expected="one value "
                                       "for each class", remedy="train on the labels, and join them afterwards")
            if name == "ignore":
                ignored = int(value)
            else:
                names[int(value)] = str(name)
        return dict(sorted(names.items())), ignored, tuple(str(v) for v in channels.values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise FormatError(f"dataset.json that cannot be used ({type(error).__name__}: {error})",
                          expected="the fields labels and channel_names", remedy="correct it") from error


def _nnunet(source: Path) -> DataSet:
    """The raw layout of nnU-Net v2: ``imagesTr/CASE_0000.ext``, ``labelsTr/CASE.ext``, ``dataset.json``."""
    names, ignored, channels = _stated(source)
    ending = json.loads((source / "dataset.json").read_text(encoding="utf-8")).get("file_ending", ".nii.gz")
    samples = []
    for label in sorted((source / "labelsTr").glob(f"*{ending}")):
        name = label.name[: -len(ending)]
        images = tuple(source / "imagesTr" / f"{name}_{number:04d}{ending}" for number in range(len(channels)))
        absent = [path.name for path in images if not path.is_file()]
        if absent:
            raise InputError(f"no {absent[0]} in imagesTr", expected="a file for each channel of each label",
                             remedy="complete imagesTr, or remove the label")
        samples.append(Sample(name, patient_of(name), images, label))
    return DataSet(tuple(samples), names, channels, ignored)


def _table(source: Path) -> tuple[Sample, ...]:
    """Rows of ``image,label[,patient,annotated]``; several channels and several classes are separated by ``;``."""
    try:
        with source.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{source.name}, which is no text in UTF-8 ({type(error).__name__})", expected="a comma-"
                          "separated table in UTF-8", remedy="save it as \"CSV UTF-8\"") from error
    if not rows or not {"image", "label"} <= set(rows[0]):
        raise FormatError(f"{source.name} with the columns {sorted(rows[0]) if rows else []}",
                          expected="image and label, and perhaps patient and annotated",
                          remedy="correct the first line")
    samples = []
    for number, row in enumerate(rows, start=2):
        images = tuple(source.parent / part.strip() for part in (row["image"] or "").split(";") if part.strip())
        if not (row["label"] or "").strip():
            raise InputError(f"line {number} of {source.name} without a label", expected="paths beside the table that "
                             "exist", remedy="complete or remove the line")
        label = source.parent / row["label"].strip()
        missing = [str(path.name) for path in (*images, label) if not path.exists()]
        if not images or missing:
            raise InputError(f"line {number} of {source.name}: no {missing[0] if missing else 'image'}",
                             expected="paths beside the table that exist", remedy="correct the line")
        name = _stem(images[0]) or images[0].name
        patient = (row.get("patient") or "").strip() or patient_of(name)
        annotated = tuple(part.strip() for part in (row.get("annotated") or "").split(";") if part.strip())
        samples.append(Sample(name, patient, images, label, annotated))
    return tuple(samples)
