"""Line integrals and coincidences in an HDF5 file, ``firstread.rays/1`` (docs/ct-pet.md).

    angles_rad [view]                     attributes: format, modality, beam, bin_mm, offset_mm, source_mm, detector_mm,
    data [time, z, view, bin]                         curved, image_shape (z, y, x), spacing_mm (z, y, x)
    weights (CT), factors, background (PET), affine (4 x 4): where there are some
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from firstread.core.emission import Emission
from firstread.core.errors import FormatError, UnsupportedError
from firstread.core.geometry import Grid
from firstread.core.records import Rows
from firstread.core.sinogram import Beam, FanBeam, ParallelBeam, Sinogram
from firstread.io.arrays import as_tensor, require_finite
from firstread.io.limits import damaged_hdf5, require_plausible

if TYPE_CHECKING:
    import h5py

FORMAT = "firstread.rays/1"


def is_rays(file: h5py.File) -> bool:
    """Whether an HDF5 file says that it is one of these."""
    found = file.attrs.get("format")
    return isinstance(found, str) and found.startswith("firstread.rays/")


def write_rays(path: Path, record: Sinogram | Emission) -> None:
    """Write the rays of one batch row and channel, with their geometry.

    Raises UnsupportedError for several rows or channels.
    """
    import h5py

    if record.data.shape[0] != 1 or record.data.shape[2] != 1:
        raise UnsupportedError(f"{record.data.shape[0]} rows and {record.data.shape[2]} channels", expected="one of "
                               "each in a file of rays", remedy="write a file for each")
    beam, grid = record.beam, record.grid
    extra = {"weights": record.weights} if isinstance(record, Sinogram) else {
        "factors": record.factors, "background": record.background}
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": FORMAT, "modality": "CT" if isinstance(record, Sinogram) else "PET",
                           "beam": "fan" if isinstance(beam, FanBeam) else "parallel", "bin_mm": beam.bin_mm,
                           "offset_mm": beam.offset_mm, "image_shape": grid.shape,
                           "spacing_mm": grid.spacing_mm[0].tolist()})
        if isinstance(beam, FanBeam):
            file.attrs.update({"source_mm": beam.source_mm, "detector_mm": beam.detector_mm, "curved": beam.curved})
        file["angles_rad"], file["affine"] = np.array(beam.angles_rad), grid.affine[0].numpy()
        for name, values in {"data": record.data, **extra}.items():
            if values is not None:
                file.create_dataset(name, data=values[0, :, 0].detach().cpu().float().numpy(), compression="gzip")


def read_rays(path: Path) -> Sinogram | Emission:
    """The Sinogram (modality CT) or Emission (PET) of a file.

    ``data`` may be [view, bin] or [z, view, bin] too. Without ``affine`` the image is centred on the scanner. Raises
    FormatError for what is missing or does not fit, SignalError for NaN.
    """
    import h5py

    with damaged_hdf5(path), h5py.File(path, "r") as file:
        about, arrays = dict(file.attrs), {}
        for name in ("angles_rad", "data", "weights", "factors", "background", "affine"):
            if isinstance(file.get(name), h5py.Dataset):
                require_plausible(file[name].shape, file[name].dtype.itemsize, path.stat().st_size, ratio=1100,
                                  what=name)
                arrays[name] = file[name][()]
    if about["format"] != FORMAT:
        raise UnsupportedError(f"{path.name} in the format {about['format']}", expected=FORMAT,
                               remedy="use a newer Firstread")
    modality = _stated(about, "modality", path)
    wanted = {"CT": ("angles_rad", "data"), "PET": ("angles_rad", "data", "factors")}.get(str(modality))
    if wanted is None:
        raise FormatError(f"{path.name} of modality {modality!r}", expected="CT or PET", remedy="correct `modality`")
    for name in wanted:
        if name not in arrays:
            raise FormatError(f"{path.name} without {name}", expected=f"the arrays {', '.join(wanted)}",
                              remedy=f"write {name} into the file")
    rays = {name: _axes(values, name, path) for name, values in arrays.items()
            if name not in ("angles_rad", "affine")}
    beam, grid = _beam(about, arrays["angles_rad"], rays["data"].shape[-1], path), _grid(about, arrays, path)
    for name, values in rays.items():
        if values.shape[-2:] != rays["data"].shape[-2:]:
            raise FormatError(f"{name} of {tuple(values.shape[-2:])} (views, bins)", expected=f"those of the data, "
                              f"{tuple(rays['data'].shape[-2:])}", remedy=f"correct {name}")
    if modality == "CT":
        return Sinogram(Rows.subjects(1), rays["data"], grid, beam, rays.get("weights"))
    return Emission(Rows.subjects(1), rays["data"], grid, beam, rays["factors"], rays.get("background"))


def _axes(values: np.ndarray, name: str, path: Path) -> Tensor:
    """``[1, time, 1, z, view, bin]``."""
    if not 2 <= values.ndim <= 4:
        raise FormatError(f"{name} of {values.ndim} axes in {path.name}", expected="[time, z, view, bin], [z, view, "
                          "bin] or [view, bin]", remedy="write it with these axes")
    data = as_tensor(values[(None,) * (4 - values.ndim)])[None, :, None].float()
    require_finite(data, name)
    return data


def _beam(about: dict[str, Any], angles: np.ndarray, bins: int, path: Path) -> Beam:
    kind = str(_stated(about, "beam", path))
    if angles.ndim != 1 or kind not in ("parallel", "fan"):
        raise FormatError(f"a beam {kind!r} with angles of {angles.ndim} axes in {path.name}",
                          expected="parallel or fan, with one list of angles", remedy="correct the file")
    turns, width = tuple(float(a) for a in angles), float(_stated(about, "bin_mm", path))
    offset = float(about.get("offset_mm", 0.0))
    if kind == "parallel":
        return ParallelBeam(angles_rad=turns, bins=bins, bin_mm=width, offset_mm=offset)
    return FanBeam(angles_rad=turns, bins=bins, bin_mm=width, offset_mm=offset,
                   source_mm=float(_stated(about, "source_mm", path)),
                   detector_mm=float(_stated(about, "detector_mm", path)), curved=bool(about.get("curved", True)))


def _grid(about: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> Grid:
    shape, spacing = np.ravel(_stated(about, "image_shape", path)), np.ravel(_stated(about, "spacing_mm", path))
    if shape.size != 3 or spacing.size != 3 or not (spacing > 0).all() or not (shape >= 1).all():
        raise FormatError(f"an image of {shape.tolist()} and {spacing.tolist()} mm in {path.name}",
                          expected="three sizes and three spacings (z, y, x) above zero", remedy="correct the file")
    (z, y, x), (dz, dy, dx) = shape.tolist(), spacing.tolist()
    grid = Grid.from_spacing((int(z), int(y), int(x)), (float(dz), float(dy), float(dx)))
    if "affine" not in arrays:
        return grid
    if arrays["affine"].shape != (4, 4):
        raise FormatError(f"an affine of {arrays['affine'].shape} in {path.name}", expected="4 x 4, voxel index (x, y, "
                          "z) to LPS millimetres", remedy="correct it or leave it out")
    return Grid(torch.from_numpy(arrays["affine"].astype(np.float64))[None], grid.shape, grid.thickness_mm)


def _stated(about: dict[str, Any], name: str, path: Path) -> Any:
    if name not in about:
        raise FormatError(f"{path.name} without the attribute {name}", expected="the geometry of the scan",
                          remedy=f"write {name} into the file")
    return about[name]
