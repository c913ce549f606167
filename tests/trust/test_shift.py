"""The shift guard: p-values uniform under exchangeability, refusal with the reason, features of images."""

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import mahalanobis

from firstread.core.errors import ChainError, SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Features, Image, Phenotype, Phenotypes, Rows
from firstread.trust.describe import NAMES, DescribeImage
from firstread.trust.shift import ShiftGuard, conformal_p_value, fit_novelty


def drawn(seed, n, *, centre=0.0):
    """Skewed, correlated features."""
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)).double()
    return torch.stack((z[:, 0].exp() + centre, z[:, 0] + z[:, 1], z[:, 2]), dim=1)


def novelty(seed=0, n=199):
    return fit_novelty(drawn(seed, 100), drawn(seed + 1, n), ("a", "b", "c"), calibrated_on="a world")


def measured(n):
    value = torch.full((n,), 60.0)
    lvef = Phenotype(value, "%", value - 5, value + 5, 0.9, "a method", "a world")
    return Phenotypes(Rows.subjects(n), {"LVEF": lvef, "HR": Phenotype(value, "1/min")})


def described(data):
    return Features(Rows.subjects(len(data)), data, ("a", "b", "c"))


def test_p_values_are_uniform_for_exchangeable_cases_whatever_their_law():
    p = torch.cat([novelty(3 * seed).p_value(drawn(3 * seed + 2, 1)) for seed in range(400)])
    assert stats.kstest(p.numpy(), "uniform").pvalue > 1e-3
    assert (p <= 0.1).double().mean().item() == pytest.approx(0.1, abs=0.045)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 7))
def test_p_value_by_counting(calibration, score):
    found = conformal_p_value(torch.tensor([float(score)]), torch.tensor(calibration, dtype=torch.float64)).item()
    assert found == pytest.approx((1 + sum(c >= score for c in calibration)) / (len(calibration) + 1))


def test_the_score_is_scipy_s_mahalanobis_distance():
    reference = drawn(0, 50)
    made = fit_novelty(reference, drawn(1, 9), ("a", "b", "c"), calibrated_on="", shrinkage=1e-9)
    x = drawn(2, 4)
    inverse = torch.linalg.inv(reference.T.cov()).numpy()
    outside = [mahalanobis(row.numpy(), reference.mean(0).numpy(), inverse)**2 for row in x]
    assert made.score(x).tolist() == pytest.approx(outside, rel=1e-6)


def test_the_score_does_not_depend_on_units():
    scale = torch.tensor([1e3, 1e-4, 1.0]).double()
    one = fit_novelty(drawn(0, 50), drawn(1, 99), ("a", "b", "c"), calibrated_on="")
    other = fit_novelty(drawn(0, 50) * scale, drawn(1, 99) * scale, ("a", "b", "c"), calibrated_on="")
    torch.testing.assert_close(one.score(drawn(2, 9)), other.score(drawn(2, 9) * scale))


def test_a_shifted_input_loses_its_intervals_and_the_reason_is_named():
    guard = ShiftGuard(novelty=novelty())
    data = torch.stack((torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, -40.0]),
                        torch.tensor([1.0, 0.0, float("nan")]))).double()
    found = guard(measured(3), described(data))
    assert torch.isnan(found["LVEF"].lower).tolist() == torch.isnan(found["LVEF"].upper).tolist() == [False, True, True]
    assert found["LVEF"].value.tolist() == [60.0] * 3 and found["HR"].lower is None
    assert [note.code for note in found.notes] == ["shifted_input", "undescribed_input"]
    text = found.notes[0].text
    assert "subject 1" in text and "p = 0.005" in text and "c 4" in text and "sd below" in text


def test_a_doubtful_input_keeps_its_intervals_with_a_warning():
    made = novelty()
    c = next(c for c in torch.arange(0, 10, 0.02).tolist()
             if 0.01 <= made.p_value(torch.tensor([[1.0, 0.0, c]]).double()).item() < 0.05)
    found = ShiftGuard(novelty=made)(measured(1), described(torch.tensor([[1.0, 0.0, c]]).double()))
    assert torch.isfinite(found["LVEF"].lower).all() and "may be too narrow" in found.notes[0].text


def test_no_more_than_the_stated_share_of_ordinary_cases_is_refused():
    refused = []
    for seed in range(60):
        found = ShiftGuard(novelty=novelty(3 * seed), refuse_below=0.05, warn_below=0.05)(
            measured(100), described(drawn(3 * seed + 2, 100)))
        refused.append(torch.isnan(found["LVEF"].lower).double().mean().item())
    assert sum(refused) / 60 == pytest.approx(0.05, abs=0.012)


def test_bad_settings_and_data():
    with pytest.raises(SettingError, match=r"99 calibration cases to refuse below p = 0\.01; expected 100 or more"):
        ShiftGuard(novelty=novelty(n=99))
    assert ShiftGuard(novelty=novelty(n=100)).novelty.calibration.shape == (100,)
    with pytest.raises(SettingError, match="refuse_below"):
        ShiftGuard(novelty=novelty(), refuse_below=0.1, warn_below=0.05)
    with pytest.raises(SettingError, match="disjoint"):
        fit_novelty(drawn(0, 10), drawn(0, 10), ("a", "b", "c"), calibrated_on="")
    with pytest.raises(SignalError, match="finite"):
        fit_novelty(torch.full((9, 1), float("nan")), drawn(0, 10)[:, :1], ("a",), calibrated_on="")
    with pytest.raises(ChainError, match="features without c"):
        ShiftGuard(novelty=novelty())(measured(1), replace(described(drawn(0, 1)), names=("a", "b", "d")))
    with pytest.raises(ChainError, match="rows of features"):
        ShiftGuard(novelty=novelty())(measured(2), described(drawn(0, 1)))


def picture(seed, *, noise=0.03, spacing=(8.0, 1.5, 1.5), scale=1.0, size=48):
    draw = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size) - size / 2, torch.arange(size) - size / 2, indexing="ij")
    radius = 10 + 2 * torch.rand(3, 1, 1, generator=draw)
    disc = torch.sigmoid(radius - (x**2 + y**2).sqrt())
    data = 0.3 + disc + noise * torch.randn(3, size, size, generator=draw)
    return Image(Rows.subjects(1), scale * data[None, :, None, None], Grid.from_spacing((1, size, size), spacing))


def test_image_features_measure_noise_and_spacing_whatever_the_scale():
    describe = DescribeImage()
    found = describe(picture(0, noise=0.05))
    assert found.names == NAMES
    assert 10**found["log_noise"].item() * 1.35 == pytest.approx(0.05, rel=0.1)  # P99 is about 1.35
    torch.testing.assert_close(describe(picture(0, noise=0.05, scale=700.0)).data, found.data, rtol=1e-4, atol=1e-4)
    assert describe(picture(0, spacing=(8.0, 2.0, 2.0)))["log_pixel_mm"].item() == pytest.approx(0.30103)
    whole = replace(picture(0), data=(100 * picture(0).data).to(torch.int16))  # as files store pixels
    assert torch.equal(describe(whole).data, describe(replace(whole, data=whole.data.float())).data)
    bare = replace(picture(0), grid=Grid.pixels((1, 48, 48)))
    assert torch.isnan(describe(bare)["log_pixel_mm"]).all()


def test_noisier_coarser_and_brighter_images_are_found():
    describe = DescribeImage()
    rows = [describe(picture(s, noise=0.02 + 0.02 * (s % 7) / 7)).data[0] for s in range(240)]
    made = fit_novelty(torch.stack(rows[:100]), torch.stack(rows[100:]), NAMES, calibrated_on="pictures")
    fresh = torch.cat([describe(picture(900 + s, noise=0.02 + 0.02 * (s % 7) / 7)).data for s in range(20)])
    assert (made.p_value(fresh) < 0.05).sum() <= 4
    for odd in (picture(999, noise=0.15), picture(999, spacing=(8.0, 3.0, 3.0)),
                replace(picture(999), data=picture(999).data.clamp_min(0)**3)):
        assert made.p_value(describe(odd).data).item() < 0.01
    noisy = made.reason(describe(picture(999, noise=0.15)).data[0], most=4)
    assert re.search(r"log_noise [\d.]+ sd above", noisy) and re.search(r"edges [\d.]+ sd above", noisy)
