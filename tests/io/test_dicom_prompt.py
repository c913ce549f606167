"""What is pointed at in a DICOM series becomes a DICOM SEG of it."""

import numpy as np
import pydicom
from dicom_files import Cine

from firstread.jobs.segment_prompt import PromptSettings, prompt_to_folder


class Block(Cine):
    """A bright block of 8 x 10 pixels in the middle of every slice."""

    def pixels(self):
        made = np.full((self.phases, self.slices, *self.shape), 100, np.uint16)
        made[..., 6:14, 7:17] = 900
        return made


def test_dicom_gets_a_segmentation_that_refers_to_it(tmp_path):
    Block(phases=1, slices=3, shape=(20, 24)).write(tmp_path / "in")
    made = prompt_to_folder(tmp_path / "in", tmp_path / "out", PromptSettings(
        boxes=((6, 5, 1, 17, 14, 1),), voxels=True, name="liver"))
    assert made["files"] == ["mask.nii.gz", "seg/seg_000.dcm"]
    found = pydicom.dcmread(tmp_path / "out" / "seg" / "seg_000.dcm")
    assert found.Modality == "SEG" and made["voxels"] == [3 * 80]
    assert found.SegmentSequence[0].SegmentLabel == "liver"
