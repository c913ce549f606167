"""The phantom as a whole: determinism, records, agreement of labels with the analytic truth, bad settings."""

import pytest
import torch

from firstread.acquire.heart import HeartSubjects, heart_subject
from firstread.core.errors import SettingError

SMALL = {"matrix": (64, 64), "spacing_mm": 3.0, "frames": 4}


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
    other = heart_subject(seed=5, matrix=(48, 64), spacing_mm=4.0, frames=2, slices=3, gap_mm=0.0)
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
