"""Segmentations that another program wrote: one NIfTI of class values, or a folder with one NIfTI for each class.

So TotalSegmentator writes its results, with ``--ml`` the names of the values in the file's header.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor

from firstread.core.errors import FormatError, GeometryError, InputError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image, Note, Rows
from firstread.io import nifti

ENDINGS = (".nii.gz", ".nii")
_LABEL = re.compile(r'<Label Key="(\d+)"[^>]*><!\[CDATA\[(.*?)\]\]></Label>')


def read_labels(path: Path, *, image: Image | None = None, names: Mapping[int, str] | None = None) -> HardLabels:
    """The classes of a NIfTI file, or of a folder of masks named after their files, on their own grid.

    image: what was segmented; its times and source are taken over, and its grid must be that of the labels. names: of
    the values of a file; without them those in its header (TotalSegmentator's), or ``class 5``. The values become
    positions in ``labels.names``, background first.

    Raises InputError where there is no file, FormatError for values that are no classes or masks that overlap,
    GeometryError where files, or labels and image, lie on different grids.
    """
    if path.is_dir():
        found = read_mask_folder(path)
    elif path.is_file() and path.name.endswith(ENDINGS):
        found = _file(path, names)
    else:
        raise InputError(f"no labels at {path.name}", expected="a NIfTI file, or a folder with one for each class",
                         remedy="check the path")
    if image is None:
        return found
    require_grid(found.grid, image.grid, path.name, "the image")
    if found.data.shape[1] not in (1, image.data.shape[1]) or image.batch != 1:
        raise GeometryError(f"{path.name} with {found.data.shape[1]} frames", expected=f"{image.data.shape[1]}, as the "
                            "image has", remedy="give the labels of this image")
    return HardLabels(image.rows, found.data, image.grid, found.names, image.times_s, image.cycle_s, image.source,
                      notes=found.notes)


def require_grid(grid: Grid, other: Grid, name: str, of: str) -> None:
    """Refuse labels that do not lie where ``other`` lies, to a hundredth of a voxel."""
    if not grid.same_as(other, tolerance_mm=0.01 * float(other.spacing_mm.min())):
        raise GeometryError(f"{name} on another grid than {of} ({grid.shape} and {other.shape} voxels)",
                            expected="labels on the image's own grid",
                            remedy="resample the labels to the image, nearest neighbour")


def _file(path: Path, names: Mapping[int, str] | None) -> HardLabels:
    image = nifti.read(path)
    data = _whole(image.data, path.name)
    present = [int(v) for v in torch.unique(data)]
    named = dict(names if names is not None else names_in_header(path))
    values = sorted({0, *present, *named})
    called = tuple(named.get(v, "background" if v == 0 else f"class {v}") for v in values)
    position = torch.searchsorted(torch.tensor(values), data.long())
    unnamed = [v for v in present if v and v not in named]
    notes = () if not unnamed else (Note("classes_without_names", f"{path.name} does not name its classes "
                                         f"{', '.join(map(str, unnamed[:8]))}{' …' if len(unnamed) > 8 else ''}.",
                                         "info"),)
    return HardLabels(Rows.subjects(1), position.to(_smallest(len(values))), image.grid, called, image.times_s,
                      image.cycle_s, notes=(*image.notes, *notes))


def read_mask_folder(folder: Path, *, only: Container[str] | None = None) -> HardLabels:
    """The classes of a folder with one mask for each, named after their files; ``only``: of these names.

    Raises as :func:`read_labels`.
    """
    files = sorted(file for file in folder.iterdir() if file.name.endswith(ENDINGS)
                   and (only is None or file.name.removesuffix(".gz").removesuffix(".nii") in only))
    if not files:
        raise InputError(f"no NIfTI file in {folder.name}", expected="one for each class", remedy="check the path")
    names = ("background", *(file.name.removesuffix(".gz").removesuffix(".nii") for file in files))
    grid, data = None, torch.zeros(())
    for number, file in enumerate(files, start=1):
        image = nifti.read(file)
        mask = _whole(image.data, file.name)
        if bool((mask > 1).any()):
            raise FormatError(f"{file.name} with values up to {int(mask.max())}", expected="a mask of zeros and ones",
                              remedy="give a file of several classes by itself, not its folder")
        if grid is None:
            grid, data = image.grid, torch.zeros(mask.shape, dtype=_smallest(len(names)))
        require_grid(image.grid, grid, file.name, files[0].name)
        if bool((clash := (data > 0) & (mask > 0)).any()):
            other = names[int(data[clash][0])]
            raise FormatError(f"{int(clash.sum())} voxels both in {other} and in {names[number]}",
                              expected="classes that do not overlap", remedy="leave one of the files out")
        data[mask > 0] = number
    assert grid is not None
    return HardLabels(Rows.subjects(1), data, grid, names)


def _whole(data: Shaped[Tensor, "*any"], name: str) -> Tensor:
    """Class values as integers."""
    if data.is_complex() or bool((data != data.round()).any() if data.is_floating_point() else False) or \
            bool((data < 0).any()):
        raise FormatError(f"{name}, which holds other values than whole numbers from 0 on", expected="class values",
                          remedy="give the labels, not the image or probabilities")
    return data.to(torch.int32)


def _smallest(classes: int) -> torch.dtype:
    return torch.uint8 if classes <= 256 else torch.int32


def names_in_header(path: Path) -> dict[int, str]:
    """The label table that TotalSegmentator and Connectome Workbench keep in a header extension; empty without one, or
    for what is no NIfTI file."""
    import nibabel

    if not path.name.endswith(ENDINGS):
        return {}
    try:
        header = nibabel.load(path).header
    except (OSError, ValueError, nibabel.filebasedimages.ImageFileError):
        return {}  # whoever reads its voxels says what is wrong
    for extension in header.extensions:
        content = extension.get_content()
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
        if found := {int(key): name for key, name in _LABEL.findall(text)}:
            return found
    return {}
