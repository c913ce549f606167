"""The heart chain with a segmentation trained elsewhere: labels, phenotypes, intervals, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from small_heart import small_heart, small_scan
from typer.testing import CliRunner

from firstread.analyze.classes import heart_sources
from firstread.chains.heart import foreign_segmentation, heart_chain
from firstread.core.case import Case
from firstread.core.errors import FirstreadError, InputError
from firstread.core.provenance import weights_hash
from firstread.trust.intervals import Calibration, Quantity

STATED = {"axes": "yx", "spacing_mm": None, "window": [32, 32], "intensity": [{"scheme": "minmax"}],
          "classes": ["background", "RV", "blood", "muscle"], "mirror": [1]}


class ByBrightness(torch.nn.Module):
    """Background dark, blood bright, muscle between; no right ventricle."""

    levels: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor([0.05, 9.0, 0.95, 0.55]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -((x - self.levels[:, None, None]) / 0.1).square()


@pytest.fixture
def model(tmp_path) -> Path:
    torch.jit.script(ByBrightness()).save(str(tmp_path / "net.ts"))
    (tmp_path / "model.json").write_text(json.dumps(STATED))
    return tmp_path / "net.ts"


CLASSES = {"LV": "blood", "MYO": "3"}


def test_a_reading_by_another_model_measures_the_heart(model):
    chain = heart_chain(raw=False, segmenter=foreign_segmentation(model, CLASSES))
    with torch.inference_mode():
        case = chain(Case({"image": small_heart()}))
    assert case["labels"].names == ("background", "LV cavity", "LV myocardium", "RV cavity")
    assert 0.4 < float(case["phenotypes"]["LVEF"].value / 55) < 1.6
    ours = (case["labels"].data == 1).sum()
    disc = (small_heart().data.abs() > 0.9).sum()
    assert abs(int(ours) - int(disc)) < 0.1 * int(disc)
    assert case.trail[0].stage == "foreign_segment" and case.trail[0].weights is not None


def test_gradient_reaches_the_scanner_through_it(model):
    chain = heart_chain(raw=True, segmenter=foreign_segmentation(model, CLASSES))
    scan = small_scan()
    leaf = scan.data.clone().requires_grad_()
    case = chain(Case({"kspace": scan.map(lambda t: leaf if t is scan.data else t)}))
    case["labels.members"].data[:, :, 1].sum().backward()
    assert leaf.grad.abs().sum() > 0 and torch.isfinite(torch.view_as_real(leaf.grad)).all()


def test_intervals_come_from_a_calibration_of_exactly_this_model(model):
    stages = foreign_segmentation(model, CLASSES)
    own = {stages[0].name: weights_hash(stages[0])}
    calibration = Calibration(0.9, 0, "an example", {"LVEF": Quantity(-3.0, 2.0, 1.0, 99, "%")}, own)
    with torch.inference_mode():
        case = heart_chain(raw=False, segmenter=stages, calibration=calibration)(Case({"image": small_heart()}))
    found = case["phenotypes"]["LVEF"]
    assert float(found.value - found.lower) == pytest.approx(3.0, abs=1e-4)
    other = Calibration(0.9, 0, "an example", {}, {stages[0].name: "another"})
    with pytest.raises(InputError, match="other weights"):
        heart_chain(raw=False, segmenter=stages, calibration=other)


@pytest.mark.parametrize("names, wanted", [
    (("background", "LVcavity", "LV myocardium", "rv"), ((1,), (2,), (3,))),
    (("background", "right_ventricle", "MYO", "left_ventricle"), ((3,), (2,), (1,))),
])
def test_usual_names_need_no_saying(names, wanted):
    assert heart_sources(names) == wanted


@pytest.mark.parametrize("stated, text", [
    (None, "LV cavity"), ({"LV": "1"}, "LV myocardium"), ({"LV": "0", "MYO": "2", "RV": "3"}, "LV cavity"),
    ({"LV": "7", "MYO": "2", "RV": "3"}, "LV cavity"), ({"LA": "1"}, "LA")])
def test_classes_that_are_not_found_are_asked_for(stated, text):
    with pytest.raises(FirstreadError, match=text):
        heart_sources(("background", "a", "b", "c"), stated)


def test_the_verb_reads_with_it_or_leaves_nothing(model, tmp_path):
    from firstread.cli import app
    from firstread.io.nifti import write_image

    image = small_heart()
    write_image(tmp_path / "heart.nii.gz", image.map(lambda t: t.abs() if t.is_complex() else t))
    call = ["read", str(tmp_path / "heart.nii.gz"), "-o", str(tmp_path / "out"), "--model", str(model)]
    refused = CliRunner().invoke(app, call)
    assert isinstance(refused.exception, InputError) and "--classes" in str(refused.exception)
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, [*call, "--classes", "LV=2,MYO=muscle,RV=1"])
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "out" / "reading.json").read_text())
    assert "foreign_segment" in [step["stage"] for step in document["trail"]]
    assert document["input"]["stated"]["classes"] == {"LV": "2", "MYO": "muscle", "RV": "1"}
    assert str(tmp_path) not in json.dumps(document)
    advice = CliRunner().invoke(app, ["advise", str(tmp_path / "out"), "--input", str(tmp_path / "heart.nii.gz"), "-o",
                                      str(tmp_path / "advice")])
    assert isinstance(advice.exception, InputError) and not (tmp_path / "advice").exists()
