"""The recipe and the study without images in miniature: arms learn, resume, are built again and compared."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from firstread.chains.direct import direct_endpoint, stage_of
from firstread.chains.heart import SEGMENTATION
from firstread.chains.trained import networks_of
from firstread.core.errors import SettingError
from firstread.recipes import direct_from_kspace as recipe
from firstread.recipes import study_direct
from firstread.recipes.direct_from_kspace import ARMS, Setting, batches_of, loss, scanned, segmenter_of, train_arm
from firstread.recipes.endpoint_pool import Stack, case_of, store_all
from firstread.trust.agreement import Estimate
from firstread.zoo.store import load

TINY = Setting(stack=Stack(lines=48, columns=24, frames=4, slices=2, spacing_mm=5.0), subjects=2, lines=(2, 8, 48),
               coils=3, distances=(1, 2), widths=(8, 8, 8), mask_widths=(8, 8, 8), code=8, warm=False,
               iterations=3, learning_rate=5e-3)


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> list[Path]:
    return store_all(tmp_path_factory.mktemp("pool"), TINY.stack, "train", 2)


def test_a_scan_measures_the_lines_that_are_counted(pool):
    for lines in TINY.lines:
        kspace = scanned(case_of(pool[0], seed=0), TINY, lines)
        assert kspace.sensitivities is None and kspace.mask.sum(dim=(2, 4, 5)).unique().tolist() == [lines]


@pytest.mark.parametrize("arm", sorted(ARMS))
def test_all_arms_see_the_same_scans_and_give_every_class_a_logit(arm, pool):
    segmenter = segmenter_of(arm, TINY, seed=0)
    batch = batches_of(pool, segmenter, TINY, seed=1, device="cpu")
    seen, labels = batch(3)
    again, _ = batch(3)
    torch.testing.assert_close(seen, again)
    assert seen.shape == (2, 4, recipe.network_card(arm, TINY)["channels_in"], 48, 24)
    assert labels.shape == (2, 4, 48, 24)
    value = loss(segmenter.networks[0], (seen, labels))
    value.backward()
    assert bool(torch.isfinite(value))
    other = batches_of(pool, segmenter_of("synthesis", TINY, seed=0), TINY, seed=1, device="cpu")(3)[1]
    assert torch.equal(labels, other)


@pytest.mark.parametrize("arm", ["latent", "shared"])
def test_an_arm_learns_resumes_and_is_built_again(arm, pool, tmp_path):
    arguments = {"arm": arm, "setting": TINY, "pool": pool[:1], "steps": 12, "seed": 0}
    shown: list[float] = []

    class Killed(Exception):
        pass

    def dies(step: int, _: float) -> None:
        if step == 7:
            raise Killed

    whole = train_arm(tmp_path / "whole", **arguments, report=lambda _, value: shown.append(value))
    with pytest.raises(Killed):
        train_arm(tmp_path / "killed", **arguments, report=dies)
    train_arm(tmp_path / "killed", **arguments)
    one, other = ((tmp_path / n / f"{arm}.safetensors").read_bytes() for n in ("whole", "killed"))
    assert one == other
    assert sum(shown[-3:]) < 0.9 * sum(shown[:3])
    kspace = scanned(case_of(pool[1], seed=5), TINY, 8)
    again = stage_of(str(tmp_path / "whole" / f"{arm}.safetensors"))
    torch.testing.assert_close(again(kspace).data, whole(kspace).data)
    assert direct_endpoint(again)(kspace)["phenotypes"]["LVEF"].value.isfinite().all()
    card = json.loads((tmp_path / "whole" / f"{arm}.json").read_text())
    assert card["arm"] == arm and card["steps"] == 12 and card["parameters"] > 1000


def test_a_warm_start_reads_the_first_view_as_the_default_segmentation_reads_images():
    images = networks_of(load(SEGMENTATION))[0]
    setting = replace(TINY, widths=images.widths, mask_widths=(8, 8, 8), warm=True)
    cine = torch.rand(1, 3, 6, 48, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = images(cine[0, :, :1].expand(-1, images.channels_in, -1, -1))
        torch.testing.assert_close(segmenter_of("shared", setting, seed=0).networks[0](cine)[0], wanted, rtol=1e-3,
                                   atol=1e-3)
    predictor = segmenter_of("latent", setting, seed=0).networks[0].predictor
    assert torch.equal(predictor.scales[1][0][0].weight, images.down[1][0][0].weight)
    with pytest.raises(SettingError, match="widths that the default segmentation does not have"):
        segmenter_of("shared", replace(TINY, warm=True), seed=0)


def test_areas_by_hand():
    """One heart class of two frames, 20 pixels at most; half a pixel's area is missed in every frame."""
    labels = torch.zeros(1, 2, 5, 5, dtype=torch.int64)
    labels[0, 0, :4], labels[0, 1, :2] = 1, 1
    probabilities = torch.stack((labels == 0, labels == 1), dim=2).double()
    probabilities[:, :, 1, 0, 0] -= 0.5
    assert recipe.area_error(probabilities, labels).item() == pytest.approx(0.5 / 20)
    assert recipe.area_error(probabilities, labels, least=50).item() == pytest.approx(0.5 / 50)


def test_the_study_in_miniature_is_resumed_and_paired(tmp_path, capsys):
    asked = ["-o", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--subjects", "1", "--test", "3", "--steps",
             "2", "--seeds", "1", "--lines", "4", "48", "--arms", "shared", "reconstructed", "--matrix", "48", "24",
             "--spacing", "5", "--frames", "4", "--slices", "2", "--widths", "8", "8", "--cold"]
    assert study_direct.main(asked) == 0
    page = (tmp_path / "out" / "direct.md").read_text()
    rows = json.loads((tmp_path / "out" / "direct.json").read_text())
    assert [(row["lines"], row["arm"]) for row in rows] == [
        (lines, arm) for lines in (4, 48) for arm in ("shared", "reconstructed", "as shipped")]
    assert all(row["overlap_difference"]["value"] == 0 for row in rows if row["arm"] == "reconstructed")
    assert "3 simulated test subjects" in page and "| 4 | 12.0 | shared |" in page and "--lines 4 48" in page
    stored = sorted((tmp_path / "work").rglob("0000-*.json"))
    before = [file.stat().st_mtime_ns for file in stored]
    assert len(stored) == 2 and study_direct.main(asked) == 0
    assert [file.stat().st_mtime_ns for file in stored] == before
    assert study_direct.main([*asked, "--baseline", "as shipped"]) == 0, "nothing is read again for another baseline"
    assert [file.stat().st_mtime_ns for file in stored] == before
    rows = json.loads((tmp_path / "out" / "direct.json").read_text())
    assert all(row["error_difference"]["value"] == 0 for row in rows if row["arm"] == "as shipped")
    assert study_direct.main([*asked, "--baseline", "latent"]) == 2
    assert study_direct.main([*asked, "--test", "2"]) == 2 and "three subjects or more" in capsys.readouterr().err


def test_paired_table_by_hand():
    """Two arms whose numbers are known: the difference of Dice in per cent, of EF error in points."""
    def run(dice: float, fraction: float) -> dict[str, float]:
        return {"LV cavity": dice, "LV myocardium": dice, "RV cavity": dice, "LVEF": fraction}

    study = study_direct.Study(TINY, ("shared", "reconstructed"), (2,), 1, 1, 4)
    made = [[{"truth": 60.0, "lines": 2, "found": {"shared": [run(0.8, 62.0)], "reconstructed": [run(0.7, 55.0)],
                                                    "as shipped": [run(0.6, float("nan") if n == 3 else 50.0)]}}]
            for n in range(4)]
    rows = {row.arm: row for row in study_direct.tabulate(study, made)}
    assert rows["shared"].overlap == pytest.approx(80) and rows["shared"].error == pytest.approx(2)
    assert rows["shared"].overlap_difference.value == pytest.approx(10)
    assert rows["shared"].error_difference.value == pytest.approx(-3)
    assert rows["as shipped"].error == pytest.approx(10), "the subject without a number is left out of all arms"


def test_a_page_says_when_training_was_too_short():
    """Judged at the most lines alone, by the best arm, against the default chain."""
    none = Estimate(0.0, 0.0, 0.0)

    def rows(arm: float, shipped: float, lines: int = 160) -> list[study_direct.Row]:
        return [study_direct.Row(lines, name, (0.0, 0.0, 0.0), 0.0, error, none, none)
                for name, error in (("shared", arm), ("latent", 90.0), ("as shipped", shipped))]

    assert "1.4 points, the arms by 48.0 to 90.0" in study_direct.verdict([*rows(5, 5, 2), *rows(48, 1.4)])
    assert study_direct.verdict([*rows(60, 30, 2), *rows(6, 1.4)]) == "" == study_direct.verdict(rows(30, 20))


def test_bad_input(tmp_path):
    with pytest.raises(SettingError, match="one of synthesis, latent"):
        segmenter_of("magic", TINY, seed=0)
    with pytest.raises(SettingError, match="simulation alone"):
        recipe.train(tmp_path, "cpu", 1, tmp_path)
    with pytest.raises(SettingError, match="1 to all lines"):
        Setting(stack=TINY.stack, lines=(2, 160))
