"""What is pointed at in a DICOM series becomes a DICOM SEG of it."""

import pydicom
from dicom_files import Cine

from firstread.jobs.segment_prompt import PromptSettings, prompt_to_folder


def test_dicom_gets_a_segmentation_that_refers_to_it(tmp_path):
    Cine(phases=1, slices=3, shape=(20, 24)).write(tmp_path / "in")
    made = prompt_to_folder(tmp_path / "in", tmp_path / "out", PromptSettings(
        boxes=((6, 5, 1, 17, 14, 1),), voxels=True, name="liver"))
    assert made["files"] == ["mask.nii.gz", "seg/seg_000.dcm"]
    found = pydicom.dcmread(tmp_path / "out" / "seg" / "seg_000.dcm")
    assert found.Modality == "SEG" and found.SegmentSequence[0].SegmentLabel == "liver"
