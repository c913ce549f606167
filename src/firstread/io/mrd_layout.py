"""The ISMRM raw data format (MRD 1.x) in HDF5: the layout of one acquisition, its flags, its XML header.

Source: Inati et al., ISMRM Raw data format: a proposed standard for MRI raw datasets, MRM 77:411 (2017).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np

from firstread.core.errors import FormatError, UnsupportedError
from firstread.core.reading import Person
from firstread.io.limits import shown
from firstread.io.scan import Scan, scan_of

NAMESPACE = "http://www.ismrm.org/ISMRMRD"
TICK_MS = 2.5  # of acquisition and physiology time stamps

COUNTERS = ("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition",
            "set", "segment")
HEAD = np.dtype([
    ("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"), ("scan_counter", "<u4"),
    ("acquisition_time_stamp", "<u4"), ("physiology_time_stamp", "<u4", (3,)), ("number_of_samples", "<u2"),
    ("available_channels", "<u2"), ("active_channels", "<u2"), ("channel_mask", "<u8", (16,)), ("discard_pre", "<u2"),
    ("discard_post", "<u2"), ("center_sample", "<u2"), ("encoding_space_ref", "<u2"),
    ("trajectory_dimensions", "<u2"), ("sample_time_us", "<f4"), ("position", "<f4", (3,)), ("read_dir", "<f4", (3,)),
    ("phase_dir", "<f4", (3,)), ("slice_dir", "<f4", (3,)), ("patient_table_position", "<f4", (3,)),
    ("idx", np.dtype([*((name, "<u2") for name in COUNTERS), ("user", "<u2", (8,))])),
    ("user_int", "<i4", (8,)), ("user_float", "<f4", (8,))])

FIRST_IN_SLICE, LAST_IN_SLICE, NOISE, REVERSED, LAST_IN_MEASUREMENT = (1 << (bit - 1) for bit in (7, 8, 19, 22, 25))
CALIBRATION, CALIBRATION_AND_IMAGE = 1 << 19, 1 << 20
# navigation, phase correction, feedback, dummy, surface coil and phase stabilization scans: not part of the image
OTHER = sum(1 << (bit - 1) for bit in (23, 24, 26, 27, 28, 29, 30, 31))


def acquisition_type() -> np.dtype:
    """One acquisition: header, trajectory and samples (real and imaginary parts in turn, coil after coil)."""
    samples = h5py.vlen_dtype(np.dtype("<f4"))
    return np.dtype([("head", HEAD), ("traj", samples), ("data", samples)])


@dataclass(frozen=True)
class Header:
    """What the XML header says of the first encoding; sizes and fields of view in (x, y, z)."""

    encoded: tuple[int, int, int]
    encoded_mm: tuple[float, float, float]
    reconstructed: tuple[int, int, int]
    reconstructed_mm: tuple[float, float, float]
    centre: tuple[int | None, int | None]
    person: Person
    cycles_ms: tuple[float, ...]
    separate_calibration: bool = False
    scan: Scan = field(default_factory=Scan)


def parse_header(text: bytes | str, *, identify: bool = False) -> Header:
    """The XML header.

    Errors: FormatError (not XML, nothing encoded), UnsupportedError (not Cartesian).
    """
    raw = text.encode() if isinstance(text, str) else text
    if len(raw) > 2**24 or b"<!DOCTYPE" in raw:
        raise FormatError("an ISMRMRD header that is not plain XML", expected="an ismrmrdHeader element",
                          remedy="convert the raw data again")
    try:
        root = ElementTree.fromstring(raw)
    except (ElementTree.ParseError, ValueError) as error:
        raise FormatError("an ISMRMRD header that is not XML", expected="an ismrmrdHeader element",
                          remedy="convert the raw data again") from error
    encoding = root.find(_path("encoding"))
    if encoding is None:
        raise FormatError("an ISMRMRD header without an encoding", expected="encodedSpace and reconSpace",
                          remedy="convert the raw data again")
    trajectory = (encoding.findtext(_path("trajectory")) or "cartesian").strip().lower()
    if trajectory != "cartesian":
        raise UnsupportedError(f"ISMRMRD raw data on a {shown(trajectory)} trajectory", expected="Cartesian k-space",
                               remedy="reconstruct it with the program of its sequence and pass the images")
    sizes, fields = {}, {}
    for space in ("encodedSpace", "reconSpace"):
        sizes[space] = tuple(int(_number(encoding, space, "matrixSize", axis)) for axis in "xyz")
        fields[space] = tuple(_number(encoding, space, "fieldOfView_mm", axis) for axis in "xyz")
    centres = tuple(_centre(encoding, name) for name in ("kspace_encoding_step_1", "kspace_encoding_step_2"))
    mode = encoding.findtext(_path("parallelImaging", "calibrationMode")) or ""
    return Header(sizes["encodedSpace"], fields["encodedSpace"], sizes["reconSpace"], fields["reconSpace"],
                  (centres[0], centres[1]), _person(root, identify), _cycles(root),
                  mode.strip().lower() in ("separate", "external"), scan_of(root, NAMESPACE, identify=identify))


def header_xml(header: Header, *, coils: int, frames: int, slices: int) -> str:
    """The XML header of a Cartesian cine, valid against ismrmrd.xsd 1.x."""
    root = ElementTree.Element("ismrmrdHeader", xmlns=NAMESPACE)
    _add(root, "version", 1)
    system = _add(root, "acquisitionSystemInformation")
    _add(system, "receiverChannels", coils)
    _add(_add(root, "experimentalConditions"), "H1resonanceFrequency_Hz", 63870000)
    encoding = _add(root, "encoding")
    for name, size, extent in (("encodedSpace", header.encoded, header.encoded_mm),
                               ("reconSpace", header.reconstructed, header.reconstructed_mm)):
        space = _add(encoding, name)
        matrix, view = _add(space, "matrixSize"), _add(space, "fieldOfView_mm")
        for axis, count, millimetres in zip("xyz", size, extent, strict=True):
            _add(matrix, axis, count)
            _add(view, axis, f"{millimetres:.9g}")
    limits = _add(encoding, "encodingLimits")
    for name, last, centre in (("kspace_encoding_step_1", header.encoded[1] - 1, header.centre[0] or 0),
                               ("kspace_encoding_step_2", header.encoded[2] - 1, header.centre[1] or 0),
                               ("slice", slices - 1, 0), ("phase", frames - 1, 0)):
        limit = _add(limits, name)
        for key, value in (("minimum", 0), ("maximum", last), ("center", centre)):
            _add(limit, key, value)
    _add(encoding, "trajectory", "cartesian")
    if header.cycles_ms:
        user = _add(root, "userParameters")
        for index, cycle in enumerate(header.cycles_ms):
            entry = _add(user, "userParameterDouble")
            _add(entry, "name", f"heart_cycle_ms_{index}")
            _add(entry, "value", f"{cycle:.9g}")
    return '<?xml version="1.0"?>\n' + ElementTree.tostring(root, encoding="unicode")


def _path(*names: str) -> str:
    return "/".join(f"{{{NAMESPACE}}}{name}" for name in names)


def _add(parent: ElementTree.Element, name: str, value: Any = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, name)
    child.text = None if value is None else str(value)
    return child


def _number(encoding: ElementTree.Element, *names: str) -> float:
    text = encoding.findtext(_path(*names))
    try:
        value = float(text or "")
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise FormatError(f"an ISMRMRD header whose {'/'.join(names)} is {shown(text or 'absent')}",
                          expected="a number above zero", remedy="correct the header")
    return value


def _centre(encoding: ElementTree.Element, name: str) -> int | None:
    text = encoding.findtext(_path("encodingLimits", name, "center"))
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _person(root: ElementTree.Element, identify: bool) -> Person:
    def text(*names: str) -> str | None:
        return root.findtext(_path("subjectInformation", *names))

    def number(name: str, lowest: float, highest: float, factor: float = 1.0) -> float | None:
        try:
            value = float(text(name) or "") * factor
        except ValueError:
            return None
        return value if lowest < value < highest else None

    sex = (text("patientGender") or "").strip().upper()
    return Person(sex="F" if sex == "F" else "M" if sex == "M" else None,
                  weight_kg=number("patientWeight_kg", 0.2, 500.0),
                  height_cm=number("patientHeight_m", 20.0, 280.0, 100.0),
                  name=text("patientName") if identify else None, identifier=text("patientID") if identify else None)


def _cycles(root: ElementTree.Element) -> tuple[float, ...]:
    """Length of the heart cycle per slice, where this file was written with it (user parameters)."""
    found: dict[int, float] = {}
    for entry in root.iterfind(_path("userParameters", "userParameterDouble")):
        name = entry.findtext(_path("name")) or ""
        try:
            if name.startswith("heart_cycle_ms_"):
                found[int(name.removeprefix("heart_cycle_ms_"))] = float(entry.findtext(_path("value")) or "")
        except ValueError:
            continue
    return tuple(found[i] for i in range(len(found)) if i in found)
