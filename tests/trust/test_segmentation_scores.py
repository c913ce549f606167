"""Scores of label maps: numbers of single functions put together, conventions, means over subjects."""

import math

import pytest
import torch

from firstread.core.errors import SettingError
from firstread.ops import regions, surface
from firstread.trust.segmentation import METRICS, ScoreSettings, compare_methods, score_labels, summarize

SPACING = (3.0, 1.0, 1.5)
EVERYTHING = ScoreSettings(cldice=True, lesions=True)


def maps(shape=(8, 24, 20)):
    """Two labels that touch, and a prediction that is moved and has a piece too many."""
    truth = torch.zeros(shape, dtype=torch.uint8)
    truth[2:6, 4:14, 3:12] = 1
    truth[2:6, 6:12, 12:16] = 2
    found = truth.roll((1, 2), dims=(0, 1))
    found[0, 0, 0] = 2
    return truth, found


def test_each_number_is_that_of_its_function():
    truth, found = maps()
    scores = score_labels(truth, found, [1, 2], spacing_mm=SPACING, settings=EVERYTHING)
    for label in (1, 2):
        one, two = truth == label, found == label
        distances = surface.surface_distances(one, two, SPACING)
        assert scores[label]["dice"] == pytest.approx(regions.dice(one, two).item())
        assert scores[label]["hd95_mm"] == pytest.approx(surface.hausdorff_mm(distances, percent=95))
        assert scores[label]["assd_mm"] == pytest.approx(surface.mean_surface_distance(distances))
        assert scores[label]["nsd"] == pytest.approx(surface.surface_dice(distances, tolerance_mm=1.0))
        assert scores[label]["truth_ml"] == pytest.approx(int(one.sum()) * math.prod(SPACING) / 1000)
    assert scores[2]["lesion_precision"] == 0.5 and scores[2]["lesion_recall"] == 1
    assert set(scores[1]) == set(METRICS)


def test_labels_alone_do_not_change_the_others():
    truth, found = maps()
    both = score_labels(truth, found, [1, 2], spacing_mm=SPACING)
    alone = score_labels((truth == 2).to(torch.uint8), (found == 2).to(torch.uint8), [1], spacing_mm=SPACING)
    assert alone[1] == pytest.approx(both[2])


def test_numbers_of_an_atlas_are_as_good_as_any():
    truth, found = maps()
    big = torch.tensor([0, 1035, 20000], dtype=torch.int32)
    scores = score_labels(big[truth.long()], big[found.long()], [20000, 1035], spacing_mm=SPACING)
    assert list(scores) == [20000, 1035]
    plain = score_labels(truth, found, [1, 2], spacing_mm=SPACING)
    assert scores[20000] == pytest.approx(plain[2]) and scores[1035] == pytest.approx(plain[1])


@pytest.mark.parametrize("definition", ["largest", "pooled", "area-weighted"])
def test_a_thin_label_in_a_volume_is_measured_in_the_volume(definition):
    truth = torch.zeros(9, 12, 12, dtype=torch.uint8)
    found = truth.clone()
    truth[4, 3:9, 3:9] = 1
    found[5, 3:9, 3:9] = 1
    scores = score_labels(truth, found, [1], spacing_mm=SPACING, settings=ScoreSettings(definition=definition))
    assert scores[1]["hd_mm"] == pytest.approx(3.0)


def test_labels_that_are_not_there_follow_the_settings():
    truth, found = maps()
    truth[truth == 2] = 0
    absent = ScoreSettings(one_empty="absent", lesions=True)
    scores = score_labels(truth, found, [2, 3], spacing_mm=SPACING, settings=absent)
    assert scores[2]["dice"] == scores[2]["nsd"] == scores[2]["lesion_precision"] == scores[2]["lesion_f1"] == 0
    assert math.isnan(scores[2]["hd95_mm"]) and math.isnan(scores[2]["lesion_recall"])
    assert all(math.isnan(v) for name, v in scores[3].items() if not name.endswith("_ml"))
    worst = score_labels(truth, found, [2, 3], spacing_mm=SPACING, settings=ScoreSettings(both_empty="agree"))
    assert worst[2]["hd95_mm"] == worst[2]["assd_mm"] == pytest.approx(math.hypot(24, 24, 30))
    assert worst[3]["dice"] == worst[3]["nsd"] == 1 and worst[3]["hd_mm"] == 0
    assert worst[3]["truth_ml"] == 0


def test_without_spacing_nothing_is_measured_in_millimetres():
    truth, found = maps()
    scores = score_labels(truth, found, [1], spacing_mm=None)[1]
    assert scores["dice"] > 0.5 and scores["volume_similarity"] == 1
    assert all(math.isnan(scores[name]) for name in ("hd95_mm", "assd_mm", "nsd", "truth_ml"))


def test_each_subject_counts_once():
    many = summarize([0.0] * 9 + [0.9, 0.9], ["a"] * 9 + ["b", "c"])
    assert many.mean == pytest.approx(0.6) and (many.subjects, many.cases) == (3, 11)
    few = summarize([0.5, math.nan, 0.7], ["a", "b", "c"])
    assert few.mean == pytest.approx(0.6) and math.isnan(few.lower) and "three" in few.reason and few.missing == 1
    assert summarize([math.nan], ["a"]).reason == "in no case"


def test_the_interval_is_over_subjects_and_holds_the_mean_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    hits = 0
    for trial in range(60):
        of_subject = torch.randn(30, generator=generator)
        values = (of_subject[:, None] + 0.1 * torch.randn(30, 5, generator=generator)).ravel().tolist()
        found = summarize(values, [str(n) for n in range(30) for _ in range(5)], seed=trial)
        hits += found.lower <= 0 <= found.upper
    assert 50 <= hits <= 60


def test_methods_are_compared_in_pairs_on_what_both_have():
    subjects = ["a", "b", "c", "d"]
    found, count = compare_methods([0.5, 0.6, 0.9, math.nan], [0.4, 0.5, 0.8, 0.1], subjects)
    assert count == 3 and found.value == pytest.approx(0.1) and found.lower == pytest.approx(0.1)
    with pytest.raises(SettingError, match="2 subjects"):
        compare_methods([0.5, 0.6, math.nan, math.nan], [0.1] * 4, subjects)
