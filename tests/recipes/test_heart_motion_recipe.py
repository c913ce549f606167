"""Learned heart motion: the truth of the simulated pairs, a short training that resumes, the weight, the evidence."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate, pad

from firstread.analyze.register_deformable import Effort
from firstread.analyze.register_learned import LearnedRegister
from firstread.analyze.register_motion import TrackMotion
from firstread.core.errors import GeometryError, SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.nets.velocity import VelocityNet
from firstread.ops.velocity import sample_at
from firstread.ops.warp import apply
from firstread.recipes import evidence_heart_motion, heart_motion
from firstread.recipes.files import write_weight
from firstread.recipes.heart_motion_pairs import SIZE, HeartPairs, example, load, store_all
from firstread.zoo.store import load as load_weight

GRID = Grid.from_spacing((2, 40, 40), (8.0, 1.5, 1.5))


@pytest.fixture(scope="module")
def hearts(tmp_path_factory):
    return store_all(tmp_path_factory.mktemp("hearts"), count=1)


@pytest.fixture(scope="module")
def network() -> VelocityNet:
    torch.manual_seed(0)
    made = VelocityNet(widths=(4, 8), dims=2, spacing_mm=1.5).eval()
    torch.nn.init.normal_(made.unet.logits.weight, std=0.05)
    return made


def disc(radius: float) -> Image:
    y, x = torch.meshgrid(torch.arange(40) - 19.5, torch.arange(40) - 19.5, indexing="ij")
    data = torch.sigmoid(radius - (x**2 + y**2).sqrt())[None].expand(2, -1, -1).clone()
    data[1] = data[1].roll(3, dims=1)
    return Image(Rows.subjects(1), data[None, None, None], GRID)


def test_examples_depend_on_their_number_alone(hearts):
    pairs = HeartPairs(hearts, seed=0, rows=2)
    one, again, other = (pairs(number) for number in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True)) and not torch.equal(one[0], other[0])
    assert one.fixed.shape == (2, 1, SIZE, SIZE) and one.moved.shape == (2, 2, SIZE, SIZE)


def test_the_known_way_brings_contours_onto_contours(hearts):
    subject = load(hearts[0])
    found = []
    for k in range(2, subject.data.shape[1] - 3):
        parts = example(subject, k, 0, 3, 1.5 * torch.eye(2), torch.zeros(2), (96, 96))
        moved, known, heart, fixed, moving = parts[2:]
        field = pad(moved, (0, 0, 0, 0, 0, 1))[None, :, None]
        warped = sample_at(moving[None, :, None], field)[0, :, 0]
        inside = heart[0] > 0
        assert bool((known >= heart).all()) and float(moved[:, ~inside].abs().max()) == 0
        for label in (0, 1):
            before, after = ((fixed[label] - image[label])[inside].abs().mean() for image in (moving, warped))
            found.append((float(before), float(after)))
    assert len(found) > 4 and sum(after for _, after in found) < 0.2 * sum(before for before, _ in found)


def test_a_bent_example_still_knows_its_way(hearts):
    pairs = HeartPairs(hearts, seed=1, rows=12)
    pair = pairs(0)
    field = pad(pair.moved, (0, 0, 0, 0, 0, 1))[:, :, None]
    warped = sample_at(pair.moving_labels[:, :, None], field)[:, :, 0]
    inside = (pair.heart > 0).expand(-1, 3, -1, -1)
    before, after = ((pair.fixed_labels - image)[inside].abs().mean() for image in (pair.moving_labels, warped))
    assert after < 0.35 * before


def test_training_resumes_to_the_same_weight_which_stage_and_zoo_take(hearts, tmp_path, monkeypatch):
    monkeypatch.setattr(heart_motion, "WIDTHS", (4, 8))
    monkeypatch.setattr(heart_motion, "CHECKED", 1)
    monkeypatch.setattr(heart_motion, "store_all", lambda folder, count, family="train": hearts)
    whole = load_weight(heart_motion.train(tmp_path / "whole", steps=3))
    inner = heart_motion.HeartPairs

    class Stopping(inner):
        def __call__(self, number):
            if number == 2 and self.key.seed == 0 and not (tmp_path / "stopped").exists():
                (tmp_path / "stopped").touch()
                raise KeyboardInterrupt
            return super().__call__(number)

    monkeypatch.setattr(heart_motion, "HeartPairs", Stopping)
    monkeypatch.setattr(heart_motion, "EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        heart_motion.train(tmp_path / "parts", steps=3)
    parts = load_weight(heart_motion.train(tmp_path / "parts", steps=3))
    assert all(torch.equal(value, parts.state[name]) for name, value in whole.state.items())
    for name in ("spread_factor", "spread_factor_after_steps"):
        assert parts.card[name] == whole.card[name] > 0
    net = VelocityNet.from_weight(whole.card["network"], whole.state)
    assert net.dims == 2 and net.spacing_mm == 1.5
    with pytest.raises(SettingError, match="data"):
        heart_motion.train(tmp_path, data=tmp_path)


def test_training_goes_downhill(hearts):
    torch.manual_seed(0)
    model, pair = VelocityNet(widths=(8, 16, 16), dims=2, spacing_mm=1.5), HeartPairs(hearts, seed=0, rows=4)(0)
    optimizer, values = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for _ in range(12):
        value = heart_motion.loss(model, pair)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0]


def test_slices_move_each_in_its_plane_and_back_again(network):
    fixed, moving = disc(9.0), disc(7.0)
    with torch.no_grad():
        found = LearnedRegister(network=network, spread_factor=2.0)(fixed, moving)
        single = LearnedRegister(network=network)(*(Image(image.rows, image.data[:, :, :, 1:], GRID.crop(
            (1, 0, 0), (1, 40, 40))) for image in (fixed, moving)))
    field = found.forward.displacement_mm
    assert field.abs().max() > 0.05 and field[:, 2].abs().max() == 0
    assert torch.allclose(found.spread_mm[:, :2, 1:], 2 * single.spread_mm[:, :2], rtol=0.2)
    inner = GRID.points_mm()[:, :, 8:-8, 8:-8]
    back = apply(found.backward, apply(found.forward, inner))
    assert float((back - inner).norm(dim=-1).mean()) < 0.1 * float(field.norm(dim=1).mean())


def test_a_shift_or_a_finer_grid_of_both_images_moves_the_answer_along(network):
    fixed, moving = disc(9.0), disc(7.0)
    with torch.no_grad():
        plain = LearnedRegister(network=network)(fixed, moving)
        rolled = LearnedRegister(network=network)(*(Image(image.rows, image.data.roll(4, dims=-1), GRID)
                                                    for image in (fixed, moving)))
        fine = GRID.resize((2, 80, 80))
        large = [interpolate(image.data[0, 0], (80, 80), mode="bilinear")[None, None] for image in (fixed, moving)]
        finer = [Image(fixed.rows, data, fine) for data in large]
        resized = LearnedRegister(network=network)(*finer)
    one, two = plain.forward.displacement_mm, rolled.forward.displacement_mm.roll(-4, dims=-1)
    assert (one - two)[..., 10:-10, 10:-10].abs().max() < 0.1 * one.abs().max()
    coarse = avg_pool2d(resized.forward.displacement_mm[0, :2], 2)
    assert (coarse - one[0, :2])[..., 6:-6, 6:-6].abs().max() < 0.25 * one.abs().max()


def test_a_series_is_followed_by_the_network_with_its_spread(network):
    frames = Image(Rows.subjects(1), torch.cat([disc(r).data for r in (9.0, 8.0, 7.0)], dim=1), GRID)
    alone = TrackMotion(network=network, effort=None, smooth_frames=0.0)(frames)
    pair = LearnedRegister(network=network)
    assert alone.in_plane and alone.spread_mm[:, 0].abs().max() == 0 and (alone.spread_mm[:, 1:, :2] > 0).all()
    assert alone.displacement_mm[:, 0].abs().max() == 0
    with torch.no_grad():
        moved = pair(disc(9.0), disc(7.0)).forward.displacement_mm
    assert (alone.displacement_mm[:, 2] - moved).abs().max() < 0.2 * moved.abs().max()  # the series is scaled as one
    effort = Effort(shrink=(1,), iterations=(5,), discrete=False)
    after = TrackMotion(network=network, effort=effort, smooth_frames=0.0)(frames)
    assert not torch.equal(after.displacement_mm, alone.displacement_mm)
    assert torch.equal(after.spread_mm, alone.spread_mm)
    assert TrackMotion(smooth_frames=0.0, effort=effort)(frames).spread_mm is None
    assert not alone.notes
    near = Image(frames.rows, frames.data, Grid.from_spacing((2, 40, 40), (1.5, 1.5, 1.5)))
    across = TrackMotion(network=network, effort=None)(near)
    assert across.in_plane and [note.code for note in across.notes] == ["in_plane_alone"]
    assert across.displacement_mm[:, :, 2].abs().max() == 0


def test_bad_input_is_refused(network):
    fixed, moving = disc(9.0), disc(7.0)
    stage = LearnedRegister(network=network)
    with pytest.raises(GeometryError, match="different grids"):
        stage(fixed, Image(moving.rows, moving.data, Grid.from_spacing((2, 40, 40), (8.0, 1.6, 1.6))))
    with pytest.raises(SettingError, match="3 channels"):
        stage(fixed, Image(moving.rows, moving.data.expand(-1, -1, 3, -1, -1, -1), GRID))
    with pytest.raises(SignalError, match="no numbers"):
        stage(fixed, Image(moving.rows, moving.data.clone().fill_(math.nan), GRID))
    with pytest.raises(SettingError, match="spread factor"):
        LearnedRegister(network=network, spread_factor=0.0)
    with pytest.raises(SettingError, match="no network"):
        TrackMotion(effort=None)
    with pytest.raises(SettingError, match="network of volumes"):
        still = Image(fixed.rows, fixed.data.expand(-1, 2, -1, -1, -1, -1), GRID)
        TrackMotion(network=VelocityNet(widths=(2, 2)))(still)
    with pytest.raises(SettingError, match="pixels of"):
        VelocityNet(spacing_mm=0.0)


def test_the_evidence_is_measured_and_written(hearts, network, tmp_path, monkeypatch, capsys):
    patients = tmp_path / "acdc"
    patients.mkdir()
    subject = evidence_heart_motion.simulated(hearts[0], 0)
    part = (slice(None), slice(3, 6))
    for number in range(2):
        frames, labels = subject.frames[part].numpy(), subject.labels[part].numpy().astype("uint8")
        np.savez(patients / f"patient{number}.npz", **{f"{name}_{kind}": data[k] for kind, data in (
            ("image", frames), ("label", labels)) for k, name in enumerate(("ed", "es"))})
    monkeypatch.setattr(evidence_heart_motion, "store_all", lambda folder, count, family: hearts * 2)
    weight = tmp_path / "own.safetensors"
    card = {"network": network.settings(), "spread_factor": 2.0, "spread_factor_after_steps": 3.0}
    weight.with_suffix(".json").write_text(json.dumps(card))
    write_weight(network, weight)
    words = [str(patients), "--weights", str(weight), "--hearts", "2", "-o", str(tmp_path)]
    assert evidence_heart_motion.main(words) == 0
    page = (tmp_path / "registration-learned.md").read_text()
    assert "| network | 2.00 |" in page and "2 patients" in page and "| network less optimization |" in page
    assert evidence_heart_motion.main([str(tmp_path / "nothing"), "-o", str(tmp_path)]) == 2
    assert "ACDC's patients" in capsys.readouterr().err


def test_the_shipped_weight_finds_most_of_a_known_way(hearts):
    weight = load_weight("heart-motion")
    net = VelocityNet.from_weight(weight.card["network"], weight.state)
    subject = evidence_heart_motion.simulated(hearts[0], 0)
    row, slices = evidence_heart_motion.measure(subject, TrackMotion(
        periodic=False, smooth_frames=0.0, effort=None, network=net, spread_factor=weight.card["spread_factor"]))
    assert row["error mm"] < 0.6 * row["before mm"] and row["mean"] > row["LV at rest"] and row["folds"] == 0
    assert 0.6 < row["covered"] <= 1 and len(slices) > 3
