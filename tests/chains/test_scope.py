"""The columns about the heart and the frames that decide say what the whole scan says."""

from dataclasses import replace

import pytest
import torch
from small_heart import by_brightness, small_scan

from firstread.acquire.next_lines import line_contributions, next_lines
from firstread.acquire.repeat import RepeatNoise
from firstread.analyze.segment import Segment
from firstread.chains.feedback import (
    draw_kspace,
    endpoint_gradient,
    endpoint_slope,
    measured,
    slice_frame_shares,
)
from firstread.chains.scope import about_heart, deciding_frames, whole
from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.nets.cascade import DeepCascade
from firstread.reconstruct.cascade import Cascade
from firstread.reconstruct.columns import columns, mean_over_time
from firstread.reconstruct.direct import ZeroFilled
from firstread.reconstruct.iterative import CGSense, TemporalTV
from firstread.trust.shares import crossed_shares

TV = TemporalTV(iterations=8)


@pytest.fixture(scope="module")
def scan():
    return small_scan(size=64)


def cascade() -> Cascade:
    torch.manual_seed(0)
    network = DeepCascade(cascades=2, depth=2, width=4, kernel="shift", consistency=0.2)
    for block in network.blocks:
        torch.nn.init.normal_(block.layers[-1].weight, std=0.02)
    return Cascade(network=network.eval())


def test_columns_are_reconstructed_as_in_the_whole_scan(scan):
    part, method = columns(scan, 20, 30), CGSense(iterations=20, tolerance=1e-4)
    torch.testing.assert_close(method(part).data, method(scan).data[..., 20:50], rtol=0, atol=5e-3)
    made, all_of_it = ZeroFilled()(part), ZeroFilled()(scan)
    torch.testing.assert_close(made.grid.affine, all_of_it.grid.crop((0, 0, 20), (2, 64, 30)).affine)


def test_columns_of_an_oversampled_readout_are_those_of_its_image(scan):
    cropped = replace(scan, image_shape=(2, 64, 50))
    part, wanted = columns(cropped, 5, 30), ZeroFilled()(cropped)
    torch.testing.assert_close(ZeroFilled()(part).data, wanted.data[..., 5:35], rtol=0, atol=1e-5)
    torch.testing.assert_close(ZeroFilled()(part).grid.affine, wanted.grid.crop((0, 0, 5), (2, 64, 30)).affine)
    assert mean_over_time(cropped).shape == (1, 1, 1, 2, 64, 50)
    with pytest.raises(SettingError, match="columns 40 to 70 of 50"):
        columns(cropped, 40, 30)


def test_shares_and_lines_are_those_of_all_columns_and_frames(scan):
    segment, methods = by_brightness(), {"cascade": cascade(), "temporal total variation": TV}
    scope = about_heart(scan, TV, segment)
    slope = endpoint_slope(scope.volumes_ml.sum(dim=1), "LVEF").float()
    toward = endpoint_gradient(scope.image, segment, slope)
    found = {"slow": ([], []), "fast": ([], [])}
    for number in range(3):
        rows = replace(scan.rows, draw=torch.full_like(scan.rows.draw, number))
        noisy = RepeatNoise()(replace(scan, rows=rows), Key(0, "repeat_noise"))
        part = columns(noisy, scope.first, scope.scan.data.shape[-1])
        for method in methods.values():
            image, placed = method(noisy), scope.place(method(part))
            for name, made, shown in (("slow", image, image), ("fast", placed, scope.few(placed))):
                found[name][0].append(measured(shown, segment)[0])
                found[name][1].append(line_contributions(made.data, toward)[0])
    for name in ("LVEDV", "LVESV", "LVEF"):
        slow, fast = (torch.stack([v[name] for v in found[way][0]]).unflatten(0, (3, 2)) for way in ("slow", "fast"))
        torch.testing.assert_close(fast, slow, rtol=0.01, atol=0.01)
        exact, quick = (crossed_shares(table, ("noise", "method", "member")) for table in (slow, fast))
        assert quick.variance ** 0.5 == pytest.approx(exact.variance ** 0.5, rel=0.1), name
        for one, other in zip(quick.stages, exact.stages, strict=True):
            assert one.total.value == pytest.approx(other.total.value, abs=0.1), (name, one.stage)
    lines = scan.mask[0, :, 0, :, :, 0].expand(4, 2, -1).float()
    slow, fast = (next_lines(torch.stack(found[way][1]), lines, 4, generator=torch.Generator().manual_seed(0))
                  for way in ("slow", "fast"))
    assert float((fast.mask * slow.mask).sum()) >= 0.7 * 16
    assert fast.sd == pytest.approx(slow.sd, rel=0.1)


def test_draws_of_the_columns_give_numbers_lines_and_the_volumes_of_all_frames(scan):
    segment = by_brightness()
    draws = draw_kspace(about_heart(scan, TV, segment), {"zero-filled": ZeroFilled()}, segment, draws=2, seed=0)
    assert draws.values["LVEF"].shape == (2, 1, 2) and draws.lines.shape == (2, 1, 4, 2, 64)
    assert slice_frame_shares(draws.volumes_ml.flatten(0, 2), "LVEF").sum().item() == pytest.approx(1)


def test_the_heart_stands_in_the_mean_of_the_rest(scan):
    segment = by_brightness()
    scope, all_of_it = about_heart(scan, TV, segment), whole(scan, TV, segment)
    assert scope.scan.data.shape[-1] < 64 and 0 in scope.frames and 2 in scope.frames
    middle = slice(20, 44)
    torch.testing.assert_close(scope.image.data[..., middle], all_of_it.image.data[..., middle], rtol=0, atol=0.02)
    torch.testing.assert_close(scope.volumes_ml, all_of_it.volumes_ml, rtol=0, atol=0.1)
    rest = scope.image.data[..., :scope.first]
    torch.testing.assert_close(rest, rest[:, :1].expand_as(rest))


def test_coupled_columns_and_scans_without_a_heart_are_taken_whole(scan):
    segment = by_brightness()
    coupled = replace(scan, mask=scan.mask.expand(-1, -1, 1, 2, -1, 64))
    assert about_heart(coupled, TV, segment).scan is coupled
    noise = torch.randn(scan.data.shape, generator=torch.Generator().manual_seed(0))
    empty = replace(scan, data=noise * scan.mask * (1 + 0j))
    scope = about_heart(empty, ZeroFilled(), Segment(networks=[Nothing()], patch=32, search=32))
    assert scope.scan is empty and scope.frames == (0, 1, 2, 3)


class Nothing(torch.nn.Module):
    """Background everywhere."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.tensor([9.0, 0.0, 0.0, 0.0])[:, None, None].expand(len(rows), -1, *rows.shape[-2:])


def test_frames_near_the_smallest_volume_and_their_neighbours_decide():
    assert deciding_frames(torch.tensor([10.0, 4.0, 10.0, 10.0, 10.0])) == (0, 1, 2)
    assert deciding_frames(torch.ones(3)) == (0, 1, 2)
