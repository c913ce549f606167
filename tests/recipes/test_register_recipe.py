"""The registration recipe and the stage that takes its weight, small."""

import pytest
import torch

from firstread.acquire.head import head_phantom
from firstread.analyze.register_deformable import Effort, displacement
from firstread.analyze.register_learned import LearnedRegister
from firstread.core.errors import GeometryError, SettingError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Rows
from firstread.nets.velocity import VelocityNet
from firstread.ops.velocity import sample_at
from firstread.recipes import evaluate_register, evidence_modalities, evidence_registration, register_network
from firstread.recipes.register_pairs import SIZE, pairs
from firstread.zoo.store import load


def test_examples_depend_on_their_number_alone():
    one, again, other = (pairs(number, seed=0, rows=2) for number in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True)) and not torch.equal(one[0], other[0])
    assert one.fixed.shape == one.moving.shape == (2, SIZE, SIZE, SIZE)


def test_the_velocity_of_an_example_is_the_way_from_one_image_to_the_other():
    inner = slice(6, -6)
    for number in range(3):
        pair = pairs(number, seed=1, rows=1)
        seen = sample_at(pair.clean_moving[:, None], displacement(pair.velocity, (SIZE, SIZE, SIZE)))[:, 0]
        before, after = ((pair.clean_fixed - image)[:, inner, inner, inner].square().mean()
                         for image in (pair.clean_moving, seen))
        assert after < 0.3 * before


def test_a_step_of_training_gives_a_weight_that_the_stage_takes(tmp_path):
    weight = load(register_network.train(tmp_path, steps=1))
    network = VelocityNet.from_weight(weight.card["network"], weight.state)
    grid = Grid.from_spacing((32, 32, 32), (3.25, 3.25, 3.25))
    fixed, moving = (Image(Rows.subjects(1), part[:, None, None], grid) for part in pairs(0, seed=0, rows=1)[:2])
    with torch.no_grad():
        plain = LearnedRegister(network=network)(fixed, moving)
        effort = Effort(shrink=(2,), iterations=(10,), discrete=False)
        refined = LearnedRegister(network=network, refine=effort)(fixed, moving)
    assert plain.spread_mm.shape == plain.forward.displacement_mm.shape and (plain.spread_mm > 0).all()
    assert refined.after > plain.after - 0.01 and refined.spread_mm is not None
    with pytest.raises(GeometryError, match="different grids"):
        LearnedRegister(network=network)(fixed, Image(moving.rows, moving.data, grid.crop((1, 0, 0), (32, 32, 32))))
    with pytest.raises(SettingError, match="data"):
        register_network.train(tmp_path, data=tmp_path)


def test_training_goes_downhill():
    torch.manual_seed(0)
    network = VelocityNet(widths=(4, 8))
    batch, optimizer = pairs(0, seed=0, rows=1), torch.optim.Adam(network.parameters(), lr=3e-3)
    values = []
    for _ in range(8):
        torch.manual_seed(1)
        value = register_network.loss(network, batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < values[0]


def test_a_network_that_knows_nothing_is_no_better_than_before_and_optimization_is():
    row = evaluate_register.score(VelocityNet(widths=(4, 8)).eval(), 0)
    assert row["network"] == pytest.approx(row["before"]) and row["optimized"] < 0.8 * row["before"]
    assert row["both"] == pytest.approx(row["shortly"], rel=1e-3) and row["shortly"] < row["before"]
    assert 0 <= row["covered"] <= 1


def test_the_page_says_what_was_measured():
    row = {"before": 6.0, "error": 0.5, "p95": 1.25, "inverse": 0.125, "folds": 0.0, "seconds": 4.0,
           "dice before": 0.5, "dice": 0.875, "all back": 0.02, "most back": 0.5}
    heart = {"seconds": 4.0, "folds": 0.0, "folds in heart": 0.0}
    heart |= {f"{name}{when}": 0.75 for name in ("RV", "myocardium", "LV") for when in ("", " before", " onward")}
    text = evidence_registration.page({"scan, rigid": [row, row], "scan, deformable": [row, row | {"most back": 0.75}]},
                                      {"before": 0.6, "after": 0.9, "folds": 0.0, "seconds": 1.0, "all back": 0.01,
                                       "most back": 0.25}, [heart, heart])
    assert "scan, deformable: 0.020 and 0.75." in text and "0.010 mm on average, 0.25 at most" in text
    assert "0.50 (0.50 to 0.50)" in text and "0.875 (0.875 to 0.875)" in text and "0.750 (0.750 to 0.750)" in text
    assert "semi-simulated" in text and "pixels are the unit" in text


def test_the_known_map_is_no_flow_of_one_velocity_and_does_not_fold():
    from firstread.ops.velocity import jacobian_determinant

    field = evidence_registration.two_flows((24, 24, 24), 0)
    assert jacobian_determinant(field).min() > 0 and 1 < field.norm(dim=1).mean() < 8


def test_missing_data_is_one_sentence(tmp_path, capsys):
    assert evidence_registration.main([str(tmp_path), "-o", str(tmp_path)]) == 2
    assert "real data" in capsys.readouterr().err


def test_another_kind_of_image_is_registered_and_written_down():
    data, brain = head_phantom(seed=0, spacing_mm=5.0)
    grid = Grid.from_spacing(tuple(data.shape), (5.0,) * 3)
    volume = Image(Rows.subjects(1), data[None, None, None], grid)
    rows = {kind: [evidence_modalities.known_rigid(volume, brain, 0, kind=kind)] for kind in evidence_modalities.KINDS}
    assert all(row[0]["error"] < 0.5 * row[0]["before"] and row[0]["dice"] > row[0]["dice before"]
               for row in rows.values())
    coarse, its_grid = evidence_modalities.pet_like(data, grid, 0)
    assert tuple(coarse.shape) == its_grid.shape
    ramp = evidence_modalities.other_contrast(torch.linspace(0, 1, 20).expand(8, 8, 20), 0).mean(dim=(0, 1))
    assert float(ramp.diff().max()) > 0.05 and float(ramp.diff().min()) < -0.05  # neither rises nor falls
    assert "| PET-like |" in evidence_modalities.page(rows)
