"""The segmentation recipes end to end in miniature, Sunnybrook's patches, and the Dice table."""

import json

import numpy as np
import pytest
import torch

from firstread.analyze.consensus import Consensus
from firstread.analyze.segment import Segment
from firstread.chains.trained import networks_of
from firstread.core.errors import InputError, SettingError
from firstread.core.keys import Key
from firstread.recipes import evaluate_acdc, heart_segment
from firstread.recipes.evaluate_acdc import Scan, dice_table, failures, interval, segment_folder
from firstread.recipes.sunnybrook import SunnybrookPatches, patch_index, read_slices
from firstread.zoo.store import load


@pytest.fixture
def patients(tmp_path):
    """Ten made-up patients: a bright disc that is labelled."""
    y, x = np.mgrid[:64, :64]
    for number in range(10):
        disc = (y - 30) ** 2 + (x - 34) ** 2 < (8 + number) ** 2
        np.savez(tmp_path / f"sc-x-{number:02d}.npz", images=np.stack([200 * disc, 0 * disc]).astype(np.uint8),
                 labels=np.stack([disc, 0 * disc]).astype(np.uint8), source_frame_number=np.arange(2, dtype=np.int32))
    return tmp_path


def test_patients_are_either_trained_on_or_held_out(patients):
    train, held = ({s.patient for s in read_slices(patients, held_out=h)} for h in (False, True))
    assert not train & held and len(train) == 8 and held == {"sc-x-04", "sc-x-09"}
    assert len(read_slices(patients, held_out=False)) == 8, "a frame without a contour is no frame without a cavity"


def test_patches_repeat_and_padding_is_not_known(patients):
    patches = SunnybrookPatches(read_slices(patients, held_out=False), seed=3, count=6, size=96)
    images, cavity, known = patches(5)
    assert all(torch.equal(a, b) for a, b in zip(patches(5), (images, cavity, known), strict=True))
    assert not torch.equal(patches(6)[0], images)
    assert images.shape == (6, 3, 96, 96) and torch.equal(images[:, 0], images[:, 2])
    assert cavity.any(dim=(1, 2)).all() and known[cavity].float().mean() > 0.95
    assert (~known).any(), "a patch of 96 reaches over the edge of an image of 64"


def test_labels_move_with_the_image(patients):
    slice_ = read_slices(patients, held_out=False)[0]
    patches = SunnybrookPatches([slice_], seed=0, count=8)
    images, cavity, known = patches(0)
    for image, mask, sure in zip(images[:, 0], cavity, known, strict=True):
        assert image[mask & sure].mean() > image[~mask & sure].mean() + 0.5


def test_patch_scale_is_within_its_range(patients):
    slice_ = read_slices(patients, held_out=False)[0]
    for number in range(20):
        index = patch_index(slice_, Key(0, "t").generator(number), 16)
        assert 0.95 <= (index[0, 1] - index[0, 0]).norm() <= 1.4


def test_folder_without_patients(tmp_path):
    with pytest.raises(InputError):
        read_slices(tmp_path, held_out=False)
    with pytest.raises(InputError):
        segment_folder(tmp_path, [])


@pytest.mark.slow
def test_the_recipe_makes_a_weight_that_the_chain_reads_and_resumes(tmp_path):
    heart_segment.train(tmp_path, "cpu", 1, None)
    first = (tmp_path / "heart-sax.safetensors").read_bytes()
    weight = load(tmp_path / "heart-sax.safetensors")
    assert len(networks_of(weight)) == weight.card["members"] == heart_segment.MEMBERS
    (tmp_path / "member2.pt").unlink()
    heart_segment.train(tmp_path, "cpu", 1, None)
    assert (tmp_path / "heart-sax.safetensors").read_bytes() == first
    with pytest.raises(SettingError, match="simulation alone"):
        heart_segment.train(tmp_path, "cpu", 2, tmp_path)


def test_batches_of_random_hearts_repeat():
    hearts = heart_segment.RandomHearts(seed=1, subjects=1, slices=2, size=48)
    images, labels = hearts(3)
    assert images.shape == (2, 3, 48, 48) and labels.shape == (2, 48, 48)
    assert torch.equal(hearts(3)[0], images)


def scan(patient: str, phase: str, truth, found) -> Scan:
    return Scan(patient, phase, np.zeros((1, 1, 4)), np.array(truth).reshape(1, 1, 4), np.array(found).reshape(1, 1, 4))


def test_dice_table_by_hand():
    scans = [scan("a", "ED", [1, 1, 2, 3], [1, 1, 2, 3]), scan("a", "ES", [1, 1, 2, 3], [1, 2, 2, 3]),
             scan("b", "ED", [0, 0, 0, 3], [0, 0, 0, 0]), scan("b", "ES", [0, 0, 0, 3], [0, 0, 0, 3])]
    table = dice_table(scans)
    assert table["LV cavity"]["dice"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2, abs=1e-4)
    assert table["RV cavity"]["dice"] == pytest.approx((1 + 0.5) / 2, abs=1e-4)
    assert table["RV cavity"]["worst"] == ["b", 0.5] and table["RV cavity"]["ED"] == 0.5
    kinds = failures(scans)
    assert kinds["share_of_wrong_voxels"]["RV cavity called background"] == 0.5
    assert kinds["volume_ratio"]["LV myocardium"] == 1.5


def test_the_interval_holds_the_mean_and_narrows_with_patients():
    values = np.random.default_rng(0).uniform(0.7, 0.9, 100)
    wide, narrow = interval(values[:10]), interval(values)
    assert narrow[0] < values.mean() < narrow[1] and narrow[1] - narrow[0] < wide[1] - wide[0]


@pytest.mark.realdata
def test_dice_on_three_real_patients(realdata, tmp_path):
    for number in ("010", "045", "070"):
        (tmp_path / f"patient{number}.npz").symlink_to(realdata / "acdc" / f"patient{number}.npz")
    table = dice_table(segment_folder(tmp_path, networks_of(load("heart-sax"))))
    for name, floor in (("LV cavity", 0.85), ("LV myocardium", 0.70), ("RV cavity", 0.70)):
        assert table[name]["dice"] > floor, (name, table[name])


@pytest.mark.realdata
def test_the_command_prints_and_writes(realdata, tmp_path, capsys):
    (tmp_path / "patient010.npz").symlink_to(realdata / "acdc" / "patient010.npz")
    assert evaluate_acdc.main([str(tmp_path), "-o", str(tmp_path / "out")]) == 0
    assert "1 patients" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "acdc.json").read_text())
    page = (tmp_path / "out" / "acdc.md").read_text()
    assert [weight["name"] for weight in found] == ["heart-sax", "heart-sax-sunnybrook"]
    for weight in found:
        row = weight["dice"]["RV cavity"]
        assert f"{row['dice']:.3f} ({row['interval_95'][0]:.3f} to {row['interval_95'][1]:.3f})" in page
    assert all(line.count("|") == 5 for line in page.splitlines() if line.startswith("| `") and " to " in line)


def test_a_folder_without_patients_is_one_sentence(tmp_path, capsys):
    assert evaluate_acdc.main([str(tmp_path)]) == 2
    assert "no patients" in capsys.readouterr().err


def test_stages_of_the_recipe_fit_together():
    assert Segment(networks=[heart_segment.network()]).writes == "labels.members"
    assert Consensus().writes == "labels"
