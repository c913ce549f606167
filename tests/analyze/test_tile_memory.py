"""Tiled inference under a set memory: what is counted, what is chosen, what is refused."""

import subprocess
import sys

import pytest
import torch

from firstread.analyze.tile_memory import CountedBytes, TileMemory
from firstread.analyze.tiles import tiled
from firstread.analyze.trained import SegmentByPlan
from firstread.chains.models import open_segmenter
from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.nets.build import build_network
from firstread.nets.plan import ClassPlan, NetworkPlan, Plan
from firstread.nets.unet import UNet

NETWORK = UNet(channels_in=1, channels_out=3, widths=(4, 8), dims=3).eval()
VOLUME = torch.randn(1, 1, 40, 56, 48, generator=torch.Generator().manual_seed(0))


def test_bytes_are_those_of_tensors_alive_together():
    with CountedBytes() as counted:
        one = torch.zeros(1000)
        two = one + 1
        view = two[:10].view(2, 5)
        del one
        three = two * 2
    assert counted.peak == 8000 and counted.now == 8000 and view.shape == (2, 5) and len(three) == 1000


@torch.no_grad()
def test_the_peak_grows_with_the_voxels_of_a_window():
    small, large = (TileMemory.of(NETWORK, 1, 3, size=size).held for size in (32, 56))
    assert small == pytest.approx(large, rel=0.02)


@torch.no_grad()
@pytest.mark.parametrize("share", [1.0, 0.7, 0.45])
def test_what_is_held_stays_under_the_memory(share):
    held = TileMemory.of(NETWORK, 1, 3)
    memory = int(share * held.peak(1, VOLUME.shape[2:], (32, 32, 32), 2))
    window, at_once = held.windows(1, VOLUME.shape[2:], (32, 32, 32), 2, memory)
    with CountedBytes() as counted:
        made = tiled(NETWORK, VOLUME, window=(32, 32, 32), at_once=2, memory=memory)
    assert counted.peak <= memory
    torch.testing.assert_close(made, tiled(NETWORK, VOLUME, window=window, at_once=at_once))
    assert (at_once, window) == {1.0: (2, (32, 32, 32)), 0.7: (1, (32, 32, 32))}.get(share, (1, window))
    assert share > 0.5 or max(window) < 32


@torch.no_grad()
def test_too_little_is_refused_and_what_is_asked_for_works():
    with pytest.raises(SettingError, match=r"a memory of 1 MiB .*expected \d+ MiB or more") as refused:
        tiled(NETWORK, VOLUME.expand(1, 1, -1, -1, -1).repeat(1, 1, 4, 2, 2), window=(32, 32, 32), memory=10**6)
    least = 2**20 * int(str(refused.value).split("expected ")[1].split()[0])
    big = VOLUME.repeat(1, 1, 4, 2, 2)
    with CountedBytes() as counted:
        tiled(NETWORK, big, window=(32, 32, 32), memory=least)
    assert counted.peak <= least


def stage_of(mode, patch, memory):
    dims = len(patch)
    plan = Plan(classes=tuple(ClassPlan(n, k) for k, n in enumerate("abc")), mode=mode, patch=patch,
                spacing_mm=(None, None, None) if dims == 2 else (2.0, 2.0, 2.0), overlap=0.25,
                network=NetworkPlan(kind="unet", widths=(16, 32), strides=((2,) * dims,) * 2, deep_supervision=False))
    torch.manual_seed(0)
    return SegmentByPlan(networks=[build_network(plan).eval()], plan=plan, memory=memory)


@torch.no_grad()
@pytest.mark.parametrize(("mode", "patch", "memory"), [("3d", (48, 48, 48), 14.5e6), ("2.5d", (48, 48), 15e6)])
def test_a_stage_stays_under_it_and_says_that_windows_are_smaller(mode, patch, memory):
    image = Image(Rows.subjects(1), VOLUME[None], Grid.from_spacing((40, 56, 48), (2.5, 2.0, 2.0)))
    with pytest.raises(SettingError, match=r"expected \d+ MiB"):
        stage_of(mode, patch, 10**6)(image)
    with CountedBytes() as loose:
        free = stage_of(mode, patch, None)(image)
    with CountedBytes() as counted:
        made = stage_of(mode, patch, int(memory))(image)
    assert counted.peak <= memory and (mode == "2.5d" or loose.peak > memory)
    assert any("smaller than the (48, 48, 48)" in note.text for note in made.notes) == (mode == "3d")
    assert not free.notes and (made.data.argmax(2) == free.data.argmax(2)).float().mean() > 0.7
    torch.testing.assert_close(stage_of(mode, patch, 10**9)(image).data, free.data)


def test_with_gradient_or_of_another_program_it_is_refused(tmp_path):
    image = Image(Rows.subjects(1), VOLUME[None], Grid.from_spacing((40, 56, 48), (2.0, 2.0, 2.0)))
    with pytest.raises(SettingError, match="with gradient"):
        stage_of("3d", (32, 32, 32), 10**9)(image)
    with pytest.raises(SettingError, match="another program's model"):
        open_segmenter(tmp_path / "model.ts", memory=10**9)


def test_counting_does_not_load_torch_s_compiler():
    """It takes 60 MB and seconds, more than what is counted."""
    code = ("import sys, torch\nfrom firstread.analyze.tile_memory import CountedBytes\n"
            "with CountedBytes() as counted:\n    torch.zeros(10) + 1\n"
            "assert counted.peak == 80 and 'torch._dynamo' not in sys.modules, counted.peak")
    subprocess.run([sys.executable, "-c", code], check=True)
