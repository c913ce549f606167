"""Segmentations of other programs as labels: one file of values, a folder of masks, and what does not fit."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from firstread.core.errors import FormatError, GeometryError, InputError
from firstread.io.label_files import read_labels
from firstread.io.nifti import read
from firstread.ops.regions import volume_ml

AFFINE = np.diag([1.5, 1.5, 3.0, 1.0])
TABLE = b"""<?xml version="1.0" encoding="UTF-8"?> <CaretExtension><VolumeInformation Index="0"><LabelTable>
<Label Key="1" Red="0.1" Green="0.2" Blue="0.3" Alpha="1"><![CDATA[spleen]]></Label>
<Label Key="5" Red="0.1" Green="0.2" Blue="0.3" Alpha="1"><![CDATA[liver]]></Label>
</LabelTable></VolumeInformation></CaretExtension>"""


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE, table: bytes | None = None) -> Path:
    image = nibabel.Nifti1Image(data, affine)
    if table is not None:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, table))
    nibabel.save(image, path)
    return path


def organs() -> np.ndarray:
    data = np.zeros((6, 5, 4), np.uint8)
    data[:2], data[4:, 1:] = 1, 5
    return data


def test_a_file_of_values_with_names_in_its_header(tmp_path):
    labels = read_labels(save(tmp_path / "total.nii.gz", organs(), table=TABLE))
    assert labels.names == ("background", "spleen", "liver")
    assert labels.data.shape == (1, 1, 1, 4, 5, 6) and labels.data.dtype == torch.uint8
    liver_ml = (organs() == 5).sum() * 1.5 * 1.5 * 3 / 1000
    assert volume_ml(labels.soften().data[:, :, 2], labels.grid.voxel_ml).item() == pytest.approx(liver_ml)


def test_names_stated_or_missing(tmp_path):
    path = save(tmp_path / "labels.nii.gz", organs())
    assert read_labels(path, names={1: "a", 5: "b"}).names == ("background", "a", "b")
    bare = read_labels(path)
    assert bare.names == ("background", "class 1", "class 5")
    assert [note.code for note in bare.notes if note.code.startswith("classes")] == ["classes_without_names"]


def test_a_folder_of_masks_is_the_file_of_values(tmp_path):
    whole = read_labels(save(tmp_path / "total.nii.gz", organs(), table=TABLE))
    folder = tmp_path / "segmentations"
    folder.mkdir()
    for name, value in (("liver", 5), ("spleen", 1), ("kidney_left", 99)):
        save(folder / f"{name}.nii.gz", (organs() == value).astype(np.uint8))
    (folder / "statistics.json").write_text("{}")
    labels = read_labels(folder)
    assert labels.names == ("background", "kidney_left", "liver", "spleen")
    for name in ("liver", "spleen"):
        torch.testing.assert_close(labels.data == labels.names.index(name), whole.data == whole.names.index(name))
    assert not (labels.data == 1).any()


def test_the_image_lends_its_place_and_refuses_another_grid(tmp_path):
    path = save(tmp_path / "total.nii.gz", organs(), table=TABLE)
    image = read(save(tmp_path / "ct.nii.gz", organs().astype(np.float32)))
    assert read_labels(path, image=image).grid is image.grid
    shifted = AFFINE.copy()
    shifted[0, 3] = 2.0
    for name, data, affine in (("far", organs(), shifted), ("small", organs()[:4], AFFINE)):
        other = read(save(tmp_path / f"{name}.nii.gz", data.astype(np.float32), affine))
        with pytest.raises(GeometryError, match=r"total.nii.gz on another grid than the image"):
            read_labels(path, image=other)


def test_what_are_no_labels_is_refused(tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    with pytest.raises(InputError, match="no NIfTI file"):
        read_labels(folder)
    save(folder / "a.nii.gz", (organs() > 0).astype(np.uint8))
    save(folder / "b.nii.gz", (organs() > 1).astype(np.uint8))
    with pytest.raises(FormatError, match="both in a and in b"):
        read_labels(folder)
    save(folder / "b.nii.gz", organs())
    with pytest.raises(FormatError, match="values up to 5"):
        read_labels(folder)
    save(folder / "b.nii.gz", np.zeros((3, 3, 3), np.uint8))
    with pytest.raises(GeometryError, match=r"b.nii.gz on another grid than a.nii.gz"):
        read_labels(folder)
    with pytest.raises(FormatError, match="whole numbers"):
        read_labels(save(tmp_path / "p.nii.gz", np.full((2, 2, 2), 0.5, np.float32)))
    with pytest.raises(InputError, match="no labels at nowhere"):
        read_labels(tmp_path / "nowhere")
    cut = save(tmp_path / "cut.nii.gz", organs())
    cut.write_bytes(cut.read_bytes()[:60])
    with pytest.raises(FormatError):
        read_labels(cut)
