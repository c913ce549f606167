"""Labels to DICOM Segmentation objects: one instance for each heart phase, all in one series.

A cine in one instance is refused by the standard (several planes at one place), so each phase refers to its own source
images. Source: DICOM PS3.3 A.51 and C.8.20; written with highdicom.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import DSfloat

from firstread.core.errors import FormatError, OutputError
from firstread.core.records import HardLabels
from firstread.io.dicom.source import DicomSource, FrameReference

WARNING = "Not for clinical use"
SERIES_NUMBER = 9001

# SNOMED CT: structure of left ventricle, of myocardium of left ventricle, of right ventricle
CODES = {
    "LV cavity": Code("87878005", "SCT", "Left ventricle"),
    "LV myocardium": Code("49848007", "SCT", "Left Ventricle Myocardium"),
    "RV cavity": Code("53085002", "SCT", "Right ventricle"),
}
_ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
_COLOURS = {"LV cavity": (255, 80, 80), "LV myocardium": (80, 200, 80), "RV cavity": (80, 120, 255)}
_OTHERS = ((255, 80, 80), (80, 200, 80), (80, 120, 255), (230, 180, 40), (170, 90, 220), (60, 190, 190))


def code_of(name: str) -> Code:
    """The code of a class: SNOMED's for anatomical structures (DICOM context group 7192), else one of our own.

    >>> code_of("liver").value, code_of("class 5").scheme_designator
    ('10200004', '99FIRSTREAD')
    """
    if name in CODES:
        return CODES[name]
    from pydicom.sr.codedict import codes

    keyword = "".join(word.capitalize() for word in re.split("[^A-Za-z]+", name))
    plain = re.sub("[^A-Za-z0-9]+", "_", name).strip("_")
    if len(plain) > 16:  # the longest code value that the standard allows, and still one of its own
        plain = f"{plain[:9]}_{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return codes.cid7192.concepts.get(keyword) or Code(plain or "class", "99FIRSTREAD", name[:64])


def write_seg(labels: HardLabels, source: DicomSource, folder: Path) -> list[Path]:
    """Write ``seg_PPP.dcm`` for each phase (``seg_RRR_PPP.dcm`` where batch rows are slices) and give their paths.

    Without ``source.identify`` the patient's name, identifier and birth date are left empty.

    Errors: OutputError where labels and source differ in size, or images have no patient position.
    """
    _check(labels, source)
    from highdicom import UID

    series, written = UID(), []
    rows, phases = len(source.frames), len(source.frames[0])
    for row in range(rows):
        for phase in range(phases):
            references = source.frames[row][phase]
            originals = _originals(references, identify=source.identify)
            homes = {image.SOPInstanceUID: image.SeriesInstanceUID for image in originals}
            for image in originals:  # highdicom asks for one series; the true ones are put back below
                image.SeriesInstanceUID = originals[0].SeriesInstanceUID
            segmentation = _segmentation(labels, row, phase, originals, series, instance=row * phases + phase + 1)
            _name_series(segmentation, homes)
            if "NumberOfFrames" in originals[0]:
                _renumber(segmentation, [reference.frame + 1 for reference in references])
            _shorten(segmentation)
            name = f"seg_{phase:03d}.dcm" if rows == 1 else f"seg_{row:03d}_{phase:03d}.dcm"
            segmentation.save_as(folder / name)
            written.append(folder / name)
    return written


def _check(labels: HardLabels, source: DicomSource) -> None:
    here = (labels.data.shape[0], labels.data.shape[1], labels.data.shape[3])
    there = (len(source.frames), len(source.frames[0]), len(source.frames[0][0]))
    if here != there:
        raise OutputError(f"labels of {here} rows, phases and slices", expected=f"{there}, as the DICOM images have",
                          remedy="write labels on the grid of the images")
    if labels.grid.frame != "patient":
        raise OutputError("labels of images without a place in the patient", expected="images with position and "
                          "orientation", remedy="write them as NIfTI")


def _segmentation(labels: HardLabels, row: int, phase: int, originals: list[Dataset], series: str, *, instance: int
                  ) -> Dataset:
    import highdicom

    own = version("firstread")
    heart = all(name in CODES for name in labels.names[1:])
    made_by = highdicom.AlgorithmIdentificationSequence(
        name="Firstread", family=Code("123110", "DCM", "Artificial Intelligence"), version=own)
    descriptions = [highdicom.seg.SegmentDescription(
        segment_number=number, segment_label=name, segmented_property_category=_ANATOMY,
        segmented_property_type=code_of(name), algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=made_by, tracking_uid=highdicom.UID(), tracking_id=f"{name} {instance}",
        display_color=highdicom.color.CIELabColor.from_rgb(*_COLOURS.get(name, _OTHERS[(number - 1) % len(_OTHERS)])))
        for number, name in enumerate(labels.names) if number > 0]
    segmentation = highdicom.seg.Segmentation(
        source_images=originals, pixel_array=labels.data[row, phase, 0].cpu().numpy().astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY, segment_descriptions=descriptions,
        series_instance_uid=series, series_number=SERIES_NUMBER, sop_instance_uid=highdicom.UID(),
        instance_number=instance, manufacturer="Firstread", manufacturer_model_name="Firstread", software_versions=own,
        device_serial_number="0", content_label="HEART" if heart else "SEGMENTATION",
        content_creator_name="Firstread^automatic",
        content_description=f"{WARNING}. {'Heart phase' if heart else 'Frame'} {phase + 1} of {labels.data.shape[1]}")
    segmentation.SeriesDescription = f"Firstread contours. {WARNING.upper()}"
    segmentation.ImageComments = f"{WARNING.upper()}: made by a program, not checked by a person."
    return segmentation


def _originals(references: Sequence[FrameReference], *, identify: bool) -> list[Dataset]:
    """Headers of one phase's source images; of a multi-frame file the part with these frames."""
    paths = list(dict.fromkeys(reference.path for reference in references))
    headers = [_header(path, identify=identify) for path in paths]
    if "PerFrameFunctionalGroupsSequence" not in headers[0]:
        if len(paths) != len(references):
            raise OutputError("frames of a multi-frame file without positions", expected="enhanced or single-frame "
                              "images", remedy="write the labels as NIfTI")
        for header in headers[1:]:  # within a degree, as the stack was read
            header.ImageOrientationPatient = headers[0].ImageOrientationPatient
            header.PixelSpacing = headers[0].PixelSpacing
        return headers
    if len(paths) > 1:
        raise OutputError("a heart phase spread over several multi-frame files", expected="one file for all its slices",
                          remedy="write the labels as NIfTI")
    return [_part(headers[0], [reference.frame for reference in references])]


def _header(path: Path, *, identify: bool) -> Dataset:
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    except (OSError, ValueError, KeyError) as error:
        raise FormatError("a source image that can no longer be read", expected="the images that were segmented",
                          remedy="leave the input where it is while it is read") from error
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName",
                    "StudyID"):
        if not identify or keyword not in dataset:
            setattr(dataset, keyword, "")
    for keyword in ("PatientSex", "StudyDate", "StudyTime"):
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    if not identify:
        for element in list(dataset.group_dataset(0x0010)):
            if element.keyword not in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"):
                del dataset[element.tag]
    return dataset


def _part(header: Dataset, frames: Sequence[int]) -> Dataset:
    """The enhanced header with ``frames`` alone and their orientation shared, as highdicom asks."""
    groups = [header.PerFrameFunctionalGroupsSequence[frame] for frame in frames]
    shared = header.SharedFunctionalGroupsSequence[0]
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if name in groups[0]:
            setattr(shared, name, groups[0][name].value)
    header.PerFrameFunctionalGroupsSequence = pydicom.Sequence(groups)
    header.NumberOfFrames = len(groups)
    return header


def _name_series(segmentation: Dataset, homes: Mapping[str, str]) -> None:
    """Every referred instance under the series that it is of."""
    referred = [i for item in segmentation.ReferencedSeriesSequence for i in item.ReferencedInstanceSequence]
    items = []
    for uid in dict.fromkeys(homes.values()):
        item = Dataset()
        item.SeriesInstanceUID = uid
        item.ReferencedInstanceSequence = pydicom.Sequence(
            [i for i in referred if homes[i.ReferencedSOPInstanceUID] == uid])
        items.append(item)
    segmentation.ReferencedSeriesSequence = pydicom.Sequence(items)


def _renumber(segmentation: Dataset, numbers: Sequence[int]) -> None:
    """Frame numbers in the part to frame numbers in the source file."""
    images = {id(image): image for group in segmentation.PerFrameFunctionalGroupsSequence  # segments share items
              for derivation in group.DerivationImageSequence for image in derivation.SourceImageSequence}
    for image in images.values():
        image.ReferencedFrameNumber = numbers[int(image.ReferencedFrameNumber) - 1]


def _shorten(segmentation: Dataset) -> None:
    """Decimal strings taken over from the source, to the 16 characters that the standard allows."""
    for element in segmentation.iterall():
        if element.VR == "DS" and element.value not in (None, ""):
            values = element.value if element.VM > 1 else [element.value]
            short = [DSfloat(float(value), auto_format=True) for value in values]
            element.value = short if element.VM > 1 else short[0]
