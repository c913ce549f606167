"""The comparison after Schlemper: masks, what suits what, resuming, and a page that says what is missing."""

import json

import pytest
import torch

from firstread.core.errors import FormatError
from firstread.recipes import evidence_schlemper
from firstread.recipes.evidence_schlemper import collect, errors, gaps, suits, table
from firstread.recipes.schlemper_data import PHANTOM, SINGLE, Item, real_cines, real_images, undersampled
from firstread.reconstruct.direct import ZeroFilled
from firstread.reconstruct.iterative import SpatialTV


def item(frames: int = 3, data: str = PHANTOM) -> Item:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 32), indexing="ij")
    image = torch.sigmoid(20 * (0.6 - (y**2 + x**2).sqrt())).expand(frames, -1, -1) + 0j
    return Item(data, f"{frames} frames", image / image.abs().max())


@pytest.mark.parametrize("acceleration", [2.0, 4.0, 4.5])
def test_masks_keep_schlemper_s_budget_with_eight_centre_lines(acceleration):
    kspace = undersampled(item(), acceleration)
    lines = kspace.mask[0, :, 0, 0, :, 0]
    assert (lines.sum(dim=1) == int(48 / acceleration)).all() and (lines[:, 20:28] == 1).all()
    assert torch.equal(undersampled(item(), acceleration).mask, kspace.mask)
    assert not torch.equal(lines[0], lines[1])


def test_errors_are_of_the_magnitude_with_peak_one():
    found = errors(ZeroFilled(), undersampled(item(), 2.0), item().image.abs())
    assert found["psnr_db"] == pytest.approx(-10 * torch.tensor(found["mse_e3"] / 1e3).log10().item(), abs=1e-4)


def test_an_interrupted_run_goes_on_and_another_one_is_refused(tmp_path):
    path, stages = tmp_path / "schlemper.json", {"zero-filled": ZeroFilled()}
    cells = collect([item()], stages, [2.0], path, {"size": 48})
    cells[0]["psnr_db"] = 99.0
    path.write_text(json.dumps({"settings": {"size": 48}, "cells": cells}))
    again = collect([item()], stages, [2.0, 4.0], path, {"size": 48})
    assert [c["psnr_db"] == 99.0 for c in again] == [True, False]
    with pytest.raises(FormatError, match="size"):
        collect([item()], stages, [2.0], path, {"size": 32})


def test_methods_that_share_between_frames_need_frames():
    assert suits("temporal TV", item(3)) and not suits("temporal TV", item(1)) and suits("spatial TV", item(1))


def test_tables_and_gaps_say_what_leads(tmp_path):
    stages = {"zero-filled": ZeroFilled(), "spatial TV": SpatialTV(iterations=5)}
    cells = collect([item(), item(1, SINGLE)], stages, [2.0], tmp_path / "cells.json", {})
    made = cells[0] | {"method": "a network", "psnr_db": cells[1]["psnr_db"] + 60.0}
    line = gaps([*cells, made], PHANTOM)[0]
    assert line.startswith("- 2-fold: a network >") and "a network over spatial TV" in line
    assert len(table(cells, SINGLE, list(stages))) == 4


def test_the_command_writes_a_page_that_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence_schlemper, "phantoms", lambda **given: [item(2)])
    monkeypatch.setattr(evidence_schlemper, "methods", lambda *given: {"zero-filled": ZeroFilled()})
    assert evidence_schlemper.main(["-o", str(tmp_path), "--accelerations", "2"]) == 0
    page = (tmp_path / "schlemper.md").read_text(encoding="utf-8")
    assert "D5-C10(S)*: not trained" in page and "| 2 | zero-filled |" in page


@pytest.mark.realdata
def test_real_items_have_maximum_one(realdata):
    found = real_cines(realdata / "cine" / "sc_n_3_slices.npz", slices=2) + real_images(realdata / "kellman")[:1]
    assert [len(i.image) for i in found] == [20, 20, 1]
    assert all(i.image.abs().max() == pytest.approx(1.0) for i in found)
