"""Results of other programs in ``segment evaluate``: a folder of masks for each case, a file with names."""

import json

import nibabel
import numpy as np
import pytest

from firstread.core.errors import FormatError, InputError
from firstread.jobs.segment_evaluate import EvaluateSettings, evaluate_to_folder

AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])
TABLE = ('<CaretExtension><VolumeInformation Index="0"><LabelTable><Label Key="5" Red="0" Green="0" Blue="0" Alpha="1">'
         '<![CDATA[liver]]></Label><Label Key="1" Red="0"><![CDATA[spleen]]></Label></LabelTable></VolumeInformation>'
         '</CaretExtension>')


def organs() -> np.ndarray:
    made = np.zeros((12, 14, 6), np.uint8)
    made[2:5, 2:8, 1:5], made[7:10, 3:12, 2:5] = 5, 1
    return made


def write_masks(folder, shift: int = 0, names=(("liver", 5), ("spleen", 1), ("heart", 9))):
    folder.mkdir(parents=True)
    for name, value in names:
        mask = np.roll((organs() == value).astype(np.uint8), shift, axis=1)
        nibabel.save(nibabel.Nifti1Image(mask, AFFINE), folder / f"{name}.nii.gz")


def write_file(path, *, table: str | None = None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(organs(), AFFINE)
    if table:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, table.encode()))
    nibabel.save(image, path)


def scores(made) -> dict:
    return {label["name"]: label["summary"]["dice"]["mean"] for label in made["labels"]}


def test_folders_of_masks_are_cases_and_structures_are_matched_by_name(tmp_path):
    for case in ("p1", "p2"):
        write_masks(tmp_path / "a" / case, shift=1)
        write_masks(tmp_path / "b" / case)
    made = evaluate_to_folder(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    assert scores(made)["liver"] == pytest.approx(5 / 6, abs=1e-3)
    assert scores(made)["spleen"] == pytest.approx(8 / 9, abs=1e-3)
    made = evaluate_to_folder(tmp_path / "a", tmp_path / "b", tmp_path / "one", EvaluateSettings(labels="spleen"))
    assert list(scores(made)) == ["spleen"]


def test_a_folder_beside_a_file_that_names_its_values_and_one_that_does_not(tmp_path):
    write_masks(tmp_path / "p1")
    write_file(tmp_path / "named.nii.gz", table=TABLE)
    write_file(tmp_path / "bare.nii.gz")
    made = evaluate_to_folder(tmp_path / "p1", tmp_path / "named.nii.gz", tmp_path / "out")
    assert scores(made)["liver"] == 1 and scores(made)["spleen"] == 1
    with pytest.raises(InputError, match="masks named heart, liver, spleen beside labels that are numbers alone"):
        evaluate_to_folder(tmp_path / "p1", tmp_path / "bare.nii.gz", tmp_path / "no")
    (tmp_path / "names.json").write_text(json.dumps({"5": "liver", "1": "spleen"}))
    settings = EvaluateSettings(labels=str(tmp_path / "names.json"))
    made = evaluate_to_folder(tmp_path / "p1", tmp_path / "bare.nii.gz", tmp_path / "stated", settings)
    assert scores(made) == {"liver": 1, "spleen": 1}


def test_names_of_the_header_are_those_of_the_page_and_must_agree(tmp_path):
    for folder, table in (("a", TABLE), ("b", TABLE), ("c", TABLE.replace("liver", "kidney"))):
        write_file(tmp_path / folder / "p1.nii.gz", table=table)
    assert set(scores(evaluate_to_folder(tmp_path / "a", tmp_path / "b", tmp_path / "out"))) == {"liver", "spleen"}
    with pytest.raises(InputError, match=r"value 5 is '(liver|kidney)' in one file and '(liver|kidney)' in"):
        evaluate_to_folder(tmp_path / "a", tmp_path / "c", tmp_path / "no")


def test_masks_that_overlap_name_the_case(tmp_path):
    write_masks(tmp_path / "a" / "p1", names=(("liver", 5), ("twin", 5)))
    write_masks(tmp_path / "b" / "p1")
    with pytest.raises(FormatError, match=r"p1: the prediction p1: .* voxels both in liver and in twin"):
        evaluate_to_folder(tmp_path / "a", tmp_path / "b", tmp_path / "out")
