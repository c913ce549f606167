"""ISMRMRD (MRD 1.x) raw data in HDF5: multi-coil Cartesian k-space in and out.

Sign: an image is the centred inverse transform of the stored samples, ``exp(+2πi k·x)``, as
``ismrmrd_recon_cartesian_2d`` computes it; the stored sample ``center_sample`` of line ``center`` is zero frequency.
The position in each header is the place of pixel ``N // 2`` of the slice, in LPS+ millimetres.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch

from firstread.core.errors import FormatError, OutputError, SignalError
from firstread.core.reading import Person
from firstread.core.records import KSpace
from firstread.io import mrd_layout as layout
from firstread.io.limits import damaged_hdf5, require_plausible
from firstread.io.mrd_encode import acquisitions_of
from firstread.io.mrd_sort import sort_into_kspace

_BLOCK = 4096


def read(path: Path, *, identify: bool = False) -> tuple[KSpace, Person]:
    """The Cartesian k-space of an ISMRMRD file, and what it says of the person.

    Readout oversampling is removed, repeated averages are averaged, missing samples (acceleration, partial Fourier,
    partial echo) are zero in data and mask, noise scans give the noise covariance. The slices of a stack lie along z
    (encoded in 2D); slices that are not parallel become batch rows.

    Errors: FormatError, UnsupportedError (other trajectories, several echoes or sets), SignalError (NaN, no lines).
    """
    with damaged_hdf5(path), h5py.File(path, "r") as file:
        group = _dataset_group(file)
        header = layout.parse_header(_header_text(group), identify=identify)
        table = group["data"]
        if not isinstance(table, h5py.Dataset) or table.dtype.names is None or not {"head", "data"} <= set(
                table.dtype.names) or table.ndim != 1:
            raise FormatError("an ISMRMRD file without acquisitions", expected="a table 'data' with 'head' and 'data'",
                              remedy="convert the raw data again")
        if table.shape[0] == 0:
            raise SignalError("an ISMRMRD file without acquisitions", expected="one line of k-space or more",
                              remedy="check the conversion")
        require_plausible((table.shape[0],), layout.HEAD.itemsize, path.stat().st_size, ratio=64.0, what="ISMRMRD file")
        heads, lines = [], []
        budget = 4 * path.stat().st_size + (1 << 24)
        for start in range(0, table.shape[0], _BLOCK):
            block = table[start:start + _BLOCK]
            heads.append(_heads(block["head"]))
            lines.extend(block["data"])
            budget -= sum(line.nbytes for line in block["data"])
            if budget < 0:
                raise FormatError("an ISMRMRD file whose lines are longer than the file", expected="a consistent file",
                                  remedy="it is damaged: convert the raw data again")
    return sort_into_kspace(header, np.concatenate(heads), lines, path.stat().st_size), header.person


def is_ismrmrd(file: h5py.File) -> bool:
    """Whether an HDF5 file holds an ISMRMRD dataset."""
    return any(isinstance(item, h5py.Group) and "xml" in item and "data" in item
               for item in (file.get(name) for name in file) if item is not None)


def write(path: Path, kspace: KSpace) -> None:
    """Write k-space as an ISMRMRD file; only measured lines are stored, the noise covariance as a noise scan.

    Frames become ``phase``, slices ``slice`` (or ``kspace_encode_step_2`` where z is encoded); batch rows must be
    slices of one subject. Times are stored in steps of 2.5 ms, as scanners do.

    Errors: OutputError for several subjects, or where what was measured of a line is not one run of samples.
    """
    if len(torch.unique(kspace.rows.subject)) > 1 or bool((kspace.rows.draw > 0).any()):
        raise OutputError("k-space of several subjects or draws", expected="one subject in a file",
                          remedy="write each with kspace.select(row)")
    header, heads, lines = acquisitions_of(kspace)
    table = np.empty(len(lines), dtype=layout.acquisition_type())
    table["head"] = heads
    empty = np.zeros(0, dtype=np.float32)
    for index, line in enumerate(lines):
        table["data"][index], table["traj"][index] = line, empty
    slices = int(heads["idx"]["slice"].max()) + 1
    text = layout.header_xml(header, coils=kspace.data.shape[2], frames=kspace.data.shape[1], slices=slices)
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        group.create_dataset("xml", data=[text], dtype=h5py.string_dtype("ascii"))
        group.create_dataset("data", data=table, maxshape=(None,), chunks=(min(len(table), 1024),))


def _dataset_group(file: h5py.File) -> h5py.Group:
    groups = [item for item in (file.get(name) for name in file) if isinstance(item, h5py.Group) and "xml" in item
              and "data" in item]
    if len(groups) != 1:
        raise FormatError(f"{len(groups)} datasets in an ISMRMRD file", expected="exactly one",
                          remedy="copy the one to read into a file of its own")
    return groups[0]


def _header_text(group: h5py.Group) -> bytes | str:
    stored = group["xml"]
    if not isinstance(stored, h5py.Dataset) or stored.size != 1:
        raise FormatError("an ISMRMRD file without a header", expected="one XML header", remedy="convert it again")
    text = stored[()] if stored.ndim == 0 else stored[(0,) * stored.ndim]
    return text if isinstance(text, bytes | str) else bytes(text)


def _heads(stored: np.ndarray) -> np.ndarray:
    """Headers as the standard lays them out; refuses a file that lacks fields."""
    if stored.dtype.names is None or not set(layout.HEAD.names or ()) <= set(stored.dtype.names):
        raise FormatError("ISMRMRD acquisition headers without the standard fields", expected="MRD version 1",
                          remedy="convert the raw data again")
    heads = np.zeros(stored.shape, dtype=layout.HEAD)
    try:
        for name in layout.HEAD.names or ():
            heads[name] = stored[name]
    except (ValueError, TypeError) as error:
        raise FormatError("ISMRMRD acquisition headers of another layout", expected="MRD version 1",
                          remedy="convert the raw data again") from error
    return heads
