"""Real files of many makers and encodings (../shared/realdata/dicom)."""

import numpy as np
import pydicom
import pytest
import torch
from dicom_files import Cine

from firstread.core.errors import FormatError, InputError, UnsupportedError
from firstread.io.open import read

pytestmark = pytest.mark.realdata

REFUSED = {
    "emri_small_jpeg_2k_lossless_too_short.dcm": (FormatError, "cut-off"),
    "liver.dcm": (UnsupportedError, "a DICOM segmentation"),
    "liver_1frame.dcm": (UnsupportedError, "a DICOM segmentation"),
    "rg3_jply.dcm": (UnsupportedError, "JPEG Extended"),  # 12 bits: no codec with a licence that fits
}


def test_every_file_is_read_as_pydicom_decodes_it_or_refused_by_name(realdata):
    files = sorted((realdata / "dicom").glob("*.dcm"))
    assert len(files) == 28
    for path in files:
        if path.name in REFUSED:
            kind, said = REFUSED[path.name]
            with pytest.raises(kind, match=said):
                read(path)
            continue
        image = read(path).case["image"]
        dataset = pydicom.dcmread(path)
        truth = pydicom.pixels.pixel_array(dataset)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            truth = pydicom.pixels.apply_color_lut(truth, dataset) >> 8
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            truth = 2**dataset.BitsStored - 1 - truth
        ours = image.data[0].permute(0, 2, 3, 4, 1).squeeze().numpy()
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        if path.name == "ect_supplemental.dcm":  # rescale stands in the functional groups, the upper slice comes first
            slope, intercept, truth = 1.0, -1024.0, truth[::-1]
        np.testing.assert_allclose(ours, truth.squeeze() * slope + intercept, err_msg=path.name)


@pytest.mark.parametrize("stem", ["mr_small", "emri_small", "693_", "obxxxx1a"])
def test_one_image_in_several_encodings_is_one_image(realdata, stem):
    found = [read(path).case["image"].data for path in sorted((realdata / "dicom").glob(f"{stem}*.dcm"))
             if path.name not in REFUSED]
    assert len(found) >= 2
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_the_whole_folder_must_be_chosen_from(realdata):
    with pytest.raises(InputError, match="--series"):
        read(realdata / "dicom")


def test_a_real_cine_survives_dicom_jpeg2000(realdata, tmp_path):
    stored = np.load(realdata / "cine" / "sc_n_3_slices.npz")
    images = np.clip(stored["images"][:3, :2], 0, 4095).astype(np.uint16)

    class Real(Cine):
        def pixels(self):
            return images

    Real(phases=3, slices=2, shape=images.shape[2:], spacing_mm=(1.367, 1.367),
         syntax=pydicom.uid.JPEG2000Lossless).write(tmp_path)
    image = read(tmp_path).case["image"]
    np.testing.assert_array_equal(image.data[0, :, 0], images)
