"""Label files in pairs: found by name, named, opened, compared in place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Integer
from torch import Tensor

from firstread.analyze.canonical import onto
from firstread.core.errors import FirstreadError, FormatError, GeometryError, InputError
from firstread.core.geometry import Grid
from firstread.core.records import Image
from firstread.io.dicom.seg_read import grid_of, open_seg, seg_files
from firstread.io.label_files import names_in_header, read_mask_folder
from firstread.io.open import read as open_file
from firstread.jobs.segment_data import ENDINGS, counted
from firstread.jobs.segment_seg import phases_of, placed, require_numbers, values_of, values_used


@dataclass(frozen=True, eq=False)
class Pair:
    """Labels of a case on one grid; turned: the prediction's axes lay in another order or sense than the truth's."""

    truth: Integer[Tensor, "time z y x"]
    prediction: Integer[Tensor, "time z y x"]
    grid: Grid
    turned: bool


def pair_files(predictions: Path, truths: Path) -> dict[str, tuple[Path, Path]]:
    """Prediction and truth by the name of the case: two files, or the files of equal names in two folders.

    A folder of DICOM SEG objects counts as a file, ``NAME_seg`` as NAME, where no other file has that name; so does a
    folder NAME with a mask for each structure, or such a folder beside one file. Raises InputError where one has no
    partner or there is none at all.
    """
    for path in (predictions, truths):
        if not path.exists():
            raise InputError(f"nothing at {path.name}", expected="a label file, or a folder of them",
                             remedy="check the path")
    if any(path.is_dir() and masks_of(path) for path in (predictions, truths)) and not all(
            path.is_dir() for path in (predictions, truths)):
        return {_stem(truths) or _stem(predictions) or truths.name: (predictions, truths)}
    if predictions.is_dir() != truths.is_dir():
        raise InputError(f"{predictions.name} and {truths.name}, a folder and a file", expected="two files or two "
                         "folders", remedy="give both alike")
    if not predictions.is_dir():
        return {_stem(truths) or truths.name: (predictions, truths)}
    here, there = (_cases(folder) for folder in (predictions, truths))
    for names, folder, what in ((sorted(set(there) - set(here)), predictions, "prediction"),
                                (sorted(set(here) - set(there)), truths, "truth")):
        if names:
            raise InputError(f"no {what} in {folder.name} for {', '.join(names[:3])}{' …' * (len(names) > 3)} "
                             f"({counted(len(names), 'case')})", expected="a file of the same name in both folders",
                             remedy="complete them, or take the others out")
    if not here:
        raise InputError(f"no label files in {predictions.name}", expected=f"files ending in {', '.join(ENDINGS[:2])}, "
                         "DICOM SEG, or a folder of masks for each case", remedy="check the folder")
    return {name: (path, there[name]) for name, path in here.items()}


def segment_names(pairs: Iterable[tuple[Path, Path]], names: Mapping[int, str] | None
                  ) -> tuple[dict[str, int], dict[int, str]]:
    """The value of each named label among the files, and what values are called.

    Names come from ``names``, else from the tables in the headers of label files, DICOM SEG segments, and the files of
    folders with a mask for each structure (TotalSegmentator's). Raises InputError for segments that the stated names do
    not know, for names that mean another value from file to file, and for names beside labels that are numbers alone.
    """
    paths = list(dict.fromkeys(path for pair in pairs for path in pair))
    each = [seg_files(path) for path in paths]
    opened = [open_seg(file) for files in each for file in files]
    folders = [path for path, files in zip(paths, each, strict=True) if not files and path.is_dir()]
    tables = [names_in_header(path) for path, files in zip(paths, each, strict=True) if not files and path.is_file()]
    known = dict(names or {})
    for table in () if names else tables:
        for value, name in table.items():
            if value and known.setdefault(value, name) != name:
                raise InputError(f"labels whose value {value} is {known[value]!r} in one file and {name!r} in another",
                                 expected="one name for each value", remedy="write them alike, or state --labels")
    values = values_of(opened, known)
    numbers = not names and not all(tables)
    if opened and numbers:
        require_numbers(opened, values, remedy="state them: --labels liver,tumour")
    if folders:
        values |= {name: value for value, name in known.items() if value}
        found = sorted({_stem(file) or "" for folder in folders for file in masks_of(folder)})
        if numbers:
            raise InputError(f"masks named {', '.join(found[:3])} beside labels that are numbers alone",
                             expected="names of the values", remedy="state them (--labels liver,tumour), or give two "
                             "folders of cases")
        for name in found if not names else ():
            values.setdefault(name, 1 + max(values.values(), default=0))
    return values, {**{value: name for value, name in values_used(values).items() if value},
                    **{value: name for value, name in known.items() if value}}


def read_pair(predicted: Path, true: Path, case: str, values: Mapping[str, int]) -> Pair:
    """Truth and prediction on the truth's grid; of two segmentations in DICOM on one that holds all of their planes.

    A prediction on the same voxels in another order of axes is turned by the headers.

    Raises GeometryError where they lie on different grids (saying how they differ), and what reading may raise.
    """
    objects = {"truth": seg_files(true), "prediction": seg_files(predicted)}
    made: dict[str, Tensor] = {}
    grid: Grid | None = None
    turned = False
    for what, path in (("truth", true), ("prediction", predicted)):
        if objects[what]:
            continue
        made[what], own = read_labels(path, case, what) if path.is_file() else read_masks(path, case, what, values)
        if grid is not None and (apart := grid_difference(own, grid)) is not None:
            if (data := onto(made[what], own, grid)) is None:
                raise GeometryError(f"{case}: a prediction with {apart}", expected="the grid of the truth",
                                    remedy="resample the prediction onto that grid (nearest neighbour)")
            made[what], turned = data, True
        grid = grid or own
    try:
        opened = {what: [open_seg(path) for path in paths] for what, paths in objects.items() if paths}
        grid = grid or grid_of([file for files in opened.values() for file in files])
        for what, files in opened.items():
            frames = next((len(other) for other in made.values()), phases_of(files))
            made[what] = placed(files, grid, values, frames=frames, source=None, name=f"the {what}")
    except FirstreadError as error:
        raise type(error)(f"{case}: {error.got}", expected=error.expected, remedy=error.remedy) from error
    if made["prediction"].shape[0] != made["truth"].shape[0]:
        raise GeometryError(f"{case}: a prediction of {len(made['prediction'])} frames",
                            expected=f"{len(made['truth'])}, as the truth has", remedy="give labels for every frame")
    return Pair(made["truth"], made["prediction"], grid, turned)


def label_names(given: str) -> dict[int, str]:
    """Names by label value, the background left out: of a JSON file, either way round, or of a list.

    A JSON object may be nnU-Net's dataset.json. A list begins with the value 1, or with 0 where its first name is
    ``background``.

    >>> label_names("background,liver,tumour")
    {1: 'liver', 2: 'tumour'}
    """
    if given.lower().endswith(".json"):
        try:
            found = json.loads(Path(given).read_text(encoding="utf-8"))
            found = found.get("labels", found)
            pairs = [(k, v) if str(k).lstrip("-").isdigit() else (v, k) for k, v in found.items()]
            named = {int(value): str(name) for value, name in pairs}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise InputError(f"labels in {Path(given).name} that cannot be used ({type(error).__name__})",
                             expected='a JSON object such as {"1": "liver", "2": "tumour"}',
                             remedy="correct it") from error
    else:
        parts = [part.strip() for part in given.split(",") if part.strip()]
        first = 0 if parts and parts[0].lower() == "background" else 1
        named = dict(enumerate(parts, start=first))
    named.pop(0, None)
    if not named or min(named) < 0 or len(set(named.values())) != len(named):
        raise InputError(f"--labels {given!r}", expected="a name of its own for each label value above 0",
                         remedy="write them as --labels liver,tumour, or as a JSON file")
    return dict(sorted(named.items()))


def grid_difference(one: Grid, other: Grid) -> str | None:
    """In what ``one`` differs from ``other``, in words; None where both put every voxel within a tenth of one.

    >>> grid_difference(Grid.from_spacing((4, 8, 8), (2.0, 1.0, 1.0)), Grid.from_spacing((4, 8, 9), (2.0, 1.0, 1.0)))
    '4 x 8 x 8 voxels (z, y, x) instead of 4 x 8 x 9'
    """
    if one.shape != other.shape:
        return f"{_times(one.shape)} voxels (z, y, x) instead of {_times(other.shape)}"
    if not (one.has_mm and other.has_mm):
        return None
    step = float(other.spacing_mm.min())
    if one.same_as(other, tolerance_mm=0.1 * step):
        return None
    spacing = [grid.spacing_mm[0].tolist() for grid in (one, other)]
    if any(abs(a - b) > 0.001 * b for a, b in zip(*spacing, strict=True)):
        return f"a spacing of {_times(spacing[0])} mm (z, y, x) instead of {_times(spacing[1])} mm"
    if not torch.allclose(one.affine[:, :3, :3], other.affine[:, :3, :3], atol=0.01 * step):
        return "axes that point elsewhere (flipped, or turned)"
    moved = float((one.affine[0, :3, 3] - other.affine[0, :3, 3]).norm())
    return f"an origin {moved:.4g} mm away"


def read_labels(path: Path, case: str, what: str) -> tuple[Integer[Tensor, "time z y x"], Grid]:
    """Label values and grid of a file.

    Raises FormatError for values that are no whole numbers of 0 and more, InputError for what is no single volume or
    series, and whatever reading may raise; all name the case.
    """
    try:
        image = open_file(path).case.get("image")
    except FirstreadError as error:
        raise type(error)(f"{case}: the {what} {path.name}: {error.got}", expected=error.expected,
                          remedy=error.remedy) from error
    if not isinstance(image, Image) or image.data.shape[2] != 1 or image.data.shape[0] != 1:
        raise InputError(f"{case}: the {what} {path.name}, which is no label map", expected="one whole number a voxel",
                         remedy="write labels as NIfTI, one volume a file")
    data = image.data[0, :, 0]
    if data.is_complex() or bool((data < 0).any()) or (data.is_floating_point() and bool((data != data.round()).any())):
        raise FormatError(f"{case}: the {what} {path.name} with values that are no whole numbers of 0 and more",
                          expected="a label value in every voxel", remedy="threshold probabilities first")
    return data.to(torch.uint8 if float(data.max()) < 256 else torch.int32), image.grid


def masks_of(folder: Path) -> list[Path]:
    """The NIfTI files of a folder: the masks of a case where it stands for one."""
    return sorted(file for file in folder.iterdir() if file.name.endswith((".nii", ".nii.gz")))


def read_masks(folder: Path, case: str, what: str, values: Mapping[str, int]
               ) -> tuple[Integer[Tensor, "time z y x"], Grid]:
    """The same of a folder with a mask for each structure, those without a value left out."""
    try:
        labels = read_mask_folder(folder, only=values)
    except FirstreadError as error:
        raise type(error)(f"{case}: the {what} {folder.name}: {error.got}", expected=error.expected,
                          remedy=error.remedy) from error
    table = torch.tensor([0, *(values[name] for name in labels.names[1:])], dtype=torch.int32)
    return table[labels.data[0, :, 0].long()], labels.grid


def _cases(folder: Path) -> dict[str, Path]:
    """Label files of a folder by the name of the case."""
    paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    found = {name: path for path in paths if path.is_file() and (name := _stem(path)) is not None}
    for path in paths:
        if path.is_dir() and (seg_files(path) or masks_of(path)):
            found.setdefault(path.name.removesuffix("_seg"), path)
    return found


def _stem(path: Path) -> str | None:
    return next((path.name[: -len(end)] for end in ENDINGS if path.name.lower().endswith(end)), None)


def _times(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)
