"""The denoising recipe and its evidence page, small."""

import pytest
import torch

from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, Rows
from firstread.nets.denoise import ScaledDenoiser
from firstread.recipes import denoise, evidence_denoise, evidence_motion
from firstread.restore.denoise import Denoise
from firstread.zoo.store import load


def test_examples_depend_on_their_number_alone_and_carry_the_noise_stated(tmp_path):
    folder = denoise.store_all(tmp_path / "objects", count=2)
    one, again = denoise.NoisyCrops(folder, seed=0), denoise.NoisyCrops(folder, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(one(3), again(3), strict=True))
    noisy, noise, clean = one(3)
    assert noisy.shape == clean.shape == (denoise.BATCH, 2, denoise.CROP, denoise.CROP)
    assert (noise >= denoise.NOISE[0]).all() and (noise <= denoise.NOISE[1]).all()
    image, added = torch.full((64, 64), 2 + 1j), 0.1 * torch.randn(64, 64, 2)
    for kind, parts in ((0, 2), (2, 1), (3, 1)):
        made, seen = denoise.pair(image, torch.view_as_complex(added), kind)
        assert float((seen - made).abs().square().mean()) == pytest.approx(parts * 0.01, rel=0.1)


def test_a_step_of_training_gives_a_weight_that_the_stage_takes(tmp_path):
    weight = load(denoise.train(tmp_path, steps=2))
    net = ScaledDenoiser.from_weight(weight.card["network"], weight.state)
    image = Image(Rows.subjects(1), torch.rand(1, 1, 1, 1, 9, 8), Grid.from_spacing((1, 9, 8), (5.0, 1.0, 1.0)))
    assert Denoise(network=net)(image).data.shape == image.data.shape
    with pytest.raises(SettingError, match="data"):
        denoise.train(tmp_path, data=tmp_path)


def test_the_pages_say_what_was_measured():
    text = evidence_denoise.page({0.1: {"as it came": [20.0, 22.0, 21.0], "MP-PCA": [30.0, 32.0, 31.0]}},
                                 {"MP-PCA": [4.0, 6.0]}, {0.1: {"as it came": 19.0}}, "No network was given.")
    assert "| 0.1 | 21.0 (18.5 to 23.5) | 31.0 (28.5 to 33.5) |" in text and "simulated" in text.lower()
    assert "| CPU ms per frame | – | 5 |" in text and "| 0.1 | 19.0 |" in text
    row = {"true degrees": 3.0, "degrees": 0.5, "true mm": 2.0, "mm": 0.25, "before": 0.3, "after": 0.04}
    text = evidence_motion.page({"random lines": [row, row]}, None)
    assert "| random lines | 3.00 (3.00 to 3.00) | 0.50 (0.50 to 0.50) |" in text and "real brain" not in text


def test_every_method_gives_an_image():
    grid = Grid.from_spacing((1, 16, 16), (5.0, 1.0, 1.0))
    clean = Image(Rows.subjects(1), torch.rand(1, 2, 1, 1, 16, 16) + 0j, grid)
    tried = {n: m for n, m in evidence_denoise.methods(0.1, None).items() if n != "Noise2Self"}
    found, spent = evidence_denoise.scored(clean, evidence_denoise.noisy(clean, 0.1, Key(0, "t")), tried, Key(0, "t"))
    assert list(spent) == list(tried) and set(found) == {"as it came", *tried}
