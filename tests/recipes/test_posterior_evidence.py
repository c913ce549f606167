"""The tables of the posterior's evidence: nominal numbers where the truth is a draw, and others where it is not."""

import pytest
import torch

from firstread.recipes.evidence_posterior import fraction_table, inside, main, nominal, page, pixel_table
from firstread.recipes.posterior_subjects import ENSEMBLE, POSTERIOR, TV, intervals_raw, pixel_numbers, ranks


def subject(number: int, *, bias: float = 0.0, draws: int = 4, pixels: int = 2000) -> dict:
    generator = torch.Generator().manual_seed(number)
    every = torch.randn(draws + 1, pixels, generator=generator)
    numbers = pixel_numbers(every[0] + bias, every[1:], torch.ones(pixels, dtype=torch.bool))
    values = 60 + 3 * torch.randn(draws + 1, generator=generator)
    return {"truth": values[0].item() + 3 * bias, "pathology": "normal", "seconds": 1.0,
            "pixels": {method: {"heart": numbers, "body": numbers} for method in (POSTERIOR, TV)},
            "LVEF": {POSTERIOR: values[1:].tolist(), ENSEMBLE: values[1:4].tolist()}, "tv_error": {"heart": 0.1}}


def test_ranks_count_the_draws_below():
    draws = torch.tensor([[0.0, 5.0], [1.0, 6.0], [2.0, 7.0]])
    assert ranks(torch.tensor([1.5, 4.0]), draws).tolist() == [2, 0]


def test_a_truth_that_is_as_a_draw_is_covered_as_often_as_stated():
    rows = [subject(n) for n in range(10)]
    for left_out in (0, 1):
        share = sum(inside(row, POSTERIOR, "heart", left_out) for row in rows) / 10
        assert share == pytest.approx(nominal(4, left_out), abs=0.01)
    numbers = rows[0]["pixels"][POSTERIOR]["heart"]
    assert numbers["spread"] * (1 + 1 / 4) ** 0.5 / numbers["error"] == pytest.approx(1, abs=0.05)


def test_a_biased_truth_is_not():
    assert inside(subject(0, bias=3.0), POSTERIOR, "heart") < 0.2


def test_raw_intervals_hold_for_one_more_draw():
    rows = [subject(n, pixels=10) for n in range(200)]
    ends = intervals_raw(rows, POSTERIOR, 0.8)
    truth = torch.tensor([row["truth"] for row in rows])
    assert ((truth >= ends[:, 0]) & (truth <= ends[:, 1])).double().mean().item() == pytest.approx(0.8, abs=0.08)


def test_tables_name_every_method_and_size():
    rows = [subject(n) for n in range(12)]
    text = "\n".join((*pixel_table(rows, 4), *fraction_table(rows, rows)))
    assert "nominal 60 %" in text and "nominal 20 %" in text and "conformal, 12 calibration subjects" in text
    assert "conformal" not in "\n".join(fraction_table(rows[:3], rows))
    whole = page(rows, rows, command="the command", settings="the settings")
    assert "simulated" in whole and "12 test subjects" in whole and "the command" in whole


def test_refuses_a_single_draw(tmp_path, capsys):
    assert main(["-o", str(tmp_path), "--draws", "1"]) == 2
    assert "two draws" in capsys.readouterr().err
    assert main(["-o", str(tmp_path), "--calibration", "8"]) == 2
    assert "8 to calibrate" in capsys.readouterr().err
