"""MATLAB's .mat files, versions 4 to 7 (scipy) and 7.3 (HDF5): one array, its axes stated as ``size`` lists them.

Sign: as for .npy, an image is the centred inverse transform, ``fftshift(ifft(ifftshift(k)))``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from firstread.core.errors import FormatError, InputError
from firstread.core.records import Image, KSpace
from firstread.io.limits import damaged_hdf5, require_plausible, shown
from firstread.io.stated import Spacing, record_of

_COMPRESSION = 1100.0  # no deflate stream is smaller than a thousandth of what it holds
_NUMBERS = {"double": 8, "single": 4, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4,
            "int64": 8, "uint64": 8, "logical": 1}


def read(path: Path, *, axes: str | None, variable: str | None = None, spacing_mm: Spacing | None = None
         ) -> KSpace | Image:
    """One array of a .mat file as a record.

    axes: in the order of MATLAB's ``size``, such as ``x,y,coil,z,time``; MATLAB drops trailing axes of length one,
    which may be named all the same. variable: which array, where there are several.

    Raises FormatError for a damaged file, InputError where the variable or the axes are not clear.
    """
    array = load(path, variable)
    named = [name for name in (axes or "").split(",") if name.strip()]
    missing = len(named) - array.ndim
    return record_of(array.reshape(array.shape + (1,) * missing) if missing > 0 else array, axes, spacing_mm)


def load(path: Path, variable: str | None = None) -> np.ndarray:
    """The array ``variable``, or the only one of two or more axes; axes as MATLAB orders them.

    Raises FormatError for a damaged file, InputError where there is no such array, or no name and several.
    """
    if h5py.is_hdf5(path):
        return _load_hdf5(path, variable)
    import scipy.io

    try:
        found = {name: shape for name, shape, kind in scipy.io.whosmat(path) if kind in _NUMBERS}
        sizes = {name: _NUMBERS[kind] for name, _, kind in scipy.io.whosmat(path) if kind in _NUMBERS}
    except Exception as error:  # scipy parses what may be anything
        raise _damaged(path) from error
    name = _chosen(found, variable, path)
    require_plausible(found[name], sizes[name], path.stat().st_size, ratio=_COMPRESSION, what=".mat file")
    try:
        return np.asarray(scipy.io.loadmat(path, variable_names=[name])[name])
    except Exception as error:
        raise _damaged(path) from error


def _load_hdf5(path: Path, variable: str | None) -> np.ndarray:
    with damaged_hdf5(path), h5py.File(path, "r") as file:
        found = {name: file[name].shape[::-1] for name in file if _is_numeric(file[name])}
        name = _chosen(found, variable, path)
        stored = file[name]
        require_plausible(stored.shape, stored.dtype.itemsize, path.stat().st_size, ratio=_COMPRESSION,
                          what=".mat file")
        array = stored[()]
    if array.dtype.names is not None:
        array = array["real"].astype(np.float32) + 1j * array["imag"].astype(np.float32)
    return array.transpose()


def _is_numeric(item: object) -> bool:
    return isinstance(item, h5py.Dataset) and item.ndim > 0 and (
        item.dtype.kind in "biufc" or item.dtype.names == ("real", "imag"))


def _chosen(found: Mapping[str, tuple[int, ...]], variable: str | None, path: Path) -> str:
    there = ", ".join(f"{shown(name)} {'x'.join(map(str, shape))}" for name, shape in list(found.items())[:8])
    if variable is not None:
        if variable not in found:
            raise InputError(f"no array {variable!r} in {path.name}", expected=f"one of {there or 'none'}",
                             remedy="name another with --variable")
        return variable
    wide = [name for name, shape in found.items() if sum(size > 1 for size in shape) > 1]
    if len(wide) != 1:
        raise InputError(f"{len(wide)} arrays in {path.name} ({there or 'none'})", expected="one, or a name",
                         remedy="choose it with --variable")
    return wide[0]


def _damaged(path: Path) -> FormatError:
    return FormatError(f"{path.name}, a damaged or cut-off .mat file", expected="a complete file of MATLAB",
                       remedy="save it again, with -v7 or -v7.3")
