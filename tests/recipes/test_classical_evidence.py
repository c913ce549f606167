"""The classical evidence: masks and numbers by definition, files of another kind refused, a small whole run."""

import gzip

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from firstread.core.errors import FormatError
from firstread.recipes import classical_lesions
from firstread.recipes import evidence_classical as recipe

pytest.importorskip("skimage")


def write_nrrd(path, values, kind="int16", direction=1.0):
    head = (f"NRRD0004\ntype: {kind}\ndimension: 3\nspace: left-posterior-superior\n"
            f"sizes: {' '.join(map(str, values.shape[::-1]))}\nspace directions: (0.5,0,0) (0,{direction},0) (0,0,4)\n"
            "endian: little\nencoding: gzip\nspace origin: (-3,2,1)\n\n")
    path.write_bytes(head.encode() + gzip.compress(values.astype("<i2").tobytes()))


def test_vessel_mask_keeps_the_share_and_drops_small_pieces():
    values = torch.zeros(20, 20)
    values[5, 2:18] = 1.0
    values[15, 3] = 2.0
    inside = torch.ones(20, 20, dtype=torch.bool)
    assert recipe.vessel_mask(values, inside, 17 / 400, 0).sum() == 17
    kept = recipe.vessel_mask(values, inside, 17 / 400, 5)
    assert kept.sum() == 16 and not kept[15, 3]


def test_auc_is_the_share_of_pairs_in_order():
    generator = torch.Generator().manual_seed(0)
    values, truth = torch.randint(0, 6, (40,), generator=generator).float(), torch.rand(40, generator=generator) > 0.6
    one, other = values[truth][:, None], values[~truth][None]
    assert recipe.auc(values, truth) == pytest.approx(float(((one > other).double() + 0.5 * (one == other)).mean()))


def test_nrrd_knows_where_it_lies(tmp_path):
    values = np.arange(24).reshape(2, 3, 4)
    write_nrrd(tmp_path / "a.nrrd", values, direction=-1.0)
    found, grid = classical_lesions.read_nrrd(tmp_path / "a.nrrd")
    assert (found == values).all() and grid.spacing_mm[0].tolist() == [4.0, 1.0, 0.5]
    assert grid.to_mm(torch.tensor([[[2.0, 1.0, 1.0]]]))[0, 0].tolist() == [-2.0, 1.0, 5.0]
    write_nrrd(tmp_path / "b.nrrd", values, kind="block")
    with pytest.raises(FormatError, match=r"b\.nrrd"):
        classical_lesions.read_nrrd(tmp_path / "b.nrrd")


def test_clicks_lie_deep_inside():
    truth = np.zeros((5, 30, 30), dtype=bool)
    truth[1:4, 5:25, 5:25] = True
    places = classical_lesions.clicks(truth, (10.0, 1.0, 1.0), 6)
    assert len(places) == 6 and all(10 - 1 <= y <= 20 and 9 <= x <= 20 for _, y, x in places)


def test_a_whole_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "VESSELS", {"tophat": ((1.0, 2.0),), "lines": ((1.0,),)})
    monkeypatch.setattr(classical_lesions, "CLICKS", 2)
    monkeypatch.setattr(classical_lesions, "lesion_methods", lambda: {"region growing": {
        "width 3": lambda reach: classical_lesions.GrowRegion(width=3.0, reach_mm=reach)},
        "random walker": {"as it is": lambda reach: classical_lesions._prompted("walker", reach)}})
    eyes, lumps = tmp_path / "fundus_drive", tmp_path / "ct_mr_lesion"
    eyes.mkdir()
    lumps.mkdir()
    y, x = np.mgrid[:48, :48]
    draw = np.random.default_rng(0)
    for number in range(6):
        vessel = np.abs(y - 20 - number - 0.2 * x) < 1.5
        green = 120 - 40 * vessel + draw.integers(0, 8, (48, 48))
        Pillow.fromarray(np.stack([green] * 3, axis=-1).astype(np.uint8)).save(eyes / f"{number}_image.png")
        Pillow.fromarray((255 * vessel).astype(np.uint8)).save(eyes / f"{number}_vessels_observer1.png")
        Pillow.fromarray(np.full((48, 48), 255, np.uint8)).save(eyes / f"{number}_field_of_view.png")
    ball = (np.mgrid[:5, :24, :24][0] - 2)**2 * 9 + (np.mgrid[:5, :24, :24][1] - 12)**2 + (
        np.mgrid[:5, :24, :24][2] - 11)**2 < 40
    for stem in ("lung1_crop", "brain1"):
        write_nrrd(lumps / f"{stem}_image.nrrd", 100 * ball + draw.integers(0, 9, ball.shape))
        write_nrrd(lumps / f"{stem}_label.nrrd", ball.astype(int))
    assert recipe.main([str(tmp_path), "-o", str(tmp_path)]) == 0
    text = (tmp_path / "classical.md").read_text()
    assert "| black top-hat | 0." in text and "| region growing | lung nodule, CT | " in text
    assert recipe.main([str(tmp_path / "nothing"), "-o", str(tmp_path)]) == 2
    assert "0 images" in capsys.readouterr().err
