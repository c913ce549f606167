"""A folder of several DICOM series: the verbs that take one choose with --series, and say so where none is named."""

import pytest
import torch
from dicom_files import Cine
from typer.testing import CliRunner

from firstread.cli import app
from firstread.core.errors import InputError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.io.nifti import read, write_image
from firstread.io.open import check
from firstread.jobs.register import RegisterSettings, register
from firstread.jobs.segment_predict import read_channels
from firstread.jobs.segment_prompt import PromptSettings, read_image
from firstread.jobs.template import template
from firstread.jobs.track import TrackSettings, track


@pytest.fixture
def exam(tmp_path):
    """A stack of two phases and one of three, in one folder."""
    Cine(phases=2, series="a", number=4, shape=(24, 24)).write(tmp_path / "exam" / "a")
    Cine(phases=3, series="b", number=5, shape=(24, 24)).write(tmp_path / "exam" / "b")
    return tmp_path / "exam"


def test_the_folder_that_one_is_in_is_read_and_names_the_result(exam, tmp_path, monkeypatch):
    monkeypatch.chdir(exam / "a")
    made = CliRunner().invoke(app, ["segment", "predict", "heart-sax", ".", "-o", str(tmp_path / "out")])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "out" / "a.nii.gz").is_file()


def test_the_series_that_is_named_is_read(exam):
    assert read_channels([exam], series="5").data.shape[1] == 3
    assert read_image(exam, PromptSettings(series="4")).data.shape[1] == 2
    assert track(exam, None, TrackSettings(series="5", periodic=False)).motion.displacement_mm.shape[1] == 3
    check(exam, series="4")


def test_without_one_each_verb_says_what_works(exam, tmp_path):
    works = "choose with --series NUMBER or UID, or give a folder with that series alone"
    for call in (lambda: read_channels([exam]), lambda: read_image(exam, PromptSettings()), lambda: check(exam),
                 lambda: track(exam, None), lambda: template([exam, exam / "a"]),
                 lambda: register(exam, exam / "a")):
        with pytest.raises(InputError, match=works):
            call()
    write_image(tmp_path / "one.nii.gz", Image(Rows.subjects(1), torch.rand(1, 1, 1, 3, 24, 24),
                                               Grid.from_spacing((3, 24, 24), (10.0, 1.5, 1.25))))
    with pytest.raises(InputError, match="choose with --moving-series NUMBER"):
        register(tmp_path / "one.nii.gz", exam, RegisterSettings(series="4"))
    with pytest.raises(InputError, match="no series named '9'"):
        check(exam, series="9")


def test_the_options_reach_the_files(exam, tmp_path):
    """A prompt in the series of two phases gives a mask of two."""
    done = CliRunner().invoke(app, ["segment", "prompt", str(exam), "--series", "4", "--voxels", "--box",
                                    "4,4,1,14,14,1", "--propagate", "none", "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert read(tmp_path / "out" / "mask.nii.gz").data.shape[1] == 2
    for verb in (["track"], ["register"], ["segment", "predict"]):
        assert "--series" in CliRunner().invoke(app, [*verb, "--help"], env={"COLUMNS": "200"}).output
