"""Images to DICOM MR Image Storage: one instance for each slice and frame, in one series, marked as derived.

Source: DICOM PS3.3 A.4 and C.8.3.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import UInt16
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat

from firstread.core.errors import OutputError
from firstread.core.records import Image
from firstread.io.scan import Patient, Scan

WARNING = "NOT FOR CLINICAL USE"
SERIES_NUMBER = 9002
_LARGEST = 4095


def write_mr(image: Image, scan: Scan, folder: Path, *, method: str) -> list[Path]:
    """Write the magnitude as ``mr_ZZZ_TTT.dcm`` for each slice and frame, and give their paths.

    Magnitudes are scaled to 0 … 4095 by one factor for the series, which each instance states. method: what the image
    was made with. Patient data are those of ``scan.patient``, empty where it is None.

    Errors: OutputError for images without a place in the patient.
    """
    if image.grid.frame != "patient" or image.data.shape[2] != 1:
        raise OutputError("an image without a place in the patient", expected="one channel, with position and "
                          "orientation", remedy="write it as NIfTI")
    values = image.data[:, :, 0].abs().float()
    factor = _LARGEST / max(float(values.max()), 1e-30)
    pixels = (values * factor).round().cpu().numpy().astype(np.uint16)  # batch, time, z, y, x
    common = _common(image, scan, f"{method}; stored value = {factor:.6g} x magnitude")
    batch, times, depth = pixels.shape[:3]
    written = []
    for z, (row, plane) in enumerate((b, k) for b in range(batch) for k in range(depth)):
        for t in range(times):
            instance = _placed(common, image, row, plane)
            instance.InstanceNumber = z * times + t + 1
            if times > 1:
                instance.TemporalPositionIdentifier, instance.NumberOfTemporalPositions = t + 1, times
            if image.times_s is not None:
                seconds = float(image.times_s[row, t, min(plane, image.times_s.shape[2] - 1)])
                instance.TriggerTime = _decimal(1000 * seconds)
            path = folder / f"mr_{z:03d}_{t:03d}.dcm"
            _save(instance, pixels[row, t, plane], path)
            written.append(path)
    return written


def _common(image: Image, scan: Scan, derivation: str) -> Dataset:
    """What all instances of the series share."""
    now, own = datetime.now(UTC), version("firstread")
    patient = scan.patient or Patient()
    made = Dataset()
    made.SOPClassUID = MRImageStorage
    made.SpecificCharacterSet = "ISO_IR 192"
    made.ImageType = ["DERIVED", "PRIMARY", "OTHER"]
    made.PatientName, made.PatientID = patient.name, patient.identifier
    made.PatientBirthDate, made.PatientSex = patient.birth_date, scan.sex or ""
    made.StudyInstanceUID = scan.study_uid or generate_uid()
    made.FrameOfReferenceUID = scan.frame_uid or generate_uid()
    made.SeriesInstanceUID = generate_uid()
    made.StudyDate, made.StudyTime = scan.study_date or "", scan.study_time or ""
    made.ContentDate, made.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.AccessionNumber = made.ReferringPhysicianName = made.StudyID = made.PositionReferenceIndicator = ""
    made.Modality, made.SeriesNumber = "MR", SERIES_NUMBER
    made.SeriesDescription = f"Firstread reconstruction. {WARNING}"
    made.Manufacturer = made.ManufacturerModelName = "Firstread"
    made.SoftwareVersions = own
    made.PatientPosition = scan.patient_position or ""
    made.DerivationDescription = derivation
    made.ImageComments = f"{WARNING}: made by a program from raw data, not checked by a person."
    made.BurnedInAnnotation = "NO"
    made.ScanningSequence, made.SequenceVariant, made.ScanOptions = "RM", "NONE", ""
    if image.times_s is not None:
        made.ScanOptions = "CG"  # frame times of raw data are those after the R wave
    made.MRAcquisitionType = made.Laterality = ""
    made.RepetitionTime, made.EchoTime = _decimal(scan.repetition_ms), _decimal(scan.echo_ms)
    made.EchoTrainLength = None
    for keyword, value in (("InversionTime", scan.inversion_ms), ("FlipAngle", scan.flip_deg),
                           ("MagneticFieldStrength", scan.field_t), ("ImagingFrequency", scan.frequency_mhz)):
        if value is not None:
            setattr(made, keyword, _decimal(value))
    if scan.protocol is not None:
        made.ProtocolName = scan.protocol
    return made


def _placed(common: Dataset, image: Image, row: int, plane: int) -> Dataset:
    """The common part with the place of one slice."""
    affine = image.grid.affine[row].cpu().numpy()
    unit = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    spacing = image.grid.spacing_mm[row].tolist()
    thickness = spacing[0] if image.grid.thickness_mm is None else float(image.grid.thickness_mm[row])
    made = Dataset()
    made.update(common)
    made.ImageOrientationPatient = [_decimal(v) for v in (*unit[:, 0], *unit[:, 1])]
    made.ImagePositionPatient = [_decimal(v) for v in (affine @ [0.0, 0.0, plane, 1.0])[:3]]
    made.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[2])]
    made.SliceThickness = _decimal(thickness)
    if image.grid.shape[0] > 1:
        made.SpacingBetweenSlices = _decimal(spacing[0])
    return made


def _save(instance: Dataset, pixels: UInt16[np.ndarray, "y x"], path: Path) -> None:
    instance.SOPInstanceUID = UID(generate_uid())
    instance.Rows, instance.Columns = pixels.shape
    instance.SamplesPerPixel, instance.PhotometricInterpretation = 1, "MONOCHROME2"
    instance.BitsAllocated, instance.BitsStored, instance.HighBit, instance.PixelRepresentation = 16, 12, 11, 0
    instance.WindowCenter, instance.WindowWidth = _LARGEST // 2, _LARGEST
    instance.PixelData = pixels.astype("<u2").tobytes()
    instance.file_meta = FileMetaDataset()
    instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    instance.save_as(path, enforce_file_format=True)


def _decimal(value: float | None) -> DSfloat | None:
    """A decimal string of the 16 characters that the standard allows."""
    return None if value is None else DSfloat(float(value), auto_format=True)
