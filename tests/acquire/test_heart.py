"""The phantom as a whole: determinism, records, agreement of labels with the analytic truth, bad settings."""

import json

import pytest
import torch

from firstread.acquire.heart import HeartSubjects, heart_subject
from firstread.core.errors import SettingError

SMALL = {"matrix": (32, 32), "spacing_mm": 6.0, "frames": 2, "slices": 3}


def test_same_seed_same_subject():
    one, two, other = (heart_subject(seed=s, **SMALL) for s in (3, 3, 4))
    assert torch.equal(one.image.data, two.image.data) and torch.equal(one.labels.data, two.labels.data)
    assert one.truth.values == two.truth.values
    assert one.truth.values != other.truth.values


def test_families_never_share_a_subject():
    values = [heart_subject(seed=3, family=f, **SMALL).truth["LVEDV"] for f in ("train", "calibration", "test")]
    assert len(set(values)) == 3


def test_truth_does_not_depend_on_the_scan():
    one = heart_subject(seed=5, **SMALL)
    other = heart_subject(seed=5, matrix=(24, 32), spacing_mm=7.0, frames=3, slices=2, gap_mm=0.0)
    assert one.truth.values == other.truth.values


@pytest.mark.parametrize("bad", [{"family": "holdout"}, {"pathology": "flu"}, {"matrix": (8, 64)}, {"spacing_mm": 0.0},
                                 {"gap_mm": -1.0}, {"slices": 0}, {"frames": 0}, {"misregistration_mm": -1.0}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(SettingError):
        heart_subject(seed=0, **{**SMALL, **bad})


def test_source_yields_named_records():
    cases = list(HeartSubjects(count=2, seed=10, matrix=(32, 32), spacing_mm=6.0, slices=2, frames=2))
    assert len(cases) == 2 and sorted(cases[0]) == ["truth.image", "truth.labels", "truth.phenotypes"]
    assert cases[0]["truth.phenotypes"]["LVEDV"].value.item() != cases[1]["truth.phenotypes"]["LVEDV"].value.item()


def test_truth_is_plain_numbers_and_keeps_its_relations():
    truth = heart_subject(seed=8, family="test", **SMALL).truth
    values = json.loads(json.dumps(truth.as_dict()))["values"]
    assert values["LVEF"]["unit"] == "%" and values["LVM"]["unit"] == "g" and values["WT_AHA_16"]["unit"] == "mm"
    assert truth["LVSV"] == pytest.approx(truth["LVEDV"] - truth["LVESV"])
    assert truth["LVEF"] == pytest.approx(100 * truth["LVSV"] / truth["LVEDV"])
    assert truth["LVCO"] == pytest.approx(truth["LVSV"] * truth.heart_rate / 1000)
    assert truth.lv_volume_ml[0].item() == pytest.approx(truth["LVEDV"])
    assert truth.lv_volume_ml.min() >= truth["LVESV"] - 1e-6
    assert truth.phenotypes()["RVEF"].value.item() == truth["RVEF"]


def test_times_follow_the_heart_rate_of_each_slice():
    subject = heart_subject(seed=9, **SMALL)
    cycle = subject.image.cycle_s[0]
    assert len(set(cycle.tolist())) == 3
    assert torch.allclose(subject.image.times_s[0, 1], cycle / 2)
    assert torch.allclose(60 / cycle, torch.full((3,), subject.truth.heart_rate), rtol=0.1)
