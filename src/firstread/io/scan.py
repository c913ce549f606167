"""What raw data say of the scan besides the signal: what DICOM images made from them may carry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree

from firstread.io.limits import shown


@dataclass(frozen=True)
class Patient:
    """The patient module of DICOM, kept only where identification was asked for."""

    name: str = ""
    identifier: str = ""
    birth_date: str = ""


@dataclass(frozen=True)
class Scan:
    """What the header of raw data says of study, sequence and scanner; None where it says nothing.

    study_uid, frame_uid: DICOM UIDs of study and frame of reference; study_date YYYYMMDD, study_time HHMMSS;
    patient_position: HFS, FFS …; sex: F or M; patient: only with ``identify``.
    """

    study_uid: str | None = None
    frame_uid: str | None = None
    study_date: str | None = None
    study_time: str | None = None
    patient_position: str | None = None
    protocol: str | None = None
    field_t: float | None = None
    frequency_mhz: float | None = None
    repetition_ms: float | None = None
    echo_ms: float | None = None
    inversion_ms: float | None = None
    flip_deg: float | None = None
    sex: str | None = None
    patient: Patient | None = None


def scan_of(root: ElementTree.Element, namespace: str, *, identify: bool) -> Scan:
    """The scan that an ISMRMRD header describes; what is not of the form that DICOM asks for is left out."""

    def text(*names: str) -> str | None:
        found = root.findtext("/".join(f"{{{namespace}}}{name}" for name in names))
        return None if found is None or not found.strip() else shown(found.strip(), 64)

    def matching(pattern: str, *names: str) -> str | None:
        found = text(*names)
        return found if found is not None and re.fullmatch(pattern, found) else None

    def number(*names: str) -> float | None:
        try:
            value = float(text(*names) or "")
        except ValueError:
            return None
        return value if 0 < value < 1e12 else None

    def digits(found: str | None, length: int) -> str | None:
        kept = re.sub(r"\D", "", found or "")[:length]
        return kept if len(kept) == length else None

    uid = r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+"
    study, measurement, system = "studyInformation", "measurementInformation", "acquisitionSystemInformation"
    frequency = number("experimentalConditions", "H1resonanceFrequency_Hz")
    person = Patient(text("subjectInformation", "patientName") or "", text("subjectInformation", "patientID") or "",
                     digits(text("subjectInformation", "patientBirthdate"), 8) or "") if identify else None
    return Scan(
        study_uid=matching(uid, study, "studyInstanceUID"), frame_uid=matching(uid, measurement, "frameOfReferenceUID"),
        study_date=digits(text(study, "studyDate"), 8), study_time=digits(text(study, "studyTime"), 6),
        patient_position=matching("(HF|FF)(S|P|DR|DL)", measurement, "patientPosition"),
        protocol=text(measurement, "protocolName"), field_t=number(system, "systemFieldStrength_T"),
        frequency_mhz=None if frequency is None else frequency / 1e6, repetition_ms=number("sequenceParameters", "TR"),
        echo_ms=number("sequenceParameters", "TE"), inversion_ms=number("sequenceParameters", "TI"),
        flip_deg=number("sequenceParameters", "flipAngle_deg"),
        sex=matching("[FM]", "subjectInformation", "patientGender"), patient=person)
