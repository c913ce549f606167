"""The short-axis heart's ensemble by name: the labels of ``read``, and what is refused."""

from pathlib import Path

import pytest
import torch

from firstread.analyze.segment import Segment
from firstread.chains.heart import segmentation
from firstread.chains.models import open_segmenter
from firstread.core.case import Case
from firstread.core.errors import InputError, SettingError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.core.stage import Chain
from firstread.io.nifti import write_image
from firstread.io.open import read
from firstread.jobs.segment_predict import predict_to_folder


@pytest.fixture
def scan(tmp_path) -> Path:
    """A bright cavity in grey muscle beside a bright crescent, in five slices."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    left, right = ((y - 48) ** 2 + (x - 54) ** 2).sqrt(), ((y - 48) ** 2 + (x - 40) ** 2).sqrt()
    image = 0.15 + 0.8 * ((left >= 22) & (right < 22)) + 0.1 * ((left < 22) & (left >= 15)) + 0.8 * (left < 15)
    stack = image.expand(1, 1, 1, 5, -1, -1) + 0.03 * torch.randn(1, 1, 1, 5, 96, 96,
                                                                  generator=torch.Generator().manual_seed(0))
    path = tmp_path / "stack.nii.gz"
    write_image(path, Image(Rows.subjects(1), stack, Grid.from_spacing((5, 96, 96), (10.0, 1.5, 1.5))))
    return path


def test_labels_are_those_of_read(scan, tmp_path):
    said = predict_to_folder(Path("heart-sax"), [[scan]], tmp_path / "out")
    assert [c["name"] for c in said["classes"]] == ["background", "LV cavity", "LV myocardium", "RV cavity"]
    with torch.no_grad():
        labels = Chain(*segmentation(None))(Case({"image": read(scan).case["image"]}))["labels"].data[0, 0, 0]
    found = read(tmp_path / "out" / "stack.nii.gz").case["image"].data[0, 0, 0]
    assert torch.equal(found.long(), labels.long()) and (labels == 1).sum() > 500


def test_mean_or_one_row_for_each_member(scan):
    image = read(scan).case["image"]
    with torch.no_grad():
        mean, each = open_segmenter("heart-sax")(image), open_segmenter("heart-sax", members=True)(image)
    assert each.data.shape[0] == 3 and mean.rows.draw.tolist() == [0]
    torch.testing.assert_close(mean.data[0], each.data.mean(dim=0))


def test_weights_that_do_not_segment_are_refused_with_those_that_do():
    assert isinstance(open_segmenter("heart-sax-sunnybrook"), Segment)
    for name, said in (("denoise", "makes no labels"), ("heart-sux", "heart-sax, heart-sax-sunnybrook")):
        with pytest.raises(InputError, match=said):
            open_segmenter(name)
    with pytest.raises(SettingError, match="ensemble of slices"):
        open_segmenter("heart-sax", memory=10**9)
