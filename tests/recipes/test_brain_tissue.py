"""Brain tissues from simulated heads: scenes, a short training, and the weight used by its name."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from firstread.chains.trained import open_weight
from firstread.core.errors import FormatError, InputError
from firstread.core.keys import Key
from firstread.jobs.segment_predict import predict_to_folder
from firstread.recipes import brain_tissue, evaluate_brain
from firstread.recipes.brain_scenes import FILES, draw_scene, draw_tissue, load_maps, maps_folder, means, paint
from firstread.zoo import store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tissue maps of a ball: white within, grey around, fluid outside; files as nilearn names them."""
    home = tmp_path_factory.mktemp("maps")
    z = np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in (48, 56, 44)), indexing="ij"))
    radius = np.sqrt((z**2).sum(0))
    white, grey = (radius < 11), (radius >= 11) & (radius < 17)
    for part, data in (("t1", radius < 19), ("gm", grey), ("wm", white)):
        affine = np.diag([1.0, 1.0, 1.0, 1.0])
        nibabel.save(nibabel.Nifti1Image((255 * data).astype(np.uint8), affine), home / FILES[part])
    return home


@pytest.fixture(scope="module")
def maps(folder):
    return load_maps(folder)


def test_maps_at_two_millimetres(maps):
    assert float(maps.tissue.sum(0).max()) <= 1 + 1e-6
    ml = float(maps.tissue[2].sum()) * 8 / 1000
    assert ml == pytest.approx(4 / 3 * np.pi * 1.1**3, rel=0.05)
    assert bool((maps.brain_mm[maps.tissue.sum(0) > 0.6] < 0).all())
    assert bool((maps.head_mm <= maps.brain_mm.clamp(min=0) + 1e-4).all())


def test_a_scene_depends_on_its_number_alone(maps):
    first, again, other = (draw_scene(maps, Key(0, "t"), n, size=20) for n in (3, 3, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert first[0].shape == (1, 20, 20, 20) and set(first[1].unique().tolist()) <= {0, 1, 2, 3}
    assert bool(torch.isfinite(first[0]).all())


def test_shares_sum_to_one_and_the_probable_tissue_wins(maps):
    shares = draw_tissue(maps.tissue, maps.brain_mm, Key(0, "t").generator(0))
    torch.testing.assert_close(shares.sum(0), torch.ones(shares.shape[1:]))
    sure = maps.tissue[2] > 0.99
    assert float((shares[:3].argmax(0)[sure] == 2).float().mean()) > 0.9
    assert bool((shares[3][maps.brain_mm > 8] > 0.99).all())


def test_contrasts_and_brains_cut_out(maps):
    for number in range(20):
        g = Key(number, "t").generator(0)
        fluid, grey, white = means("T1", g)
        assert fluid < grey < white
        fluid, grey, white = means("T2", g)
        assert fluid > grey > white
    g = Key(0, "t").generator(1)
    shares = draw_tissue(maps.tissue, maps.brain_mm, g)
    image = paint(shares, maps.brain_mm, maps.head_mm, (0.1, 0.5, 0.9), g, stripped=True)
    assert float(image[maps.brain_mm > 12].abs().max()) == 0
    image = paint(shares, maps.brain_mm, maps.head_mm, (0.1, 0.5, 0.9), g, stripped=False)
    assert float(image[(maps.brain_mm > 12) & (maps.head_mm < -4)].std()) > 0


def test_maps_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="no MNI152 tissue maps"):
        maps_folder(tmp_path)


def test_trained_used_by_name_and_measured(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(brain_tissue, "SIZE", 32)
    weight = brain_tissue.train(tmp_path / "zoo", steps=1, data=folder)
    assert weight.stat().st_size < 5e6
    monkeypatch.setattr(store, "_HOME", tmp_path / "zoo")
    assert open_weight("brain-tissue").classes == ("background", "CSF", "grey matter", "white matter")
    with pytest.raises(InputError, match="no weight 'heart-sax'"):
        open_weight("heart-sax")
    scan = folder / FILES["t1"]
    made = predict_to_folder(Path("brain-tissue"), [[scan]], tmp_path / "out")
    found = nibabel.load(tmp_path / "out" / made["images"][0]["files"][0])
    assert found.shape == (48, 56, 44) and set(np.unique(found.dataobj)) <= {0, 1, 2, 3}
    np.savez(tmp_path / "scan.npz", vol=np.random.default_rng(0).random((32, 32, 32)),
             seg=np.random.default_rng(1).choice([0, 2, 3, 4, 16], (32, 32, 32)))
    monkeypatch.setattr(evaluate_brain, "EACH", 1)
    monkeypatch.setattr(evaluate_brain, "SIZE", 16)
    given = [str(tmp_path / "zoo"), "--maps", str(folder), "--brain", str(tmp_path / "scan.npz")]
    assert evaluate_brain.main(given) == 0
    card = json.loads((tmp_path / "zoo" / "brain-tissue.json").read_text())
    assert set(card["evaluation"]["real"]) == {"CSF", "grey matter", "white matter"} and "McGill" in card["data"]
    assert "| white matter |" in (tmp_path / "zoo" / "brain-tissue.md").read_text()
    again = predict_to_folder(weight, [[scan]], tmp_path / "by file")
    assert again["images"][0]["volume_ml"] == made["images"][0]["volume_ml"]
    plan = card.pop("plan")
    (tmp_path / "zoo" / "brain-tissue.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="makes no labels"):
        open_weight(weight)
    plan["network"]["widths"] = [4, 8, 8, 8]
    (tmp_path / "zoo" / "brain-tissue.json").write_text(json.dumps({**card, "plan": plan}))
    with pytest.raises(FormatError, match="another network"):
        open_weight(weight)
    weight.write_bytes(weight.read_bytes()[:1000])
    with pytest.raises(FormatError):
        open_weight("brain-tissue")


def test_dice_leaves_out_what_is_unknown():
    labels = torch.tensor([[[0.0, 3.0, 2.0, 16.0, 42.0]]])
    true = evaluate_brain.tissues_of(labels)
    assert true.tolist() == [[[0, 2, 3, 255, 2]]]
    found = torch.tensor([[[0, 2, 3, 1, 3]]])
    assert evaluate_brain.dice(found, true) == pytest.approx({"grey matter": 2 / 3, "white matter": 2 / 3})
