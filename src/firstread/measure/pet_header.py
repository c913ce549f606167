"""What the header of a PET series says about dose, patient and time, after QIBA's vendor-neutral pseudo-code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from firstread.core.errors import InputError, UnsupportedError

Sex = Literal["M", "F"]
GE_SCAN_TIME, PHILIPS_SUV, PHILIPS_ACTIVITY = (0x0009, 0x100D), (0x7053, 0x1000), (0x7053, 0x1009)


@dataclass(frozen=True, kw_only=True)
class PetHeader:
    """One PET series.

    unit: ``BQML``, ``CNTS``, ``GML`` or ``CM2ML``. dose_bq: injected; half_life_s: of the nuclide;
    decay_s: from injection to the time that the pixels were decay-corrected to (0 where that is the injection).
    weight_kg, height_m, sex: of the patient, None where not stated. uptake_type: what GML pixels are (``BW`` …).
    counts_to_uptake, counts_to_bq_ml: of Philips, for CNTS.
    """

    unit: str
    dose_bq: float | None = None
    half_life_s: float | None = None
    decay_s: float | None = None
    weight_kg: float | None = None
    height_m: float | None = None
    sex: Sex | None = None
    uptake_type: str = "BW"
    counts_to_uptake: float | None = None
    counts_to_bq_ml: float | None = None

    @classmethod
    def of(cls, headers: Sequence[Any]) -> PetHeader:
        """From the pydicom datasets of all slices of one series (or as many as there are).

        Raises InputError naming the attribute that is missing, UnsupportedError for images without attenuation or
        decay correction.
        """
        first = headers[0]
        corrected = first.get("CorrectedImage") or []
        corrected = {corrected} if isinstance(corrected, str) else set(corrected)
        correction = str(_needed(first, "DecayCorrection"))
        if not {"ATTN", "DECAY"} <= corrected or correction not in ("START", "ADMIN"):
            raise UnsupportedError(f"a PET series corrected for {sorted(corrected)}, decay {correction}", remedy=(
                "reconstruct it with both corrections"), expected="ATTN and DECAY, to START or ADMIN")
        unit, sex = str(_needed(first, "Units")), str(first.get("PatientSex") or "")
        patient = {"weight_kg": _number(first, "PatientWeight"), "height_m": _number(first, "PatientSize"),
                   "sex": sex if sex in ("M", "F") else None}
        if unit in ("GML", "CM2ML"):
            assumed = "BW" if unit == "GML" else "BSA"
            return cls(unit=unit, uptake_type=str(first.get("SUVType") or assumed), **patient)
        counts = {"counts_to_uptake": _private(first, PHILIPS_SUV),
                  "counts_to_bq_ml": _private(first, PHILIPS_ACTIVITY)}
        if unit == "CNTS" and counts["counts_to_uptake"] is not None:
            return cls(unit=unit, **patient, **counts)
        drug = _needed(first, "RadiopharmaceuticalInformationSequence")[0]
        half_life = float(_needed(drug, "RadionuclideHalfLife"))
        decay = 0.0
        if correction == "START":
            scan = scan_start(headers, half_life)
            decay = (scan - injected(drug, scan)).total_seconds()
        return cls(unit=unit, dose_bq=float(_needed(drug, "RadionuclideTotalDose")), half_life_s=half_life,
                   decay_s=decay, **patient, **counts)


def scan_start(headers: Sequence[Any], half_life_s: float) -> datetime:
    """The time that pixels corrected to START refer to.

    The series' time, unless it is later than the first acquisition: then the series was made afterwards, and it is
    GE's private scan time, or else the acquisition's time less what lies between the start and the moment of the mean
    count rate of the frame (Siemens)::

        start = acquisition + t̄ - reference,   t̄ = ln(λT / (1 - exp(-λT))) / λ
    """
    first = min(headers, key=lambda header: _time(header, "AcquisitionDate", "AcquisitionTime"))
    acquired, series = _time(first, "AcquisitionDate", "AcquisitionTime"), _time(first, "SeriesDate", "SeriesTime")
    if series <= acquired:
        return series
    private = first.get(GE_SCAN_TIME)
    if private is not None and str(private.value):
        return _parsed(str(private.value), "the private scan time (0009,100D)")
    reference, length = _number(first, "FrameReferenceTime"), _number(first, "ActualFrameDuration")
    if reference is None or not length:
        raise InputError("a PET series dated after its acquisition, without FrameReferenceTime and ActualFrameDuration",
                         expected="a series as the scanner wrote it, or the times of its frames",
                         remedy="use the original series")
    rate, seconds = math.log(2) / half_life_s, length / 1000
    middle = math.log(rate * seconds / -math.expm1(-rate * seconds)) / rate
    return acquired + timedelta(seconds=middle - reference / 1000)


def injected(drug: Any, scan: datetime) -> datetime:
    """The time of injection; where only the time of day is stated, the last such time before the scan."""
    stated = drug.get("RadiopharmaceuticalStartDateTime")
    if stated:
        when = _parsed(str(stated).split("+")[0].split("-")[0], "RadiopharmaceuticalStartDateTime")
    else:
        clock = str(_needed(drug, "RadiopharmaceuticalStartTime"))
        when = _parsed(scan.strftime("%Y%m%d") + clock, "RadiopharmaceuticalStartTime")
        if when > scan:
            when -= timedelta(days=1)
    if when > scan:
        raise InputError(f"an injection at {when}, after the scan at {scan}", expected="an injection before the scan",
                         remedy="correct the times in the header")
    return when


def _time(header: Any, date: str, clock: str) -> datetime:
    return _parsed(str(_needed(header, date)) + str(_needed(header, clock)), f"{date} and {clock}")


def _parsed(text: str, what: str) -> datetime:
    whole, _, fraction = text.strip().partition(".")
    try:
        return datetime.strptime(whole.ljust(14, "0"), "%Y%m%d%H%M%S") + timedelta(seconds=float(f"0.{fraction or 0}"))
    except ValueError:
        raise InputError(f"{what} {text!r}", expected="YYYYMMDD and HHMMSS", remedy="correct the header") from None


def _needed(header: Any, keyword: str) -> Any:
    value = header.get(keyword)
    if value is None or str(value) == "":
        raise InputError(f"a PET header without {keyword}", expected="it to be stated",
                         remedy="add it to the header, or give a PetHeader of your own")
    return value


def _number(header: Any, keyword: str) -> float | None:
    value = header.get(keyword)
    return None if value is None or str(value) == "" or not float(value) > 0 else float(value)


def _private(header: Any, tag: tuple[int, int]) -> float | None:
    element = header.get(tag)
    return None if element is None or not str(element.value) or not float(element.value) > 0 else float(element.value)
