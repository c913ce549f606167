"""One image file to its frames: where each lies, when it was taken, how its pixels are stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from pathlib import Path

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from firstread.core.errors import FormatError, UnsupportedError
from firstread.io.dicom import fields
from firstread.io.dicom.fields import Header
from firstread.io.dicom.head import Head, fragments
from firstread.io.dicom.stream import read_at
from firstread.io.limits import require_plausible, shown

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")


@dataclass(frozen=True)
class Storage:
    """How a file keeps its pixels.

    offset: of uncompressed little- or big-endian pixels in the file, else None; fragments: (offset, length) of those of
    a single compressed frame, where they are known.
    """

    path: Path
    syntax: str
    shape: tuple[int, int]
    samples: int
    bits: int
    signed: bool
    photometric: str
    frames: int
    offset: int | None
    big_endian: bool
    stored_bits: int
    fragments: tuple[tuple[int, int], ...] = ()

    @property
    def signature(self) -> tuple[int, bool, int]:
        """Bits that count, whether signed, bits of a word."""
        return self.stored_bits, self.signed, self.bits

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(f"{'>' if self.big_endian else '<'}{'i' if self.signed else 'u'}{self.bits // 8}")


@dataclass(frozen=True)
class Frame:
    """One two-dimensional image of a file.

    affine: index (x, y, normal) to LPS+ millimetres, None without a patient position; the third column is the slice
    thickness along the normal. order: what sorts frames of one slice where trigger times are absent or equal.
    """

    storage: Storage
    index: int
    sop_uid: str
    affine: np.ndarray | None
    spacing_mm: tuple[float, float] | None
    thickness_mm: float | None
    trigger_ms: float | None
    order: tuple[float, ...]
    cycle_ms: float | None
    slope: float
    intercept: float
    echo: float | None


def frames_of(path: Path, dataset: Header) -> list[Frame]:
    """All frames of one image file.

    Errors: FormatError where what every image needs is absent or impossible.
    """
    storage = _storage(path, dataset)
    uid = fields.text(dataset, "SOPInstanceUID") or ""
    if isinstance(dataset, Dataset):
        shared = fields.first(dataset, "SharedFunctionalGroupsSequence")
        groups = list(fields.items(dataset, "PerFrameFunctionalGroupsSequence"))
        if groups or len(shared):
            if len(groups) != storage.frames:
                raise FormatError(f"an enhanced DICOM file of {storage.frames} frames that describes {len(groups)}",
                                  expected="one description for each frame", remedy="export the file again")
            return [_enhanced(storage, index, uid, dataset, shared, own) for index, own in enumerate(groups)]
    first = _classic(storage, uid, dataset)
    if storage.frames == 1:
        return [first]
    step = fields.number(dataset, "FrameTime") or 1000.0 / (fields.number(dataset, "CineRate") or np.inf)
    return [_later(first, index, step) for index in range(storage.frames)]


def _storage(path: Path, dataset: Header) -> Storage:
    rows, columns, bits, stored_bits = (fields.count(dataset, name) or 0 for name in (
        "Rows", "Columns", "BitsAllocated", "BitsStored"))
    samples = fields.count(dataset, "SamplesPerPixel") or 1
    stated = fields.number(dataset, "NumberOfFrames")
    frames = 1 if stated is None else int(stated)
    if not rows or not columns or bits not in (1, 8, 16, 32, 64) or frames < 1 or samples not in (1, 3, 4):
        raise FormatError(f"a DICOM image of {rows} x {columns} pixels, {bits} bits, {samples} samples, {frames} "
                          "frames", expected="numbers above zero", remedy="export the file again")
    syntax, size, pixels = _place(path, dataset)
    native = syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
    require_plausible((frames, rows, columns, samples), max(1, bits // 8), size, ratio=1.0 if native else 20_000.0,
                      what="DICOM file")
    offset = None
    wanted = frames * rows * columns * samples * bits // 8
    if native and pixels:
        start, length = pixels[0]
        if length == 0xFFFFFFFF or length < wanted or start + wanted > size:
            raise FormatError(f"{path.name}, a cut-off DICOM file", expected=f"{wanted} bytes of pixels",
                              remedy="copy it again")
        offset = start if bits in (8, 16) and samples == 1 else None
    return Storage(path, syntax, (rows, columns), samples, bits, fields.count(dataset, "PixelRepresentation") == 1,
                   (fields.text(dataset, "PhotometricInterpretation") or "MONOCHROME2").upper(), frames, offset,
                   syntax == "1.2.840.10008.1.2.2", min(bits, stored_bits or bits),
                   pixels if frames == 1 and not native else ())


def _place(path: Path, dataset: Header) -> tuple[str, int, tuple[tuple[int, int], ...]]:
    """Transfer syntax, size of the file, (offset, length) of native pixels or of RLE fragments."""
    if isinstance(dataset, Head):
        return dataset.syntax, dataset.size, dataset.pixels
    meta = getattr(dataset, "file_meta", None)
    syntax = str(getattr(meta, "TransferSyntaxUID", None) or _guessed_syntax(dataset))
    element = dataset.get_item("PixelData", keep_deferred=True) if "PixelData" in dataset else None
    size = path.stat().st_size
    if element is not None and syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"):
        return syntax, size, ((int(element.value_tell), int(element.length)),)
    if isinstance(element, RawDataElement) and syntax == "1.2.840.10008.1.2.5" and element.length == 0xFFFFFFFF:
        with path.open("rb", buffering=0) as stream:
            return syntax, size, fragments(partial(read_at, stream.fileno()), int(element.value_tell), size)
    return syntax, size, ()


def _guessed_syntax(dataset: Dataset) -> str:
    implicit, little = dataset.original_encoding
    return "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2"


def plane_affine(position: tuple[float, ...], orientation: tuple[float, ...], spacing_mm: tuple[float, float],
                 thickness_mm: float) -> np.ndarray:
    """``[X Δcolumn, Y Δrow, (X × Y) thickness | position]``: X along rows, Y along columns (DICOM PS3.3 C.7.6.2.1.1).

    Errors: FormatError where the two directions are not unit vectors at right angles.
    """
    (a, b, c), (d, e, f) = orientation[:3], orientation[3:]
    across, downward = sqrt(a * a + b * b + c * c), sqrt(d * d + e * e + f * f)
    if min(across, downward) < 0.9 or max(across, downward) > 1.1 or abs(a * d + b * e + c * f) > 0.05:
        raise FormatError("a DICOM image whose row and column directions are not at right angles",
                          expected="two perpendicular unit vectors", remedy="export the series again")
    a, b, c, d, e, f = a / across, b / across, c / across, d / downward, e / downward, f / downward
    row, column = spacing_mm
    (x, y, z), t = position, thickness_mm
    return np.array([[a * column, d * row, (b * f - c * e) * t, x], [b * column, e * row, (c * d - a * f) * t, y],
                     [c * column, f * row, (a * e - b * d) * t, z], [0.0, 0.0, 0.0, 1.0]])


def _placed(position, orientation, spacing, thickness) -> np.ndarray | None:
    if position is None or orientation is None or spacing is None:
        return None
    return plane_affine(position, orientation, spacing, thickness if thickness and thickness > 0 else 1.0)


def _spacing(values: tuple[float, ...] | None) -> tuple[float, float] | None:
    if values is None:
        return None
    if min(values) <= 0:
        raise FormatError(f"a DICOM pixel spacing of {values[0]:g} x {values[1]:g} mm", expected="spacing above zero",
                          remedy="correct the header")
    return values[0], values[1]


def _classic(storage: Storage, uid: str, dataset: Header) -> Frame:
    spacing = _spacing(fields.numbers(dataset, "PixelSpacing", 2))
    thickness = fields.number(dataset, "SliceThickness")
    affine = _placed(fields.numbers(dataset, "ImagePositionPatient", 3),
                     fields.numbers(dataset, "ImageOrientationPatient", 6), spacing, thickness)
    order = tuple(fields.number(dataset, name) or 0.0 for name in (
        "TemporalPositionIdentifier", "AcquisitionNumber", "InstanceNumber"))
    return Frame(storage, 0, uid, affine, spacing or _detector_spacing(dataset), thickness,
                 fields.number(dataset, "TriggerTime"), order, _cycle_ms(dataset),
                 _or(fields.number(dataset, "RescaleSlope"), 1.0), _or(fields.number(dataset, "RescaleIntercept"), 0.0),
                 fields.number(dataset, "EchoTime"))


def _detector_spacing(dataset: Header) -> tuple[float, float] | None:
    """At the detector (X-ray), or of the only ultrasound region measured in centimetres."""
    found = _spacing(fields.numbers(dataset, "ImagerPixelSpacing", 2))
    regions = list(fields.items(dataset, "SequenceOfUltrasoundRegions"))
    if found is not None or len(regions) != 1:
        return found
    step = [fields.binary(regions[0], f"PhysicalDelta{axis}", "d") for axis in "YX"]
    units = [fields.count(regions[0], f"PhysicalUnits{axis}Direction") for axis in "YX"]
    if units != [3, 3] or not all(step):
        return None
    return abs(step[0] or 0.0) * 10, abs(step[1] or 0.0) * 10


def _cycle_ms(dataset: Header) -> float | None:
    interval = fields.number(dataset, "NominalInterval")
    if interval is None or not 150 < interval < 5000:
        rate = fields.number(dataset, "HeartRate")
        return 60_000 / rate if rate is not None and 12 < rate < 400 else None
    return interval


def _later(first: Frame, index: int, step_ms: float) -> Frame:
    return replace(first, index=index, trigger_ms=index * step_ms if step_ms > 0 else None,
                   order=(*first.order, float(index)))


def _enhanced(storage: Storage, index: int, uid: str, dataset: Dataset, shared: Dataset, own: Dataset) -> Frame:
    """A frame of an enhanced object: its own functional groups first, then the shared ones."""
    def group(name: str) -> Dataset:
        return fields.first(own, name) if name in own else fields.first(shared, name)

    measures = group("PixelMeasuresSequence")
    spacing = _spacing(fields.numbers(measures, "PixelSpacing", 2))
    thickness = fields.number(measures, "SliceThickness")
    affine = _placed(fields.numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3),
                     fields.numbers(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6), spacing,
                     thickness)
    cardiac = group("CardiacSynchronizationSequence")
    trigger = fields.binary(cardiac, "NominalCardiacTriggerDelayTime", "d")
    content = group("FrameContentSequence")
    temporal = fields.binary(content, "TemporalPositionIndex", "I")
    values = group("PixelValueTransformationSequence")
    interval = fields.binary(cardiac, "RRIntervalTimeNominal", "d")
    echo = fields.binary(group("MREchoSequence"), "EffectiveEchoTime", "d")
    return Frame(storage, index, uid, affine, spacing or _detector_spacing(dataset), thickness, trigger,
                 (temporal or 0.0, 0.0, float(index)),
                 interval if interval is not None and 150 < interval < 5000 else _cycle_ms(dataset),
                 _or(fields.number(values, "RescaleSlope"), 1.0), _or(fields.number(values, "RescaleIntercept"), 0.0),
                 echo)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _modality(dataset: Header) -> str:
    return shown(fields.text(dataset, "Modality") or "no modality", 16)


def has_pixels(dataset: Header) -> bool:
    """Whether it is an image, other than a segmentation."""
    if fields.text(dataset, "SOPClassUID") in _SEGMENTATIONS:
        return False
    return any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))


def require_image(dataset: Header) -> None:
    """Refuse a DICOM object without pixels, or whose pixels are missing."""
    if not has_pixels(dataset):
        if fields.text(dataset, "SOPClassUID") in _SEGMENTATIONS:
            raise UnsupportedError("a DICOM segmentation", expected="an image",
                                   remedy="pass the images it was made from")
        if "Rows" in dataset:
            raise FormatError("a cut-off DICOM image", expected="pixels behind the header", remedy="copy it again")
        raise UnsupportedError(f"a DICOM object without pixels ({_modality(dataset)})",
                               expected="an image", remedy="pass the images themselves")
