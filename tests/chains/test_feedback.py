"""Feedback upstream: draws of every stage, and what they say about stages, slices, frames and lines."""

from dataclasses import replace

import pytest
import torch
from small_heart import by_brightness, small_heart, small_scan

from firstread.acquire.next_lines import line_contributions, next_lines
from firstread.acquire.repeat import RepeatNoise, edge_covariance
from firstread.chains.feedback import (
    NOISE,
    draw_images,
    draw_kspace,
    endpoint_gradient,
    endpoint_slope,
    slice_frame_shares,
)
from firstread.chains.scope import about_heart, whole
from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.ops.regions import volume_ml
from firstread.reconstruct.direct import ZeroFilled
from firstread.reconstruct.iterative import TemporalTV

METHODS = {"zero-filled": ZeroFilled(), "temporal total variation": TemporalTV(iterations=8)}


@pytest.fixture(scope="module")
def draws():
    scan, segment = small_scan(), by_brightness()
    return draw_kspace(whole(scan, TemporalTV(iterations=8), segment), METHODS, segment, draws=3, seed=0)


def test_every_combination_is_measured(draws):
    assert draws.values["LVEF"].shape == (3, 2, 2) and bool(torch.isfinite(draws.values["LVEF"]).all())
    whole = draws.volumes_ml.sum(dim=-1)
    torch.testing.assert_close(whole[..., 0], draws.values["LVEDV"])
    assert draws.lines.shape == (3, 2, 4, 2, 32)


def test_shares_name_the_stages_and_lie_within_bounds(draws):
    shares = draws.shares("LVEDV")
    assert [s.stage for s in shares.stages] == ["measurement noise", "reconstruction method", "segmentation"]
    assert all(0 <= s.first.value <= 1 and 0 <= s.total.value <= 1 for s in shares.stages)


def test_noise_that_is_hardly_there_has_no_share():
    scan = small_scan()
    quiet = replace(scan, noise_covariance=1e-10 * scan.noise_covariance)
    scope = about_heart(quiet, TemporalTV(iterations=8), by_brightness())
    shares = draw_kspace(scope, METHODS, by_brightness(), draws=2, seed=0).shares("LVEDV")
    assert shares.variance > 0 and shares[NOISE].total.value < 1e-6


def test_images_alone_show_the_segmentation():
    draws = draw_images(small_heart(), by_brightness())
    assert draws.lines is None and [s.stage for s in draws.shares("LVEDV").stages] == ["segmentation"]


def test_slices_and_frames_share_the_variance(draws):
    table = slice_frame_shares(draws.volumes_ml.flatten(0, 2), "LVEF")
    assert table.shape == (4, 2) and table.sum().item() == pytest.approx(1)
    only_first = draws.volumes_ml.flatten(0, 2).clone()
    only_first[..., 1] = only_first[:1, :, 1]
    assert slice_frame_shares(only_first, "LVEF").sum(dim=0).tolist() == pytest.approx([1, 0], abs=1e-9)


def test_slopes_are_those_of_the_formula():
    slope = endpoint_slope(torch.tensor([100.0, 40.0, 90.0], dtype=torch.float64), "LVEF")
    assert slope.tolist() == pytest.approx([100 * 40 / 100**2, -100 / 100, 0], abs=1e-6)
    with pytest.raises(SettingError, match="endpoint"):
        endpoint_slope(torch.ones(3), "LVM")


def test_the_gradient_of_the_endpoint_against_finite_differences():
    image, segment, slope = small_heart(), by_brightness(), torch.tensor([1.0, 0.0, -0.5, 0.0])
    gradient = endpoint_gradient(image, segment, slope)
    toward = torch.randn(image.data.shape, generator=torch.Generator().manual_seed(0), dtype=image.data.dtype)
    toward = toward * ((image.data.abs() > 0.6) & (image.data.abs() < 0.9))  # away from ties at the image's quantiles

    def endpoint(data):
        labels = segment(replace(image, data=data))
        volumes = volume_ml(labels.data[:, :, 1].double(), labels.grid.voxel_ml.double())
        return float((volumes * slope).sum(dim=1).mean())

    step = 2e-3
    difference = (endpoint(image.data + step * toward) - endpoint(image.data - step * toward)) / (2 * step)
    assert float((gradient.conj() * toward).real.sum()) == pytest.approx(difference, rel=0.03)
    assert not bool(gradient[:, 1].any())


def test_lines_together_bring_in_the_whole_change():
    generator = torch.Generator().manual_seed(0)
    g, x = (torch.randn(1, 2, 1, 3, 8, 6, generator=generator, dtype=torch.complex64) for _ in range(2))
    assert line_contributions(x, g).sum().item() == pytest.approx(float((g.conj() * x).real.sum()), rel=1e-4)


def test_next_lines_are_those_that_differ_and_were_not_measured():
    g = torch.Generator().manual_seed(0)
    parts = 0.1 * torch.randn(6, 2, 3, 16, generator=g)
    parts[:, 0, :, 3] += 4 * torch.randn(6, 1, generator=g)
    parts[:, 1, :, 12] += 3 * torch.randn(6, 1, generator=g)
    parts[:, 1, :, 5] += 9 * torch.randn(6, 1, generator=g)
    measured = torch.zeros(2, 3, 16)
    measured[1, :, 5] = 1
    found = next_lines(parts, measured, 1, generator=g)
    assert found.mask.nonzero().tolist() == [[0, 3], [1, 12]]
    left = (parts.sum(dim=(1, 2, 3)) - parts[:, 0, :, 3].sum(dim=1) - parts[:, 1, :, 12].sum(dim=1)).std()
    assert found.sd_after == pytest.approx(float(left), rel=1e-4)
    with pytest.raises(SettingError, match="two draws"):
        next_lines(parts[:1], measured, 1, generator=g)
    nearly = torch.ones(2, 3, 16)
    nearly[0, 1, 7], nearly[1, :, 9] = 0, 0
    still = parts.clone()
    still[:, 1] = 1.0  # a frame that no draw touches takes what matters in the other
    assert next_lines(still, torch.zeros(2, 3, 16), 1, generator=g).mask.argmax(dim=1).unique().numel() == 1
    assert next_lines(parts, nearly, 1, generator=g).mask.nonzero().tolist() == [[0, 7], [1, 9]], "never a measured one"
    with pytest.raises(SettingError, match="at most the 1 lines that every frame still lacks"):
        next_lines(parts, nearly, 2, generator=g)
    with pytest.raises(SettingError, match="nothing is left to measure"):
        next_lines(parts, torch.ones(2, 3, 16), 1, generator=g)


def test_repeated_noise_has_the_covariance_of_the_scan_and_leaves_gaps_empty():
    scan = replace(small_scan(), data=torch.zeros_like(small_scan().data))
    again = RepeatNoise()(scan, Key(0, "repeat_noise"))
    lines = again.mask[0, :, 0, :, :, 0] != 0
    samples = again.data[0].movedim(1, 0)[:, lines].flatten(1)
    torch.testing.assert_close(samples @ samples.mH / samples.shape[1], scan.noise_covariance[0], rtol=0.1,
                               atol=0.05 * float(scan.noise_covariance.abs().max()))
    assert not bool(again.data[0].movedim(1, 0)[:, ~lines].any())


def test_without_a_noise_scan_the_edges_say_how_much_and_the_draws_say_so():
    scan = small_scan()
    ratio = edge_covariance(scan)[0].diagonal().real / scan.noise_covariance[0].diagonal().real
    assert bool((ratio > 0.7).all()) and bool((ratio < 10).all())
    again = RepeatNoise()(replace(scan, noise_covariance=None), Key(0, "repeat_noise"))
    assert [note.code for note in again.notes] == ["noise_from_edges"]
