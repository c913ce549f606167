"""Siemens raw data (twix .dat, software VB to XA): readouts as ISMRMRD acquisitions, then sorted as those are.

Headers and readouts are parsed by ``twixtools`` (an extra). The columns of the rotation that the slice quaternion
stands for are phase, read and slice direction, as siemens_to_ismrmrd has it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float

from firstread.core.errors import FormatError, InputError, UnsupportedError
from firstread.core.reading import Person
from firstread.core.records import KSpace, Note
from firstread.io import mrd_layout as layout
from firstread.io.limits import shown
from firstread.io.mrd_sort import sort_into_kspace

_COUNTERS = {"Lin": "kspace_encode_step_1", "Par": "kspace_encode_step_2", "Ave": "average", "Sli": "slice",
             "Eco": "contrast", "Phs": "phase", "Rep": "repetition", "Set": "set"}
_UNUSED = ("RTFEEDBACK", "HPFEEDBACK", "REFPHASESTABSCAN", "PHASESTABSCAN", "noname60")
_SEPARATE = 4  # calibration lines of a scan of their own
_HEADER = 128  # bytes that a readout has at least
_ORIENTATION = Note("orientation_unchecked", "Orientation of Siemens raw data was not compared with a scanner's own "
                    "images: check left and right.")


def read(path: Path, *, identify: bool = False) -> tuple[KSpace, Person]:
    """The Cartesian k-space of the last measurement of a twix file; noise scans of any give the noise covariance.

    Errors: InputError (twixtools absent), FormatError (no twix, damaged), UnsupportedError (not Cartesian, EPI).
    """
    with path.open("rb") as file:
        places, new = _measurements(file, path.stat().st_size)
    try:
        import twixtools  # noqa: F401
    except ImportError as error:
        raise InputError("Siemens raw data without the package that reads them", expected="twixtools",
                         remedy="pip install 'firstread[twix]', or convert the file with siemens_to_ismrmrd") from error
    with path.open("rb") as file, contextlib.redirect_stdout(io.StringIO()):  # the parser prints its doubts
        try:
            scans = [_scan(file, start, end, new) for start, end in places]
            protocol, readouts = scans[-1]
            noise = [r for _, every in scans[:-1] for r in every if r.is_flag_set("NOISEADJSCAN")
                     and r.mdh.UsedChannels == readouts[-1].mdh.UsedChannels] if readouts else []
            lines = [np.ascontiguousarray(r.data).view(np.float32).reshape(-1) for r in (*noise, *readouts)]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, EOFError) as error:
            raise _no_twix() from error
    if any(r.is_flag_set("PHASCOR") for r in readouts):
        raise UnsupportedError("Siemens raw data with phase correction lines (EPI)", expected="one line a shot",
                               remedy="reconstruct them with the scanner's program and pass the images")
    if not readouts:
        raise FormatError("a twix file without readouts", expected="a complete measurement", remedy="export it again")
    header, heads = _header(protocol), np.stack([_head(r) for r in (*noise, *readouts)])
    kspace = sort_into_kspace(_centred(header, heads), heads, lines, path.stat().st_size)
    return kspace.noted(_ORIENTATION), _person(protocol, identify)


def _measurements(file: BinaryIO, size: int) -> tuple[list[tuple[int, int]], bool]:
    """Begin and end of each measurement, and whether the software is VD or later."""
    table = np.dtype([("id", "<u4"), ("file", "<u4"), ("start", "<u8"), ("length", "<u8"), ("names", "S128")])
    stored = file.read(8 + 64 * table.itemsize)
    if size < _HEADER or len(stored) < _HEADER:
        raise _no_twix()
    first, second = (int(v) for v in np.frombuffer(stored[:8], dtype="<u4"))
    if first >= 10000:
        if not first < size or not 0 < second < 64:
            raise _no_twix()
        return [(0, size)], False
    if not 1 <= second <= 64 or len(stored) < 8 + 64 * table.itemsize:
        raise _no_twix()
    entries = np.frombuffer(stored[8:], dtype=table)[:second]
    places = [(int(e["start"]), int(e["start"]) + int(e["length"])) for e in entries]
    if any(not len(stored) <= start < end <= size for start, end in places):
        raise _no_twix()
    return places, True


def _scan(file: BinaryIO, start: int, end: int, new: bool) -> tuple[Mapping[str, Any], list[Any]]:
    """Protocol and readouts of one measurement."""
    from twixtools.mdb import Mdb
    from twixtools.twixprot import parse_twix_hdr

    file.seek(start)
    length, buffers = (int(v) for v in np.frombuffer(file.read(8), dtype="<u4"))
    if not 8 < length < end - start or not 0 < buffers < 64:
        raise _no_twix()
    file.seek(start)
    protocol, place, readouts = parse_twix_hdr(file), start + length, []
    while place + _HEADER <= end:
        file.seek(place)
        readout = Mdb(file, new)
        if readout.is_flag_set("ACQEND"):
            return protocol, readouts
        step = int(readout.dma_len)
        if step < _HEADER or place + step > end:
            break
        if not readout.is_flag_set("SYNCDATA"):
            readouts.append(readout)
        place += step
    raise FormatError("a twix file that ends within a measurement", expected="a mark of its end", remedy="export or "
                      "copy it again")


def _header(protocol: Mapping[str, Any]) -> layout.Header:
    """Matrix and field of view of the protocol; the readout is oversampled twice."""
    try:
        yaps = protocol["MeasYaps"]
        space, one = yaps["sKSpace"], yaps["sSliceArray"]["asSlice"][0]
        base, lines = int(space["lBaseResolution"]), int(space["lPhaseEncodingLines"])
        volume = int(space["ucDimension"]) == 4
        partitions = int(space["lPartitions"]) if volume else 1
        read, phase, thick = (float(one[name]) for name in ("dReadoutFOV", "dPhaseFOV", "dThickness"))
        trajectory = int(space.get("ucTrajectory", 1))
        over = 1 + float(space.get("dPhaseOversamplingForDialog", 0) or 0)
        separate = int(yaps.get("sPat", {}).get("ucRefScanMode", 2)) == _SEPARATE
        over_z = 1 + float(space.get("dSliceOversamplingForDialog", 0) or 0)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise FormatError("a twix file without matrix and field of view", expected="the protocol MeasYaps",
                          remedy="convert it with siemens_to_ismrmrd") from error
    if trajectory != 1 or int(yaps.get("alRegridMode", [1])[0] or 1) != 1:
        raise UnsupportedError("Siemens raw data that are not Cartesian, or of sampled ramps", expected="Cartesian "
                               "lines", remedy="reconstruct them with the scanner's program and pass the images")
    if min(base, lines, partitions) < 1 or min(read, phase, thick) <= 0 or max(base, lines, partitions) > 2**15:
        raise FormatError(f"a twix protocol of matrix {base} x {lines} x {partitions}", expected="a matrix and a field "
                          "of view above zero", remedy="export it again")
    height = max(1, round(base * phase / read))
    return layout.Header((2 * base, lines, partitions), (2 * read, phase * over, thick * over_z if volume else thick),
                         (base, height, partitions), (read, phase, thick), (None, None), Person(), (), separate)


def _centred(header: layout.Header, heads: np.ndarray) -> layout.Header:
    """The header with the centre lines that the readouts state."""
    image = heads[(heads["flags"] & layout.NOISE) == 0]
    if not len(image):
        raise FormatError("a twix file without imaging lines", expected="one line or more", remedy="export it again")
    return replace(header, centre=(int(image[-1]["user_int"][0]), int(image[-1]["user_int"][1])))


def _head(readout: Any) -> np.ndarray:
    mdh, made = readout.mdh, np.zeros((), dtype=layout.HEAD)
    made["version"], made["scan_counter"] = 1, mdh.ScanCounter
    made["number_of_samples"], made["center_sample"] = mdh.SamplesInScan, mdh.CenterCol
    made["available_channels"] = made["active_channels"] = mdh.UsedChannels
    made["discard_pre"], made["discard_post"] = mdh.CutOff.Pre, mdh.CutOff.Post
    made["acquisition_time_stamp"], made["physiology_time_stamp"][0] = mdh.TimeStamp, mdh.PMUTimeStamp
    for theirs, ours in _COUNTERS.items():
        made["idx"][ours] = getattr(mdh.Counter, theirs)
    flags = sum(bit for name, bit in (("NOISEADJSCAN", layout.NOISE), ("REFLECT", layout.REVERSED))
                if readout.is_flag_set(name))
    if readout.is_flag_set("PATREFSCAN"):
        flags |= layout.CALIBRATION_AND_IMAGE if readout.is_flag_set("PATREFANDIMASCAN") else layout.CALIBRATION
    if any(readout.is_flag_set(name) for name in _UNUSED):
        flags |= layout.OTHER
    made["flags"] = flags
    made["user_int"][:2] = mdh.CenterLin, mdh.CenterPar
    made["position"] = [getattr(mdh.SliceData.SlicePos, axis) for axis in ("Sag", "Cor", "Tra")]
    rotation = _rotation(np.asarray(mdh.SliceData.Quaternion, dtype=np.float64))
    made["phase_dir"], made["read_dir"], made["slice_dir"] = rotation.T
    return made


def _rotation(quaternion: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3 3"]:
    """The rotation of a quaternion (w, x, y, z); zeros, which state nothing, stay zeros.

    >>> _rotation(np.array([1.0, 0.0, 0.0, 0.0])).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    size = np.linalg.norm(quaternion)
    if not np.isfinite(size) or size < 0.5:
        return np.zeros((3, 3))
    w, v = quaternion[0] / size, quaternion[1:] / size
    cross = np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def _person(protocol: Mapping[str, Any], identify: bool) -> Person:
    """What the protocol says of the person imaged."""
    about = {**protocol.get("Dicom", {}), **protocol.get("Meas", {})}

    def number(name: str, lowest: float, highest: float, factor: float = 1.0) -> float | None:
        value = about.get(name)
        known = isinstance(value, int | float) and lowest < value * factor < highest
        return float(value) * factor if known else None

    sex = {1: "F", 2: "M"}.get(about.get("lPatientSex"))  # type: ignore[arg-type]
    name, identifier = about.get("tPatientName"), about.get("PatientID")
    return Person(sex=sex, age_years=number("flPatientAge", 0.0, 130.0), weight_kg=number(  # type: ignore[arg-type]
        "flUsedPatientWeight", 0.2, 500.0), height_cm=number("flPatientHeight", 20.0, 280.0, 0.1),
        name=shown(str(name), 64) if identify and name else None,
        identifier=shown(str(identifier), 64) if identify and identifier else None)


def _no_twix() -> FormatError:
    return FormatError("a .dat file that is no twix file, or damaged", remedy="check what was exported",
                       expected="Siemens raw data, software VB or later")
