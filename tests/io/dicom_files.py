"""Small DICOM files for the tests of this folder, written with pydicom."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR = "1.2.840.10008.5.1.4.1.1.4"
CT = "1.2.840.10008.5.1.4.1.1.2"
NAME, IDENTIFIER = "Zebediah^Quux", "HOSP-77123"


def uid(*parts: object) -> str:
    """The same UID for the same parts."""
    return generate_uid(entropy_srcs=["/".join(map(str, parts))])


@dataclass
class Cine:
    """A short-axis stack: ``phases`` images at each of ``slices`` places, one series or one for each slice."""

    phases: int = 4
    slices: int = 3
    shape: tuple[int, int] = (12, 16)
    spacing_mm: tuple[float, float] = (1.5, 1.25)
    step_mm: float = 10.0
    thickness_mm: float = 8.0
    orientation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    origin: tuple[float, float, float] = (-50.0, 20.0, 30.0)
    study: str = "study"
    series: str = "sax"
    number: int = 5
    split: bool = False
    interval_ms: float | None = 900.0
    frame_ms: float = 40.0
    trigger: bool = True
    shear_mm: float = 0.0
    syntax: str = ExplicitVRLittleEndian
    extra: dict = field(default_factory=dict)

    def pixels(self) -> np.ndarray:
        """``[phase, slice, y, x]`` uint16, every value telling its place."""
        p, s, (h, w) = self.phases, self.slices, self.shape
        return (np.arange(p * s * h * w).reshape(p, s, h, w) % 4000).astype(np.uint16)

    def write(self, folder: Path) -> list[Path]:
        """One file for each image, named so that the order of names is not that of time or place."""
        folder.mkdir(parents=True, exist_ok=True)
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        pixels, paths = self.pixels(), []
        for z in range(self.slices):
            for t in range(self.phases):
                dataset = self.header(z)
                own = uid(self.study, self.series, z, t)
                dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = own
                place = (np.array(self.origin) + normal * self.step_mm * z
                         + np.array(self.orientation[3:]) * self.shear_mm * z)
                dataset.ImagePositionPatient = [f"{v:.8g}" for v in place]
                dataset.InstanceNumber = 1 + (z * self.phases + (t + 1) % self.phases)
                if self.trigger:
                    dataset.TriggerTime = f"{t * self.frame_ms + z:.6g}"
                for keyword, value in self.extra.items():
                    setattr(dataset, keyword, value)
                paths.append(save(dataset, pixels[t, z], folder / f"IM{(7 * (z * self.phases + t)) % 1009:04d}",
                                  self.syntax))
        return paths

    def header(self, z: int) -> Dataset:
        dataset = plain(MR, "MR", self.shape)
        own = f"{self.series}-{z}" if self.split else self.series
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(self.study), uid(self.study, own)
        dataset.FrameOfReferenceUID = uid(self.study, "frame")
        dataset.SeriesNumber = self.number + (z if self.split else 0)
        dataset.SeriesDescription = f"SAX cine {NAME.split('^')[0]}"
        dataset.PixelSpacing = list(self.spacing_mm)
        dataset.SliceThickness = self.thickness_mm
        dataset.ImageOrientationPatient = [f"{v:.8g}" for v in self.orientation]
        if self.interval_ms is not None:
            dataset.NominalInterval = int(self.interval_ms)
        return dataset


def plain(sop_class: str, modality: str, shape: tuple[int, int]) -> FileDataset:
    """A valid header of a grey 16-bit image, without place and pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop_class, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = uid(modality)
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = sop_class, uid(modality), modality
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study"), uid("series")
    dataset.PatientName, dataset.PatientID, dataset.PatientSex = NAME, IDENTIFIER, "F"
    dataset.PatientAge, dataset.PatientSize, dataset.PatientWeight = "061Y", 1.68, 63
    dataset.PatientBirthDate = "19600229"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20200102", "101112", "1", "ACC-9"
    dataset.ReferringPhysicianName, dataset.InstanceNumber, dataset.SeriesNumber = "Dr^Secret", 1, 1
    dataset.ContentDate, dataset.ContentTime, dataset.Manufacturer = "20200102", "101112", "None"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    dataset.Rows, dataset.Columns = shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    return dataset


def save(dataset: Dataset, pixels: np.ndarray, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write with ``pixels`` in the transfer syntax."""
    syntax = pydicom.uid.UID(syntax)
    big = syntax == pydicom.uid.ExplicitVRBigEndian
    dataset.PixelData = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    dataset["PixelData"].VR = "OW"
    if syntax.is_compressed and syntax != pydicom.uid.DeflatedExplicitVRLittleEndian:
        dataset.compress(syntax, pixels, generate_instance_uid=False)
        dataset.save_as(path, enforce_file_format=True)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian)
        dataset.save_as(path, enforce_file_format=True, implicit_vr=syntax.is_implicit_VR,
                        little_endian=syntax.is_little_endian)
    return path
