"""NIfTI-1 and -2, 3D and 4D. The only place where RAS is turned into LPS and back.

NIfTI keeps ``[x, y, z, time]`` and an affine to RAS+ millimetres; records keep ``[batch, time, channel, z, y, x]`` and
LPS+ millimetres, so that ``affine_lps = diag(-1, -1, 1, 1) affine_ras``.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import FormatError, GeometryError, OutputError, UnsupportedError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image, Labels, Note, Rows, SoftLabels
from firstread.io.arrays import as_tensor, require_finite
from firstread.io.limits import require_plausible

_TO_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
_TO_S = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6, "unknown": 1.0}
_DEFLATE = 1100.0  # no deflate stream is smaller than a thousandth of what it holds


def flip_ras_lps(affine: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """RAS+ to LPS+ or back: the first two rows change their sign.

    >>> flip_ras_lps(torch.eye(4, dtype=torch.float64)).diagonal().tolist()
    [-1.0, -1.0, 1.0, 1.0]
    """
    return torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=affine.dtype)[:, None] * affine


def read(path: Path, *, spacing_mm: tuple[float, float, float] | None = None) -> Image:
    """A 3D or 4D NIfTI file as an Image ``[1, time, 1, z, y, x]``.

    Integers without scaling keep their type, everything else becomes float32 (or complex64). The sform is used where it
    is set, else the qform; with neither the grid has the frame ``detector`` (or ``none``) and a note. ``spacing_mm``
    (z, y, x) replaces the header's spacing.

    Errors: FormatError (damaged, cut off), UnsupportedError (channels, colour), GeometryError (zero spacing),
    SignalError (NaN).
    """
    notes: list[Note] = []
    with _opened(path) as (image, stream, compressed):
        shape = _checked_shape(image.header, tuple(int(n) for n in image.shape), image.get_data_dtype())
        require_plausible(shape, image.get_data_dtype().itemsize, _stored_bytes(path),
                          ratio=_DEFLATE if compressed else 1.0, what="NIfTI file")
        grid = _grid(image.header, _stored_sizes(path, image.header), shape, spacing_mm, notes)
        values = _values(image, stream).reshape(shape)
    data = as_tensor(values.transpose(3, 2, 1, 0)[None, :, None])
    require_finite(data, f"image {path.name}")
    times, cycle = _times(image.header, shape[3], notes)
    return Image(Rows.subjects(1), data, grid, times, cycle, notes=tuple(notes))


def check(path: Path, *, spacing_mm: tuple[float, float, float] | None = None) -> None:
    """Raises what :func:`read` would raise for the header; the values are not read."""
    with _opened(path) as (image, _, compressed):
        shape = _checked_shape(image.header, tuple(int(n) for n in image.shape), image.get_data_dtype())
        require_plausible(shape, image.get_data_dtype().itemsize, _stored_bytes(path),
                          ratio=_DEFLATE if compressed else 1.0, what="NIfTI file")
        _grid(image.header, _stored_sizes(path, image.header), shape, spacing_mm, [])


def write_image(path: Path, image: Image) -> None:
    """Write an image as NIfTI-1 with sform and qform; several batch rows are the slices of one stack.

    Errors: OutputError for more than one channel.
    """
    if image.data.shape[2] != 1:
        raise OutputError(f"an image of {image.data.shape[2]} channels", expected="one channel in a NIfTI file",
                          remedy="write one channel at a time")
    _write(path, image.data[:, :, 0], image)


def write_labels(path: Path, labels: HardLabels | SoftLabels) -> None:
    """Write class indices as uint8 NIfTI-1 with sform and qform; several batch rows are the slices of one stack."""
    hard = labels.harden() if isinstance(labels, SoftLabels) else labels
    _write(path, hard.data[:, :, 0].to(torch.uint8), hard)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, BufferedIOBase | None, bool]]:
    """The nibabel image, the stream of a single file and whether it is compressed: told by content, not by name."""
    import nibabel

    with ExitStack() as open_files:
        open_files.enter_context(nibabel.imageglobals.LoggingOutputSuppressor())
        try:
            if path.suffix in (".hdr", ".img"):
                image, stream, compressed = nibabel.load(path), None, False
            else:
                stream = open_files.enter_context(path.open("rb"))
                compressed = stream.read(2) == b"\x1f\x8b"
                stream.seek(0)
                if compressed:
                    stream = open_files.enter_context(gzip.open(stream))
                size = stream.read(4)
                stream.seek(0)
                kind = nibabel.Nifti2Image if 540 in (struct.unpack("<i", size)[0], struct.unpack(">i", size)[0]) \
                    else nibabel.Nifti1Image
                image = kind.from_file_map({"image": nibabel.FileHolder(fileobj=stream)})
        except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, nibabel.wrapstruct.
                WrapStructError, ValueError, EOFError, KeyError, OverflowError, struct.error, zlib.error,
                gzip.BadGzipFile) as error:
            raise _damaged() from error
        if not isinstance(image, nibabel.Nifti1Pair):
            raise UnsupportedError("an Analyze 7.5 file", expected="NIfTI, which knows its orientation",
                                   remedy="convert it to .nii.gz")
        yield image, stream, compressed


def _stored_bytes(path: Path) -> int:
    pair = path.with_suffix(".img")
    return (pair if path.suffix == ".hdr" and pair.exists() else path).stat().st_size


def _damaged() -> FormatError:
    return FormatError("a damaged or cut-off NIfTI file", expected="a complete NIfTI-1 or NIfTI-2 file",
                       remedy="export or copy it again")


def _checked_shape(header, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, int, int, int]:
    """(x, y, z, time), or the error that says why this is not a scan."""
    if dtype.fields is not None or dtype.kind not in "iufc":
        raise UnsupportedError("a colour NIfTI file", expected="one number per voxel", remedy="convert it to grey")
    if any(n > 1 for n in shape[4:]) or (len(shape) > 3 and header["intent_code"] in range(1005, 1012)):
        raise UnsupportedError(f"a NIfTI file with several values per voxel (shape {shape})",
                               expected="a scan of 3 or 4 axes (x, y, z, time)", remedy="pass one channel alone")
    if len(shape) < 2:
        raise UnsupportedError(f"a NIfTI file of shape {shape}", expected="a scan of 2 to 4 axes",
                               remedy="pass an image")
    x, y, z, time = (*shape[:4], 1, 1)[:4]
    return x, y, z, time


def _stored_sizes(path: Path, header) -> np.ndarray:
    """Voxel sizes (x, y, z) as they stand in the file; nibabel's own header has zeros mended to one."""
    with path.with_suffix(".hdr").open("rb") if path.suffix == ".img" else path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        with gzip.open(stream) if packed else nullcontext(stream) as plain:
            block = plain.read(header.template_dtype.itemsize)
    return np.array(type(header)(block, check=False)["pixdim"][1:4], dtype=np.float64)


def _values(image, stream: BufferedIOBase | None) -> np.ndarray:
    try:
        values = np.asanyarray(image.dataobj)
        if stream is not None:
            stream.read(1)  # at its end a gzip stream compares its checksum
        return values
    except (OSError, ValueError, EOFError, zlib.error, OverflowError) as error:
        raise _damaged() from error


def _grid(header, sizes: np.ndarray, shape: tuple[int, ...], spacing_mm: tuple[float, float, float] | None,
          notes: list[Note]) -> Grid:
    sizes = np.abs(sizes)
    axes = max(2, min(3, int(header["dim"][0])))
    if spacing_mm is None and (not np.isfinite(sizes[:axes]).all() or (sizes[:axes] <= 0).any()):
        raise GeometryError(f"a NIfTI header with voxel size {' x '.join(f'{s:g}' for s in sizes[:axes])}",
                            expected="spacing above zero on each axis", remedy="state it: --spacing z,y,x in mm")
    try:
        unit = header.get_xyzt_units()[0]
    except KeyError:
        unit = "unknown"
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    placed = sform > 0 or qform > 0
    try:
        affine = np.array(header.get_best_affine(), dtype=np.float64)
    except Exception as error:
        raise GeometryError("a NIfTI header without a usable orientation", expected="a valid sform or qform",
                            remedy="correct the header") from error
    _compare_forms(header, sform, qform, notes)
    frame = "patient" if placed else "detector"
    if not placed:
        bare = unit == "unknown" and spacing_mm is None and bool((sizes[:axes] == 1).all())
        frame = "none" if bare else "detector"
        notes.append(Note("orientation_unknown", "The NIfTI header states no orientation (sform and qform are unset)"
                          + ("; it states no spacing either." if bare else "; its spacing is used.")))
    if unit == "unknown" and frame != "none" and spacing_mm is None:
        notes.append(Note("unit_assumed", "The NIfTI header states no unit of length: millimetres are assumed.",
                          "info"))
    affine[:3] *= _TO_MM[unit]
    lps = flip_ras_lps(torch.from_numpy(affine))
    if spacing_mm is not None:
        lps = with_spacing(lps, spacing_mm)
        notes.append(Note("spacing_stated", "The spacing was stated by the user, not taken from the file.", "info"))
    return Grid(lps[None], (shape[2], shape[1], shape[0]), None, frame)


def with_spacing(affine: Float[Tensor, "4 4"], spacing_mm: tuple[float, float, float]) -> Float[Tensor, "4 4"]:
    """The same directions and origin with the spacing (z, y, x); directions of length zero become the axes themselves.

    >>> with_spacing(torch.eye(4, dtype=torch.float64), (8.0, 2.0, 1.0)).diagonal().tolist()
    [1.0, 2.0, 8.0, 1.0]
    """
    if min(spacing_mm) <= 0:
        raise GeometryError(f"a spacing of {spacing_mm} mm", expected="three numbers above zero, z,y,x",
                            remedy="correct --spacing")
    stated = affine.clone()
    length = affine[:3, :3].norm(dim=0)
    whole = bool(torch.isfinite(affine).all()) and bool((length > 0).all())
    directions = affine[:3, :3] / length if whole else torch.eye(3, dtype=affine.dtype)
    stated[:3, :3] = directions * torch.tensor(spacing_mm[::-1], dtype=affine.dtype)
    stated[:3, 3] = torch.nan_to_num(affine[:3, 3])
    return stated


def _compare_forms(header, sform: int, qform: int, notes: list[Note]) -> None:
    if sform > 0 and qform > 0:
        one = header.get_sform()
        try:
            two = header.get_qform()
        except ValueError:  # a quaternion longer than one
            two = np.full((4, 4), np.inf)
        if not np.allclose(one, two, rtol=0, atol=0.01 * np.abs(one[:3, :3]).max() + 0.01):
            notes.append(Note("forms_differ", "The NIfTI header's sform and qform differ: the sform is used."))


def _times(header, count: int, notes: list[Note]) -> tuple[Tensor | None, Tensor | None]:
    if count == 1:
        return None, None
    step = float(header["pixdim"][4])
    try:
        unit = header.get_xyzt_units()[1]
    except KeyError:
        unit = "unknown"
    if not np.isfinite(step) or step <= 0 or unit in ("hz", "ppm", "rads"):
        notes.append(Note("times_unknown", "The NIfTI header states no time between frames."))
        return None, None
    step *= _TO_S.get(unit, 1.0)
    if unit == "unknown":
        notes.append(Note("time_unit_assumed", "The NIfTI header states no unit of time: seconds are assumed."))
    times = torch.arange(count, dtype=torch.float64)[None, :, None] * step
    notes.append(Note("cycle_assumed", "The length of the heart cycle is taken as frames times frame duration."))
    return times, torch.full((1, 1), count * step, dtype=torch.float64)


def _write(path: Path, data: Tensor, record: Image | Labels) -> None:
    import nibabel

    lps, joined = _as_stack(record.grid)
    if joined:
        data = data.movedim(0, 1).flatten(1, 2)[None]  # the rows' slices side by side
    array = data[0].permute(3, 2, 1, 0).cpu().numpy()
    array = array[..., 0] if array.shape[3] == 1 else array
    if array.dtype in (np.int64, np.bool_):
        array = array.astype(np.int32 if array.dtype == np.int64 else np.uint8)
    ras = flip_ras_lps(lps).numpy()
    image = nibabel.Nifti1Image(array, ras)
    code = {"patient": 1, "slide": 2, "detector": 0, "none": 0}[record.grid.frame]
    image.set_sform(ras, code)
    image.set_qform(ras, code)
    image.header["pixdim"][1:4] = record.grid.spacing_mm[0].flip(0).tolist() if not joined else np.linalg.norm(
        ras[:3, :3], axis=0)
    step = None if record.times_s is None or record.times_s.shape[1] < 2 else float(
        (record.times_s[:, -1] - record.times_s[:, 0]).mean() / (record.times_s.shape[1] - 1))
    image.header.set_xyzt_units("mm" if record.grid.has_mm else "unknown", "sec" if step else "unknown")
    if step and array.ndim == 4:
        image.header["pixdim"][4] = step
    if joined:
        image.header["descrip"] = b"slices not parallel: positions nominal"
    nibabel.save(image, path)


def _as_stack(grid: Grid) -> tuple[Tensor, bool]:
    """One affine for the grid; rows that are single slices are stacked along z at their mean distance."""
    if grid.affine.shape[0] == 1:
        return grid.affine[0].cpu(), False
    if grid.shape[0] != 1:
        raise OutputError(f"{grid.affine.shape[0]} volumes in one record", expected="one volume, or slices of one "
                          "stack", remedy="write one row at a time")
    stacked = grid.affine[0].cpu().clone()
    normal = stacked[:3, 2] / stacked[:3, 2].norm()
    places = grid.affine[:, :3, 3].cpu() @ normal
    step = (places[-1] - places[0]) / (len(places) - 1)
    if step.abs() > 1e-6:
        stacked[:3, 2] = normal * step
    return stacked, True
